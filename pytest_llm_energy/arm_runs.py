"""The arms of one measurement: what is run of them, and what came of it so far."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.measuring import Plan, Say, Warmed, Work, measure
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, Run, counting
from pytest_llm_energy.verdicts.records import Ran


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
        last = time.monotonic()

        def record(work: Work, run: Run) -> None:
            nonlocal last
            of, now = (work.name, work.side), time.monotonic()
            self._runs.setdefault(of, []).append(run)
            self._shortest[of] = min(now - last, self._shortest.get(of, math.inf))
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

    def seconds_again(self, only: Collection[str]) -> float:
        """What ``meter_again`` takes of these arms at least, with engines that are there."""
        chosen = [work for work in self.works if work.name in only]
        return self.rounds * math.fsum(self._shortest[work.name, work.side] for work in chosen)

    def meter_again(self, plan: Plan, say: Say, *, why: str, only: Collection[str] | None = None) -> None:
        """Meter arms as often again as all have been, for a reason that is said.

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
        arms = "an arm" if only is None or len(only) == len(self.identities) else f"of {', '.join(sorted(only))}"
        say(f"{why} by {self.rounds} runs {arms}: as many again")
        self.meter(replace(plan, runs=self.rounds), say, only=only)

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
