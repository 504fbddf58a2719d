"""The energy test that compares baselines of GPU models: judged, replayed, in parts, and beside others."""

import shutil
from pathlib import Path

import pytest
import scipy.special  # noqa: F401  pytester unloads what a test imports, and numpy cannot be loaded twice

from pytest_llm_energy.cli import main
from pytest_llm_energy.verdicts.journal import read_journal
from tests.gained import bless_graphs
from tests.journals import SimulatedSession
from tests.plugin.conftest import PLAIN
from tests.simulated_host import windows_in

ROOT = Path(__file__).parents[2]
FEW, MANY = (-0.03, -0.025, -0.035), (-0.25, -0.255, -0.245)
FASTER_GAINS = "graphs gains more against eager on h200 than on a100"
MEASURES = """
import time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_calls(energy_meter, number):
    energy_meter.check(energy_meter.compare(one=lambda: time.sleep(0.001), other=lambda: time.sleep(0.001)))
"""
QUICK = ("--energy-window=0.01", "--energy-runs=2")


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The energy test as it stands, on a host with an H200."""
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_hardware_speed=(ROOT / "energy_tests" / "test_hardware_speed.py").read_text())
    shutil.copytree(ROOT / "baselines" / "published", pytester.path / "baselines" / "published")
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    monkeypatch.setenv("SIMULATED_LOG", str(pytester.path / "windows.jsonl"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytester


def run(suite: pytest.Pytester, *options: str) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "tests.simulated_host", "-p", "no:cacheprovider", *options)


def bless(suite: pytest.Pytester, **effects: tuple[float, ...]) -> None:
    for gpu, of_gpu in effects.items():
        bless_graphs(suite.path / "baselines", gpu, of_gpu)


def test_each_optimisation_is_a_case_of_every_gpu_model_and_of_no_cpu(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", "0")
    for gpu in ("a100", "h200", "a6000", "rtx6000ada"):
        listed = run(suite, "--collect-only", "-q", "-m", gpu)
        cases = [f"{gpu}-{name}" for name in ("compile", "graphs", "speculation")]
        assert listed.outlines[:3] == [f"test_hardware_speed.py::test_faster_gpus_gain_more[{c}]" for c in cases]
    result = run(suite)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["*no tests ran*"])


def test_a_faster_gpu_that_gains_more_confirms_it(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY, a100=FEW)
    result = run(suite, "--energy-report=energy.md")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"hardware-speed *graphs* {FASTER_GAINS} * -22.* % [[]-*, -*] * stated * confirms",
            "  hardware-speed *: by baselines of cuda-graphs graphs_save_energy[[]1[]]: -25.0 % on 3 boards of *",
            "energy: judged 1 of 3 (1 confirms, 2 skipped)",
        ]
    )
    assert FASTER_GAINS in (suite.path / "energy.md").read_text()
    result.stdout.no_fnmatch_line("*engines: *")
    assert not (suite.path / "windows.jsonl").exists()


def test_a_faster_gpu_that_gains_less_fails_until_that_is_recorded(suite: pytest.Pytester) -> None:
    bless(suite, h200=FEW, a100=MANY)
    result = run(suite)
    assert result.ret == 1
    key = "hardware-speed faster_gpus_gain_more[graphs] on h200"
    result.stdout.fnmatch_lines(
        [
            "*contradicts the claim: graphs gains more against eager on h200*",
            "*measured: *",
            "*judged: *by baselines of cuda-graphs*",
            "*to do: *look for what else differs*",
            "*llm-energy absent * --reason ...*",
            "energy: judged 1 of 3 (1 contradicts, 2 skipped)",
        ]
    )
    baselines = str(suite.path / "baselines")
    assert main(["absent", f"{key}: {FASTER_GAINS}", "--reason", "its host", "--baselines", baselines]) == 0
    recorded = run(suite)
    assert recorded.ret == 0
    recorded.stdout.fnmatch_lines(
        ["*known not to hold here: its host*", "energy: judged 1 of 3 (1 absent, 2 skipped)"]
    )


def test_what_boards_leave_open_fails_a_strict_gate_alone(suite: pytest.Pytester) -> None:
    bless(suite, h200=(-0.15,), a100=FEW[:1])
    assert run(suite).ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result = run(suite, "--energy-gate=strict")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*bless sessions on more boards of either", "*(1 inconclusive, 2 skipped)*"])


def test_one_gpu_model_alone_is_skipped_and_says_what_to_do(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY)
    result = run(suite)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(
        [
            "not judged here, only h200 has a baseline of cuda-graphs: measure it on another GPU model, then "
            "llm-energy bless JOURNAL --reason ...:",
            "  hardware-speed: faster_gpus_gain_more[[]graphs[]]",
            "energy: judged 0 of 3 (3 skipped)*",
        ]
    )


def test_another_host_does_not_judge_them(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY, a100=FEW)
    result = run(suite, "-m", "a100")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["not judged here, needs a100, this host has h200:"])


def test_a_replay_reads_the_baselines_again(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY, a100=FEW)
    suite.makepyfile(test_batching="def test_falls(energy_meter):\n    raise AssertionError('never run')\n")
    journal = SimulatedSession(suite.path / "now.jsonl", when="2026-02-02T00:00:00+00:00")
    journal.case("batching", "falls", {"one": (PLAIN, 1.0), "other": (PLAIN.replace(batch_size=2), 0.5)})
    replayed = run(suite, f"--energy-replay={journal.path}")
    replayed.stdout.fnmatch_lines([f"*{FASTER_GAINS}*confirms", "energy: judged 1 of 4 (*1 confirms*2 skipped)*"])
    alone = run(suite, f"--energy-replay={journal.path}", "-k", "hardware_speed")
    assert alone.ret == 0
    alone.stdout.no_fnmatch_line("*metered by*")
    elsewhere = run(suite, f"--energy-replay={journal.path}", "-m", "a100")
    elsewhere.stdout.fnmatch_lines(["not judged here, not in the journal, of h200:"])


def test_nothing_of_it_is_in_the_journal_which_is_resumed_and_blessed_as_ever(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY, a100=FEW)
    suite.makepyfile(test_measures=MEASURES)
    result = run(suite, "--energy-journal=one.jsonl", *QUICK)
    result.stdout.fnmatch_lines(["energy: judged 1 of 7 (*1 confirms*2 skipped)*"])
    assert {key.finding for key in read_journal(suite.path / "one.jsonl").cases} == {"measures"}
    resumed = run(suite, "--energy-resume=one.jsonl", "--energy-journal=two.jsonl", *QUICK)
    resumed.stdout.fnmatch_lines(["resumed: 4 of 7 cases from one.jsonl", "energy: judged 1 of 7 (*1 confirms*)*"])
    command = ["bless", str(suite.path / "two.jsonl"), "--reason", "x", "--baselines"]
    assert main([*command, str(suite.path / "baselines")]) == 0
    assert not (suite.path / "baselines" / "h200" / "hardware-speed.json").exists()


def test_baselines_alone_do_not_let_a_run_pass_that_decided_nothing(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY, a100=FEW)
    suite.makepyfile(test_measures=MEASURES)
    result = run(suite, *QUICK)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["energy: judged 1 of 7 (*); a gate that decided nothing does not pass*"])
    assert run(suite, "-k", "hardware_speed").ret == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_any_process_may_judge_them(suite: pytest.Pytester, workers: str) -> None:
    bless(suite, h200=MANY, a100=FEW)
    result = run(suite, f"-n{workers}")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["energy: judged 1 of 3 (1 confirms, 2 skipped)"])


def test_they_are_of_the_first_shard_and_cost_the_others_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_measures=MEASURES)
    shards = [run(suite, "--collect-only", "-q", f"--energy-shard={n}/2").outlines for n in (1, 2)]
    of_baselines = [[line for line in shard if "faster_gpus" in line] for shard in shards]
    measuring = [[line for line in shard if "test_calls" in line] for shard in shards]
    assert list(map(len, of_baselines)) == [3, 0]
    assert list(map(len, measuring)) == [2, 2]


def test_no_time_budget_counts_them(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_measures=MEASURES)
    stated = run(suite, "--collect-only", "-v", "--energy-time-budget=1h")
    stated.stdout.fnmatch_lines(["time budget 1h: 4 of 4 cases on h200, about *"])
    stated.stdout.no_fnmatch_line("hardware-speed *")
    budget = run(suite, "--energy-time-budget=30s", "--collect-only", "-q", *QUICK, "-k", "hardware_speed")
    assert sum("faster_gpus" in line for line in budget.outlines) == 3
    assert run(suite, "--energy-time-budget=1s", "--collect-only", "-q").ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--energy-self-test", "--energy-self-test measures, and this judges baselines alone"),
        ("--energy-against=python", "--energy-against is about another stack*"),
        ("--energy-endpoint=http://127.0.0.1:9/v1", "--energy-endpoint is about another stack or server*"),
    ],
)
def test_what_is_about_another_stack_or_the_gate_itself_skips_them(
    suite: pytest.Pytester, option: str, says: str
) -> None:
    bless(suite, h200=MANY, a100=FEW)
    options = ("--energy-endpoint-gpus=0",) if "endpoint" in option else ()
    result = run(suite, option, *options)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines([f"not judged here, {says}:"])


def test_it_ends_no_engine_that_the_test_after_it_may_want(suite: pytest.Pytester) -> None:
    bless(suite, h200=MANY, a100=FEW)
    suite.makeconftest(
        """
        from pathlib import Path
        from pytest_llm_energy.session import EnergySession

        def retain(self, engine_keys):
            with Path("retained.txt").open("a") as file:
                file.write("asked\\n")

        EnergySession.retain = retain
        """
    )
    window = "with energy_meter.window():\n        pass\n"
    suite.makepyfile(
        test_order=f"""
from pytest_llm_energy.verdicts.gains import GRAPHS

def test_before(energy_meter):
    {window}
def test_between(energy_baselines):
    energy_baselines.check_gains(GRAPHS)

def test_after(energy_meter):
    {window}
"""
    )
    assert run(suite, "test_order.py").ret == 0
    assert len(windows_in(suite.path / "windows.jsonl")) == 2
    # Not after the first test, for the second takes no time; before the third, what that wants; and after it.
    assert (suite.path / "retained.txt").read_text().split() == ["asked", "asked"]


def test_a_test_cannot_measure_and_compare_baselines(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_both="def test_both(energy_meter, energy_baselines):\n    pass\n")
    result = run(suite, "test_both.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*request it without gpu_model and energy_meter*"])
