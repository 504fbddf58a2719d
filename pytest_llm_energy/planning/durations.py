"""How long energy cases take, by the best record there is: a journal, a baseline, or else an estimate."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import msgspec
import pytest

from pytest_llm_energy import markers
from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.fixtures import CASE
from pytest_llm_energy.hardware.catalogue import CPU, catalogue
from pytest_llm_energy.measuring import Plan
from pytest_llm_energy.planning.roofline import batch_seconds
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.baselines import Baseline, read_baseline
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.records import Ran

GPU_START_SECONDS = {
    "vllm": 52.0,
    "vllm eager": 30.0,
    "vllm feed-forward": 14.0,
    "vllm on several devices": 83.0,
    "transformers": 10.0,
}
"""Where no journal tells: means of docs/measurements/h200 (H200s, 2026-11-21 and 22; vLLM 0.25.1,
transformers 5.17.0, PyTorch 2.11.0, models of 1 to 8 billion parameters). vLLM's first start on a host took half as
long again, and on a busy host any start twice as long."""

ENGINE_START_SECONDS = 30.0
"""Of engines that are not among those, and on a CPU. On two cores SmolLM2-135M took 17 s and tiny models 3 s."""

COMPILE_SECONDS = 50.0
"""What torch.compile takes when an engine that has it serves first: in docs/measurements/h200 (as above, two arms)
52 s each of what a case takes is neither windows, warming up nor what lies between them."""

WINDOW_OVERHEAD_SECONDS = 0.7
"""Beside the work: mostly waiting for ticks of the counter, and settling. Of docs/measurements/h200, with
``WARM_UP_BATCHES``; 0.5 to 1.1 s by session."""

CPU_WINDOW_OVERHEAD_SECONDS = 0.13
"""On two cores, whose meter has no ticks."""

WARM_UP_BATCHES = 3
"""Two at least are run before metering, and mostly a third."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a case takes on engines that are alive.

    Attributes:
        metered_seconds: in windows.
        seconds: in all, with warming up and between windows.
    """

    metered_seconds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Serving") -> "Serving":
        """Both, one after the other."""
        return Serving(
            metered_seconds=self.metered_seconds + other.metered_seconds, seconds=self.seconds + other.seconds
        )


class Durations:
    """Says the same on every machine: by what is committed or given, never by what this host is."""

    def __init__(self, session: EnergySession) -> None:
        """Read the journal of ``--energy-costs``, if there is one.

        Raises:
            JournalError: it cannot be read.
        """
        self._session = session
        self._stacks = session.options.stacks
        self._journal = read_journal(session.options.costs) if session.options.costs else None
        self._baseline = cache(self._read_baseline)

    def seconds(self, item: pytest.Item) -> float:
        """How long a case takes on engines that are alive."""
        return self.serving(item).seconds

    def serving(self, item: pytest.Item) -> Serving:
        """What a case takes on engines that are alive, with every arm on each stack that serves it."""
        key = item.stash[CASE]
        plan = self._session.plan_for(key.gpu)
        if self._journal and key in self._journal.seconds:
            return self._recorded(self._journal, key, plan)
        between = CPU_WINDOW_OVERHEAD_SECONDS if key.gpu == "cpu" else WINDOW_OVERHEAD_SECONDS
        each = (
            arm_serving(batch, plan, between, compiled=compiled and key.gpu != "cpu")
            for engine, compiled, batch in self._batches(item)
            for _ in range(self._sides(engine))
        )
        return sum(each, start=Serving())

    def engines(self, item: pytest.Item) -> dict[str, float]:
        """Seconds that the engines of a case take to start, on all stacks that start them, by engine key."""
        started = self._journal.starts.values() if self._journal else ()
        starts = self.starts(item)
        found = {}
        for scenario in markers.scenarios(item):
            key = scenario.engine_key
            recorded = [start.seconds for start in started if start.engine == key]
            seconds = statistics.fmean(recorded) if recorded else start_seconds(key, item.stash[CASE].gpu)
            found[key] = starts[key] * seconds
        return found

    def starts(self, item: pytest.Item) -> dict[str, int]:
        """On how many stacks each engine of a case is started, by engine key; servers run already."""
        found = {}
        for scenario in markers.scenarios(item):
            serve = (stack.serves(scenario.engine) and stack.endpoint is None for stack in self._stacks)
            found[scenario.engine_key] = sum(serve)
        return found

    def _sides(self, engine: str | None) -> int:
        """Stacks on which an arm is measured; the caller's own functions run on one."""
        return sum(stack.serves(engine) for stack in self._stacks) if engine else 1

    def _recorded(self, journal: Journal, key: CaseKey, plan: Plan) -> Serving:
        """As long as it took there, for as many windows as there will be now, none shorter than they must be."""
        runs = [r for r in journal.records if isinstance(r, Ran) and r.key == key]
        metered = math.fsum(reading.seconds for reading in journal.readings_of(key))
        if not runs:
            return Serving(metered_seconds=metered, seconds=journal.seconds[key])
        engines = {(run.series, run.arm): (run.identity or {}).get("engine") for run in runs}
        windows = {of: max(plan.runs, plan.starts) * self._sides(engine) for of, engine in engines.items()}
        seconds = {of: [r.run.reading.seconds for r in runs if (r.series, r.arm) == of] for of in windows}
        now = math.fsum(
            count * max(plan.window_seconds, statistics.fmean(seconds[of])) for of, count in windows.items()
        )
        then = len({(run.series, run.arm, run.side, run.run.round) for run in runs})
        between = max(0.0, journal.seconds[key] - metered) / then
        return Serving(metered_seconds=now, seconds=now + between * sum(windows.values()))

    def _batches(self, item: pytest.Item) -> list[tuple[str | None, bool, float]]:
        """Engine, whether it compiles, and seconds of a batch (or call) of each arm, 0 where nothing tells.

        A baseline tells; where it does not hold the arm, arithmetic and memory traffic on that GPU model do.
        """
        key = item.stash[CASE]
        baseline = self._baseline(key.gpu, key.finding)
        recorded = list(recorded_batches(baseline, key.case)) if baseline else []
        scenarios = list(dict.fromkeys(markers.scenarios(item)))
        spec = catalogue().get(key.gpu, CPU)  # nothing is known of others
        if not scenarios:  # functions, which the test's body alone knows
            return [(None, False, seconds) for _, seconds in recorded] or [(None, False, 0.0)] * 2
        return [
            (each.engine, each.torch_compile, told or batch_seconds(each, spec) or 0.0)
            for each in scenarios
            for told in [next((seconds for work, seconds in recorded if work == each.identity()), None)]
        ]

    def _read_baseline(self, gpu: str, finding: str) -> Baseline | None:
        """The baseline; None for one that cannot be read, which is an error of its cases, not of the shards."""
        try:
            return read_baseline(self._session.options.baselines, gpu, finding)
        except BaselineError:
            return None


