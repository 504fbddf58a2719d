"""Real engines that die, hang, refuse or run out of memory; real processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pytest_llm_energy.verdicts.journal import read_journal

SUITE = """
import pytest
from pytest_llm_energy import Arms, Scenario, costs

PLAIN = Scenario(model="tiny-llama", input_tokens=8, output_tokens=8)

@pytest.mark.parametrize("size", [1, 2])
def test_before(energy_meter, size):
    arms = Arms(alone=PLAIN, batched=PLAIN.replace(batch_size=8 * size))
    energy_meter.check(energy_meter.compare(arms), costs)
"""

KILLER = """
import os, signal, threading, time
import psutil, pytest

@pytest.fixture
def kill_soon():
    def kill():
        time.sleep(0.5)
        for child in psutil.Process().children():
            if "llm_energy_serving" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
    return threading.Thread(target=kill, daemon=True).start
"""

FAST = ("--energy-window=0.1", "--energy-runs=2", "-p", "no:cacheprovider")


def workers() -> set[int]:
    """Engine workers alive on this host."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        if "llm_energy_serving" in " ".join(process.info["cmdline"] or ()):
            found.add(process.pid)
    return found


def gone(before: set[int], seconds: float = 10.0) -> bool:
    """Whether no worker is left that was not there before."""
    until = time.monotonic() + seconds
    while workers() - before and time.monotonic() < until:
        time.sleep(0.1)
    return not workers() - before


def test_a_killed_engine_fails_its_test_and_the_next_one_runs(pytester: pytest.Pytester) -> None:
    before = workers()
    pytester.makeconftest(KILLER)
    pytester.makepyfile(
        test_kill=SUITE
        + """
LONG = PLAIN.replace(output_tokens=2000)

def test_killed(energy_meter, kill_soon):
    energy_meter.measure(PLAIN)
    kill_soon()
    energy_meter.measure(LONG)

def test_after(energy_meter):
    arms = Arms(alone=PLAIN, batched=PLAIN.replace(batch_size=16))
    assert all(len(arm.runs) == 2 for arm in energy_meter.compare(arms).arms)
"""
    )
    result = pytester.runpytest_subprocess(*FAST, "-k", "killed or after")
    assert result.ret == 1
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["EngineError: engine transformers with tiny-llama died during 'run': killed by SIGKILL, *"]
    )
    assert gone(before)


def test_a_hung_engine_is_ended_at_its_deadline(pytester: pytest.Pytester) -> None:
    before = workers()
    pytester.makepyfile(
        test_hang=SUITE
        + """
def test_hangs(energy_meter):
    energy_meter.measure(PLAIN.replace(output_tokens=2000, batch_size=512))
"""
    )
    result = pytester.runpytest_subprocess(*FAST, "-k", "hangs", "--energy-deadline=20")
    assert result.ret == 1
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*did not finish 'run' within 20 s (--energy-deadline) and was ended.*"])
    assert gone(before)


def test_engines_that_cannot_load_say_why_and_the_next_test_runs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_load=SUITE
        + """
from pytest_llm_energy import Model

def test_broken(energy_meter):
    broken = Model(name="broken", model_type="llama", config={"hidden_size": "wide"})
    energy_meter.measure(PLAIN.replace(model=broken))

def test_unknown_architecture(energy_meter):
    energy_meter.measure(PLAIN.replace(model=Model(name="odd", model_type="oddformer", config={})))

def test_no_package(energy_meter):
    model = Model(name="absent", model_type="llama", config={}, package="no_such_package")
    energy_meter.measure(PLAIN.replace(model=model, weights="packaged"))

def test_huge(energy_meter):
    huge = Model(name="huge", model_type="llama", config={"hidden_size": 65536, "vocab_size": 4_000_000,
        "num_hidden_layers": 1, "num_attention_heads": 64, "num_key_value_heads": 64})
    energy_meter.measure(PLAIN.replace(model=huge))

def test_after(energy_meter):
    arms = Arms(alone=PLAIN, batched=PLAIN.replace(batch_size=16))
    assert all(len(arm.runs) == 2 for arm in energy_meter.compare(arms).arms)
"""
    )
    result = pytester.runpytest_subprocess(*FAST, "-k", "not before")
    assert result.ret == 1
    result.assert_outcomes(passed=1, errors=4)
    result.stdout.fnmatch_lines_random(
        [
            "EngineError: *with broken could not load: *'hidden_size'*",
            "EngineError: *with odd could not load: *oddformer*",
            "EngineError: *with absent could not load: packaged weights need the package no-such-package*",
            "OutOfMemoryError: *with huge ran out of memory: *",
            "Its last words:",
        ]
    )


