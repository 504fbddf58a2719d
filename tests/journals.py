"""Journals and baselines of a GPU that is not here: simulated, and marked so."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from pytest_llm_energy import Scenario
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.metering.meter import Invalid, Reading
from pytest_llm_energy.serving.scenario import Served
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.measured import CaseKey, Run
from pytest_llm_energy.verdicts.records import SCHEMA, Began, Checked, Ended, Opened, Ran, Record, Started
from pytest_llm_energy.verdicts.segments import Segment

WINDOW_SECONDS = 2.5


class SimulatedSession:
    """Writes a journal as a run on that GPU would have; three runs spread by ``noise``, one standard deviation.

    What began at the same time is of one suite run.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu: str = "h200",
        when: str = "2026-01-01T00:00:00+00:00",
        noise: float = 0.002,
        board: str = "simulated-board",
        against: str | None = None,
        engine: str = "{}",
    ) -> None:
        self.path = path
        self._gpu = gpu
        self._noise = noise
        self._process = f"{when}-{path.stem}"
        self._start = f"{self._process}-1"
        self._segment = Segment(path)
        self._against = against
        self._session = when
        self._openings = 0
        self.opened(when=when, boards=(board,))
        stack = {"transformers": "5.0" if when < "2026-02" else "5.1"}
        self._segment.write(Started(start=self._start, engine=engine, seconds=1.0, stack=stack))
        if against is not None:
            self._segment.write(Started(start="other", engine=engine, seconds=1.0, stack={"transformers": "4.0"}))

    def opened(self, *, when: str, boards: tuple[str, ...], power_limit_watts: float = 700.0) -> "SimulatedSession":
        """Go on with these boards."""
        self._openings += 1
        self._opening = f"{self._process}-{self._openings}"
        self._segment.write(
            Opened(
                schema=SCHEMA,
                when=when,
                version="0",
                gpu=self._gpu,
                gpu_name=self._gpu.upper(),
                method="simulated",
                source="simulated sensor",
                fingerprint=Fingerprint(
                    identity={"gpu": self._gpu.upper(), "power_limit_watts": power_limit_watts},
                    state={"driver": "simulated"},
                    boards=boards,
                ),
                simulated=True,
                against=self._against,
                session=self._session,
                opening=self._opening,
            )
        )
        return self

    def case(
        self,
        finding: str,
        case: str,
        levels: Mapping[str, tuple[Scenario, float]],
        *,
        claim: Claim | None = None,
        runs: int = 3,
        invalid: bool = False,
        series: bool = False,
        seconds: float = 10.0,
        cut: bool = False,
        against: Mapping[str, float] | None = None,
        budget: float | None = None,
        figures: tuple[str, ...] = (),
        metered: Callable[[Reading], Reading] | None = None,
    ) -> "SimulatedSession":
        """Record a case: scenario and true joules per token of each arm, and of those on another stack.

        ``cut`` leaves out its end; ``metered`` makes other readings of those that there would be.
        """
        key = CaseKey(gpu=self._gpu, finding=finding, case=case)
        self._segment.write(Began(key=key, opening=self._opening))
        for number in range(runs):
            for position, (arm, (scenario, joules)) in enumerate(levels.items()):
                sign = 1 if position % 2 else -1
                level = joules * (1 + sign * (number % 3 - 1) * self._noise)
                run = _run(scenario, level, number, start=self._start, invalid=invalid)
                if metered is not None:
                    run = msgspec.structs.replace(run, reading=metered(run.reading))
                self._segment.write(Ran(key=key, series=0, arm=arm, identity=scenario.identity(), run=run))
                if against and arm in against:
                    other = _run(scenario, against[arm] * level / joules, number, start="other")
                    ran = Ran(key=key, series=0, arm=arm, identity=scenario.identity(), run=other, side="against")
                    self._segment.write(ran)
        control = None if series else list(levels)[-1]
        check = Checked(
            key=key,
            series=0,
            tp=1,
            arms=tuple(levels),
            control=control,
            claim=claim,
            budget=budget,
            figures=figures,
        )
        self._segment.write(check)
        if not cut:
            self._segment.write(Ended(key=key, seconds=seconds))
        return self

    def other(self, finding: str, case: str, *records: Callable[[CaseKey], Record]) -> "SimulatedSession":
        """Record a case that did not check anything."""
        key = CaseKey(gpu=self._gpu, finding=finding, case=case)
        self._segment.write(Began(key=key, opening=self._opening))
        for record in records:
            self._segment.write(record(key))
        return self

    def bless(self, folder: Path, reason: str = "first measurement", *, allow_raise: bool = False) -> None:
        """Make it the baseline."""
        bless(read_journal(self.path), folder, reason=reason, allow_raise=allow_raise)


def _run(scenario: Scenario, joules: float, number: int, *, start: str, invalid: bool = False) -> Run:
    tokens = scenario.output_tokens * scenario.batch_size
    total = joules * tokens
    reasons = (Invalid("no-energy", "the counter stood still: is the driver alive?"),) if invalid else ()
    return Run(
        start=start,
        round=number,
        reading=Reading(
            joules=0.0 if invalid else total,
            seconds=WINDOW_SECONDS,
            uncertainty_joules=total * 0.001,
            method="simulated",
            invalid=reasons,
        ),
        served=Served(
            started=0.0,
            ended=WINDOW_SECONDS,
            requests=scenario.batch_size,
            input_tokens=scenario.input_tokens * scenario.batch_size,
            output_tokens=tokens,
        ),
    )
