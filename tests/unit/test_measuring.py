from collections.abc import Sequence

import pytest

from pytest_llm_energy.errors import MeasurementError, OutOfMemoryError
from pytest_llm_energy.measuring import Plan, Warmed, measure
from pytest_llm_energy.metering.meter import Invalid, Meter, Reading, Steady
from pytest_llm_energy.serving.scenario import Identity, Served
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.measured import Run, counting
from pytest_llm_energy.works import MeteredWindow, Work, around

BAD = (Invalid("no-energy", "the counter stood still"),)
NOISY = (Invalid("foreign-load", "others took half"),)


class ScriptedMeter:
    """Answers readings that are invalid or disturbed as told, then good ones."""

    method = "scripted"
    estimated = False
    source = "a script"

    def __init__(self, *, invalid: int = 0, disturbed: int = 0) -> None:
        self._invalid = invalid
        self._disturbed = disturbed

    def open(self) -> "ScriptedMeter":
        return self

    def close(self, started: float, ended: float) -> Reading:
        invalid = BAD if self._invalid > 0 else ()
        disturbed = NOISY if self._disturbed > 0 else ()
        self._invalid -= 1
        self._disturbed -= 1
        return Reading(
            joules=1.0,
            seconds=ended - started,
            uncertainty_joules=0.1,
            method=self.method,
            invalid=invalid,
            disturbed=disturbed,
        )

    def abandon(self) -> None:
        pass

    def steady(self, seconds: float) -> Steady:
        return Steady(self.close(7.0, 7.0 + seconds), 7.0, 7.0 + seconds)

    def shutdown(self) -> None:
        pass


class Steps:
    """Work whose batches take as long as told, on a clock of its own; its engine may need all of a device."""

    identity: Identity | None = None
    meter: Meter
    endless = False
    starting_seconds: float | None = 0.0

    def __init__(
        self,
        name: str,
        seconds: Sequence[float],
        log: list[tuple[str, int]],
        *,
        side: Side = "present",
        device: set[str] | None = None,
    ) -> None:
        self.name = name
        self.side: Side = side
        self.place = f"{side} {name}"
        self.starts = 0
        self._device = device
        self._seconds = list(seconds)
        self._log = log
        self._now = 0.0

    @property
    def start(self) -> str:
        return f"{self.place} {self.starts}"

    def begin(self) -> None:
        if self._device is None:
            self.starts += self.starts == 0
        elif self._device - {self.place}:
            raise OutOfMemoryError("CUDA out of memory")
        elif not self._device:
            self._device.add(self.place)
            self.starts += 1

    def end(self) -> None:
        if self._device is None:
            self.starts += 1
        else:
            self._device.discard(self.place)

    def prepare(self) -> None:
        pass

    def metered(self, batches: int, window_seconds: float) -> MeteredWindow:
        return around(self, batches)

    def run(self, batches: int) -> Served:
        self._log.append((self.name, batches))
        per_batch = self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]
        started, self._now = self._now, self._now + per_batch * batches
        return Served(started=started, ended=self._now, requests=batches)


def ignore(what: str) -> None:
    pass


def measured(meter: ScriptedMeter, works: Sequence[Work], plan: Plan) -> list[Run]:
    runs: list[Run] = []
    for work in works:
        work.meter = meter
    measure(works, plan, record=lambda work, run: runs.append(run), say=ignore)
    return runs


def test_windows_are_filled_with_whole_batches_and_arms_are_interleaved() -> None:
    log: list[tuple[str, int]] = []
    works = [Steps("a", [0.3], log), Steps("b", [0.04], log)]
    measured(ScriptedMeter(), works, Plan(runs=3, window_seconds=1.0))
    assert log[:4] == [("a", 1), ("a", 1), ("b", 1), ("b", 1)]
    assert log[4:] == [("a", 4), ("b", 25), ("b", 25), ("a", 4), ("a", 4), ("b", 25)]


def test_what_is_too_short_to_be_timed_alone_fills_its_window_too() -> None:
    log: list[tuple[str, int]] = []
    misleading = [1e-3, 1e-3, *[1e-5] * 200]  # single calls look a hundred times slower than they are
    measured(ScriptedMeter(), [Steps("a", misleading, log)], Plan(runs=2, window_seconds=0.5))
    assert log[-1][1] * 1e-5 >= 0.5


def test_warming_up_ends_when_batches_get_no_faster() -> None:
    log: list[tuple[str, int]] = []
    measured(ScriptedMeter(), [Steps("a", [9.0, 3.0, 1.0, 1.01], log)], Plan(runs=2, window_seconds=0.5))
    assert log == [("a", 1)] * 6


def test_batches_that_scatter_are_not_warmed_up_for_ever_and_fill_their_windows_when_fast() -> None:
    log: list[tuple[str, int]] = []
    measured(ScriptedMeter(), [Steps("a", [1.0, 1.3, 0.8, 1.2, 0.7], log)], Plan(runs=2, window_seconds=3.0))
    assert log == [("a", 1), ("a", 1), ("a", 3), ("a", 3)]


@pytest.mark.parametrize("kind", ["invalid", "disturbed"])
def test_what_was_invalid_or_disturbed_is_taken_again_and_the_last_counts(kind: str) -> None:
    meter = ScriptedMeter(**{kind: 2})
    runs = measured(meter, [Steps("a", [1.0], [])], Plan(runs=3, window_seconds=1.0))
    assert [run.round for run in runs] == [0, 0, 0, 1, 2]
    counted = counting(runs)
    assert [run.round for run in counted] == [0, 1, 2]
    assert all(run.reading.valid and not run.reading.disturbed for run in counted)


