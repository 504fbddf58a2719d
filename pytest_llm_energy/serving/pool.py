"""Engines that are alive: started when first wanted, ended when nothing to come wants them."""

import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.serving.process import Done, WorkerProcess, this_python
from pytest_llm_energy.serving.scenario import ENGINE_FIELDS, Scenario, Served

Say = Callable[[str], None]


class Engine:
    """An engine start: one worker with one model loaded.

    Attributes:
        start: id of this start, unique among the starts of a journal.
        load_seconds: from the request to load until the engine was ready.
        stack: versions of what serves, by package.
        endpoint: URL of the server that serves, None where the worker does.
    """

    def __init__(
        self, scenario: Scenario, worker: WorkerProcess, *, start: str, deadline: float, endpoint: str | None = None
    ) -> None:
        self.start = start
        self.endpoint = endpoint
        self.load_seconds = 0.0
        self.stack: dict[str, str] = {}
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
            "limits": scenario.limits,
            "endpoint": self.endpoint,
        }
        done = self._ask(request, say)
        self.load_seconds = done.seconds or 0.0
        self.stack = done.stack or {}

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

    def end(self) -> None:
        """End the worker and all it started."""
        self._worker.end()

    def _ask(self, request: dict[str, object], say: Say) -> Done:
        return self._worker.ask(request, deadline=self._deadline, say=say)


class EnginePool:
    """Keeps an engine per engine key, so that consecutive tests share a start."""

    def __init__(
        self,
        *,
        name: str,
        deadline: float,
        on_start: Callable[[Engine, Scenario], None],
        pythons: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Start with no engines.

        Args:
            name: prefix of the starts' ids, unique per pytest process.
            deadline: seconds any one request may take.
            on_start: told of each engine once it is loaded.
            pythons: command prefix of the Python to run an engine in, by engine; this one for those not named.
        """
        self._name = name
        self._deadline = deadline
        self._on_start = on_start
        self._pythons = pythons or {}
        self._engines: dict[str, Engine] = {}
        self._numbers = itertools.count(1)

    def engine(
        self, scenario: Scenario, devices: Sequence[Device], say: Say, *, endpoint: str | None = None
    ) -> Engine:
        """The engine for a scenario, started if need be.

        Args:
            scenario: what is to be served.
            devices: what the worker may use.
            say: told each stage of loading.
            endpoint: URL of the server for engine ``openai``.

        Raises:
            EngineError: it cannot be loaded; whatever was started is ended.
        """
        key = _key(scenario, endpoint)
        engine = self._engines.get(key)
        if engine is not None and engine.alive:
            return engine
        start = f"{self._name}-{next(self._numbers)}"
        title = f"engine {scenario.engine} with {scenario.preset.name}" + (f" at {endpoint}" if endpoint else "")
        python = self._pythons.get(scenario.engine, this_python())
        worker = WorkerProcess(python=python, environment=_environment(devices), name=title)
        engine = Engine(scenario, worker, start=start, deadline=self._deadline, endpoint=endpoint)
        self._engines[key] = engine
        try:
            engine.load(say)
        except BaseException:
            self.discard(scenario, endpoint=endpoint)
            raise
        self._on_start(engine, scenario)
        return engine

    def discard(self, scenario: Scenario, *, endpoint: str | None = None) -> None:
        """End the engine of a scenario, if there is one: it failed and must not serve again."""
        engine = self._engines.pop(_key(scenario, endpoint), None)
        if engine is not None:
            engine.end()

    def retain(self, keys: Collection[str]) -> None:
        """End every engine whose key is not among these; clients of a server hold no device, and stay."""
        for key, engine in list(self._engines.items()):
            if key not in keys and engine.endpoint is None:
                self._engines.pop(key).end()

    def close(self) -> None:
        """End every engine."""
        while self._engines:
            self._engines.popitem()[1].end()


def _key(scenario: Scenario, endpoint: str | None) -> str:
    return scenario.engine_key if endpoint is None else f"{endpoint} {scenario.engine_key}"


def _environment(devices: Sequence[Device]) -> dict[str, str]:
    visible = ",".join(str(device.index) for device in devices)
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    # Without it a tokenizer starts threads of its own, which warn and spin.
    return environment | {"TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false")}


def _served(done: Done) -> Served:
    fields = {name: getattr(done, name) for name in Served.__struct_fields__}
    if None in (fields[name] for name in fields if name != "acceptance_length"):
        raise EngineError(f"the worker's answer lacks what it served: {fields}")
    return Served(**fields)
