"""A run that was cut, killed or failed in parts, gone on with: what it finished is not measured again."""

import re
from collections import Counter
from pathlib import Path

import pytest

from pytest_llm_energy.cli import main
from pytest_llm_energy.verdicts.baselines import read_baseline
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.records import Began, Ran
from pytest_llm_energy.verdicts.segments import segments_folder
from tests.journals import SimulatedSession
from tests.plugin.conftest import PLAIN

SUITE = """
import os, pathlib, signal
import pytest
from pytest_llm_energy import Scenario, saves

FIRST_TIME = not pathlib.Path("second-time").exists()

def work(n):
    total = 0
    for i in range(n):
        total += i * i
    return total

def measured(energy_meter, name, *, between=lambda: None):
    with open("bodies.txt", "a") as file:
        file.write(name + "\\n")
    result = energy_meter.compare(half=lambda: work(20_000), whole=lambda: work(40_000))
    energy_meter.check(result, saves)
    between()
    energy_meter.check(result)
"""

KILLED = (
    SUITE
    + """
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sum(energy_meter, size):
    def kill():
        if size == 2 and FIRST_TIME:
            os.kill(os.getpid(), signal.SIGKILL)
    measured(energy_meter, f"sum {size}", between=kill)
"""
)

FAST = ("--energy-window=0.05", "--energy-runs=3", "--energy-gate=off")


def bodies(pytester: pytest.Pytester) -> list[str]:
    """Bodies that ran, in order, over all runs."""
    return (pytester.path / "bodies.txt").read_text().splitlines()


def tables(result: pytest.RunResult) -> list[str]:
    """Lines of the levels' and claims' tables."""
    return [line for line in result.outlines if re.search(r" (shown|new|contradicts|inconclusive \(.*\))$", line)]


def runs(journal: Journal, case: str) -> list[Ran]:
    """What a journal holds of the runs of a case, counting or not."""
    return [record for record in journal.records if isinstance(record, Ran) and record.key.case == case]


@pytest.fixture
def killed(pytester: pytest.Pytester) -> Path:
    """The journal of a run that was killed between the two checks of its second case of three."""
    pytester.makepyfile(test_sums=KILLED)
    pytester.makeini("[pytest]\n")
    result = pytester.runpytest_subprocess(*FAST, "--energy-journal=cut.jsonl")
    assert result.ret == -9
    (pytester.path / "second-time").touch()
    return pytester.path / "cut.jsonl"


def test_a_killed_run_goes_on_with_the_case_that_was_cut(pytester: pytest.Pytester, killed: Path) -> None:
    before = {path: path.read_bytes() for path in segments_folder(killed).iterdir()}
    resumed = pytester.runpytest_subprocess(*FAST, "--energy-resume=cut.jsonl", "--energy-journal=whole.jsonl")
    assert resumed.ret == 0
    assert bodies(pytester) == ["sum 1", "sum 2", "sum 2", "sum 3"]
    resumed.stdout.fnmatch_lines(["resumed: 1 of 3 cases from cut.jsonl", "energy: judged ? of 3*"])
    assert {path: path.read_bytes() for path in segments_folder(killed).iterdir()} == before

    whole = read_journal(pytester.path / "whole.jsonl")
    cut = read_journal(killed)
    assert len(whole.finished) == 3
    assert runs(whole, "sum[1]") == runs(cut, "sum[1]")
    assert len(runs(cut, "sum[2]")) >= 6
    assert not [run for run in runs(whole, "sum[2]") if run in runs(cut, "sum[2]")]
    replayed = pytester.runpytest_subprocess("--energy-gate=off", "--energy-replay=whole.jsonl")
    assert tables(replayed) == tables(resumed)
    assert len(tables(replayed)) == 3 * (2 + 1)  # the second check of a measurement judges no level again
    assert bodies(pytester) == ["sum 1", "sum 2", "sum 2", "sum 3"]


