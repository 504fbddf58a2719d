"""How levels scatter on a GPU model: from window to window, and between engine starts, sessions and boards.

What is known of it is pooled from all blessed sessions of the GPU model, so that a verdict follows from committed
files and a journal; what they do not tell is assumed.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.serving.scenario import SHAPE_FIELDS, Identity
from pytest_llm_energy.verdicts.baselines import (
    Baseline,
    Session,
    read_baseline,
    samples_of,
    since_moved,
)
from pytest_llm_energy.verdicts.boards import board_share, load_of
from pytest_llm_energy.verdicts.files import SIGNIFICANT_DIGITS
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.scatter import (
    Group,
    Spread,
    distinct_differences,
    likeliest,
    typical,
    usual,
    weighed,
    within,
)


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One source of scatter.

    Attributes:
        sd: standard deviation, relative.
        freedom: degrees of freedom that it counts for in an interval.
        seen: what it was seen on: works, differences between starts, sessions or sets of boards.
        boards: sets of boards that sessions were seen on.
        measured: whether what was seen bears on it; else it is assumed.
    """

    sd: float
    freedom: float
    seen: int = 0
    boards: int = 0
    measured: bool = False

    @property
    def spread(self) -> Spread:
        """As a variance."""
        return Spread(self.sd**2, self.freedom)


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """How levels scatter on a GPU model.

    Attributes:
        window: between windows of an engine start, where little is known of an arm.
        start: between engine starts of a session.
        session: between sessions on the same boards.
        board: between boards, where little is known of a level, if it is one that does not wait for its host.
        unread: baselines that could not be read, and are left out.
        by_work: windows of each work that baselines hold, by what was served in words (``work_of``).
    """

    window: Component
    start: Component
    session: Component
    board: Component
    unread: tuple[str, ...] = ()
    by_work: Mapping[str, Spread] = {}

    def windows_of(self, identity: Identity | None) -> Component:
        """Between windows of one work: as baselines of this GPU model have it, or what is known of all.

        Works scatter too differently for the others to say much beside what is known of one: they are weighed in
        where that is of two windows, and stand in where it is of none.

        Args:
            identity: what was served; None for a callable.
        """
        own = self.by_work.get(work_of(identity)) if identity is not None else None
        if own is None or not own.freedom:
            return self.window
        found = Spread(max(own.variance, LEAST_SD**2), min(own.freedom, OWN_WORTH))
        if own.freedom < OWN_ALONE:
            found = weighed(self.window.spread, found)
        return Component(sd=math.sqrt(found.variance), freedom=found.freedom, seen=1, measured=True)

    def boards_of(self, windows: Spread, load: float | None = None) -> Spread:
        """Between boards, where nothing else is known of a level than how its windows scatter and what it draws.

        It counts for no more degrees of freedom than the assumption: levels still differ, and all share few hosts.

        Args:
            windows: between those of an engine start.
            load: mean power per board as a share of the power limit; None where that is not known.
        """
        known = weighed(self.window.spread, windows) if windows.freedom else self.window.spread
        share = board_share(known, self.window.spread, load)
        return Spread(self.board.sd**2 * share, min(self.board.freedom, ASSUMED.board.freedom))


ASSUMED = Noise(
    # Amid 33 scenarios and stacks on H200s, whose windows of 2.5 s and more spread by 0.12-2.2 % (2026-11-21, vLLM
    # 0.20.2 and 0.25.1, transformers 5.17); a scaled F distribution fitted to those variances has 1.6 degrees.
    window=Component(sd=0.0034, freedom=1.5),
    # Starts' means had an sd of 0.11-0.22 % on an H200: six starts at each of three batch sizes. Two stacks are
    # told apart by little else: of 30 differences, a variance comes out at half of what it is once in 100 times.
    start=Component(sd=0.002, freedom=30.0),
    # Four loads of Llama-3.1-8B in three sessions within a quarter of an hour on one H200 (2026-11-21, vLLM
    # 0.25.1), so with 6 degrees or fewer; counted as a few more, or two sessions elsewhere would outweigh it.
    session=Component(sd=0.0065, freedom=10.0),
    # Amid 133 levels on several of 20 sets of H200s (2026-11-21 and 22, vLLM 0.25.1, transformers 5.17), by kind of
    # level (boards.py): the fit has the 3.8 %, and more degrees than levels on so few hosts can be worth; six of
    # them are believed.
    board=Component(sd=0.038, freedom=6.0),
)
"""What holds on every GPU model until it is measured there. Degrees of freedom are how many differences between
starts or sessions an assumption counts for beside those that were seen; until there are as many, nothing less than
the assumption is believed. Windows are known as widely as works differ (``scatter.typical``)."""

OWN_WORTH = 4.0
"""Degrees of freedom, at most, that windows of the same work count for where they were recorded in other sessions:
what the host's processor limits scatters differently on another host."""

OWN_ALONE = 2.0
"""Degrees of freedom from which on they stand alone."""

WINDOWS_WORTH = 10.0
"""How many levels of another GPU model the windows' assumption counts for beside those of this one: a third of what
it was fitted to, for it is of H200s."""

