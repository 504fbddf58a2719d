"""A user's project in a temporary folder: one finding, and journals of a GPU to judge it by."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.special  # noqa: F401  pytester unloads what a test imports, and numpy cannot be loaded twice

from pytest_llm_energy import Scenario, saves
from pytest_llm_energy.verdicts.claims import Claim
from tests.journals import SimulatedSession

ROOT = Path(__file__).parents[2]
PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
TRUE_LEVELS = {"batched": 0.4, "alone": 2.0}
SIZES = (4, 8, 16)

TEST_FILE = """
import pytest
from pytest_llm_energy import Arms, Scenario, saves

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)

@pytest.mark.parametrize("size", [4, 8, 16])
def test_falls(energy_meter, size):
    arms = Arms(batched=PLAIN.replace(batch_size=size), alone=PLAIN)
    energy_meter.check(energy_meter.compare(arms), saves)
"""

SCATTERING = """
import itertools
from pytest_llm_energy import session
from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.hardware.detection import Device, Host
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.hardware.strangers import Processes

BOARD = Device(index=0, uuid="GPU-simulated-0", name="NVIDIA H200")

class Meter:
    method, estimated, source = "made-up", False, "a script"
    # Three rounds of two arms on two stacks; what follows is of the first arm alone.
    joules = itertools.chain([1.03, 1, 1, 1, 1, 1, 1, 0.98, 1.03, 1, 1, 1], itertools.repeat(1.0))

    def open(self):
        return self

    def close(self, started, ended):
        joules = next(self.joules)
        return Reading(joules=joules, seconds=ended - started, uncertainty_joules=1e-6, method=self.method)

    def abandon(self):
        pass

    def shutdown(self):
        pass

def pytest_configure():
    session.detect = lambda: Host(spec=gpu_spec("h200"), devices=(BOARD,), driver="simulated")
    session.choose_meter = lambda name, devices, **_: Meter()
    session.processes_on = lambda uuid, **_: Processes()
"""
"""A host with one made-up H200, whose joules are a script's; engines of both stacks run on this host's CPU."""


@dataclass
class Project:
    """The project, with its baselines blessed from a first session."""

    pytester: pytest.Pytester

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.pytester.path

    def journal(
        self,
        name: str,
        *,
        when: str = "2026-02-02T00:00:00+00:00",
        factors: dict[tuple[int, str], float] | None = None,
        noise: float = 0.002,
        invalid: bool = False,
        claim: Claim | None = saves,
        gpu: str = "h200",
        budget: float | None = None,
    ) -> SimulatedSession:
        """A journal whose levels are the true ones times a factor per size and arm."""
        session = SimulatedSession(self.path / name, when=when, noise=noise, gpu=gpu)
        for size in SIZES:
            levels = {
                arm: (
                    PLAIN.replace(batch_size=size) if arm == "batched" else PLAIN,
                    level * (factors or {}).get((size, arm), 1.0),
                )
                for arm, level in TRUE_LEVELS.items()
            }
            session.case("batching", f"falls[{size}]", levels, claim=claim, invalid=invalid, budget=budget)
        return session

    def replay(self, journal: SimulatedSession, *options: str) -> pytest.RunResult:
        """Judge a journal."""
        return self.pytester.runpytest_subprocess(f"--energy-replay={journal.path}", *options)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    pytester.makepyfile(test_batching=TEST_FILE)
    pytester.makeini("[pytest]\n")
    made = Project(pytester)
    made.journal("first.jsonl", when="2026-01-01T00:00:00+00:00").bless(pytester.path / "baselines")
    return made


@pytest.fixture
def host(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project without a test, on a simulated host with a GPU whose windows are few and short."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(pytester.path / "leases"))
    monkeypatch.setenv("SIMULATED_LOG", str(pytester.path / "windows.jsonl"))
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    options = "-p tests.simulated_host -p no:cacheprovider --energy-runs=4 --energy-window=0.02"
    pytester.makeini(f"[pytest]\naddopts = {options}\n")
    return pytester
