"""Which cases are collected, selected and skipped."""

import pytest

HEADER = """
import pytest
from pytest_llm_energy import Arms, Scenario, Series, saves
PLAIN = Scenario(model="tiny-llama", input_tokens=8, output_tokens=4)
"""


def collected(pytester: pytest.Pytester, body: str, *options: str) -> list[str]:
    pytester.makepyfile(test_finding=HEADER + body)
    result = pytester.runpytest("--collect-only", "-q", *options)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_a_test_is_collected_for_this_host_and_for_the_models_that_m_names(pytester: pytest.Pytester) -> None:
    body = "def test_x(energy_meter): pass"
    assert collected(pytester, body) == ["test_x[cpu]"]
    assert collected(pytester, body, "-m", "h200 or cpu") == ["test_x[cpu]", "test_x[h200]"]
    assert collected(pytester, body, "-m", "a100") == ["test_x[a100]"]


def test_the_gpu_model_stands_first_in_the_id(pytester: pytest.Pytester) -> None:
    body = """
@pytest.mark.parametrize("size", [1, 128])
def test_x(gpu_model, size): pass
"""
    assert collected(pytester, body, "-m", "h200") == ["test_x[h200-1]", "test_x[h200-128]"]


def test_marks_on_a_test_limit_it_to_these_models(pytester: pytest.Pytester) -> None:
    body = """
@pytest.mark.h100
def test_h100(energy_meter): pass
@pytest.mark.gpu
def test_gpu(energy_meter): pass
@pytest.mark.cpu
def test_cpu(energy_meter): pass
"""
    assert collected(pytester, body) == ["test_cpu[cpu]"]
    assert collected(pytester, body, "-m", "h100") == ["test_h100[h100]", "test_gpu[h100]"]


def test_cases_can_differ_between_models(pytester: pytest.Pytester) -> None:
    body = """
@pytest.mark.energy_cases("size", cpu=[1], gpu=[8, 16], h200=[128])
def test_x(energy_meter, size): pass
@pytest.mark.energy_cases("size", gpu=[8])
def test_y(energy_meter, size): pass
"""
    assert collected(pytester, body) == ["test_x[cpu-1]"]
    assert collected(pytester, body, "-m", "a100") == ["test_x[a100-8]", "test_x[a100-16]", "test_y[a100-8]"]
    assert collected(pytester, body, "-m", "h200") == ["test_x[h200-128]", "test_y[h200-8]"]


def test_cases_may_carry_ids_and_marks(pytester: pytest.Pytester) -> None:
    body = """
@pytest.mark.energy_cases("n", cpu=[pytest.param(1, id="one", marks=pytest.mark.full), 2])
def test_x(energy_meter, n): pass
"""
    assert collected(pytester, body) == ["test_x[cpu-2]"]
    assert collected(pytester, body, "-m", "full") == ["test_x[cpu-one]"]


def test_a_mark_of_the_users_own_is_left_alone(pytester: pytest.Pytester) -> None:
    assert collected(pytester, "def test_x(energy_meter): pass", "-m", "not slow and not httpx") == ["test_x[cpu]"]


def test_tests_without_our_fixtures_are_never_touched(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest("-m", "not a100")
    assert result.ret == 0
    assert "energy" not in "\n".join(result.outlines[1:]).replace("llm-energy", "")


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("cpu and tp1", ["one", "marked"]),
        ("cpu and tp2", ["two"]),
        ("tp(degree=2)", ["two"]),
        ("cpu and not tp2", ["one", "marked"]),
    ],
)
def test_tensor_parallel_degrees_select(pytester: pytest.Pytester, expression: str, selected: list[str]) -> None:
    body = """
def test_one(energy_meter): pass
@pytest.mark.tp(degree=1)
def test_marked(energy_meter): pass
@pytest.mark.tp(degree=2)
def test_two(energy_meter): pass
"""
    found = collected(pytester, body, "-m", expression)
    assert found == [f"test_{name}[cpu]" for name in selected]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("@pytest.mark.tp(3)\ndef test_x(energy_meter): pass", "*tp(3) is not known; write tp(degree=N)*"),
        ("@pytest.mark.tp(degree=3)\ndef test_x(energy_meter): pass", "*N one of (1, 2, 4, 8)*"),
        ("@pytest.mark.tp(degrees=2)\ndef test_x(energy_meter): pass", "*tp(degrees=2) is not known*"),
        (
            "@pytest.mark.energy_cases('n', a1000=[1])\ndef test_x(energy_meter, n): pass",
            "*'a1000' is no GPU model key; did you mean 'a100'? Known: cpu*",
        ),
        ("PLAIN.replace(model='lama')", "*unknown model 'lama'*Known: Llama-3.1-8B*"),
        ("PLAIN.replace(engine='tgi')", "*unknown engine 'tgi'; known: transformers*"),
    ],
)
def test_what_is_unknown_is_an_error_at_collection_that_lists_what_is(
    pytester: pytest.Pytester, body: str, message: str
) -> None:
    pytester.makepyfile(test_finding=HEADER + body)
    result = pytester.runpytest("--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([message])


def test_a_misspelt_gpu_in_m_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_finding="def test_x(energy_meter): pass")
    result = pytester.runpytest("-m", "a1000")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: -m: 'a1000' is no GPU model key; did you mean 'a100'? Known: cpu, *"])


