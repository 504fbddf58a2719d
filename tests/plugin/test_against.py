"""Two serving stacks side by side: judged from journals, and driven here with two interpreters."""

import sys
from pathlib import Path

import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.verdicts.journal import read_journal
from tests.journals import SimulatedSession
from tests.plugin.conftest import Project

OTHER = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"

ENERGY_TEST = """
from pytest_llm_energy import Scenario

ALONE = Scenario(model="tiny-llama", input_tokens=8, output_tokens=8)

def test_serving(energy_meter):
    energy_meter.check(energy_meter.measure(ALONE))
"""

QUICK = ("--energy-runs=2", "--energy-window=0.1", "--energy-gate=off", "--energy-journal=run.jsonl")
"""Enough to see both sides; joules estimated on a busy machine decide nothing."""


@pytest.mark.skipif(not OTHER.exists(), reason="needs a second interpreter with transformers: make test")
def test_two_interpreters_with_other_versions_are_measured_in_turn(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_batching=ENERGY_TEST)
    result = pytester.runpytest_subprocess(*QUICK, "--energy-starts=2", f"--energy-against=transformers={OTHER}")
    assert result.ret == 0
    expected = [
        "engines: 4 starts in * s; windows * s, * % of the run",
        f"against transformers: {OTHER}",
        "which differs in: *transformers: 5.* -> 5.*",
        "finding *reference  change *",
        "batching *J * 2 *J * % [[]*[]]*shown",
    ]
    result.stdout.fnmatch_lines(expected)
    text = (pytester.path / "run.jsonl").read_text()
    assert text.count('"record":"started"') == 4
    assert text.count('"record":"ran"') >= 4
    again = pytester.runpytest_subprocess("--energy-replay=run.jsonl", "--energy-gate=off")
    again.stdout.fnmatch_lines([line for line in expected if not line.startswith("engines")])


PROBING = """
import pytest
from pytest_llm_energy.session import EnergySession

@pytest.fixture(autouse=True)
def gated(monkeypatch):
    # Levels of a processor are not gated beside another stack's; those of a GPU are.
    monkeypatch.setattr(EnergySession, "_side_by_side", True)
"""


def test_the_speed_of_the_host_is_probed_beside_each_window_of_two_stacks(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(PROBING)
    pytester.makepyfile(test_batching=ENERGY_TEST)
    longer = ("--energy-window=1.5", "--energy-settle=0")
    result = pytester.runpytest_subprocess(*QUICK, *longer, f"--energy-against=transformers={sys.executable}")
    assert result.ret == 0
    journal = read_journal(pytester.path / "run.jsonl")
    (check,) = journal.measurements
    (level,) = journal.measured(check).arms
    probed = [run.host for run in (*level.runs, *level.against)]
    assert len(probed) == 4
    for host in probed:
        assert host is not None
        assert 0 < host.loop_seconds < 0.1
        assert 0 < host.busy_cores <= 1.5 * host.cores


def test_the_other_side_needs_nothing_of_ours_not_even_this_folder(pytester: pytest.Pytester) -> None:
    script = (
        "import sys, builtins; real = builtins.open\n"
        "def watched(file, *args, **kwargs):\n"
        "    assert 'pytest_llm_energy' not in str(file), file\n"
        "    return real(file, *args, **kwargs)\n"
        "builtins.open = watched\n"
        "sys.argv = sys.argv[1:]; exec(sys.argv[1])\n"
    )
    (pytester.path / "elsewhere.py").write_text(script)
    pytester.makepyfile(test_batching=ENERGY_TEST)
    command = f"transformers={sys.executable} {pytester.path / 'elsewhere.py'}"
    result = pytester.runpytest_subprocess(*QUICK, f"--energy-against={command}")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["which differs in: nothing that is recorded"])


