import time
from collections import Counter
from collections.abc import Sequence

from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.measuring import Plan
from tests.unit.measurements import KEY
from tests.unit.test_measuring import ScriptedMeter, Steps, ignore


class Restarting(Steps):
    """Work whose engine takes long to end."""

    def end(self) -> None:
        time.sleep(0.02)
        super().end()


def arm_runs(works: Sequence[Steps], plan: Plan) -> ArmRuns:
    for work in works:
        work.meter = ScriptedMeter()
    series = ArmRuns(
        key=KEY,
        number=0,
        control=None,
        identities=dict.fromkeys([work.name for work in works]),
        works=works,
        record=lambda ran: None,
    )
    series.meter(plan, ignore)
    return series


def test_arms_are_metered_as_often_again_as_all_of_those_have_been() -> None:
    plan = Plan(runs=3, window_seconds=1.0)
    series = arm_runs([Steps("a", [1.0], []), Steps("b", [1.0], [])], plan)
    said: list[str] = []

    def counts() -> list[int]:
        return [len(arm.runs) for arm in series.measured().arms]

    for _ in range(2):
        series.meter_again(plan, said.append, why="not settled", only={"a"})
    assert counts() == [12, 3]
    assert series.rounds_of({"a"}) == 12
    series.meter_again(plan, said.append, why="not settled", only={"a", "b"})
    assert counts() == [15, 6]
    assert series.rounds_of({"a", "b"}) == 6
    assert [what for what in said if what.startswith("not settled")] == [
        "not settled by 3 runs of a: as many again",
        "not settled by 6 runs of a: as many again",
        "not settled by 3 runs an arm: as many again",
    ]


def test_what_metering_again_takes_holds_its_engine_starts() -> None:
    alive = arm_runs([Restarting("a", [0.0], [])], Plan(runs=6, window_seconds=0.0))
    assert alive.seconds_again({"a"}) < 0.02
    afresh = arm_runs([Restarting("a", [0.0], [])], Plan(runs=6, starts=3, window_seconds=0.0))
    assert afresh.seconds_again({"a"}) >= 2 * 0.02


def test_arms_may_be_metered_again_on_new_engine_starts() -> None:
    works = [Steps(name, [0.5], [], side=side) for name in "ab" for side in ("present", "against")]
    series = arm_runs(works, Plan(runs=4, window_seconds=1.0))
    said: list[str] = []

    def starts(name: str) -> list[list[int]]:
        """Runs of each start of an arm, on either side."""
        (arm,) = (arm for arm in series.measured().arms if arm.name == name)
        return [list(Counter(run.start for run in runs).values()) for runs in (arm.runs, arm.against)]

    assert series.startable({"a", "b"})
    plan = Plan(runs=9, window_seconds=1.0)
    series.meter_again(plan, said.append, why="not settled", only={"a"}, starts=1)
    series.meter_again(plan, said.append, why="not settled", only={"a"}, rounds=6, starts=2)
    assert starts("a") == [[4, 4, 3, 3]] * 2
    assert starts("b") == [[4]] * 2
    assert [what for what in said if what.startswith("not settled")] == [
        "not settled by 4 runs of a: as many again on a new engine start",
        "not settled by 8 runs of a: 6 more on 2 new engine starts",
    ]


def test_what_new_engine_starts_take_is_reckoned_with_and_a_server_has_none() -> None:
    works = [Steps("a", [0.0], []), Steps("b", [0.0], [])]
    series = arm_runs(works, Plan(runs=6, starts=3, window_seconds=0.0))
    works[0].starting_seconds = 40.0
    assert 3 * 40.0 <= series.seconds_again({"a"}, starts=3) < 3 * 40.0 + 1
    assert series.seconds_again({"b"}, starts=3) < 1
    works[1].starting_seconds = None
    assert series.startable({"a"})
    assert not series.startable({"a", "b"})
