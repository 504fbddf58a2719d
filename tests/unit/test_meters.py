import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from pytest_llm_energy.errors import MeterError, UsageError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering.choice import choose_meter
from pytest_llm_energy.metering.codecarbon import CodeCarbonMeter
from pytest_llm_energy.metering.rapl import RaplMeter

GPU = Device(index=0, uuid="GPU-0", name="NVIDIA H200")


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


class NvmlError(Exception):
    """Stands in for pynvml's."""


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the driver's energy counter answers, one entry per read."""
    answers: list[object] = []

    def read(handle: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = types.ModuleType("pynvml")
    vars(module).update(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delitem(sys.modules, "pytest_llm_energy.metering.nvml", raising=False)
    return answers


@pytest.mark.parametrize(("after", "codes"), [(1_700_000, []), (1_000_000, ["no-energy"]), (5, ["counter-reset"])])
def test_the_nvml_counter_counts_only_when_it_grows(counter: list[object], after: int, codes: list[str]) -> None:
    counter += [1_000_000, 1_000_000, after]
    reading = choose_meter("nvml", [GPU]).open().close(0.0, 1.0)
    assert [reason.code for reason in reading.invalid] == codes
    if not codes:
        assert reading.joules == pytest.approx(700)
        assert reading.uncertainty_joules == pytest.approx(700 * 0.1 * (2 / 12) ** 0.5)


def test_a_device_without_a_counter_is_refused_by_name(counter: list[object]) -> None:
    counter.append(NvmlError("Not Supported"))
    with pytest.raises(MeterError, match=r"GPU 0 \(NVIDIA H200\) has no energy counter \(Not Supported\)"):
        choose_meter("nvml", [GPU])


def test_a_device_lost_in_a_window_is_an_error(counter: list[object]) -> None:
    counter += [1, 1, NvmlError("GPU is lost")]
    window = choose_meter("nvml", [GPU]).open()
    with pytest.raises(MeterError, match="GPU is lost"):
        window.close(0.0, 1.0)


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