def test_one_argument_alone_makes_another_stack_and_unknown_ones_are_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_batching=ENERGY_TEST)
    result = pytester.runpytest_subprocess(
        *QUICK, "--energy-against-argument=transformers.attn_implementation=eager"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(['which differs in: argument attn_implementation: "eager" -> none'])
    refused = pytester.runpytest_subprocess("--energy-argument=transformers.attention=eager")
    refused.assert_outcomes(errors=1)
    refused.stdout.fnmatch_lines(["*takes the arguments attn_implementation, not [[]'attention'[]]*"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--energy-argument=enforce_eager=true"], "*is not ENGINE.NAME=VALUE with an engine of *vllm*"),
        (["--energy-against="], "*is no command that runs a Python*"),
        (["--energy-against=python3", "--energy-against=vllm=python3"], "*every engine, and another for one*"),
        (
            ["--energy-against=/a/py", "--energy-against=/b/py"],
            "*every engine: /a/py and /b/py;*",
        ),
        (["--energy-starts=0"], "*'0' is no number of engine starts*"),
    ],
)
def test_what_names_no_stack_is_refused(pytester: pytest.Pytester, options: list[str], says: str) -> None:
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


def test_an_interpreter_of_the_other_stack_without_the_engine_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_batching=ENERGY_TEST)
    result = pytester.runpytest_subprocess(f"--energy-against=transformers={sys.executable} -S")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*python* cannot import engine 'transformers'*--energy-against*"])


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "ok"), (1.1, "regressed"), (0.9, "improved"), (1.032, "near-budget")]
)
def test_a_level_is_judged_against_the_other_stack_and_not_the_baseline(
    project: Project, factor: float, verdict: str
) -> None:
    plain = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
    session = SimulatedSession(project.path / "now.jsonl", against="vllm: /old/bin/python", noise=0.002)
    session.case(
        "batching",
        "falls[4]",
        {"batched": (plain.replace(batch_size=4), 0.7 * factor), "alone": (plain, 4.0)},
        against={"batched": 0.7, "alone": 4.0},
        runs=6,
    )
    result = project.replay(session)
    assert result.ret == (1 if verdict == "regressed" else 0)
    result.stdout.fnmatch_lines(
        [
            "against vllm: /old/bin/python",
            "which differs in: transformers: 4.0 -> 5.0",
            f"batching *batched *700 mJ *{verdict}*",
        ]
    )
    if verdict == "regressed":
        result.stdout.fnmatch_lines(
            [
                "  how much: +10.0 % energy per token, where +3.0 % is allowed",
                "  changed:  transformers: 4.0 -> 5.0 (other stack -> this one)",
                "  to do:    stay on the other stack, or undo that change; if it is meant, allow it: *",
            ]
        )


def test_where_one_engine_alone_has_another_stack_each_row_says_what_it_is_against(project: Project) -> None:
    plain = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
    session = SimulatedSession(project.path / "now.jsonl", against="vllm: /old/bin/python", noise=0.002)
    levels = {"batched": (plain.replace(batch_size=4), 0.7), "alone": (plain, 4.0)}
    result = project.replay(session.case("batching", "falls[4]", levels, against={"batched": 0.7}))
    result.stdout.fnmatch_lines(
        ["finding *arm * against *reference *", "batching *batched * other stack *", " *alone * baseline *"]
    )


def test_arguments_of_a_run_stay_out_of_baselines_and_of_other_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_batching=ENERGY_TEST)
    options = (*QUICK, "--energy-argument=transformers.attn_implementation=eager")
    assert pytester.runpytest_subprocess(*options).ret == 0
    blessing = [sys.executable, "-m", "pytest_llm_energy.cli", "bless", "run.jsonl", "--reason=so", "--in-ci"]
    refused = pytester.run(*blessing)
    assert refused.ret == 2
    refused.stderr.fnmatch_lines(["*was measured with --energy-argument transformers.attn_implementation=eager*"])
    assert pytester.run(*blessing, "--with-arguments").ret == 0
    resumed = pytester.runpytest_subprocess("--energy-resume=run.jsonl")
    assert resumed.ret == pytest.ExitCode.USAGE_ERROR
    resumed.stderr.fnmatch_lines(["*--energy-argument transformers.attn_implementation: eager -> none*"])


def test_the_other_stack_has_the_arguments_of_the_one_under_test_unless_it_is_told_otherwise(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
from pytest_llm_energy.fixtures import SESSION

def pytest_collection_finish(session):
    for stack in session.config.stash[SESSION].options.stacks:
        print(stack.side, dict(stack.arguments), stack.engines)
"""
    )
    result = pytester.runpytest_subprocess(
        "--co",
        "--energy-argument=vllm.max_num_batched_tokens=4096",
        "--energy-argument=vllm.enforce_eager=true",
        "--energy-against=vllm=/old/python",
        "--energy-against-argument=vllm.enforce_eager=false",
    )
    result.stdout.fnmatch_lines(
        [
            "present {'vllm': {'max_num_batched_tokens': 4096, 'enforce_eager': True}} None",
            "against {'vllm': {'max_num_batched_tokens': 4096, 'enforce_eager': False}} frozenset({'vllm'})",
        ]
    )