def test_what_has_served_on_is_not_warmed_up_again_and_a_fresh_start_is() -> None:
    log: list[tuple[str, int]] = []
    warmed: Warmed = {}
    works = [Steps("one", [0.5], log), Steps("other", [0.2], log)]
    for work in works:
        work.meter = ScriptedMeter()

    def served(first: int) -> list[tuple[str, int]]:
        log.clear()
        plan = Plan(runs=1, window_seconds=1.0)
        measure(works, plan, record=lambda work, run: None, say=ignore, first=first, warmed=warmed)
        return list(log)

    warming, metered = [("one", 1)] * 2 + [("other", 1)] * 2, [("one", 2), ("other", 5)]
    assert served(0) == warming + metered
    assert served(1) == metered[::-1]
    works[1].end()
    assert served(2) == [("other", 1)] * 2 + metered


def test_each_engine_start_has_as_many_runs_also_where_a_measurement_goes_on() -> None:
    work = Steps("one", [0.5], [])
    work.meter = ScriptedMeter()
    runs: list[Run] = []
    warmed: Warmed = {}
    for first in (0, 3):
        plan = Plan(runs=3, starts=3, window_seconds=1.0)
        measure([work], plan, record=lambda _, run: runs.append(run), say=ignore, first=first, warmed=warmed)
    assert [run.round for run in runs] == list(range(6))
    assert len({run.start for run in runs}) == 6


def test_disturbed_runs_count_when_repeating_does_not_help_and_invalid_ones_never() -> None:
    plan = Plan(runs=3, window_seconds=1.0, retries=2)
    runs = measured(ScriptedMeter(disturbed=99), [Steps("a", [1.0], [])], plan)
    assert len(runs) == 5
    assert len(counting(runs)) == 3
    with pytest.raises(MeasurementError, match=r"in round 1 of 3, .* 2 of 2 retries left: the counter stood still"):
        measured(ScriptedMeter(invalid=99), [Steps("a", [1.0], [])], plan)


def test_a_round_that_finds_no_retries_left_is_told_from_an_arm_without_valid_runs() -> None:
    class Failing(ScriptedMeter):
        def close(self, started: float, ended: float) -> Reading:
            windows.append(started)
            self._invalid = len(windows) in (1, 2, 4)  # the first round takes both retries, the second has none
            return super().close(started, ended)

    windows: list[float] = []
    plan = Plan(runs=3, window_seconds=1.0, retries=2)
    with pytest.raises(MeasurementError, match=r"'a' has no valid run in round 2 of 3, .* 0 of 2 retries left"):
        measured(Failing(), [Steps("a", [1.0], [])], plan)
    assert len(windows) == 4


def test_both_stacks_are_interleaved_and_every_start_has_its_share_of_the_runs() -> None:
    log: list[tuple[str, int]] = []
    works = [Steps("a", [0.5], log), Steps("a", [0.5], log, side="against")]
    runs = measured(ScriptedMeter(), works, Plan(runs=7, window_seconds=1.0, starts=3))
    assert [run.round for run in runs] == [n for n in range(7) for _ in works]
    order = [run.start.split()[0] for run in runs]
    assert order == (["present", "against", "against", "present"] * 4)[:14]
    by_start = [{run.start for run in runs if run.round == number} for number in range(7)]
    assert len(set().union(*by_start)) == 6
    assert by_start[0] == by_start[1] != by_start[2] == by_start[3] != by_start[4] == by_start[6]


@pytest.mark.parametrize(("starts", "blocks"), [(1, 2), (2, 2), (3, 3)])
def test_engines_that_do_not_fit_together_have_the_device_in_turn(starts: int, blocks: int) -> None:
    device: set[str] = set()
    works = [Steps("a", [0.5], [], device=device), Steps("a", [0.5], [], side="against", device=device)]
    runs = measured(ScriptedMeter(), works, Plan(runs=6, window_seconds=1.0, starts=starts))
    sides = [run.start.split()[0] for run in runs]
    changes = [side for n, side in enumerate(sides) if n == 0 or sides[n - 1] != side]
    assert changes == (
        ["present", "against", "present", "against"] if blocks == 3 else ["present", "against", "present"]
    )
    for side in ("present", "against"):
        assert sorted(run.round for run in runs if run.start.startswith(side)) == list(range(6))
        assert len({run.start for run in runs if run.start.startswith(side)}) == blocks


def test_engines_that_serve_no_more_make_room_for_those_that_do() -> None:
    device: set[str] = set()
    one, other = (Steps(name, [0.5], [], device=device) for name in ("a", "b"))
    other.begin()
    runs: list[Run] = []
    one.meter = ScriptedMeter()
    measure(
        [one],
        Plan(runs=3, window_seconds=1.0),
        record=lambda _, run: runs.append(run),
        say=ignore,
        beside=[one, other],
    )
    assert [run.start for run in runs] == ["present a 1"] * 3


def test_one_engine_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OutOfMemoryError):
        measured(ScriptedMeter(), [Steps("a", [0.5], [], device={"another"})], Plan(runs=2, window_seconds=1.0))


class Endless(Steps):
    """Work that goes on until it is stopped, in moments."""

    endless = True

    def metered(self, batches: int, window_seconds: float) -> MeteredWindow:
        steady = self.meter.steady(window_seconds)
        return MeteredWindow(steady.reading, Served(started=steady.started, ended=steady.ended, requests=batches))


def test_work_that_does_not_end_is_metered_for_as_long_as_a_window_however_short_its_batches() -> None:
    runs = measured(ScriptedMeter(), [Endless("online", [1e-4], [])], Plan(runs=2, window_seconds=2.5))
    assert [run.reading.seconds for run in runs] == [2.5, 2.5]
