import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_llm_energy.errors import MeterError, UsageError
from pytest_llm_energy.metering.choice import choose_meter
from pytest_llm_energy.metering.codecarbon import CodeCarbonMeter
from pytest_llm_energy.metering.rapl import RaplMeter


def zone(root: Path, number: int, name: str, microjoules: int, ceiling: int = 1_000_000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{ceiling}\n")
    return folder / "energy_uj"


def test_rapl_adds_packages_and_survives_the_wrap(tmp_path: Path) -> None:
    one = zone(tmp_path, 0, "package-0", 100_000)
    two = zone(tmp_path, 1, "package-1", 900_000)
    zone(tmp_path, 2, "psys", 5)
    window = RaplMeter(tmp_path).open()
    one.write_text("300000\n")
    two.write_text("100000\n")
    reading = window.close(0.0, 2.0)
    assert reading.valid
    assert [part.joules for part in reading.devices] == pytest.approx([0.2, 0.2])
    assert reading.watts == pytest.approx(0.2)
    assert 0 < reading.uncertainty_joules < 0.01 * reading.joules


def test_rapl_that_stands_still_is_invalid(tmp_path: Path) -> None:
    zone(tmp_path, 0, "package-0", 100_000)
    reading = RaplMeter(tmp_path).open().close(0.0, 1.0)
    assert [reason.code for reason in reading.invalid] == ["no-energy"]


def test_rapl_that_goes_away_is_an_error(tmp_path: Path) -> None:
    counter = zone(tmp_path, 0, "package-0", 100_000)
    window = RaplMeter(tmp_path).open()
    counter.unlink()
    with pytest.raises(MeterError, match="RAPL stopped answering"):
        window.close(0.0, 1.0)


def test_no_rapl_is_said(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="no readable RAPL package"):
        RaplMeter(tmp_path)


def test_nvml_without_a_gpu_and_unknown_meters_are_refused() -> None:
    with pytest.raises(UsageError, match="needs a GPU"):
        choose_meter("nvml", [])
    with pytest.raises(UsageError, match="known: auto, nvml, rapl, codecarbon"):
        choose_meter("wattmeter", [])


def test_codecarbon_estimates_work_and_not_rest() -> None:
    meter = choose_meter("codecarbon", [])
    try:
        begun = time.monotonic()
        window = meter.open()
        while time.monotonic() < begun + 0.5:
            pass
        busy = window.close(begun, time.monotonic())
        begun = time.monotonic()
        window = meter.open()
        time.sleep(0.5)
        idle = window.close(begun, time.monotonic())
    finally:
        meter.shutdown()
    assert busy.valid
    assert busy.estimated
    assert busy.method == "codecarbon-process"
    assert idle.joules < 0.2 * busy.joules


def test_codecarbon_says_when_others_take_the_processor() -> None:
    spin = "import time; t = time.monotonic()\nwhile time.monotonic() < t + 20: pass"
    start = f"for i in $(seq $(nproc)); do {sys.executable} -c '{spin}' >/dev/null 2>&1 & echo $!; done"
    pids = subprocess.run(["sh", "-c", start], capture_output=True, text=True, check=True).stdout.split()
    meter = choose_meter("codecarbon", [])
    try:
        begun = time.monotonic()
        window = meter.open()
        while time.monotonic() < begun + 0.6:
            pass
        reading = window.close(begun, time.monotonic())
    finally:
        meter.shutdown()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
    assert reading.valid
    assert [reason.code for reason in reading.disturbed] == ["foreign-load"]


def test_codecarbon_that_was_interrupted_holding_its_lock_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = CodeCarbonMeter()
    monkeypatch.setattr("pytest_llm_energy.metering.codecarbon.STOP_SECONDS", 0.2)
    window = meter.open()
    meter._tracker._scheduler_monitor_power._lock.acquire()  # as Ctrl-C within start() leaves it
    window.abandon()
    begun = time.monotonic()
    again = meter.open()
    while time.monotonic() < begun + 0.3:
        pass
    assert again.close(begun, time.monotonic()).valid
