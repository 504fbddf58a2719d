"""Engines that are alive: started when first wanted, ended when nothing to come wants them."""

import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.serving.process import Done, WorkerProcess
from pytest_llm_energy.serving.scenario import ENGINE_FIELDS, Scenario, Served
from pytest_llm_energy.serving.spares import Spares, imported
from pytest_llm_energy.serving.stack import Side, Stack

Say = Callable[[str], None]


EngineKey = tuple[str, tuple[str, ...], Side]
"""What an engine is, the devices it is on, and its stack."""


PRESENT = Stack()
"""pytest's own Python for every engine."""


class Engine:
    """An engine start: one worker with one model loaded.

    Attributes:
        start: id of this start, unique among the starts of a journal.
        load_seconds: waited for until the engine was ready.
        stack: what serves, by name: versions, environment, arguments.
        processes: the worker and its descendants, as they see themselves: id and beginning.
        endpoint: URL of the server that serves, None where the worker does.
    """

    def __init__(
        self, scenario: Scenario, worker: WorkerProcess, *, stack: Stack, start: str, deadline: float
    ) -> None:
        self.start = start
        self.endpoint = stack.endpoint
        self._arguments = stack.arguments.get(scenario.engine, {})
        self.load_seconds = 0.0
        self.stack: dict[str, str] = {}
        self.processes: tuple[tuple[int, int], ...] = ()
        self._scenario = scenario
        self._worker = worker
        self._deadline = deadline
        self._prepared: str | None = None

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._worker.alive

    @property
    def pid(self) -> int:
        """Process (and process group) id of the worker."""
        return self._worker.pid

    def load(self, say: Say) -> None:
        """Load the model.

        Raises:
            EngineError: it cannot be loaded.
        """
        scenario = self._scenario
        draft = scenario.speculation.preset if scenario.speculation else None
        request: dict[str, object] = {
            "do": "load",
            "identity": scenario.identity(),
            "model": msgspec.to_builtins(scenario.preset),
            "draft": msgspec.to_builtins(draft),
            "limits": msgspec.to_builtins(scenario.limits),
            "arguments": self._arguments,
            "endpoint": self.endpoint,
        }
        done = self._ask(request, say)
        self.stack = done.stack or {}
        self.processes = done.processes or ()

    def prepare(self, scenario: Scenario, say: Say) -> None:
        """Hand over the batch that the following runs serve, unless the engine has it already.

        Raises:
            EngineError: the engine failed.
        """
        identity = scenario.identity()
        work = {name: value for name, value in identity.items() if name not in ENGINE_FIELDS}
        key = msgspec.json.encode(work, order="sorted").decode()
        if key != self._prepared:
            self._ask({"do": "prepare", "work": work}, say)
            self._prepared = key

    def run(self, scenario: Scenario, batches: int, say: Say) -> Served:
        """Serve a scenario's batch ``batches`` times.

        Raises:
            EngineError: the engine failed, or served other tokens than the scenario asks for.
        """
        self.prepare(scenario, say)
        done = self._ask({"do": "run", "batches": batches}, say)
        served = _served(done)
        expected = batches * scenario.batch_size
        if (served.requests, served.output_tokens) != (expected, expected * scenario.output_tokens):
            raise EngineError(
                f"{scenario}: {expected} requests of {scenario.output_tokens} output tokens were asked for, "
                f"{served.requests} requests and {served.output_tokens} tokens came back"
            )
        return served

    def serve(self, scenario: Scenario, say: Say) -> float:
        """Let an online scenario's requests arrive; returns when they keep the batch full.

        Returns:
            Seconds from the end of one request to that of the next.

        Raises:
            EngineError: the engine failed, or the requests do not fill its batch.
        """
        self.prepare(scenario, say)
        return self._ask({"do": "serve"}, say).seconds or 0.0

    def stop(self, started: float, ended: float, say: Say) -> Served:
        """Let no more requests arrive; what was served between two moments.

        Raises:
            EngineError: the engine failed, or its batch was not full all the time.
        """
        return _served(self._ask({"do": "stop", "started": started, "ended": ended}, say))

    def end(self) -> None:
        """End the worker and all it started."""
        self._worker.end()

    def _ask(self, request: dict[str, object], say: Say) -> Done:
        return self._worker.ask(request, deadline=self._deadline, say=say)