def suite_in(folder: Path, *options: str) -> "subprocess.Popen[str]":
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *FAST, "--energy-journal=j.jsonl", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A suite started in the background of a shell inherits an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_runs(folder: Path, count: int) -> None:
    """Wait until a journal segment holds that many runs."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        segments = list((folder / "j.jsonl.segments").glob("*.jsonl"))
        if sum(segment.read_text().count('"record":"ran"') for segment in segments) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was measured")


def test_what_was_measured_before_ctrl_c_is_in_the_journal(tmp_path: Path) -> None:
    before = workers()
    run = suite_in(tmp_path, "--energy-runs=500")
    wait_for_runs(tmp_path, 4)
    run.send_signal(signal.SIGINT)
    try:
        output, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    journal = (tmp_path / "j.jsonl").read_text()
    assert journal.count('"record":"ran"') >= 4
    assert not (tmp_path / "j.jsonl.segments").exists()
    read_journal(tmp_path / "j.jsonl")
    assert gone(before)


def test_a_killed_pytest_leaves_its_segment_and_no_process(tmp_path: Path) -> None:
    before = workers()
    run = suite_in(tmp_path, "--energy-runs=500")
    wait_for_runs(tmp_path, 4)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    assert gone(before)
    assert read_journal(tmp_path / "j.jsonl").opened.gpu == "cpu"


def test_a_killed_xdist_worker_fails_its_test_and_the_others_finish(pytester: pytest.Pytester) -> None:
    before = workers()
    pytester.makepyfile(
        test_crash=SUITE
        + """
import os, signal

def test_crashes(energy_meter):
    energy_meter.measure(PLAIN)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    result = pytester.runpytest_subprocess(*FAST, "-n2", "--energy-runs=5", "--energy-journal=j.jsonl")
    assert result.ret == 1
    # Two workers on two cores disturb each other: the others finish with whatever verdict that leaves.
    outcomes = result.parseoutcomes()
    assert outcomes.pop("failed") == 1
    assert sum(outcomes.get(verdict, 0) for verdict in ("passed", "inconclusive")) == sum(outcomes.values()) == 2
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running*test_crashes*", "energy: judged ? of 3 *"])
    journal = read_journal(pytester.path / "j.jsonl")
    assert len(journal.checks) == 2
    assert gone(before)


def test_a_full_disk_errors_the_test_and_keeps_what_was_written(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pathlib, resource\n"
        "def pytest_runtest_call(item):\n"
        "    if 'fills' not in item.name: return\n"
        "    size = sum(p.stat().st_size for p in pathlib.Path('j.jsonl.segments').iterdir()) + 1500\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "def pytest_runtest_teardown(item):\n"
        "    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
    )
    pytester.makepyfile(
        test_full="""
def test_fills(energy_meter):
    energy_meter.compare(one=lambda: sum(range(1000)), two=lambda: sum(range(2000)))

def test_goes_on(): pass
"""
    )
    result = pytester.runpytest_subprocess(
        "--energy-runs=50", "--energy-window=0.02", "--energy-journal=j.jsonl", "-p", "no:cacheprovider"
    )
    assert result.ret == 1
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(
        ["JournalError: cannot append to the journal *the records before this one are intact*"]
    )
    journal = (pytester.path / "j.jsonl").read_text()
    assert journal.count('"record":"ran"') >= 2
    read_journal(pytester.path / "j.jsonl")
