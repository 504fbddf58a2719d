"""Which devices an arm is metered on."""

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.energy_meter import EnergyMeter, GpuModel
from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.verdicts.measured import CaseKey

DEVICES = tuple(Device(index=number, uuid=f"GPU-{number}", name="NVIDIA H200") for number in range(2))
WHOLE = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=8, output_tokens=8)


@pytest.mark.parametrize(
    ("scenario", "endpoint", "metered"),
    [
        (WHOLE, None, ["GPU-0"]),
        (WHOLE.replace(tensor_parallel_size=2), None, ["GPU-0", "GPU-1"]),
        (WHOLE, "http://localhost:8000/v1", ["GPU-0", "GPU-1"]),
    ],
)
def test_an_arm_is_charged_for_its_own_devices_and_a_server_for_all_it_runs_on(
    scenario: Scenario, endpoint: str | None, metered: list[str]
) -> None:
    session: Any = SimpleNamespace(
        host_speed=lambda engine, **_: None,
        reopening=SimpleNamespace(start_seconds=lambda scenario: None),
        servers={"present": endpoint} if endpoint else {},
        options=SimpleNamespace(stacks=(Stack(endpoint=endpoint),)),
        meter=lambda devices: SimpleNamespace(uuids=[device.uuid for device in devices]),
        as_served=lambda scenario, side: scenario,
        pool=SimpleNamespace(discard=print),
    )
    meter = EnergyMeter(
        gpu_model=GpuModel(gpu_spec("h200"), DEVICES),
        _session=session,
        _key=CaseKey(gpu="h200", finding="batching", case="falls"),
        _baseline=None,
        _published=None,
    )
    (work,) = meter._works("arm", scenario)
    made: Any = work.meter
    assert made.uuids == metered