def recorded_batches(baseline: Baseline, name: str) -> Iterator[tuple[Identity, float]]:
    """What each arm that a baseline holds of a case serves, and the seconds of a batch (or call)."""
    case = baseline.cases.get(name)
    if case is None:
        return
    starts = [start[name] for session in baseline.sessions for start in session.starts if name in start]
    for arm, identity in case.arms.items():
        seconds = [value for start in starts if arm in start for value in start[arm].seconds_per_token]
        tokens = identity.get("output_tokens", 1) * identity.get("batch_size", 1)
        # The median: on a busy host everything takes longer, some works twice as long.
        yield identity, statistics.median(seconds) * tokens if seconds else 0.0


def arm_serving(
    batch_seconds: float,
    plan: Plan,
    overhead_seconds: float = WINDOW_OVERHEAD_SECONDS,
    *,
    compiled: bool = False,
) -> Serving:
    """Warming up, and windows of whole batches; 0 for a batch of unknown length, which counts as a short one.

    docs/h200.md has what such estimates came to beside what the sessions there took.
    """
    batches = math.ceil(plan.window_seconds / batch_seconds) if batch_seconds else 0
    window = max(plan.window_seconds, batches * batch_seconds)
    runs = max(plan.runs, plan.starts)
    warm_up = WARM_UP_BATCHES if 2 * batch_seconds <= plan.warm_up_seconds else 2
    beginning = warm_up * batch_seconds + (COMPILE_SECONDS if compiled else 0.0)
    return Serving(
        metered_seconds=runs * window,
        seconds=plan.starts * beginning + runs * (window + overhead_seconds),
    )


def start_seconds(engine_key: str, gpu: str) -> float:
    """How long an engine takes to start on a GPU model, where no journal tells."""
    facts = msgspec.json.decode(engine_key)
    kind = facts["engine"]
    if kind == "vllm" and facts["tensor_parallel_size"] > 1:
        kind = "vllm on several devices"
    elif facts.get("enforce_eager"):
        kind = "vllm eager"
    elif facts.get("feed_forward"):
        kind = "vllm feed-forward"
    return ENGINE_START_SECONDS if gpu == "cpu" else GPU_START_SECONDS.get(kind, ENGINE_START_SECONDS)
