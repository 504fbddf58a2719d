"""Several pytest runs on one host of simulated GPUs: each device serves one of them at a time."""

import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.verdicts.baselines import read_baseline
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.journal import read_journal
from tests.simulated_host import Used, simulated_devices, windows_in

ROOT = Path(__file__).parents[2]

SUITE = """
import time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_single(energy_meter, gpu_model, number):
    assert len(gpu_model.devices) == 1
    energy_meter.check(energy_meter.compare(short=lambda: time.sleep(0.02), long=lambda: time.sleep(0.04)))

@pytest.mark.tp(degree=2)
@pytest.mark.parametrize("number", range(2))
def test_double(energy_meter, gpu_model, number):
    assert len(gpu_model.devices) == 2
    energy_meter.check(energy_meter.compare(short=lambda: time.sleep(0.02), long=lambda: time.sleep(0.04)))

def test_single_again(energy_meter, gpu_model):
    assert len(gpu_model.devices) == 1
    energy_meter.check(energy_meter.compare(short=lambda: time.sleep(0.02), long=lambda: time.sleep(0.04)))
"""
TESTS = 7

OPTIONS = ("-p", "tests.simulated_host", "-p", "no:cacheprovider", "--energy-runs=2", "--energy-window=0.05")


@pytest.fixture
def log(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the windows of every run are logged; four devices unless a test says otherwise."""
    path = pytester.path / "windows.jsonl"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(pytester.path / "leases"))
    monkeypatch.setenv("SIMULATED_LOG", str(path))
    monkeypatch.setenv("SIMULATED_DEVICES", "4")
    pytester.makeini("[pytest]\n")
    return path


def overlaps(windows: list[Used]) -> list[tuple[Used, Used]]:
    """Windows of two processes on one device at one time."""
    return [
        (one, other)
        for one, other in combinations(windows, 2)
        if one.pid != other.pid
        and set(one.devices) & set(other.devices)
        and one.opened < other.closed
        and other.opened < one.closed
    ]


@pytest.mark.parametrize("devices", [4, 2])
def test_four_runs_started_at_once_share_the_devices(
    pytester: pytest.Pytester, log: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", str(devices))
    pytester.makepyfile(test_shared=SUITE)
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--energy-gate=off"]
    runs = [
        subprocess.Popen(
            [*command, f"--energy-journal={number}.jsonl"],
            cwd=pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(4)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        assert f"judged 0 of {TESTS}" in output
    windows = windows_in(log)
    assert {window.pid for window in windows} == {run.pid for run in runs}
    assert not overlaps(windows)


def test_a_run_alone_takes_the_first_devices(pytester: pytest.Pytester, log: Path) -> None:
    pytester.makepyfile(test_alone=SUITE)
    result = pytester.runpytest_subprocess(*OPTIONS, "--energy-gate=off")
    assert result.parseoutcomes() == {"incomparable": TESTS}
    first, second = "GPU-simulated-0", "GPU-simulated-1"
    assert {(window.devices, "double" in window.test) for window in windows_in(log)} == {
        ((first,), False),
        ((first, second), True),
    }


@pytest.mark.parametrize(("workers", "devices"), [(2, 4), (3, 2)])
def test_xdist_workers_share_the_devices_and_each_case_is_judged_by_its_own_boards(
    pytester: pytest.Pytester, log: Path, monkeypatch: pytest.MonkeyPatch, workers: int, devices: int
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", str(devices))
    pytester.makepyfile(test_workers=SUITE)
    result = pytester.runpytest_subprocess(
        *OPTIONS, f"-n{workers}", "--energy-gate=off", "--energy-journal=j.jsonl"
    )
    assert result.parseoutcomes() == {"incomparable": TESTS}
    windows = windows_in(log)
    assert len({window.pid for window in windows}) == workers
    assert not overlaps(windows)
    journal = read_journal(pytester.path / "j.jsonl")
    boards = {key.case: journal.opened_for(key).fingerprint.boards for key in journal.cases}
    assert boards == {window.case: window.boards for window in windows}
    bless(journal, pytester.path / "baselines", reason="first measurement")
    baseline = read_baseline(pytester.path / "baselines", "h200", "workers")
    assert baseline is not None
    blessed = {
        case: session.fingerprint.boards
        for session in baseline.sessions
        for start in session.starts
        for case in start
    }
    assert blessed == boards


def test_devices_are_kept_while_the_next_test_wants_the_engine_on_them(
    pytester: pytest.Pytester, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    pytester.makepyfile(
        test_engine="""
import pytest
from pytest_llm_energy import Scenario

SCENARIO = Scenario(model="tiny-llama", input_tokens=4, output_tokens=2)

@pytest.mark.parametrize("scenario", [SCENARIO, SCENARIO.replace(output_tokens=3)], ids=str)
def test_serves(energy_meter, scenario):
    energy_meter.measure(scenario)
""",
        test_rival="""
import time
import pytest

@pytest.mark.parametrize("number", range(30))
def test_takes_turns(energy_meter, number):
    energy_meter.compare(one=lambda: time.sleep(0.01), other=lambda: time.sleep(0.01))
""",
    )
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--energy-gate=off"]
    rival = subprocess.Popen(
        [*command, "test_rival.py"], cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        result = pytester.runpytest_subprocess(
            *OPTIONS, "--energy-gate=off", "--energy-journal=j.jsonl", "test_engine.py"
        )
    finally:
        output, _ = rival.communicate(timeout=300)
    assert rival.returncode == 0, output
    result.assert_outcomes(passed=2)
    assert len(read_journal(pytester.path / "j.jsonl").starts) == 1
    windows = sorted(windows_in(log), key=lambda window: window.opened)
    served = [number for number, window in enumerate(windows) if "test_serves" in window.test]
    assert served == list(range(served[0], served[-1] + 1))
    assert not overlaps(windows)


def test_a_device_that_stays_taken_is_an_error_that_names_its_holder(
    pytester: pytest.Pytester, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    pytester.makepyfile(test_taken=SUITE)
    leases = Leases(simulated_devices(1))
    leases.acquire(1, timeout_seconds=1, say=print)
    result = pytester.runpytest_subprocess(*OPTIONS, "-k", "again", "--energy-lease-timeout=0.5")
    result.assert_outcomes(errors=1)
    holder = f"device 0 is held by pid {os.getpid()} since 2*"
    result.stdout.fnmatch_lines(
        [
            f"taken single_again: waiting for 1 of 1 device(s): {holder}",
            f"*1 of 1 device(s) did not come free within 0.5 s (--energy-lease-timeout): {holder}*",
        ]
    )
    leases.release()
    result = pytester.runpytest_subprocess(*OPTIONS, "-k", "again", "--energy-gate=off")
    assert result.parseoutcomes()["incomparable"] == 1


def test_a_strangers_process_on_the_only_device_is_an_error_that_names_it(
    pytester: pytest.Pytester, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    monkeypatch.setenv("SIMULATED_STRANGER", "4711")
    pytester.makepyfile(test_strangers=SUITE)
    result = pytester.runpytest_subprocess(*OPTIONS, "-k", "single")
    result.assert_outcomes(errors=5)
    result.stdout.fnmatch_lines(["HardwareError: *on device 0 (GPU-simulated-0) pid 4711; end them, or leave *"])


def test_a_replay_and_a_host_without_a_gpu_lease_nothing(
    pytester: pytest.Pytester, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_none="""
def test_window(energy_meter):
    with energy_meter.window():
        pass
"""
    )
    pytester.runpytest_subprocess(*OPTIONS, "--energy-journal=j.jsonl").assert_outcomes(passed=1)
    folder = pytester.path / "leases"
    assert folder.is_dir()
    shutil.rmtree(folder)
    pytester.runpytest_subprocess(*OPTIONS, "--energy-replay=j.jsonl").assert_outcomes(passed=1)
    monkeypatch.setenv("SIMULATED_DEVICES", "0")
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)
    assert not folder.exists()