def test_a_case_that_was_cut_is_an_error_when_it_is_judged(pytester: pytest.Pytester, killed: Path) -> None:
    replayed = pytester.runpytest_subprocess("--energy-gate=off", f"--energy-replay={killed}")
    replayed.stdout.fnmatch_lines(
        [
            "EnergyError: *was cut while this case was measured: *--energy-resume*",
            "energy: judged ? of 3 (*1 errored, 1 skipped)*",
        ]
    )


def test_each_piece_is_blessed_as_a_session(pytester: pytest.Pytester, killed: Path) -> None:
    resumed = pytester.runpytest_subprocess(*FAST, "--energy-resume=cut.jsonl", "--energy-journal=whole.jsonl")
    assert resumed.ret == 0
    folder = pytester.path / "baselines"
    arguments = ["bless", str(pytester.path / "whole.jsonl"), "--reason", "first", "--baselines", str(folder)]
    assert main(arguments) == 0
    baseline = read_baseline(folder, "cpu", "sums")
    assert baseline is not None
    measured = [{case for start in session.starts for case in start} for session in baseline.sessions]
    assert measured == [{"sum[1]"}, {"sum[2]", "sum[3]"}]
    assert len({session.when for session in baseline.sessions}) == 2
    assert main(arguments) == 2


def test_a_resumed_run_can_be_resumed(pytester: pytest.Pytester, killed: Path) -> None:
    second = pytester.runpytest_subprocess(
        *FAST, "--energy-resume=cut.jsonl", "--energy-journal=second.jsonl", "-k", "cpu-2"
    )
    assert second.ret == 0
    second.stdout.fnmatch_lines(["resumed: 0 of 1 cases from cut.jsonl"])
    third = pytester.runpytest_subprocess(*FAST, "--energy-resume=second.jsonl", "--energy-journal=third.jsonl")
    third.stdout.fnmatch_lines(["resumed: 2 of 3 cases from second.jsonl", "energy: judged ? of 3*"])
    assert bodies(pytester) == ["sum 1", "sum 2", "sum 2", "sum 3"]
    journal = read_journal(pytester.path / "third.jsonl")
    assert len({opened.session for opened in journal.openings}) == 3
    assert len({record.opening for record in journal.records if isinstance(record, Began)}) == 3


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_case_with_an_error_is_measured_anew(pytester: pytest.Pytester, workers: str) -> None:
    pytester.makepyfile(
        test_sums=SUITE
        + """
@pytest.mark.parametrize("size", [1, 2])
def test_sum(energy_meter, size):
    measured(energy_meter, f"sum {size}")
    assert size == 1 or not FIRST_TIME

def test_window(energy_meter):
    with open("bodies.txt", "a") as file:
        file.write("window\\n")
    with energy_meter.window():
        work(3_000_000)
"""
    )
    first = pytester.runpytest_subprocess(*FAST, f"-n{workers}", "--energy-journal=first.jsonl")
    assert first.ret == 1
    (pytester.path / "second-time").touch()
    resumed = pytester.runpytest_subprocess(
        *FAST, f"-n{workers}", "--energy-resume=first.jsonl", "--energy-journal=whole.jsonl"
    )
    assert resumed.ret == 0
    resumed.stdout.fnmatch_lines(["resumed: 2 of 3 cases from first.jsonl", "energy: judged ? of 2*"])
    assert Counter(bodies(pytester)) == {"sum 1": 1, "sum 2": 2, "window": 1}
    whole, earlier = read_journal(pytester.path / "whole.jsonl"), read_journal(pytester.path / "first.jsonl")
    assert not whole.troubles
    assert runs(whole, "sum[1]") == runs(earlier, "sum[1]")
    assert not [run for run in runs(whole, "sum[2]") if run in runs(earlier, "sum[2]")]
    assert not segments_folder(whole.path).exists()