def test_a_run_for_another_gpu_names_what_it_skipped_and_does_not_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_batching=HEADER
        + """
@pytest.mark.parametrize("size", [1, 8])
def test_falls(energy_meter, size): raise AssertionError("must not run")
"""
    )
    result = pytester.runpytest("-m", "a100")
    assert result.ret == 5
    result.stdout.fnmatch_lines(
        [
            "not judged here, needs a100, this host has cpu:",
            "  batching: falls[[]1, 8[]]",
            "energy: judged 0 of 2 (2 skipped); a gate that decided nothing does not pass*",
        ]
    )
    assert pytester.runpytest("-m", "a100", "--energy-gate=off").ret == 0


def test_full_grids_are_off_unless_named(pytester: pytest.Pytester) -> None:
    body = """
@pytest.mark.full
def test_grid(energy_meter): pass
def test_small(energy_meter): pass
"""
    assert collected(pytester, body) == ["test_small[cpu]"]
    assert collected(pytester, body, "-m", "full") == ["test_grid[cpu]"]


def test_tests_that_share_an_engine_stand_together(pytester: pytest.Pytester) -> None:
    body = """
EAGER, COMPILED = PLAIN, PLAIN.replace(torch_compile=True)
@pytest.mark.parametrize("scenario", [EAGER, COMPILED], ids=["eager", "compiled"])
def test_a(energy_meter, scenario): pass
@pytest.mark.parametrize("scenario", [EAGER, COMPILED], ids=["eager", "compiled"])
def test_b(energy_meter, scenario): pass
"""
    assert collected(pytester, body) == [
        "test_a[cpu-eager]",
        "test_b[cpu-eager]",
        "test_a[cpu-compiled]",
        "test_b[cpu-compiled]",
    ]


def test_a_project_that_calls_its_own_things_so_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
import pytest

@pytest.fixture
def gpu_model():
    return "our own"
""")
    pytester.makepyfile(
        test_fixture="def test_x(gpu_model): assert gpu_model == 'our own'",
        test_parameter="""
import pytest

@pytest.mark.v2
@pytest.mark.parametrize("energy_baselines", ["a", "b"])
def test_x(energy_baselines): assert energy_baselines in "ab"
""",
    )
    result = pytester.runpytest("-Wignore::pytest.PytestUnknownMarkWarning")
    result.assert_outcomes(passed=3)
    assert "energy:" not in result.stdout.str()
    pytester.runpytest("-m", "v2", "-Wignore::pytest.PytestUnknownMarkWarning").assert_outcomes(passed=2)


def test_a_fixture_that_builds_on_this_packages_makes_an_energy_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
import pytest

@pytest.fixture
def gpu_model(gpu_model):
    return gpu_model
""")
    assert collected(pytester, "def test_x(gpu_model): pass") == ["test_x[cpu]"]


def test_a_gpu_model_that_hides_the_meters_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef gpu_model():\n    return 'our own'\n")
    pytester.makepyfile("def test_x(energy_meter): pass")
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["*energy_meter needs the gpu_model of its package, and another one hides that*"])


def test_what_a_project_calls_energy_baselines_leaves_a_test_that_measures_one(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef energy_baselines():\n    return 'our own'\n")
    pytester.makepyfile(
        test_sums="""
def test_x(energy_meter, energy_baselines):
    assert energy_baselines == "our own"
    energy_meter.check(energy_meter.compare(one=lambda: sum(range(9)), other=lambda: sum(range(9))))
"""
    )
    fast = ("--energy-window=0.02", "--energy-runs=2", "--energy-gate=off")
    pytester.runpytest_subprocess(*fast, "--energy-journal=j.jsonl").assert_outcomes(passed=1)
    replayed = pytester.runpytest_subprocess(*fast, "--energy-replay=j.jsonl")
    replayed.stdout.fnmatch_lines(["*, replayed =*"])
    assert "journal:" not in replayed.stdout.str()
