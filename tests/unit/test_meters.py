import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.errors import MeterError, UsageError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.metering import codecarbon_process
from pytest_llm_energy.metering.choice import choose_meter
from pytest_llm_energy.metering.codecarbon_gpu import CodeCarbonGpuMeter, gpu_ids
from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.metering.rapl import RaplMeter


def zone(root: Path, number: int, name: str, microjoules: int, ceiling: int = 262_143_328_850) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{ceiling}\n")
    return folder / "energy_uj"


def test_rapl_adds_packages_and_survives_the_wrap(tmp_path: Path) -> None:
    one = zone(tmp_path, 0, "package-0", 100_000)
    two = zone(tmp_path, 1, "package-1", 262_143_228_850)
    zone(tmp_path, 2, "psys", 5)
    window = RaplMeter(tmp_path).open()
    one.write_text("300000\n")
    two.write_text("100000\n")
    reading = window.close(0.0, 2.0)
    assert reading.valid
    assert [part.joules for part in reading.devices] == pytest.approx([0.2, 0.2])
    assert reading.watts == pytest.approx(0.2)
    assert 0 < reading.uncertainty_joules < 0.01 * reading.joules


def rapl_reading(root: Path, *, joules: float, seconds: float, ceiling: int) -> Reading:
    """What is read of a package that drew so much, from a counter that holds its ceiling and no more."""
    counter = zone(root, 0, "package-0", 0, ceiling)
    window = RaplMeter(root).open()
    counter.write_text(f"{round(joules * 1e6) % ceiling}\n")
    return window.close(0.0, seconds)


@pytest.mark.parametrize(
    ("watts", "seconds", "ceiling"),
    [
        (200, 3600, 262_143_328_850),
        (80, 3600, 262_143_328_850),
        (10, 3600, 65_532_610_987),
        (450, 150, 65_532_610_987),
    ],
)
def test_rapl_whose_counter_may_have_gone_round_unseen_is_invalid(
    tmp_path: Path, watts: float, seconds: float, ceiling: int
) -> None:
    (reason,) = rapl_reading(tmp_path, joules=watts * seconds, seconds=seconds, ceiling=ceiling).invalid
    assert reason.code == "counter-wrapped"
    assert f"Meter windows of {ceiling / 1e9:.3g} s at most" in reason.says


@pytest.mark.parametrize(("watts", "seconds"), [(5, 2), (450, 65), (450, 80), (900, 70)])
def test_rapl_counts_where_no_further_turn_is_possible(tmp_path: Path, watts: float, seconds: float) -> None:
    reading = rapl_reading(tmp_path, joules=watts * seconds, seconds=seconds, ceiling=65_532_610_987)
    assert reading.valid
    assert reading.watts == pytest.approx(watts)


@given(watts=st.floats(1, 1000), seconds=st.floats(1, 7200))
def test_rapl_is_right_or_invalid_however_long_a_window_is(watts: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as root:
        reading = rapl_reading(Path(root), joules=watts * seconds, seconds=seconds, ceiling=65_532_610_987)
    assert not reading.valid or reading.watts == pytest.approx(watts, rel=1e-6)


def test_rapl_counts_between_its_reads_not_within_the_work_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = zone(tmp_path, 0, "package-0", 0)
    window = RaplMeter(tmp_path).open()
    counter.write_text("1000000\n")
    begun = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: begun + 600.0)
    assert [reason.code for reason in window.close(begun, begun + 2.0).invalid] == ["counter-wrapped"]


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
    meter = CodeCarbonProcessMeter()
    monkeypatch.setattr("pytest_llm_energy.metering.codecarbon.STOP_SECONDS", 0.2)
    window = meter.open()
    tracker: Any = meter._tasks._tracker
    tracker._scheduler_monitor_power._lock.acquire()  # as Ctrl-C within start() leaves it
    window.abandon()
    begun = time.monotonic()
    again = meter.open()
    while time.monotonic() < begun + 0.3:
        pass
    assert again.close(begun, time.monotonic()).valid


H200 = Device(index=0, uuid="GPU-4e81", name="NVIDIA H200", nvml_index=3)


@dataclass
class FakeTask:
    gpu_energy: float
    cpu_energy: float = 1.0


