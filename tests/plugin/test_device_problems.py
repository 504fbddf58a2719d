"""A host whose driver is there and fails is not taken for one without a GPU."""

import pytest

SUITE = """
import time
import pytest
from pytest_llm_energy import saves

def test_sleeps(energy_meter):
    arms = energy_meter.compare(short=lambda: time.sleep(0.01), long=lambda: time.sleep(0.05))
    energy_meter.check(arms, saves)
"""

MISMATCH = "NVML cannot start: Driver/library version mismatch"


@pytest.fixture
def broken(host: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A host with a driver that does not start."""
    monkeypatch.setenv("SIMULATED_DEVICES", "0")
    monkeypatch.setenv("SIMULATED_PROBLEM", MISMATCH)
    host.makepyfile(test_live=SUITE)
    return host


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_what_is_decided_without_the_devices_does_not_pass_and_says_why(
    broken: pytest.Pytester, workers: str
) -> None:
    result = broken.runpytest_subprocess(workers, "--energy-report=energy.md")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(
        [
            f"this host's devices: {MISMATCH}",
            "none of them was measured on;*CUDA_VISIBLE_DEVICES*",
            "energy: judged 1 of 1 (1 new); a gate without this host's devices does not pass*",
        ]
    )
    assert f"**this host's devices: {MISMATCH}**" in (broken.path / "energy.md").read_text()


def test_a_gate_that_is_off_reports_the_problem_only(broken: pytest.Pytester) -> None:
    result = broken.runpytest_subprocess("--energy-gate=off")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"this host's devices: {MISMATCH}"])


def test_a_replay_asks_for_no_devices(broken: pytest.Pytester) -> None:
    broken.runpytest_subprocess("--energy-journal=j.jsonl")
    replayed = broken.runpytest_subprocess("--energy-replay=j.jsonl")
    assert replayed.ret == 0
    assert MISMATCH not in replayed.stdout.str()


def test_tests_of_gpus_alone_do_not_vanish_without_a_word(broken: pytest.Pytester) -> None:
    broken.makepyfile(
        test_live="import pytest\n@pytest.mark.gpu\ndef test_it(energy_meter): pass\ndef test_plain(): pass"
    )
    result = broken.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"energy: this host's devices: {MISMATCH}"])


def test_a_lost_device_is_named_and_the_healthy_ones_are_gated(
    broken: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    monkeypatch.setenv("SIMULATED_PROBLEM", "device 1 cannot be used: GPU is lost")
    result = broken.runpytest_subprocess()
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "this host's devices: device 1 cannot be used: GPU is lost",
            "energy: judged 1 of 1 (2 incomparable, 1 new)",
        ]
    )