def test_an_engine_outlives_a_case_that_is_not_measured_again(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
import json
from pytest_llm_energy.serving.pool import EnginePool

def retain(self, keys):
    with open("retained.txt", "a") as file:
        file.write(f"{len(keys)}\\n")
EnginePool.retain = retain
"""
    )
    pytester.makepyfile(
        test_sums=SUITE
        + """
PLAIN = Scenario(model="tiny-llama", input_tokens=8, output_tokens=4)

@pytest.mark.parametrize("scenario", [PLAIN.replace(batch_size=n) for n in (1, 2, 3)], ids=["1", "2", "3"])
def test_sum(energy_meter, scenario):
    measured(energy_meter, f"sum {scenario.batch_size}")
    assert scenario.batch_size == 2 or not FIRST_TIME
"""
    )
    pytester.runpytest_subprocess(*FAST, "--energy-journal=first.jsonl")
    (pytester.path / "second-time").touch()
    (pytester.path / "retained.txt").unlink()
    resumed = pytester.runpytest_subprocess(*FAST, "--energy-resume=first.jsonl")
    resumed.stdout.fnmatch_lines(["resumed: 1 of 3 cases from first.jsonl"])
    # Nothing is ended after case 1, as case 2 takes no time; after 2 the engine is kept for 3; then it is ended.
    assert (pytester.path / "retained.txt").read_text().split() == ["1", "0"]
    assert len(list((pytester.path / ".llm-energy").iterdir())) == 1


def test_another_gpu_model_is_refused_before_anything_is_measured(pytester: pytest.Pytester) -> None:
    SimulatedSession(pytester.path / "h200.jsonl").case(
        "sums", "sum[1]", {"one": (PLAIN, 0.4), "two": (PLAIN.replace(batch_size=2), 0.3)}
    )
    pytester.makepyfile(test_sums=KILLED)
    result = pytester.runpytest_subprocess("--energy-resume=h200.jsonl", "--energy-journal=new.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*h200.jsonl cannot be resumed here: GPU model: h200 -> cpu;*measure anew*"])
    assert not (pytester.path / "bodies.txt").exists()
    assert not list(pytester.path.glob("new.jsonl*"))


@pytest.mark.parametrize(
    ("pattern", "other", "message"),
    [
        (r'"method":"[^"]*"', '"method":"guessed"', "*meter: guessed -> *"),
        (r'"cores":\d+', '"cores":1000', "*cores: 1000 -> *"),
    ],
)
def test_another_meter_or_processor_is_refused(
    pytester: pytest.Pytester, killed: Path, pattern: str, other: str, message: str
) -> None:
    text = (segments_folder(killed) / "main.jsonl").read_text()
    (pytester.path / "other.jsonl").write_text(re.sub(pattern, other, text))
    result = pytester.runpytest_subprocess(*FAST, "--energy-resume=other.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_journal_that_is_damaged_missing_or_named_again_is_refused(
    pytester: pytest.Pytester, killed: Path
) -> None:
    (pytester.path / "none.jsonl").write_text("not a journal\n")
    for options, message in (
        (["--energy-resume=none.jsonl"], "*none.jsonl, line 1 is corrupt*"),
        (["--energy-resume=missing.jsonl"], "*no journal at *missing.jsonl"),
        (
            ["--energy-resume=cut.jsonl", "--energy-journal=cut.jsonl"],
            "*cut.jsonl exists: a journal is of one run*",
        ),
        (["--energy-resume=cut.jsonl", "--energy-replay=cut.jsonl"], "*give one of them"),
    ):
        result = pytester.runpytest_subprocess(*options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([message])


def test_a_journal_without_ends_is_measured_anew(pytester: pytest.Pytester, killed: Path) -> None:
    lines = (segments_folder(killed) / "main.jsonl").read_text().splitlines(keepends=True)
    old = [line for line in lines if '"record":"began"' not in line and '"record":"ended"' not in line]
    (pytester.path / "old.jsonl").write_text("".join(old).replace('"schema":2', '"schema":1'))
    result = pytester.runpytest_subprocess(*FAST, "--energy-resume=old.jsonl", "-k", "cpu-1")
    result.stdout.fnmatch_lines(["resumed: 0 of 1 cases from old.jsonl"])
    assert bodies(pytester) == ["sum 1", "sum 2", "sum 1"]
