"""The fixtures: ``gpu_model``, the accelerator, and ``energy_meter``, which meters and judges on it.

``energy_baselines`` judges what was measured before, on several GPU models, and needs none of them.
"""

from functools import partial

import pytest

from pytest_llm_energy.energy_baselines import EnergyBaselines
from pytest_llm_energy.energy_meter import EnergyMeter as EnergyMeter  # users annotate their tests from here
from pytest_llm_energy.energy_meter import GpuModel as GpuModel
from pytest_llm_energy.markers import Key
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.baselines import read_baseline, read_published
from pytest_llm_energy.verdicts.measured import CaseKey

SESSION = pytest.StashKey[EnergySession]()
"""On the config: what this process holds while it measures."""

CASE = pytest.StashKey[CaseKey]()
"""On every energy test: where its measurements belong."""

DEGREE = pytest.StashKey[int]()
"""On every energy test: devices it runs on, if it measures."""

METER = pytest.StashKey[EnergyMeter]()
"""On an energy test that has begun: its meter, for the report."""

BASELINES = pytest.StashKey[EnergyBaselines]()
"""On a test of baselines that has begun: what judges them, for the report."""


@pytest.fixture
def gpu_model(request: pytest.FixtureRequest) -> GpuModel:
    """The accelerator this test runs on: its specification, and the devices leased to the test."""
    session = request.config.stash[SESSION]
    key = request.node.stash[CASE]
    if session.recorded(key):
        return GpuModel(session.spec)
    say = partial(session.live.say, f"{key.finding} {key.case}")
    degree = len(session.server_devices) or request.node.stash[DEGREE]
    return GpuModel(session.spec, session.lease(degree, say))


@pytest.fixture
def energy_meter(request: pytest.FixtureRequest, gpu_model: GpuModel) -> EnergyMeter:
    """Meters joules on the leased devices, and judges them: window, measure, compare, check."""
    session = request.config.stash[SESSION]
    key = request.node.stash[CASE]
    meter = EnergyMeter(
        gpu_model=gpu_model,
        _session=session,
        _key=key,
        # Read before anything is measured, so that a corrupt file costs no device time.
        _baseline=read_baseline(session.options.baselines, key.gpu, key.finding),
        _published=read_published(session.options.baselines, key.finding),
    )
    if not meter.stands:
        session.begin(key, gpu_model.devices)
    request.node.stash[METER] = meter
    return meter


@pytest.fixture
def energy_baselines(request: pytest.FixtureRequest) -> EnergyBaselines:
    """Judges the baselines of this GPU model beside those of others; starts no engine, leases no device."""
    key = request.node.stash[CASE]
    folder = request.config.stash[SESSION].options.baselines
    judged = EnergyBaselines(_folder=folder, _key=key, _published=read_published(folder, key.finding))
    request.node.stash[BASELINES] = judged
    return judged


def measures(item: pytest.Item) -> bool:
    """Whether an energy test measures, and does not judge baselines alone."""
    callspec = getattr(item, "callspec", None)
    return callspec is None or not isinstance(callspec.params.get(energy_baselines.__name__), Key)
