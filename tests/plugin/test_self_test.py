"""The gate tested on this host, with a real engine and a meter that is as right or as wrong as told."""

import pytest

from pytest_llm_energy.verdicts.journal import read_journal

HOST = """
import itertools
from pytest_llm_energy import session
from pytest_llm_energy.hardware.catalogue import CPU
from pytest_llm_energy.hardware.detection import Host
from pytest_llm_energy.works import EngineWork
from pytest_llm_energy.metering.meter import Reading

WATTS = {watts}
counted = itertools.count()

class Meter:
    method, estimated, source = "made-up", False, "a joule a request"
    served = 0

    def open(self):
        Meter.served = 0
        return self

    def close(self, started, ended):
        joules = WATTS(self.served)
        return Reading(joules=joules, seconds=ended - started, uncertainty_joules=1e-6, method=self.method)

    def abandon(self):
        pass

    def shutdown(self):
        pass

run = EngineWork.run

def counting(self, batches):
    served = run(self, batches)
    Meter.served = served.requests
    return served

EngineWork.run = counting

def pytest_configure():
    session.detect = lambda: Host(spec=CPU)
    session.choose_meter = lambda name, devices, **_: Meter()
"""

SUITE = """
import pytest
from pytest_llm_energy import Arms, Scenario

TINY = Scenario(model="tiny-llama", input_tokens=4, output_tokens=2)
ARMS = Arms(batched=TINY.replace(batch_size=2), alone=TINY)

@pytest.mark.parametrize("arms", [ARMS], ids=str)
def test_falls(energy_meter, arms):
    raise AssertionError("the body of a test is not run")

def test_other(energy_meter):
    pass
"""

OPTIONS = ("--energy-self-test", "--energy-runs=3", "--energy-window=0.05", "--energy-journal=run.jsonl")


def run(pytester: pytest.Pytester, watts: str) -> pytest.RunResult:
    pytester.makeconftest(HOST.replace("{watts}", watts))
    pytester.makepyfile(test_batching=SUITE)
    return pytester.runpytest_subprocess(*OPTIONS, "-k", "falls")


def test_one_stack_twice_is_ok_and_what_is_planted_is_found(pytester: pytest.Pytester) -> None:
    result = run(pytester, "lambda served: served * (1 + 0.01 * (next(counted) % 3 - 1))")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*the same stack twice is ok (budget +25 %)*new*",
            "*+50 % planted is regressed (budget +25 %)*new*",
            "*judged 1 of 1 (2 new)",
        ]
    )
    assert not read_journal(pytester.path / "run.jsonl").checks  # nothing of it can be blessed


def test_a_meter_that_sees_no_difference_fails_the_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, "lambda served: 20.0 + 0.001 * (next(counted) % 3)")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the gate is not to be trusted on this host: *"])


def test_a_meter_that_drifts_between_the_two_fails_the_run(pytester: pytest.Pytester) -> None:
    drifting = "lambda served: served * (2.0 if next(counted) % 4 in (0, 3) else 1.0)"
    result = run(pytester, drifting)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*the gate is not to be trusted on this host: the same stack twice is ok*"])


OF_THE_MODEL_ALONE = """
def test_model(gpu_model):
    raise AssertionError("the body of a test is not run")
"""


def test_a_test_without_a_meter_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OF_THE_MODEL_ALONE)
    result = pytester.runpytest_subprocess("--energy-self-test", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs a scenario of static batches among the test's parameters"])


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--energy-against=python", "measures one stack against itself"),
        ("--energy-endpoint=http://localhost:1", "does not test a gate on a server"),
    ],
)
def test_it_is_of_one_stack_that_is_started_here(pytester: pytest.Pytester, option: str, says: str) -> None:
    result = pytester.runpytest_subprocess("--energy-self-test", option)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{says}*"])
