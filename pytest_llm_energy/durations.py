"""How long energy cases take, by the best record there is: a journal, a baseline, or else an estimate."""

import math
import statistics
from collections.abc import Iterator
from functools import cache

import pytest

from pytest_llm_energy import markers
from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.fixtures import CASE
from pytest_llm_energy.measuring import Plan
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.baselines import Baseline, read_baseline
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.measured import CaseKey

ENGINE_START_SECONDS = 30.0
"""Where no journal tells. On two cores SmolLM2-135M took 17 s and tiny models 3 s; large models take longer."""

WINDOW_OVERHEAD_SECONDS = 0.5
"""Beside the work: mostly waiting for ticks of the counter. On two cores, whose meter has none, 0.13 s."""

WARM_UP_BATCHES = 3
"""Two at least are run before metering, and mostly a third."""


class Durations:
    """Says the same on every machine: by what is committed or given, never by what this host is."""

    def __init__(self, session: EnergySession) -> None:
        """Read the journal of ``--energy-costs``, if there is one.

        Raises:
            JournalError: it cannot be read.
        """
        self._session = session
        self._journal = read_journal(session.options.costs) if session.options.costs else None
        self._baseline = cache(self._read_baseline)

    def seconds(self, item: pytest.Item) -> float:
        """How long a case takes on engines that are alive."""
        key = item.stash[CASE]
        if self._journal and key in self._journal.seconds:
            return self._journal.seconds[key]
        plan = self._session.plan_for(key.gpu)
        batches = list(self._recorded_batches(key)) or [0.0] * _arms(item)
        return sum(_arm_seconds(batch_seconds, plan) for batch_seconds in batches)

    def engines(self, item: pytest.Item) -> dict[str, float]:
        """Seconds that the engines of a case take to start, by engine key."""
        started = self._journal.starts.values() if self._journal else ()
        found = {}
        for key in markers.engine_keys(item):
            recorded = [start.seconds for start in started if start.engine == key]
            found[key] = statistics.fmean(recorded) if recorded else ENGINE_START_SECONDS
        return found

    def _recorded_batches(self, key: CaseKey) -> Iterator[float]:
        """Seconds of a batch (or call) of each arm that the baseline holds of a case."""
        baseline = self._baseline(key.gpu, key.finding)
        case = baseline.cases.get(key.case) if baseline else None
        if baseline is None or case is None:
            return
        starts = [start[key.case] for session in baseline.sessions for start in session.starts if key.case in start]
        for arm, identity in case.arms.items():
            seconds = [value for start in starts if arm in start for value in start[arm].seconds_per_token]
            tokens = identity.get("output_tokens", 1) * identity.get("batch_size", 1)
            yield statistics.fmean(seconds) * tokens if seconds else 0.0

    def _read_baseline(self, gpu: str, finding: str) -> Baseline | None:
        """The baseline; None for one that cannot be read, which is an error of its cases, not of the shards."""
        try:
            return read_baseline(self._session.options.baselines, gpu, finding)
        except BaselineError:
            return None


def _arm_seconds(batch_seconds: float, plan: Plan) -> float:
    """Warming up, and windows of whole batches; 0 for a batch of unknown length, which counts as a short one."""
    batches = math.ceil(plan.window_seconds / batch_seconds) if batch_seconds else 0
    window = max(plan.window_seconds, batches * batch_seconds)
    return WARM_UP_BATCHES * batch_seconds + plan.runs * (window + WINDOW_OVERHEAD_SECONDS)


def _arms(item: pytest.Item) -> int:
    """Arms that a case measures, as far as its parameters tell; two where they tell of none."""
    return len(set(markers.scenarios(item))) or 2
