"""How levels scattered on H200s and how long measuring took, as the committed journals recorded it."""

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from tabulate import tabulate

from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.measured import metering_sd
from pytest_llm_energy.verdicts.noise import ASSUMED, Component, Noise, read_gpu_baselines
from pytest_llm_energy.verdicts.scatter import Group, Spread, likeliest, within

ROOT = Path(__file__).parents[1]
JOURNALS = ROOT / "docs" / "measurements" / "h200"


class Level(NamedTuple):
    """Windows of one work in one engine start.

    Attributes:
        name: finding, case and arm where the work was first met.
        board: hash of the board.
        session: suite run.
        start: engine start.
        when: when its journal was opened.
        logs: log of joules per token of each window.
        uncertainty: relative, of the metering of one window, as it was stated.
        window_seconds: mean length of a window.
        batch_size: requests served at once.
        batch_seconds: mean length of a batch.
        start_seconds: length of the engine start.
        load: mean power per board as a share of the power limit.
    """

    name: str
    board: str
    session: str
    start: str
    when: str
    logs: tuple[float, ...]
    uncertainty: float
    window_seconds: float
    batch_size: int
    batch_seconds: float
    start_seconds: float
    load: float


class WorkNoise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Noise of one work: a scenario on one stack.

    Attributes:
        name: finding, case and arm.
        windows: how many were recorded.
        starts: engine starts that they were recorded in.
        window_sd: from window to window of an engine start, relative.
        boards: how many it was recorded on.
        board_sd: between boards; what is assumed where it was recorded on one board alone.
        uncertainty: relative standard deviation that the meter states for a window.
        window_seconds: length of a window.
        batch_size: requests served at once.
        batch_seconds: length of a batch.
        start_seconds: length of an engine start.
        load: mean power per board as a share of the power limit.
    """

    name: str
    windows: int
    starts: int
    window_sd: float
    boards: int
    board_sd: float
    uncertainty: float
    window_seconds: float
    batch_size: int
    batch_seconds: float
    start_seconds: float
    load: float


class Recorded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the journals tell of the noise.

    Attributes:
        works: per work.
        start_sd: between engine starts of a session, without what windows explain of it; the larger of what was
            recorded and assumed.
        session_sd: between sessions on one board, the larger of what was recorded and assumed.
        says: where each figure comes from, and what was assumed for want of records.
    """

    works: tuple[WorkNoise, ...]
    start_sd: float
    session_sd: float
    says: tuple[str, ...]


def recorded(paths: Iterable[Path] | None = None) -> Recorded:
    """The noise in journals; those of ``docs/measurements/h200`` where none are named."""
    journals = [read_journal(path) for path in paths or sorted(JOURNALS.glob("*.jsonl.gz"))]
    works: dict[bytes, list[Level]] = {}
    for journal in journals:
        for work, level in _levels(journal):
            works.setdefault(work, []).append(level)
    return noise_of(list(works.values()))


def known() -> Noise:
    """What the gate knows of the noise of H200s, by the committed baselines, which hold some of those journals."""
    return read_gpu_baselines(ROOT / "baselines", "h200").noise(method="nvml-counter", simulated=False)


def noise_of(works: Sequence[Sequence[Level]]) -> Recorded:
    """The noise in levels, grouped by work."""
    starts, start_freedom = _between_starts(works)
    session_sd, session_freedom = _between_sessions(works, max(starts, ASSUMED.start.sd))
    stated = _stated_uncertainty(works)
    noises = tuple(_noise_of_work(levels, stated) for levels in works if any(len(x.logs) > 1 for x in levels))
    known_sds = [work.board_sd for work in noises if work.boards > 1]
    typical_sd = statistics.median(known_sds) if known_sds else ASSUMED.board.sd
    noises = tuple(w if w.boards > 1 else msgspec.structs.replace(w, board_sd=typical_sd) for w in noises)
    unknown = sum(work.boards == 1 for work in noises)
    alike, pairs = _boards_alike(works)
    say = (
        f"windows: sd per work, {min(w.window_sd for w in noises):.2%} to {max(w.window_sd for w in noises):.2%} "
        f"over {len(noises)} works, each taken for the truth although it is known from few windows",
        _larger("engine starts", starts, f"{start_freedom} differences", ASSUMED.start),
        _larger("sessions on one board", session_sd, f"{session_freedom} differences", ASSUMED.session),
        f"boards: sd per work from two boards or more, {min(w.board_sd for w in noises):.2%} to "
        f"{max(w.board_sd for w in noises):.2%}; {unknown} works ran on one board alone, and "
        f"the median of {typical_sd:.1%} is assumed for them; of {pairs} pairs of a work on two boards, the board "
        f"that draws more in most works does so in {alike}",
        f"metering: the uncertainty that the newest sessions state, {stated:.2%} where a work is not in them",
    )
    return Recorded(
        works=noises,
        start_sd=max(starts, ASSUMED.start.sd),
        session_sd=max(session_sd, ASSUMED.session.sd),
        says=say,
    )


