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
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, Run, counting
from pytest_llm_energy.verdicts.records import Ran
from pytest_llm_energy.works import Say, Work


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
    _runs: dict[tuple[str, Side], list[Run]] = field(default_factory=dict)
    _warmed: Warmed = field(default_factory=dict)
    _shortest: dict[tuple[str, Side], float] = field(default_factory=dict)
    _restarting: float = 0.0

    def meter(self, plan: Plan, say: Say, *, only: Collection[str] | None = None) -> None:
        """Meter arms as the plan says, after what has been metered.

        Args:
            plan: how much.
            say: told what is going on.
            only: the arms; None for all. The others have no runs in these rounds.

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
            measure(chosen, plan, record=record, say=say, first=self.rounds, warmed=self._warmed, beside=self.works)
        except MeasurementError:
            raise
        except BaseException:
            # An engine that failed, or was interrupted with an answer still to come, must not serve again.
            for work in self.works:
                work.end()
            raise
        self.rounds += max(plan.runs, plan.starts)
        new = {of: runs[counts[of] :] for of, runs in self._runs.items()}
        restarted = any(len({run.start for run in runs}) > 1 for runs in new.values())
        metering = math.fsum(len(runs) * self._shortest[of] for of, runs in new.items())
        self._restarting = time.monotonic() - begun - metering if restarted else 0.0

    def rounds_of(self, arms: Collection[str]) -> int:
        """Rounds in which each of these arms has a run."""
        return len(set.intersection(*({run.round for run in self._runs[name, "present"]} for name in arms)))

    def seconds_again(self, arms: Collection[str]) -> float:
        """About what ``meter_again`` takes of these arms: windows, and engine starts if the last ones had some."""
        chosen = [work for work in self.works if work.name in arms]
        windows = self.rounds_of(arms) * math.fsum(self._shortest[work.name, work.side] for work in chosen)
        return windows + self._restarting

    def meter_again(self, plan: Plan, say: Say, *, why: str, only: Collection[str] | None = None) -> None:
        """Meter arms as often again as they have been, in rounds that all of them have, for a reason that is said.

        Args:
            plan: how; its runs are overridden.
            say: told what is going on.
            why: the reason.
            only: the arms; None for all.

        Raises:
            EngineError: an engine failed.
            MeasurementError: an arm's readings stayed invalid.
        """
        self.repeated = True
        arms = self.identities.keys() if only is None else only
        names = "an arm" if len(arms) == len(self.identities) else f"of {', '.join(sorted(arms))}"
        runs = self.rounds_of(arms)
        say(f"{why} by {runs} runs {names}: as many again")
        self.meter(replace(plan, runs=runs), say, only=arms)

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
