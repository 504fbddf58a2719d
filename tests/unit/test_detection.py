import pytest

from pytest_llm_energy.errors import HardwareError
from pytest_llm_energy.hardware.detection import Device, Probe, choose

H200 = [Device(index=i, uuid=f"GPU-{i}abc", name="NVIDIA H200") for i in range(4)]
T4 = Device(index=4, uuid="GPU-t4", name="Tesla T4")
PROBE = Probe(devices=(*H200, T4), driver="580.1", cuda="13.0")


def test_a_host_is_the_commonest_kind_of_its_devices() -> None:
    host = choose(PROBE, visible=None)
    assert host.spec.key == "h200"
    assert host.devices == tuple(H200)


@pytest.mark.parametrize(("visible", "indices"), [("2,3", [2, 3]), ("GPU-1", [1]), ("3,-1,0", [3])])
def test_the_callers_visible_devices_are_the_only_ones(visible: str, indices: list[int]) -> None:
    assert [device.index for device in choose(PROBE, visible=visible).devices] == indices


def test_no_visible_device_means_a_cpu() -> None:
    assert choose(PROBE, visible="").spec.key == "cpu"


def test_a_visible_device_that_is_not_there_is_an_error_that_lists_those_that_are() -> None:
    with pytest.raises(HardwareError, match=r"'7'.*0 \(GPU-0abc\)"):
        choose(PROBE, visible="7")


def test_why_devices_cannot_be_used_is_kept() -> None:
    assert choose(Probe(problem="NVML cannot start: Driver Not Loaded"), visible=None).problem
