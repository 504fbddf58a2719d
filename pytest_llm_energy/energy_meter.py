"""What energy tests are given: the accelerator, and the meter that measures and judges on it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec
import pytest

from pytest_llm_energy import self_test
from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.errors import JournalError, OutOfMemoryError, ScenarioError
from pytest_llm_energy.hardware.catalogue import GpuSpec
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.reopening import judged
from pytest_llm_energy.serving.arms import Arms
from pytest_llm_energy.serving.memory import what_fits
from pytest_llm_energy.serving.pool import Engine
from pytest_llm_energy.serving.scenario import Scenario, distinct_names
from pytest_llm_energy.serving.stack import Side, Stack
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.settling import settled
from pytest_llm_energy.verdicts.baselines import Baseline, Published
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.further import LOOKS
from pytest_llm_energy.verdicts.judge import Conditions, judge
from pytest_llm_energy.verdicts.measured import CaseKey, Measured, Metered
from pytest_llm_energy.verdicts.noise import Noise
from pytest_llm_energy.verdicts.records import Checked, Ended, Ran, Troubled, Windowed
from pytest_llm_energy.verdicts.rows import Row, levels_judged
from pytest_llm_energy.window_reading import WindowReading
from pytest_llm_energy.works import CallableWork, EngineWork, Work


@dataclass(frozen=True)
class GpuModel:
    """The accelerator a test runs on.

    Attributes:
        spec: published specification.
        devices: devices leased to this test; empty on a CPU.
    """

    spec: GpuSpec
    devices: tuple[Device, ...] = ()

    @property
    def key(self) -> str:
        """Mark, baseline folder and id, such as ``h200`` or ``cpu``."""
        return self.spec.key

    def __str__(self) -> str:
        return self.key


@dataclass(kw_only=True)
class EnergyMeter:
    """Meters on the leased devices, and judges.

    ``window`` meters anything, ``measure`` a series of scenarios, ``compare`` two or more arms or callables,
    ``check`` judges what was measured.
    """

    gpu_model: GpuModel
    _session: EnergySession
    _key: CaseKey
    _baseline: Baseline | None
    _published: Published | None
    rows: list[Row] = field(default_factory=list)
    _series: list[ArmRuns] = field(default_factory=list)
    _stacks: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _readings: list[Reading] = field(default_factory=list)
    starts: dict[str, float] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _starting_seconds: float = 0.0
    _checked: list[Checked] = field(default_factory=list)
    _begun_further: bool = False

    @property
    def measured(self) -> bool:
        """Whether this test has measured arms so far."""
        return bool(self._series)

    @property
    def stands(self) -> bool:
        """Whether all that is known of the case is of an earlier run."""
        left_open = self._key in self._session.reopening and not self._begun_further
        return left_open or self._session.recorded(self._key) is not None

    @property
    def windows(self) -> int:
        """How many windows this test has metered so far, validly or not."""
        return len(self._readings)

    @property
    def metered(self) -> Metered:
        """Energy of this test's valid windows so far."""
        return Metered.of(self._readings)

    @property
    def noise(self) -> Noise | None:
        """How levels scatter on the GPU model, as its baselines tell; None where this test judged no level."""
        if not levels_judged(self.rows):
            return None
        found = self._session.noise(self._key, self.gpu_model.devices)
        return msgspec.structs.replace(found, by_work={})  # the report tells of all works together

    @contextmanager
    def window(self, name: str = "window") -> Iterator[WindowReading]:
        """Meter the block: the caller's own code, or a server it drives.

        Work on a GPU must be synchronised before the block ends.

        Raises:
            MeterError: this host cannot meter.
        """
        result = WindowReading(name)
        meter = self._session.meter(self.gpu_model.devices)
        self._say(f"metering {name}")
        opened = meter.open()
        started = time.monotonic()
        try:
            yield result
        except BaseException:
            opened.abandon()
            raise
        result._reading = opened.close(started, time.monotonic())
        self._readings.append(result.reading)
        self._session.record(Windowed(key=self._key, name=name, reading=result.reading))

    def measure(self, *scenarios: Scenario) -> Measured:
        """Meter scenarios side by side, interleaved; they are named by the fields in which they differ.

        Raises:
            ScenarioError: none is given, or two are equal.
            EngineError: an engine failed.
            MeasurementError: a scenario's readings stayed invalid.
        """
        return self._measure(dict(zip(distinct_names(scenarios), scenarios, strict=True)), control=None)

    def compare(self, arms: Arms | None = None, /, **callables: Callable[[], object]) -> Measured:
        """Meter arms against each other, interleaved; the last is the control.

        Args:
            arms: scenarios by name, or None to compare callables.
            **callables: functions by name, each run in this process.

        Raises:
            ScenarioError: neither two arms nor two callables are given.
            EngineError: an engine failed.
            MeasurementError: an arm's readings stayed invalid.
        """
        if arms is not None and not callables:
            return self._measure(dict(arms), control=arms.control)
        if arms is not None or len(callables) < 2:
            raise ScenarioError("compare(arms), or compare(one=function, other=function): two at least")
        return self._measure(callables, control=list(callables)[-1])

    def check(
        self,
        measured: Measured,
        claim: Claim | None = None,
        *,
        published: str | Sequence[str] = (),
        budget: float | None = None,
    ) -> None:
        """Judge every level against its baseline, at the first check of it, and the claim by what was measured.

        Verdicts are recorded on the test; one that fails the gate fails the test when its body has ended.

        Args:
            measured: what ``measure`` or ``compare`` returned.
            claim: what the finding asserts, None to judge levels alone.
            published: id of the published figure that the claim is about, or the ids of several, one per GPU
                model that it was published for.
            budget: relative increase of a level that passes, None for the baseline's.

        Raises:
            MeasurementError: the claim is about something that was not measured.
            BaselineError: ``published`` is unknown.
        """
        series, looks = self._series[measured.series], self._session.patience.looks
        check = Checked(
            key=self._key,
            series=measured.series,
            tp=max(1, len(self.gpu_model.devices)),
            arms=tuple(arm.name for arm in measured.arms),
            control=measured.control,
            claim=claim,
            budget=budget,
            figures=(published,) if isinstance(published, str) else tuple(published),
            # Of each further run half as many errors as of the one before: all together twice as many as of one.
            looks=2 * max(series.before.looks, looks) if series.before else looks,
            levels=not series.judged,
            before=series.before,
        )
        series.judged = True
        conditions = Conditions(
            fingerprint=self._session.fingerprint(self.gpu_model.devices, of=self._key),
            stacks=self._stacks,
            against_says=self._session.options.against_says or "the other stack",
            baseline=self._baseline,
            published=self._published,
            noise=self._session.noise(self._key, self.gpu_model.devices, of=self._key),
            budget=self._session.options.budget,
            default_budget=self._session.options.default_budget,
        )
        rows = settled(series, check, conditions, session=self._session, say=self._say)
        self._checked.append(msgspec.structs.replace(check, rounds=series.rounds))
        self._write()
        self.rows += rows

    def replay(self) -> None:
        """Judge what the journal recorded for this case, instead of running the test's body.

        Raises:
            EnergyError: the case ended in an error when it was measured, or nothing valid was.
        """
        journal = self._session.recorded(self._key)
        assert journal is not None
        self._readings = journal.readings_of(self._key)
        self.starts = journal.starts_of(self._key)
        self.rows += judged(journal, self._key, self._session.options, self._session.gpu_baselines)

    def test_gate(self, scenarios: Sequence[Scenario]) -> None:
        """Test the gate on the last of a case's scenarios, its control, instead of running the test's body.

        Raises:
            EnergyError: the gate is wrong here, or cannot tell.
        """
        if not (served := [scenario for scenario in scenarios if scenario.online is None]):
            pytest.skip(self_test.NEEDS)
        scenario = served[-1]
        usual = self_test.CPU_BUDGET if self._key.gpu == "cpu" else self._session.options.default_budget
        budget = self._session.options.budget or usual
        planted = self._works(self_test.PLANTED, scenario, kinds={"present": self_test.Planted})
        for work in planted:
            if isinstance(work, self_test.Planted):
                work.increase = self_test.increase_for(budget)
        names = (self_test.UNCHANGED, self_test.PLANTED)
        series = ArmRuns(
            key=self._key,
            number=0,
            control=None,
            identities=dict.fromkeys(names, scenario.identity()),
            works=[*self._works(self_test.UNCHANGED, scenario), *planted],
            record=self._ran,
        )
        self._series.append(series)
        series.meter(self._session.plan, self._say)
        check = Checked(key=self._key, series=0, tp=scenario.tensor_parallel_size, arms=names, looks=LOOKS)
        fingerprint = self._session.fingerprint(self.gpu_model.devices)
        noise = self._session.noise(self._key, self.gpu_model.devices)
        conditions = Conditions(fingerprint=fingerprint, stacks={}, noise=noise)
        for look in range(LOOKS):
            levels = judge(check, series.measured(), conditions)
            found = list(self_test.statements(levels, budget))
            if look + 1 == LOOKS or "inconclusive" not in [wrong for _, wrong in found]:
                break
            series.meter_again(self._session.plan, self._say, why="not settled")
        self.rows += [row for row, _ in found]
        for row, wrong in found:
            if wrong is not None:
                raise self_test.fault(row, wrong)

    def trouble(self, says: str) -> None:
        """Record that the case ended in an error; what cannot be written is in the report all the same."""
        if not self.stands:
            with suppress(JournalError):
                self._session.record(Troubled(key=self._key, says=says))

    def ended(self) -> None:
        """Record that no more comes of the body; a case whose end cannot be written is measured anew if resumed."""
        if not self.stands:
            seconds = time.monotonic() - self._begun - self._starting_seconds
            with suppress(JournalError):
                self._session.record(Ended(key=self._key, seconds=seconds))

    def _measure(self, things: Mapping[str, Scenario | Callable[[], object]], *, control: str | None) -> Measured:
        if self._session.patience.interrupted:
            raise KeyboardInterrupt
        taken = {name for earlier in self._series for name in earlier.identities}
        if again := taken & things.keys():
            raise ScenarioError(f"arm names must differ within a test; measured before: {sorted(again)}")
        things = self._as_served(things)
        series = ArmRuns(
            key=self._key,
            number=len(self._series),
            control=control,
            identities={n: t.identity() if isinstance(t, Scenario) else None for n, t in things.items()},
            works=[work for name, thing in things.items() for work in self._works(name, thing)],
            record=self._ran,
        )
        if not self._take_up(series):
            try:
                series.meter(self._session.plan, self._say)
            except OutOfMemoryError as error:
                raise OutOfMemoryError("\n".join([str(error), *self._what_fits(things)])) from None
        self._series.append(series)
        return series.measured()

    def _write(self) -> None:
        """Record checks; none where nothing was added to what an earlier run said."""
        while self._checked and not self.stands:
            self._session.record(self._checked.pop(0))

    def _take_up(self, series: ArmRuns) -> bool:
        """Begin with what an earlier run metered of a case that is metered on; whether there is anything."""
        earlier = self._session.reopening.journal if self._key in self._session.reopening else None
        if earlier is None or not series.take_up(earlier):
            return False
        self._stacks.update(earlier.stacks)
        return True

    def _what_fits(self, things: Mapping[str, Scenario | Callable[[], object]]) -> list[str]:
        """Of each arm whose batch is too large for its devices, how many of its requests are not."""
        memory = self.gpu_model.spec.memory_gib
        scenarios = {name: thing for name, thing in things.items() if isinstance(thing, Scenario)}
        found = {name: what_fits(each, memory) for name, each in scenarios.items()} if memory else {}
        return [f"{name}: {says}" for name, says in found.items() if says]

    def _ran(self, ran: Ran) -> None:
        if self.stands:  # no longer
            self._begun_further = True
            self._session.begin(self._key, self.gpu_model.devices)
            self._write()
        self._session.record(ran)
        self._readings.append(ran.run.reading)

    def _as_served(
        self, things: Mapping[str, Scenario | Callable[[], object]]
    ) -> Mapping[str, Scenario | Callable[[], object]]:
        """Scenarios as they are served here: by a server that is named, or as they are; or the test is skipped."""
        scenarios = [thing for thing in things.values() if isinstance(thing, Scenario)]
        if reason := self._session.not_servable(scenarios, devices=len(self.gpu_model.devices)):
            pytest.skip(reason)
        try:
            return {
                name: self._session.as_served(thing, "present") if isinstance(thing, Scenario) else thing
                for name, thing in things.items()
            }
        except ScenarioError as error:
            pytest.skip(f"--energy-endpoint: {error}")

    def _works(
        self,
        name: str,
        thing: Scenario | Callable[[], object],
        *,
        kinds: Mapping[Side, type[EngineWork]] = {},
    ) -> list[Work]:
        """What to run of an arm: on the present stack, and on the other one where there is one."""
        if not isinstance(thing, Scenario):
            return [CallableWork(name, thing, meter=self._session.meter(self.gpu_model.devices))]
        # An arm on fewer devices than the test leases is charged for its own alone.
        devices = self.gpu_model.devices
        if not self._session.servers:
            devices = devices[: thing.tensor_parallel_size]
        stacks = [stack for stack in self._session.options.stacks if stack.serves(thing.engine)]
        return [
            kinds.get(stack.side, EngineWork)(
                name,
                served,
                side=stack.side,
                meter=self._session.meter(devices),
                begin=partial(self._engine, name, served, stack, devices),
                end=partial(self._session.pool.discard, served, stack.side),
                say=self._say,
                probing=partial(self._session.host_speed, threads=served.tensor_parallel_size, stacks=len(stacks)),
                expected_seconds=self._session.reopening.start_seconds(served),
            )
            for stack in stacks
            for served in [self._session.as_served(thing, stack.side)]
        ]

    def _engine(self, name: str, scenario: Scenario, stack: Stack, devices: Sequence[Device]) -> Engine:
        where = "" if stack.side == "present" else " on the other stack"
        asked = time.monotonic()
        engine = self._session.pool.engine(
            scenario,
            devices,
            lambda stage: self._say(f"loading {name}{where}: {stage}"),
            stack=stack,
        )
        self._starting_seconds += time.monotonic() - asked
        self._session.reopening.assert_served_alike(self._key, name, stack.side, engine.stack)
        self._stacks[engine.start] = engine.stack
        self.starts[engine.start] = engine.load_seconds
        return engine

    def _say(self, what: str) -> None:
        self._session.live.say(f"{self._key.finding} {self._key.case}", what)
