"""Tests that say why they have no cases on a GPU model."""

import pytest

BODY = """
    import pytest
    from pytest_llm_energy import Arms, Scenario

    PLAIN = Scenario(model="tiny-llama", input_tokens=4, output_tokens=4)
    ARMS = Arms(two=PLAIN.replace(batch_size=2), one=PLAIN).named("2")

    @pytest.mark.energy_cases("arms", cpu="graphs are of GPUs", gpu=[ARMS])
    def test_graphs(energy_meter, arms):
        raise AssertionError

    @pytest.mark.energy_cases("arms", gpu=[ARMS])
    def test_unexplained(energy_meter, arms):
        raise AssertionError
"""

WINDOW = """
    def test_window(energy_meter):
        with energy_meter.window():
            pass
"""


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_the_report_says_why_a_finding_has_no_cases_here(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_cuda_graphs=BODY, test_other=WINDOW)
    result = pytester.runpytest_subprocess(*options, "--energy-report=report.md")
    said = ["no cases on cpu:", "  cuda-graphs: graphs are of GPUs"]
    result.stdout.fnmatch_lines(said)
    result.stdout.no_fnmatch_line("*unexplained*")
    assert "\n".join(said) in (pytester.path / "report.md").read_text()


def test_tests_are_named_where_others_of_the_finding_have_cases(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_cuda_graphs=BODY + WINDOW)
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["  cuda-graphs (graphs): graphs are of GPUs"])


@pytest.mark.parametrize("asked", [("-k", "window"), ("test_cuda_graphs.py::test_window",)])
def test_asked_for_by_name_other_tests_are_not_spoken_of(pytester: pytest.Pytester, asked: tuple[str, ...]) -> None:
    pytester.makepyfile(test_cuda_graphs=BODY + WINDOW)
    result = pytester.runpytest_subprocess(*asked)
    result.stdout.fnmatch_lines(["metered in all: *"])
    result.stdout.no_fnmatch_line("no cases on cpu*")


def test_the_reason_is_of_the_gpu_model_and_its_cases_are_collected_elsewhere(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_cuda_graphs=BODY)
    result = pytester.runpytest_subprocess("--collect-only", "-q", "-m", "h200")
    result.stdout.fnmatch_lines(["test_cuda_graphs.py::test_graphs[[]h200-2]"])