BOARDS_WORTH = 5.0
"""How many differences between boards that assumption counts for beside those of a GPU model; and below how many of
its own a level's boards are not believed to be nearer than other levels' are."""

LEAST_SD = 10.0**-SIGNIFICANT_DIGITS
"""Windows that differ by less are stored as equal."""


@dataclass(frozen=True, kw_only=True)
class GpuBaselines:
    """All blessed sessions of a GPU model.

    Attributes:
        baselines: by finding.
        unread: findings whose baseline cannot be read: their cases are errors, and no verdict of others is.
    """

    baselines: tuple[Baseline, ...] = ()
    unread: tuple[str, ...] = ()

    def noise(self, *, method: str, simulated: bool, of: CaseKey | None = None) -> Noise:
        """How levels scatter on this GPU model, as far as sessions that were metered alike tell."""
        found = pooled(self.baselines, method=method, simulated=simulated, of=of)
        return msgspec.structs.replace(found, unread=self.unread)


UNMEASURED = GpuBaselines()
"""Of a GPU model without any: its noise is assumed."""


def read_gpu_baselines(folder: Path, gpu: str) -> GpuBaselines:
    """The baselines of a GPU model; none of a CPU, whose noise is that of its other tenants."""
    if gpu == "cpu":
        return UNMEASURED
    found, unread = [], []
    for path in sorted((folder / gpu).glob("*.json")):
        try:
            found.append(read_baseline(folder, gpu, path.stem))
        except BaselineError:
            unread.append(path.stem)
    return GpuBaselines(baselines=tuple(filter(None, found)), unread=tuple(unread))


def pooled(
    baselines: Sequence[Baseline], *, method: str, simulated: bool = False, of: CaseKey | None = None
) -> Noise:
    """How levels scatter, by all blessed sessions of a GPU model that were metered alike.

    Sessions, boards and engine starts shift many levels at once, so they are counted once however many levels they
    hold. Levels differ in how far; so what a level's own sessions and boards show is
    weighed in where it is judged (``statistics.change``), here those of the other cases alone are pooled, and they
    count for no more degrees of freedom than the assumption, however many they are.

    Args:
        baselines: of one GPU model.
        method: how the sessions were metered.
        simulated: whether no real device was behind them.
        of: the case that is judged; None for what is known of all.
    """
    levels = sorted(_levels(baselines, method=method, simulated=simulated), key=lambda level: level.name)
    window = _window(levels)
    start = _start(levels, window.spread)
    others = [level for level in levels if of is None or level.name[:2] != (of.finding, of.case)]
    session = _session(others, window.spread, start.spread)
    by_work = {work: within(starts) for work, starts in _starts_by_work(levels).items()}
    return Noise(window=window, start=start, session=session, board=_board(others, window.spread), by_work=by_work)


@dataclass(frozen=True, kw_only=True)
class _OfSession:
    """Logs of a level in a session, by engine start."""

    when: str
    boards: tuple[str, ...]
    starts: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(map(statistics.fmean, self.starts))


@dataclass(frozen=True, kw_only=True)
class _Level:
    """Sessions of an arm on one kind of hardware.

    Attributes:
        name: finding, case, arm and hardware.
        work: what was served, in words that are equal for equal work.
        engine: the same of what one engine start may serve.
        load: mean power per board as a share of the power limit, None where that is not known.
        sessions: all.
        meant: those since its level was last moved on purpose.
    """

    name: tuple[str, str, str, str]
    work: str
    engine: str
    load: float | None
    sessions: tuple[_OfSession, ...]
    meant: tuple[_OfSession, ...]

    @property
    def windows(self) -> Spread:
        return within(start for session in self.sessions for start in session.starts)


def _levels(baselines: Sequence[Baseline], *, method: str, simulated: bool) -> Iterator[_Level]:
    for baseline in baselines:
        for case, known in baseline.cases.items():
            for arm, identity in known.arms.items():
                on: dict[str, list[Session]] = {}
                for session in baseline.sessions:
                    alike = (session.method, session.simulated) == (method, simulated)
                    if alike and samples_of(session, case, arm):
                        on.setdefault(_text(session.fingerprint.identity), []).append(session)
                for hardware, sessions in on.items():
                    meant = since_moved(sessions, case, arm)
                    yield _Level(
                        name=(baseline.finding, case, arm, hardware),
                        work=work_of(identity),
                        engine=_text({k: v for k, v in identity.items() if k not in SERVED_BY_ANY}),
                        load=load_of(sessions, case, arm),
                        sessions=tuple(_of_session(session, case, arm) for session in sessions),
                        meant=tuple(_of_session(session, case, arm) for session in meant),
                    )


SERVED_BY_ANY = (*SHAPE_FIELDS, "decoding", "seed")
"""Fields of a scenario that one engine start can serve in several ways."""


def work_of(identity: Identity) -> str:
    """What was served, in words that are equal for equal work."""
    return _text(identity)


def _text(identity: Identity) -> str:
    return msgspec.json.encode(identity, order="deterministic").decode()