def seconds_around_windows(paths: Iterable[Path] | None = None) -> tuple[float, float]:
    """Mean seconds between two windows of a case, and mean seconds of a case besides, per arm and stack."""
    between: list[float] = []
    besides: list[float] = []
    for journal in (read_journal(path) for path in paths or sorted(JOURNALS.glob("*.jsonl.gz"))):
        for check in journal.measurements:
            arms = journal.measured(check).arms
            served = sorted((run.served.started, run.served.ended) for a in arms for run in (*a.runs, *a.against))
            gaps = [then - ended for (_, ended), (then, _) in itertools.pairwise(served)]
            between += gaps
            if check.key in journal.seconds:
                windows = sum(ended - started for started, ended in served)
                sides = sum(2 if arm.against else 1 for arm in arms)
                besides.append((journal.seconds[check.key] - windows - sum(gaps)) / sides)
    return statistics.fmean(between), statistics.fmean(besides)


def text_lines(noise: Recorded) -> Iterator[str]:
    """The noise per work, and what was assumed."""
    rows = [
        [
            w.name,
            w.windows,
            f"{w.window_sd:.2%}",
            w.boards,
            f"{w.board_sd:.1%}" + ("" if w.boards > 1 else " assumed"),
        ]
        for w in sorted(noise.works, key=lambda work: work.window_sd)
    ]
    headers = ["work", "windows", "window sd", "boards", "board sd"]
    yield from tabulate(rows, headers, disable_numparse=True).splitlines()
    yield ""
    yield from noise.says


def _levels(journal: Journal) -> Iterator[tuple[bytes, Level]]:
    """Levels of a journal with what was served on which stack, in bytes."""
    for check in journal.measurements:
        opened = journal.opened_for(check.key)
        case = check.key.case.partition("[")[2].removesuffix("]")
        for arm in journal.measured(check).arms:
            for runs in (arm.runs, arm.against):
                for start in dict.fromkeys(run.start for run in runs):
                    of_start = tuple(run for run in runs if run.start == start)
                    batch_size = (arm.identity or {})["batch_size"]
                    seconds = [run.reading.seconds for run in of_start]
                    batches = sum(run.served.requests for run in of_start) / batch_size
                    stack = journal.starts[start].stack
                    argued = "".join(
                        f" {k.removeprefix('argument ')}={v}" for k, v in stack.items() if "argument" in k
                    )
                    name = f"{check.key.finding} {case} {arm.name}, {_engine(stack)}{argued}"
                    yield (
                        msgspec.json.encode((arm.identity, stack), order="deterministic"),
                        Level(
                            name=name,
                            board=", ".join(opened.fingerprint.boards),
                            session=opened.session or opened.when,
                            start=start,
                            when=opened.when,
                            logs=tuple(math.log(run.joules_per_unit) for run in of_start),
                            uncertainty=metering_sd(of_start),
                            window_seconds=statistics.fmean(seconds),
                            batch_size=batch_size,
                            batch_seconds=sum(seconds) / batches,
                            start_seconds=journal.starts[start].seconds,
                            load=sum(run.reading.joules for run in of_start)
                            / sum(seconds)
                            / len(opened.fingerprint.boards)
                            / float(str(opened.fingerprint.identity["power_limit_watts"])),
                        ),
                    )


def _engine(stack: dict[str, str]) -> str:
    package = "vllm" if "vllm" in stack else "transformers"
    arguments = (f" {k.removeprefix('argument ')}={v}" for k, v in stack.items() if k.startswith("argument "))
    return "".join((f"{package} {stack[package]}", *arguments))


