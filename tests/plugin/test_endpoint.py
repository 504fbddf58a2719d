"""Options that name a server."""

import pytest

ENERGY_TEST = """
from pytest_llm_energy import Scenario

def test_serving(energy_meter):
    energy_meter.check(energy_meter.measure(Scenario(model="tiny-llama", input_tokens=4, output_tokens=2)))
"""

URL = "--energy-endpoint=http://127.0.0.1:9"
"""Nobody listens on that port."""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--energy-endpoint=localhost:8000"], "*'localhost:8000' is no URL of an API: write one such as*"),
        (["--energy-endpoint=http://me:secret@localhost/v1"], "*keep credentials out of the URL*"),
        (["--energy-endpoint-gpus=0"], "*are of a server: give --energy-endpoint*"),
        ([URL, "--energy-endpoint-gpus=7"], "*--energy-endpoint-gpus names '7'; this host's devices*"),
        ([URL, "--energy-starts=3"], "*a server that runs is one start*"),
        ([URL, "--energy-against=python3"], "*--energy-against is about engines that are started*"),
        ([URL, f"{URL.replace('endpoint', 'against-endpoint')}"], "*are both http://127.0.0.1:9/v1*"),
        (["--energy-argument=openai.x=1"], "*engine openai is a server that runs already*--energy-endpoint URL"),
        (["--energy-against=openai=python3"], "*engine openai is a server that runs already*"),
        (["--energy-against-endpoint=http://127.0.0.1:9"], "*name the one under test, --energy-endpoint*"),
        ([URL, "-n2"], "*two processes would drive the same endpoint*-n0*"),
    ],
)
def test_options_that_make_no_sense_are_refused(pytester: pytest.Pytester, options: list[str], says: str) -> None:
    pytester.makepyfile(ENERGY_TEST)
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])
    assert "secret" not in result.stdout.str()


def test_a_server_that_is_down_is_an_error_that_names_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ENERGY_TEST)
    result = pytester.runpytest_subprocess(URL)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no server answers at http://127.0.0.1:9/v1 (*): start it, or correct*"])


def test_a_scenario_of_a_server_is_skipped_where_none_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(ENERGY_TEST.replace("input_tokens", "engine='openai', input_tokens"))
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*name it with --energy-endpoint URL"])


WITHOUT_CLIENT = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "openai" else found(name, package)
"""

ENERGY_CASE = """
import pytest
from pytest_llm_energy import Scenario

SERVED = Scenario(model="tiny-llama", engine="openai", input_tokens=4, output_tokens=2)

@pytest.mark.parametrize("scenario", [SERVED], ids=str)
def test_serving(energy_meter, scenario):
    energy_meter.check(energy_meter.measure(scenario))
"""


def test_no_package_is_asked_for_where_a_server_is_wanted(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(WITHOUT_CLIENT)
    pytester.makepyfile(ENERGY_CASE)
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*is a server that runs already: name it with --energy-endpoint URL"])