def _of_session(session: Session, case: str, arm: str) -> _OfSession:
    return _OfSession(
        when=session.when,
        boards=session.fingerprint.boards,
        starts=tuple(tuple(map(math.log, s.joules_per_token)) for s in samples_of(session, case, arm)),
    )


def _starts_by_work(levels: Sequence[_Level]) -> dict[str, list[tuple[float, ...]]]:
    works: dict[str, list[tuple[float, ...]]] = {}
    for level in levels:
        works.setdefault(level.work, []).extend(start for session in level.sessions for start in session.starts)
    return works


def _window(levels: Sequence[_Level]) -> Component:
    seen = [spread for starts in _starts_by_work(levels).values() if (spread := within(starts)).freedom]
    if not seen:
        return ASSUMED.window
    found = typical(_not_equal(seen), ASSUMED.window.spread, worth=WINDOWS_WORTH)
    return Component(sd=math.sqrt(found.variance), freedom=found.freedom, seen=len(seen), measured=True)


def _start(levels: Sequence[_Level], window: Spread) -> Component:
    groups: list[Group] = []
    together: dict[tuple[str, tuple[str, ...], str], int] = {}
    for level in levels:
        for session in level.sessions:
            count = len(session.starts)
            if count > 1:
                means = Spread(statistics.variance(map(statistics.fmean, session.starts)), count - 1)
                groups.append(Group(means, _of_mean(level, window, [(start,) for start in session.starts])))
                key = (session.when, session.boards, level.engine)  # what shares a start shares its shift
                together[key] = max(count - 1, together.get(key, 0))
    return _component(ASSUMED.start, likeliest(groups), sum(together.values()))


def _component(assumed: Component, variance: float, differences: int) -> Component:
    """An assumption with the evidence weighed in, of so many differences.

    Less than assumed is not believed until there are as many as the assumption counts for.
    """
    sd = math.sqrt(weighed(assumed.spread, Spread(variance, differences)).variance)
    measured = differences >= assumed.freedom or sd > assumed.sd
    found = msgspec.structs.replace(assumed, seen=differences)
    return msgspec.structs.replace(found, sd=sd, measured=True) if differences and measured else found


def _session(levels: Sequence[_Level], window: Spread, start: Spread) -> Component:
    groups: list[Group] = []
    together: list[list[tuple[str, tuple[str, ...]]]] = []
    for level in levels:
        for sessions in _by_boards(level).values():
            if len(sessions) > 1:
                means = Spread(statistics.variance(session.mean for session in sessions), len(sessions) - 1)
                windows = _of_mean(level, window, [session.starts for session in sessions])
                starts = start.variance * statistics.fmean(1 / len(session.starts) for session in sessions)
                groups.append(Group(means, Spread(windows.variance + starts, windows.freedom)))
                together.append([(session.when, session.boards) for session in sessions])
    found = _component(ASSUMED.session, likeliest(groups), distinct_differences(together))
    distinct = {each for group in together for each in group}
    boards = {boards for _, boards in distinct}
    return msgspec.structs.replace(found, seen=len(distinct), boards=len(boards))


def _board(levels: Sequence[_Level], window: Spread) -> Component:
    """Between boards, of levels that do not wait for their host; the others are brought to that (``boards.py``)."""
    known = [(level, found) for level in levels if len(found := _by_boards(level)) > 1]
    if not known:
        return ASSUMED.board
    by_boards = [found for _, found in known]
    seen = []
    for level, found in known:
        apart = within([[statistics.fmean(s.mean for s in sessions) for sessions in found.values()]])
        windows = weighed(window, level.windows) if level.windows.freedom else window
        share = board_share(windows, window, level.load)
        seen.append(Spread(apart.variance / share, apart.freedom))
    differences = distinct_differences(by_boards)
    apart = usual(_not_equal(seen), ASSUMED.board.spread, worth=BOARDS_WORTH, counting=differences)
    boards = {boards for of_level in by_boards for boards in of_level}
    return Component(sd=math.sqrt(apart.variance), freedom=apart.freedom, seen=len(boards), measured=True)


def _not_equal(spreads: Sequence[Spread]) -> list[Spread]:
    """Variances that are not nothing: what is equal is so as far as it is stored."""
    return [Spread(max(spread.variance, LEAST_SD**2), spread.freedom) for spread in spreads]


def _by_boards(level: _Level) -> dict[tuple[str, ...], list[_OfSession]]:
    """Sessions that a level is meant to be at, by the boards they ran on."""
    found: dict[tuple[str, ...], list[_OfSession]] = {}
    for session in level.meant:
        found.setdefault(session.boards, []).append(session)
    return found


def _of_mean(level: _Level, window: Spread, sides: Sequence[Sequence[Sequence[float]]]) -> Spread:
    """Variance that windows explain of the means of sides, each of so many starts, on average."""
    own = level.windows
    known = weighed(window, own) if own.freedom else window
    shares = [sum(1 / len(start) for start in starts) / len(starts) ** 2 for starts in sides]
    return Spread(known.variance * statistics.fmean(shares), known.freedom)
