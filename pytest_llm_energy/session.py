"""What one pytest process holds while it measures: host, meters, engines, journal."""

import datetime
import itertools
import math
import time
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from pathlib import Path

from pytest_llm_energy import __version__
from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.hardware.catalogue import GpuSpec, catalogue
from pytest_llm_energy.hardware.detection import Device, Host, detect
from pytest_llm_energy.hardware.fingerprint import Fingerprint, fingerprint
from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.hardware.server import ServerProcesses, devices_named
from pytest_llm_energy.hardware.strangers import Kin, Processes, processes_on
from pytest_llm_energy.measuring import CPU_PLAN, GPU_PLAN, Plan
from pytest_llm_energy.metering.choice import choose_meter, include
from pytest_llm_energy.metering.clock import SystemClock
from pytest_llm_energy.metering.host_speed import HostSpeed
from pytest_llm_energy.metering.meter import Meter
from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.patience import Patience
from pytest_llm_energy.reopening import Reopening
from pytest_llm_energy.reporting.live import Live
from pytest_llm_energy.reporting.selection import Selection
from pytest_llm_energy.serving.pool import Engine, EnginePool
from pytest_llm_energy.serving.running_server import RunningServer, why_not
from pytest_llm_energy.serving.scenario import SERVER, Scenario
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import GpuBaselines, Noise, read_gpu_baselines
from pytest_llm_energy.verdicts.pieces import carry, differing, read_journals
from pytest_llm_energy.verdicts.records import SCHEMA, Began, Opened, Record, Started
from pytest_llm_energy.verdicts.segments import Segment, segments_folder