@dataclass
class FakeTracker:
    """CodeCarbon's tracker, whose tasks all cost the same; None where it has lost them."""

    kwh: float | None
    calls: list[str] = field(default_factory=list)

    def start_task(self, task_name: str) -> None:
        self.calls.append(f"start {task_name}")

    def stop_task(self, task_name: str) -> FakeTask | None:
        self.calls.append(f"stop {task_name}")
        return None if self.kwh is None else FakeTask(self.kwh)


def test_codecarbon_meters_the_gpus_share_to_a_tick_of_mean_power() -> None:
    tracker = FakeTracker(1000 / 3.6e6)
    meter = CodeCarbonGpuMeter([H200], make=lambda: tracker)
    reading = meter.open().close(10.0, 12.5)
    assert reading.valid
    assert reading.joules == pytest.approx(1000.0)
    assert reading.uncertainty_joules == pytest.approx(0.1 * 1000 / 2.5)
    assert (reading.method, reading.estimated) == ("codecarbon-gpu", False)
    assert re.fullmatch(r"CodeCarbon 3\S*, GPUs' share \(.*\), pue 1, 1 device\(s\)", meter.source)
    assert tracker.calls == ["start window-1", "stop window-1", "start window-2", "stop window-2"]


@pytest.mark.parametrize(("kwh", "code"), [(0.0, "no-energy"), (-1e-6, "counter-reset"), (None, "meter-failed")])
def test_codecarbon_that_saw_nothing_of_the_gpus_is_invalid(kwh: float | None, code: str) -> None:
    reading = CodeCarbonGpuMeter([H200], make=lambda: FakeTracker(kwh)).open().close(0.0, 1.0)
    assert [reason.code for reason in reading.invalid] == [code]
    if code == "no-energy":
        assert "is nvidia-smi, by which CodeCarbon finds any, on the PATH?" in reading.invalid[0].says


def test_codecarbon_has_one_window_on_gpus_at_a_time_and_goes_on_after_one_was_abandoned() -> None:
    meter = CodeCarbonGpuMeter([H200], make=lambda: FakeTracker(1e-3))
    window = meter.open()
    with pytest.raises(MeterError, match="one window at a time"):
        meter.open()
    window.abandon()
    assert meter.open().close(0.0, 1.0).valid
    meter.shutdown()


def test_codecarbon_is_told_nvmls_numbers_of_the_leased_devices() -> None:
    assert gpu_ids([H200, Device(index=1, uuid="GPU-77aa", name="NVIDIA H200")]) == [3, 1]


def test_on_gpus_codecarbon_can_be_chosen_and_rapl_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def fake(**what: object) -> Callable[[], FakeTracker]:
        asked.append(what)
        return lambda: FakeTracker(1e-3)

    monkeypatch.setattr("pytest_llm_energy.metering.codecarbon_gpu.offline_tracker", fake)
    assert choose_meter("codecarbon", [H200]).method == "codecarbon-gpu"
    assert asked == [{"gpu_ids": [3]}]
    with pytest.raises(UsageError, match="rapl meters the processor, and the work runs on a GPU: use nvml"):
        choose_meter("rapl", [H200])


def test_codecarbons_own_tracker_meters_nothing_of_a_device_that_is_not_there() -> None:
    absent = Device(index=0, uuid="GPU-none", name="NVIDIA H200", nvml_index=999)
    reading = CodeCarbonGpuMeter([absent]).open().close(0.0, 1.0)
    assert [reason.code for reason in reading.invalid] == ["no-energy"]


def test_a_window_on_a_cpu_waits_until_what_it_meters_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    spun = iter([0.0, 0.1, 0.2, 0.205, 1.0])
    slept: list[float] = []
    monkeypatch.setattr(codecarbon_process, "_own_seconds", lambda others: next(spun))
    monkeypatch.setattr(time, "sleep", slept.append)
    codecarbon_process._wait_until_quiet(codecarbon_process.nobody)
    assert len(slept) == 3


def test_what_never_rests_is_metered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(codecarbon_process, "_own_seconds", lambda others: now[0])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    codecarbon_process._wait_until_quiet(codecarbon_process.nobody)
    assert now[0] == pytest.approx(codecarbon_process.QUIET_PATIENCE_SECONDS, abs=codecarbon_process.QUIET_SECONDS)
