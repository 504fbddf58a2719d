import re
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pynvml
import pytest

from pytest_llm_energy.hardware import detection
from pytest_llm_energy.hardware.catalogue import CPU
from pytest_llm_energy.hardware.detection import Device, Host, Probe, choose
from pytest_llm_energy.hardware.nvml_probe import probe

H200 = [Device(index=i, uuid=f"GPU-{i}abc", name="NVIDIA H200") for i in range(4)]
T4 = Device(index=4, uuid="GPU-t4", name="Tesla T4")
PROBE = Probe(devices=(*H200, T4), driver="580.1", cuda="13.0")


def test_a_host_is_the_commonest_kind_of_its_devices() -> None:
    host = choose(PROBE, visible=None)
    assert host.spec.key == "h200"
    assert host.devices == tuple(H200)
    assert [device.cuda_name for device in host.devices] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("visible", "indices"), [("2,3", [2, 3]), ("GPU-1", [1]), ("3,-1,0", [3])])
def test_the_callers_visible_devices_are_the_only_ones(visible: str, indices: list[int]) -> None:
    assert [device.index for device in choose(PROBE, visible=visible).devices] == indices


def test_no_visible_device_means_a_cpu() -> None:
    assert choose(PROBE, visible="").spec.key == "cpu"


@pytest.mark.parametrize(("visible", "indices"), [("2,7,3", [2]), ("1,MIG-4711", [1]), ("7", [])])
def test_visible_devices_end_at_one_that_is_not_there_and_it_is_named(visible: str, indices: list[int]) -> None:
    host = choose(PROBE, visible=visible)
    assert [device.index for device in host.devices] == indices
    assert re.search(r"ends at '(7|MIG-4711)', which is none of 0 \(GPU-0abc\), 1 ", host.problem or "")
    assert host.unusable == (not indices)


def test_why_devices_cannot_be_used_is_kept() -> None:
    assert choose(Probe(problem="NVML cannot start: Driver Not Loaded"), visible=None).problem


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "-1,0"])
def test_a_caller_who_hides_all_devices_has_no_problem(visible: str) -> None:
    host = choose(Probe(problem="NVML cannot start: Driver Not Loaded"), visible=visible)
    assert host.problem is None
    assert not host.unusable


def test_devices_that_cannot_be_used_are_told_from_none_and_from_some() -> None:
    lost = "device 1 cannot be used: GPU is lost"
    assert choose(Probe(problem=lost), visible=None).unusable
    assert not choose(Probe(), visible=None).unusable
    some = choose(msgspec.structs.replace(PROBE, problem=lost), visible=None)
    assert some.problem == lost
    assert not some.unusable


def test_a_lost_device_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(number: int) -> int:
        if number == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return number

    def unsupported(handle: int) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 4,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(domain=0, bus=-handle, device=0),
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetName": lambda handle: "NVIDIA H200",
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlDeviceGetEnforcedPowerLimit": unsupported,
        "nvmlDeviceGetMigMode": unsupported,
        "nvmlDeviceGetEccMode": unsupported,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    found = probe()
    assert [(device.index, device.uuid) for device in found.devices] == [(0, "GPU-3"), (1, "GPU-2"), (2, "GPU-0")]
    assert [device.cuda_name for device in found.devices] == ["GPU-3", "GPU-2", "GPU-0"], "CUDA may count it"
    assert found.problem == "device 1 (as NVML counts 4) cannot be used: GPU is lost"


def test_a_container_that_was_given_no_device_of_its_host_is_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, control = tmp_path / "version", tmp_path / "nvidiactl"
    driver.touch()
    monkeypatch.setattr(detection, "DRIVER", driver)
    monkeypatch.setattr(detection, "DEVICE_FILES", (control,))
    monkeypatch.setattr(detection, "_probe", lambda: Probe(problem="NVML cannot start: library not found"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert detection.detect() == Host(spec=CPU)
    control.touch()
    assert detection.detect().unusable
