"""The interpreter that an engine runs in."""

import sys

import pytest

from pytest_llm_energy.stack_options import stacks

ENERGY_TEST = """
from pytest_llm_energy import Scenario

def test_serving(energy_meter):
    energy_meter.check(energy_meter.measure(Scenario(model="tiny-llama", input_tokens=4, output_tokens=2)))
"""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("vlm=python3", "*'vlm=python3' is not ENGINE=COMMAND with an engine of transformers, vllm*"),
        ("vllm=", "*'vllm=' is not ENGINE=COMMAND*"),
        ("python3", "*'python3' is not ENGINE=COMMAND*"),
        ("openai=python3", "*'openai=python3': engine openai is a server that runs already*--energy-endpoint URL"),
    ],
)
def test_a_value_that_names_no_engine_or_no_command_is_refused(
    pytester: pytest.Pytester, value: str, says: str
) -> None:
    result = pytester.runpytest_subprocess("--energy-python", value)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


def test_an_interpreter_that_is_not_there_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ENERGY_TEST)
    result = pytester.runpytest_subprocess("--energy-python", "transformers=/nowhere/python3 -X utf8")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*cannot start /nowhere/python3 -X utf8: *"])


def test_a_named_interpreter_serves_and_its_start_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ENERGY_TEST)
    options = ("--energy-runs=2", "--energy-window=0.1", "--energy-gate=off", "--energy-journal=run.jsonl")
    result = pytester.runpytest_subprocess(f"--energy-python=transformers={sys.executable}", *options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["engines: 1 start in * s; windows * s, * % of the run"])
    again = pytester.runpytest_subprocess("--energy-replay=run.jsonl", "--energy-gate=off")
    again.stdout.fnmatch_lines(["engines: 1 start in * s; windows * s"])


def test_the_last_interpreter_that_is_named_for_an_engine_serves(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [("vllm", ("/in/addopts",)), ("vllm", ("/on/the/command/line",))]
    monkeypatch.setattr(request.config.option, "energy_python", named)
    (present,) = stacks(request.config)
    assert present.pythons == {"vllm": ("/on/the/command/line",)}
