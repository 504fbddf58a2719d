import os
import statistics
from pathlib import Path

import pytest

from pytest_llm_energy import cli
from pytest_llm_energy.cli import main
from pytest_llm_energy.commands import doctor
from pytest_llm_energy.errors import HardwareError, MeterError
from pytest_llm_energy.hardware.catalogue import CPU
from pytest_llm_energy.hardware.detection import Device, Host, detect
from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.metering.examine import DeviceHealth, examine_device, examine_processor
from pytest_llm_energy.metering.meter import Invalid, Reading, Steady, Window
from pytest_llm_energy.metering.simulated import SimulatedDevice, SimulatedNvml, VirtualClock
from tests.simulated_host import simulated_host


def silent(_: str) -> None:
    pass


def examine(simulated: SimulatedDevice, *, name: str = "NVIDIA H200") -> DeviceHealth:
    clock = VirtualClock()
    device = Device(index=0, uuid=simulated.uuid, name=name, power_limit_watts=simulated.limit_watts)
    return examine_device(device, say=silent, load_watts=490, nvml=SimulatedNvml(clock, simulated), clock=clock)


def text(health: DeviceHealth) -> str:
    return "\n".join(doctor.device_lines(health, runs=3, window_seconds=2.5))


def test_a_sound_device_is_described_by_what_it_truly_does() -> None:
    health = examine(SimulatedDevice(idle_watts=121.0, read_seconds=0.003, phase=0.042))
    assert health.ticking is not None
    assert health.ticking.period_seconds == pytest.approx(0.1, abs=5e-4)
    assert health.ticking.read_seconds == pytest.approx(0.003, rel=0.1)
    assert abs(health.ticking.shift_seconds) < 0.003
    assert health.idle_watts == pytest.approx(121.0, abs=1.0)
    assert [floor.seconds for floor in health.floors] == [0.1, 0.25, 0.5, 1.0, 2.5]
    shares = [floor.loaded for floor in health.floors]
    assert shares == sorted(shares, reverse=True)
    assert 0.003 < shares[0] < 0.03
    assert shares[-1] < 0.003
    said = text(health)
    assert "energy counter, at its ticks" in said
    assert "against a baseline of two sessions on another board of this model" in said
    assert "to fix        nothing" in said


def test_a_device_without_a_counter_is_metered_by_power_and_said_to_be() -> None:
    health = examine(SimulatedDevice(counter=False))
    assert health.ticking is None
    assert health.floors[0].loaded > 10 * examine(SimulatedDevice()).floors[0].loaded
    assert "instant power, integrated" in text(health)
    assert "no energy counter" in text(health)


def test_a_counter_that_stands_still_is_told_and_nothing_is_made_up() -> None:
    health = examine(SimulatedDevice(stuck_at=1000.5))
    assert health.floors == ()
    assert health.idle_watts is None
    assert "stale-counter" in text(health)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        pytest.param(SimulatedDevice(mig=True), "mig-on", id="mig"),
        pytest.param(SimulatedDevice(limit_watts=500.0), "power limit is lowered", id="power-limit"),
        pytest.param(SimulatedDevice(events=[(0.0, 0x40)]), "cooling", id="hot"),
    ],
)
def test_what_is_wrong_with_a_device_is_said_with_its_remedy(device: SimulatedDevice, says: str) -> None:
    assert says in text(examine(device))


def test_a_device_that_is_gone_raises_a_meter_error() -> None:
    with pytest.raises(MeterError, match="lost"):
        examine(SimulatedDevice(lost_at=0.0))


class Uneven:
    """A meter whose readings scatter by a known amount."""

    method, estimated, source = "made-up", True, "made up"

    def __init__(self, *joules: float) -> None:
        self._joules = iter(joules)

    def open(self) -> Window:
        return self  # type: ignore[return-value]

    def close(self, started: float, ended: float) -> Reading:
        joules = next(self._joules)
        reasons = () if joules > 0 else (Invalid("no-energy", "nothing was read"),)
        return Reading(
            joules=joules, seconds=0.5, uncertainty_joules=0.0, method="made-up", estimated=True, invalid=reasons
        )

    def steady(self, seconds: float) -> Steady:
        raise NotImplementedError

    def shutdown(self) -> None:
        pass


def test_a_processor_is_described_by_the_scatter_of_equal_work() -> None:
    joules = (2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 2.0)
    clock = VirtualClock()
    health = examine_processor(Uneven(*joules), say=silent, clock=clock, work=lambda n: clock.sleep(n * 1e-6))
    assert health.watts == pytest.approx(4.0)
    assert health.spread == pytest.approx(statistics.stdev(joules) / 2.0)
    lines = "\n".join(doctor.processor_lines(health, name="Some CPU, 2 cores", runs=5))
    assert "an estimate" in lines
    assert "6.0 %" in lines


def test_a_processor_that_cannot_be_metered_says_why() -> None:
    clock = VirtualClock()
    with pytest.raises(MeterError, match="nothing was read"):
        examine_processor(Uneven(*[0.0] * 8), say=silent, clock=clock, work=lambda n: clock.sleep(n * 1e-6))


def test_a_host_whose_driver_is_broken_says_so() -> None:
    assert "NVML cannot start" in doctor.host_line(Host(spec=CPU, problem="NVML cannot start: mismatch"))


@pytest.mark.skipif(bool(detect().devices), reason="this host has a GPU")
def test_the_command_tells_a_host_without_a_gpu_what_it_can_meter(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capfd.readouterr().out
    assert "no NVIDIA device that can be used" in said
    assert "metered by" in said
    assert "windows an arm tell effects beyond" in said
    assert "to fix" in said


@pytest.fixture
def two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Device, ...]:
    """What the command finds here, with leases of its own and no time to wait for them."""
    host = simulated_host(2)
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(tmp_path / "leases"))
    monkeypatch.setattr(cli, "detect", lambda: host)
    monkeypatch.setattr(cli, "LEASE_SECONDS", 0.1)
    return host.devices


def test_a_device_that_another_suite_holds_is_left_out_and_its_holder_is_named(
    two_devices: tuple[Device, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examined: list[Device] = []

    def examine_one(device: Device, **_: object) -> DeviceHealth:
        examined.append(device)
        return examine(SimulatedDevice())

    monkeypatch.setattr(cli, "examine_device", examine_one)
    suite = Leases(two_devices[:1])
    suite.acquire(1, timeout_seconds=60, say=silent)
    assert main(["doctor"]) == 0
    suite.release()
    said = capsys.readouterr().out
    assert "GPU 0: NVIDIA H200, GPU-simulated-0: left out, it is not free: " in said
    assert f"within 0.1 s: device 0 is held by pid {os.getpid()} since " in said
    assert "energy counter, at its ticks" in said
    assert examined == [two_devices[1]]


def test_a_device_is_leased_while_it_is_examined_and_free_afterwards(
    two_devices: tuple[Device, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(device: Device, **_: object) -> DeviceHealth:
        with pytest.raises(HardwareError, match="did not come free"):
            Leases([device]).acquire(1, timeout_seconds=0.1, say=silent)
        raise MeterError("the device is lost")

    monkeypatch.setattr(cli, "examine_device", lost)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.count("cannot be metered: the device is lost") == 2
    leases = Leases(two_devices)
    assert leases.acquire(2, timeout_seconds=0.1, say=silent) == two_devices
    leases.release()
