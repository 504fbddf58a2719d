"""The arms of one measurement: what is run of them, and what came of it so far."""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.measuring import Plan, Warmed, measure
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, Run, counting
from pytest_llm_energy.verdicts.records import Looked, Ran
from pytest_llm_energy.works import Say, Work

WARMING = 2
"""Windows, about, that warming an arm up on a new engine takes."""


@dataclass(kw_only=True)
class ArmRuns:
    """What one call of ``measure`` or ``compare`` has metered; more may be added.

    Attributes:
        key: the case.
        number: position among the case's measurements.
        control: the arm that effects are relative to, None for a series over a number.
        identities: scenarios as plain JSON by arm, None for a callable.
        works: what is run, on either stack.
        record: told of each run as it ends.
        rounds: rounds that have been run.
        judged: whether its levels have been.
        repeated: whether it was metered again, or that was tried.
        failed: whether metering was broken off; its last rounds are not whole then.
        before: what an earlier run judged it by, whose runs it began with.
    """

    key: CaseKey
    number: int
    control: str | None
    identities: Mapping[str, Identity | None]
    works: Sequence[Work]
    record: Callable[[Ran], None]
    rounds: int = 0
    judged: bool = False
    repeated: bool = False
    failed: bool = False
    before: Looked | None = None
    _runs: dict[tuple[str, Side], list[Run]] = field(default_factory=dict)
    _warmed: Warmed = field(default_factory=dict)
    _shortest: dict[tuple[str, Side], float] = field(default_factory=dict)
    _restarting: float = 0.0
    _beginning: float = 0.0
    _in_turn: bool = False

    def meter(self, plan: Plan, say: Say, *, only: Collection[str] | None = None, anew: bool = False) -> None:
        """Meter arms as the plan says, after what has been metered.

        Args:
            plan: how much.
            say: told what is going on.
            only: the arms; None for all. The others have no runs in these rounds.
            anew: whether engines that are there are started again first.

        Raises:
            EngineError: an engine failed.
            MeasurementError: an arm's readings stayed invalid.
        """
        begun, last = time.monotonic(), None
        counts = Counter({of: len(runs) for of, runs in self._runs.items()})

        def record(work: Work, run: Run) -> None:
            nonlocal last
            of, now = (work.name, work.side), time.monotonic()
            self._runs.setdefault(of, []).append(run)
            took = now - last if last else run.reading.seconds  # before the first one engines were started
            self._shortest[of] = min(took, self._shortest.get(of, math.inf))
            last = now
            self.record(
                Ran(
                    key=self.key,
                    series=self.number,
                    arm=work.name,
                    identity=work.identity,
                    run=run,
                    side=work.side,
                )
            )

        try:
            chosen = [work for work in self.works if only is None or work.name in only]
            measure(
                chosen,
                plan,
                record=record,
                say=say,
                first=self.rounds,
                warmed=self._warmed,
                beside=self.works,
                anew=anew,
            )
        except MeasurementError:
            self.failed = True
            raise
        except BaseException:
            self.failed = True
            # An engine that failed, or was interrupted with an answer still to come, must not serve again.
            for work in self.works:
                work.end()
            raise
        self.rounds += max(plan.runs, plan.starts)
        new = {of: runs[counts[of] :] for of, runs in self._runs.items()}
        restarted = any(len({run.start for run in runs}) > 1 for runs in new.values())
        self._in_turn = restarted and plan.starts == 1
        metering = math.fsum(len(runs) * self._shortest[of] for of, runs in new.items())
        rest = time.monotonic() - begun - metering
        if anew:
            self._beginning = max(self._beginning, rest / plan.starts)
        else:
            self._restarting = rest if restarted else 0.0

    def take_up(self, earlier: Journal) -> bool:
        """Begin with what an earlier run metered of it, in place of metering it.

        Returns:
            Whether there is anything.

        Raises:
            MeasurementError: its arms were others, or served something else.
        """
        checks = [check for check in earlier.checks_of(self.key) if check.series == self.number]
        last = max((math.inf if check.rounds is None else check.rounds for check in checks), default=0)
        runs = [ran for ran in earlier.ran(self.key) if ran.series == self.number and ran.run.round < last]
        if not runs:
            return False
        if {ran.arm: ran.identity for ran in runs} != self.identities:
            raise MeasurementError(
                f"{self.key} serves something else now than in {earlier.path}, so it cannot be metered on: measure "
                "it anew, without --energy-resume"
            )
        for ran in runs:
            of = (ran.arm, ran.side)
            self._runs.setdefault(of, []).append(ran.run)
            self._shortest[of] = min(ran.run.reading.seconds, self._shortest.get(of, math.inf))
        self.rounds = 1 + max(ran.run.round for ran in runs)
        latest = max(checks, key=lambda check: check.looks)
        self.before = Looked(rounds=self.rounds, looks=latest.looks, before=latest.before)
        self._restarting = math.fsum({work.place: work.starting_seconds or 0.0 for work in self.works}.values())
        return True

    def count_whole_rounds(self, arms: Collection[str]) -> None:
        """Count the rounds that these arms had in whole when metering them on was broken off."""
        of_each = [self._runs.get((work.name, work.side), []) for work in self.works if work.name in arms]
        whole = set.intersection(*({run.round for run in runs} for runs in of_each))
        self.rounds = max([self.rounds, *(number + 1 for number in whole)])

    def rounds_of(self, arms: Collection[str]) -> int:
        """Rounds in which each of these arms has a run."""
        return len(set.intersection(*({run.round for run in self._runs[name, "present"]} for name in arms)))

    def starts_of(self, arms: Collection[str]) -> int:
        """Engine starts a side, of the arm that has had the most."""
        return max(len({run.start for run in self._runs[name, "present"]}) for name in arms)

    def alike(self, arms: Collection[str]) -> list[frozenset[str]]:
        """The arms in groups that have as many rounds and engine starts each."""
        groups: dict[tuple[int, int], set[str]] = {}
        for name in sorted(arms):
            groups.setdefault((self.rounds_of({name}), self.starts_of({name})), set()).add(name)
        return list(map(frozenset, groups.values()))

    def startable(self, arms: Collection[str]) -> bool:
        """Whether these arms have engines that can be started again, and are not whenever they are metered."""
        chosen = [work for work in self.works if work.name in arms]
        return not self._in_turn and all(work.starting_seconds is not None for work in chosen)

    def seconds_again(self, arms: Collection[str], *, rounds: int | None = None, starts: int = 0) -> float:
        """About what ``meter_again`` takes of these arms: windows, and engine starts if the last ones had some.

        Args:
            arms: their names.
            rounds: how many; None for as many as all of them have.
            starts: on how many further engine starts, 0 for those that are there.
        """
        rounds = self.rounds_of(arms) if rounds is None else rounds
        return rounds * self.round_seconds(arms) + (starts * self.start_seconds(arms) or self._restarting)

    def round_seconds(self, arms: Collection[str]) -> float:
        """About what a round of these arms takes, on either stack."""
        return math.fsum(self._shortest[work.name, work.side] for work in self.works if work.name in arms)

    def start_seconds(self, arms: Collection[str]) -> float:
        """About what it takes until these arms are warm on new engine starts, one of each engine."""
        places = {work.place: work.starting_seconds or 0.0 for work in self.works if work.name in arms}
        return max(math.fsum(places.values()) + WARMING * self.round_seconds(arms), self._beginning)

    def meter_again(
        self,
        plan: Plan,
        say: Say,
        *,
        why: str,
        only: Collection[str] | None = None,
        rounds: int | None = None,
        starts: int = 0,
    ) -> None:
        """Meter arms again, for a reason that is said.

        Args:
            plan: how; its runs are overridden.
            say: told what is going on.
            why: the reason.
            only: the arms; None for all.
            rounds: how many; None for as many as all of them have.
            starts: on how many further engine starts, 0 for those that are there.

        Raises:
            EngineError: an engine failed.
            MeasurementError: an arm's readings stayed invalid.
        """
        self.repeated = True
        arms = self.identities.keys() if only is None else only
        names = "an arm" if len(arms) == len(self.identities) else f"of {', '.join(sorted(arms))}"
        runs = self.rounds_of(arms)
        further = runs if rounds is None else rounds
        more = "as many again" if further == runs else f"{further} more"
        on = "" if not starts else f" on {starts} new engine starts" if starts > 1 else " on a new engine start"
        say(f"{why} by {runs} runs {names}: {more}{on}")
        self.meter(replace(plan, runs=further, starts=starts or plan.starts), say, only=arms, anew=starts > 0)

    def measured(self) -> Measured:
        """What has been measured so far, in whole rounds."""
        arms = tuple(
            Arm(
                name=name,
                identity=identity,
                runs=self._counting(name, "present"),
                against=self._counting(name, "against"),
            )
            for name, identity in self.identities.items()
        )
        return Measured(key=self.key, series=self.number, arms=arms, control=self.control)

    def _counting(self, name: str, side: Side) -> tuple[Run, ...]:
        return counting(run for run in self._runs.get((name, side), ()) if run.round < self.rounds)