class EnginePool:
    """Keeps an engine per engine key and devices, so that consecutive tests share a start.

    Attributes:
        spares: workers that import, while an engine loads, what the next one to come needs.
    """

    def __init__(
        self,
        *,
        name: str,
        deadline: float,
        on_start: Callable[[Engine, Scenario], None],
        coming: Callable[[], Iterable[Scenario]] = tuple,
        again: bool = False,
    ) -> None:
        """Start with no engines.

        Args:
            name: prefix of the starts' ids, unique per pytest process.
            deadline: seconds any one request may take.
            on_start: told of each engine once it is loaded.
            coming: what will be served from now on, on engines that are alive or not.
            again: whether engines that are alive will be started again.
        """
        self._name = name
        self._deadline = deadline
        self._on_start = on_start
        self._coming = coming
        self._again = again
        self.spares = Spares()
        self._engines: dict[EngineKey, Engine] = {}
        self._numbers = itertools.count(1)

    @property
    def empty(self) -> bool:
        """Whether no engine is kept."""
        return not self._engines

    def engine(self, scenario: Scenario, devices: Sequence[Device], say: Say, *, stack: Stack = PRESENT) -> Engine:
        """The engine for a scenario on a stack, started if need be.

        Args:
            scenario: what is to be served.
            devices: what the worker may use.
            say: told each stage of loading.
            stack: where it runs.

        Raises:
            OutOfMemoryError: it does not fit beside what is on the devices.
            EngineError: it cannot be loaded; whatever was started is ended.
        """
        key = (scenario.engine_key, tuple(device.uuid for device in devices), stack.side)
        engine = self._engines.get(key)
        if engine is not None and engine.alive:
            return engine
        if engine is not None:
            self._end([key])
        start = f"{self._name}-{next(self._numbers)}"
        title = f"engine {scenario.engine} with {scenario.preset.name}" + (
            f" at {stack.endpoint}" if stack.endpoint else ""
        )
        python, environment = stack.python(scenario.engine), _environment(devices)
        spare = imported(scenario.engine, python=python, environment=environment)
        worker = self.spares.take(spare) or WorkerProcess(python=python, environment=environment, name=title)
        worker.name = title
        engine = Engine(scenario, worker, stack=stack, start=start, deadline=self._deadline)
        self._engines[key] = engine
        try:
            if self._is_followed(scenario, stack):
                self.spares.begin(spare)
            asked = time.monotonic()
            engine.load(say)
            self.spares.wait_for(spare, say)
            engine.load_seconds = time.monotonic() - asked
            self._on_start(engine, scenario)
        except BaseException:
            self.discard(scenario, stack.side)
            self.spares.end([spare])
            raise
        return engine

    def discard(self, scenario: Scenario, side: Side = "present") -> None:
        """End the engines of a scenario on one side, if there are any."""
        self._end([key for key in self._engines if (key[0], key[2]) == (scenario.engine_key, side)])

    def retain(self, keys: Collection[str]) -> None:
        """End every engine, of either side, whose key is not among these; clients of a server stay."""
        self._end([key for key, engine in self._engines.items() if key[0] not in keys and engine.endpoint is None])

    def close(self) -> None:
        """End every engine, and what waits to become one."""
        self._end(list(self._engines))
        self.spares.end()

    def _is_followed(self, scenario: Scenario, stack: Stack) -> bool:
        """Whether another start of the same engine, on as many devices of the same stack, is to come."""
        alive = {key[0] for key in self._engines if key[2] == stack.side and not self._again}
        alike = (scenario.engine, scenario.tensor_parallel_size)
        return stack.endpoint is None and any(
            (each.engine, each.tensor_parallel_size) == alike and each.engine_key not in alive
            for each in self._coming()
        )

    def _end(self, keys: Iterable[EngineKey]) -> None:
        for key in keys:
            self._engines.pop(key).end()


def _environment(devices: Sequence[Device]) -> dict[str, str]:
    visible = ",".join(device.cuda_name for device in devices)
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    # Without it a tokenizer starts threads of its own, which warn and spin.
    return environment | {"TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false")}


def _served(done: Done) -> Served:
    fields = {name: getattr(done, name) for name in Served.__struct_fields__}
    if None in (fields[name] for name in fields if name != "acceptance_length"):
        raise EngineError(f"the worker's answer lacks what it served: {fields}")
    return Served(**fields)