class EnergySession:
    """Made at configuration; everything costly in it waits until it is wanted.

    Attributes:
        options: what the command line says.
        live: tells the terminal what is going on.
        journal: path of the journal this run writes.
        id: of the suite run, the same in all its processes.
        begun: monotonic seconds at which this process was configured.
        selection: what a time budget chose; None without one, and until tests are collected.
        elsewhere: cases that other shards run, or go on with.
        to_come: scenarios of the cases that have not ended, which this process is to measure as far as it is known.
    """

    def __init__(self, options: EnergyConfig, live: Live, *, process: str, journal: Path, id: str) -> None:
        self.options = options
        self.live = live
        self.journal = journal
        self.id = id
        self.begun = time.monotonic()
        self.selection: Selection | None = None
        self.elsewhere: frozenset[CaseKey] = frozenset()
        self.to_come: dict[CaseKey, tuple[Scenario, ...]] = {}
        self._process = process
        self._meters: dict[tuple[Device, ...], Meter] = {}
        self._openings: dict[tuple[Device, ...], str] = {}
        self._segment: Segment | None = None
        self._known_host: Host | None = None
        self._leased: tuple[Device, ...] = ()
        self._gpu_baselines: dict[str, GpuBaselines] = {}

    @cached_property
    def host(self) -> Host:
        """This host's accelerator, detected on first use unless ``know_host`` was told."""
        return self._known_host or detect()

    @property
    def detected(self) -> Host | None:
        """This host if anything has asked for it, which tests without our fixtures do not."""
        return self.__dict__.get("host", self._known_host)

    def know_host(self, host: Host) -> None:
        """Take an xdist worker's detection instead of repeating it."""
        self._known_host = host

    @cached_property
    def replayed(self) -> Journal | None:
        """The journals to judge, as one, instead of measuring."""
        return read_journals(self.options.replay) if self.options.replay else None

    @cached_property
    def resumed(self) -> Journal | None:
        """The journal that this run goes on with."""
        return read_journal(self.options.resume) if self.options.resume else None

    def recorded(self, key: CaseKey) -> Journal | None:
        """The journal to judge a case from; None for a case to measure, or to meter on."""
        if self.resumed and key in self.resumed.finished:
            return None if key in self.reopening else self.resumed
        return self.replayed

    @cached_property
    def reopening(self) -> Reopening:
        """What is metered on of the run that is resumed: nothing where no time is given for that."""
        return Reopening(self.resumed if self._side_by_side else None, self.options, self.gpu_baselines)

    def carry_over(self) -> None:
        """Begin the journal with the finished cases of the one that is resumed, if any.

        Raises:
            UsageError: this host, or what meters here, is another.
            MeterError: this host cannot meter.
            JournalError: the journal cannot be written.
        """
        if self.resumed is None:
            return
        devices = self.host.devices[:1]
        meter = choose_meter(self.options.meter, devices)
        try:
            differs = differing(self.resumed.opened, self._opened(meter, devices))
        finally:
            meter.shutdown()
        if differs:
            raise UsageError(
                f"{self.resumed.path} cannot be resumed here: {'; '.join(differs)}; resume it where it was begun, "
                "or measure anew without --energy-resume"
            )
        carry(self.resumed, self.journal, without=self.elsewhere)

    @property
    def spec(self) -> GpuSpec:
        """GPU model that this run measures or replays."""
        if not self.replayed:
            return self.host.spec
        key, name = self.replayed.opened.gpu, self.replayed.opened.gpu_name
        return catalogue().get(key) or GpuSpec(key=key, family=key, name=name)

    def fingerprint(self, devices: Sequence[Device], *, of: CaseKey | None = None) -> Fingerprint:
        """Of the hardware behind the joules of these devices.

        Args:
            devices: those that are metered now.
            of: a case, which keeps the hardware that it began on where it is metered on.
        """
        if self.replayed:
            return self.replayed.opened.fingerprint
        if of and self.resumed and of in self.reopening:
            return self.resumed.opened_for(of).fingerprint
        return fingerprint(self.host, devices)

    @property
    def plan(self) -> Plan:
        """How much is measured per arm."""
        return self.plan_for(self.spec.key)

    def plan_for(self, gpu: str) -> Plan:
        """How much is measured per arm on a GPU model, by its key."""
        plan = CPU_PLAN if gpu == "cpu" else GPU_PLAN
        return Plan(
            runs=self.options.runs or plan.runs,
            starts=self.options.starts,
            window_seconds=self.options.window_seconds or plan.window_seconds,
        )

    @cached_property
    def patience(self) -> Patience:
        """What there is for settling verdicts."""
        return Patience(
            self.options,
            side_by_side=lambda: self._side_by_side,
            spare_seconds=lambda: self.selection.spare_seconds if self.selection else math.inf,
        )

    @property
    def _side_by_side(self) -> bool:
        """Whether levels are gated against another stack's."""
        return len(self.options.stacks) > 1 and self.spec.key != "cpu"

    def host_speed(self, engine: Engine, *, threads: int, stacks: int) -> HostSpeed | None:
        """What probes the host's processors beside an engine's windows; None where no level is one beside another.

        Args:
            engine: serves in this host's processes.
            threads: how many of its busiest threads are followed.
            stacks: how many stacks serve what it does.
        """
        if stacks < 2 or not self._side_by_side or engine.endpoint is not None:
            return None
        return HostSpeed(partial(tuple, self.kin.here(engine.processes)), SystemClock(), threads=threads)

    @cached_property
    def pool(self) -> EnginePool:
        """Engines of this process."""
        return EnginePool(
            name=f"{self.id}-{self._process}",
            deadline=self.options.deadline_seconds,
            on_start=self._engine_started,
            coming=lambda: itertools.chain.from_iterable(self.to_come.values()),
            again=(self.options.starts or 1) > 1,
        )

    @cached_property
    def leases(self) -> Leases:
        """Devices that this process holds against all others of this host."""
        if self.servers:  # whose processes are no strangers; the meter looks for others
            return Leases(self.server_devices or self.host.devices, processes=lambda uuid: Processes())
        return Leases(self.host.devices, processes=partial(processes_on, strangers=self.kin.strangers))

    @cached_property
    def kin(self) -> Kin:
        """Processes of engines that are no descendants of this process."""
        return Kin()

    def lease(self, count: int, say: Callable[[str], None]) -> tuple[Device, ...]:
        """So many devices, held until the engines on them are wanted no more; none without a GPU.

        Raises:
            HardwareError: they did not come free in time, or strangers are on them.
        """
        if not self.host.devices:
            return ()
        if len(self.leases.held) != count:
            if self.leases.held:
                self.pool.close()
                self.leases.release()
            self.leases.acquire(count, timeout_seconds=self.options.lease_timeout_seconds, say=say)
            if self.leases.held != self._leased:
                self.pool.spares.end()  # they see the devices of before
                self._leased = self.leases.held
        return self.leases.held

    def retain(self, engine_keys: Collection[str]) -> None:
        """Between tests: keep these engines, end the others, and give the devices back if nothing is on them."""
        self.pool.retain(engine_keys)
        if self.pool.empty and not self.leases.in_use:
            self.leases.release()

    @cached_property
    def servers(self) -> dict[Side, RunningServer]:
        """The servers that serve every scenario, by stack, where such are named."""
        if self.options.replay:
            return {}
        return {
            stack.side: RunningServer(stack.endpoint, model=self.options.endpoint_model)
            for stack in self.options.stacks
            if stack.endpoint
        }

    @cached_property
    def server_devices(self) -> tuple[Device, ...]:
        """Devices that the servers are said to run on, empty where nothing is said.

        Raises:
            UsageError: this host has no such devices.
        """
        return devices_named(self.host.devices, self.options.endpoint_gpus) if self.servers else ()

    def as_served(self, scenario: Scenario, side: Side) -> Scenario:
        """The scenario as the server of a stack serves it, or as it is where engines are started.

        Raises:
            EngineError: the server does not answer, or it is not plain which of its models is meant.
            ScenarioError: the server's model has too short a context.
        """
        server = self.servers.get(side)
        return server.serve(scenario) if server else scenario

    def meter(self, devices: Sequence[Device]) -> Meter:
        """The meter of these devices.

        Raises:
            MeterError: this host cannot meter.
            EngineError: the server that is to serve does not answer.
        """
        key = tuple(devices)
        if key not in self._meters:
            urls = [server.url for server in self.servers.values()]
            served_by = [server.describe() for server in self.servers.values()]
            processes = ServerProcesses(*urls) if urls else None
            self._meters[key] = choose_meter(self.options.meter, devices, kin=self.kin, server=processes)
            self._meters[key].source = "; ".join([self._meters[key].source, *served_by])
        return self._meters[key]

    def begin(self, key: CaseKey, devices: Sequence[Device]) -> None:
        """Record that a case begins to measure on these devices.

        Raises:
            MeterError: this host cannot meter.
            JournalError: it cannot be written.
        """
        meter = self.meter(devices)
        if tuple(devices) not in self._openings:
            opened = self._opened(meter, devices)
            # Before it is remembered: cases that begin under an opening that is nowhere make a journal unreadable.
            self.record(opened)
            self._openings[tuple(devices)] = opened.opening
        self.record(Began(key=key, opening=self._openings[tuple(devices)], further=key in self.reopening))

    def gpu_baselines(self, gpu: str) -> GpuBaselines:
        """All baselines of a GPU model, read once: they tell how levels scatter there."""
        if gpu not in self._gpu_baselines:
            self._gpu_baselines[gpu] = read_gpu_baselines(self.options.baselines, gpu)
        return self._gpu_baselines[gpu]

    def noise(self, key: CaseKey, devices: Sequence[Device], *, of: CaseKey | None = None) -> Noise:
        """How levels scatter on a case's GPU model, by all of its baselines that were metered as the case is.

        Args:
            key: the case.
            devices: those it is metered on.
            of: the same case where it is to be judged with this (``noise.pooled``).
        """
        known = self.gpu_baselines(key.gpu)
        if recorded := self.recorded(key):
            opened = recorded.opened_for(key)
            return known.noise(method=opened.method, simulated=opened.simulated, of=of)
        return known.noise(method=self.meter(devices).method, simulated=False, of=of)

    def source(self, key: CaseKey) -> str | None:
        """What metered a case, in words; None before anything was."""
        if recorded := self.recorded(key):
            return recorded.opened_for(key).source
        return ", ".join(sorted({meter.source for meter in self._meters.values()})) or None

    def record(self, record: Record) -> None:
        """Append to this process's segment of the journal.

        Raises:
            JournalError: it cannot be written.
        """
        if self._segment is None:
            self._segment = Segment(segments_folder(self.journal) / f"{self._process}.jsonl")
        self._segment.write(record)

    def close(self) -> None:
        """End engines, give back devices, release meters, close the segment."""
        if "pool" in self.__dict__:
            self.pool.close()
        if "leases" in self.__dict__:
            self.leases.release()
        for meter in self._meters.values():
            meter.shutdown()
        self._meters.clear()
        if self._segment is not None:
            self._segment.close()

    def not_servable(self, scenarios: Sequence[Scenario], *, devices: int) -> str | None:
        """Why these scenarios of a case cannot be served here: by the server that is named, or without one."""
        if self.servers:
            return why_not(scenarios, devices=devices)
        if any(scenario.engine == SERVER for scenario in scenarios):
            return f"engine {SERVER!r} is a server that runs already: name it with --energy-endpoint URL"
        return None

    def _opened(self, meter: Meter, devices: Sequence[Device]) -> Opened:
        return Opened(
            schema=SCHEMA,
            when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            version=__version__,
            gpu=self.spec.key,
            gpu_name=self.spec.name,
            method=meter.method,
            source=meter.source,
            fingerprint=self.fingerprint(devices),
            against=self.options.against_says,
            arguments=self.options.arguments_by_name,
            session=self.id,
            opening=f"{self.id}-{self._process}-{len(self._openings) + 1}",
            left_out=tuple(cost.key for cost in self.selection.left_out) if self.selection else (),
        )

    def _engine_started(self, engine: Engine, scenario: Scenario) -> None:
        if engine.endpoint is None:
            self.kin.admit(engine.processes)
            for meter in self._meters.values():
                include(meter, self.kin, engine.processes)
        self.record(
            Started(
                start=engine.start,
                engine=scenario.engine_key,
                seconds=engine.load_seconds,
                stack=engine.stack,
            )
        )