def _noise_of_work(levels: Sequence[Level], stated: float) -> WorkNoise:
    boards = _means((level.board, statistics.fmean(level.logs)) for level in levels)
    newest = [level.uncertainty for level in levels if level.uncertainty <= 2 * stated]
    return WorkNoise(
        name=levels[0].name,
        windows=sum(len(level.logs) for level in levels),
        starts=len(levels),
        window_sd=math.sqrt(within(level.logs for level in levels).variance),
        boards=len(boards),
        board_sd=statistics.stdev(boards) if len(boards) > 1 else math.nan,
        uncertainty=statistics.fmean(newest) if newest else stated,
        window_seconds=statistics.fmean(level.window_seconds for level in levels),
        batch_size=levels[0].batch_size,
        batch_seconds=statistics.fmean(level.batch_seconds for level in levels),
        start_seconds=statistics.fmean(level.start_seconds for level in levels),
        load=statistics.fmean(level.load for level in levels),
    )


def _boards_alike(works: Sequence[Sequence[Level]]) -> tuple[int, int]:
    """Of works on a pair of boards, how many draw more on the board that most of them draw more on, and all."""
    signs: dict[tuple[str, str], list[bool]] = {}
    for levels in works:
        boards = sorted({level.board for level in levels})
        by_board = {b: statistics.fmean(statistics.fmean(x.logs) for x in levels if x.board == b) for b in boards}
        for one, other in itertools.combinations(boards, 2):
            signs.setdefault((one, other), []).append(by_board[one] > by_board[other])
    counts = [(max(sum(more), len(more) - sum(more)), len(more)) for more in signs.values()]
    return sum(alike for alike, _ in counts), sum(of for _, of in counts)


def _stated_uncertainty(works: Sequence[Sequence[Level]]) -> float:
    """Median of what the newest session states: earlier ones were metered before the sensor's model."""
    levels = [level for levels in works for level in levels]
    newest = max(level.when for level in levels)
    return statistics.median(level.uncertainty for level in levels if level.when == newest)


def _between_starts(works: Sequence[Sequence[Level]]) -> tuple[float, int]:
    """Standard deviation between engine starts of a session, the likeliest, and by how many differences."""
    groups = []
    for levels in works:
        for session in dict.fromkeys(level.session for level in levels):
            starts = [level for level in levels if level.session == session and len(level.logs) > 1]
            if len(starts) > 1:
                means = Spread(statistics.variance(statistics.fmean(x.logs) for x in starts), len(starts) - 1)
                windows = within(level.logs for level in starts)
                of_mean = windows.variance * statistics.fmean(1 / len(level.logs) for level in starts)
                groups.append(Group(means, Spread(of_mean, windows.freedom)))
    return math.sqrt(likeliest(groups)), sum(int(group.between.freedom) for group in groups)


def _between_sessions(works: Sequence[Sequence[Level]], start_sd: float) -> tuple[float, int]:
    """Standard deviation between sessions on one board, the likeliest, and by how many differences."""
    groups = []
    for levels in works:
        windows = within(level.logs for level in levels)
        for sessions in _by_session(levels):
            if len(sessions) > 1 and windows.freedom:
                means = Spread(statistics.variance(sessions), len(sessions) - 1)
                of_mean = windows.variance * statistics.fmean(1 / len(level.logs) for level in levels)
                groups.append(Group(means, Spread(of_mean + start_sd**2, windows.freedom)))
    return math.sqrt(likeliest(groups)), sum(int(group.between.freedom) for group in groups)


def _by_session(levels: Sequence[Level]) -> list[list[float]]:
    """Means of the sessions on each board."""
    boards = dict.fromkeys(level.board for level in levels)
    return [_means((x.session, statistics.fmean(x.logs)) for x in levels if x.board == one) for one in boards]


def _means(pairs: Iterable[tuple[str, float]]) -> list[float]:
    found: dict[str, list[float]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return [statistics.fmean(values) for values in found.values()]


def _larger(what: str, sd: float, evidence: str, assumed: Component) -> str:
    if evidence.startswith("0 "):
        return f"{what}: none recorded twice; {assumed.sd:.2%} is assumed"
    taken = f"{assumed.sd:.2%} is larger, and assumed" if assumed.sd > sd else f"above the {assumed.sd:.2%} assumed"
    return f"{what}: recorded sd {sd:.2%} with {evidence}; {taken}"
