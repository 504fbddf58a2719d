import pytest

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.hardware.catalogue import catalogue, gpu_spec, identify


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200_nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100_40gb"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("Tesla T4", "t4"),
    ],
)
def test_boards_are_known_by_the_name_nvml_gives(name: str, key: str) -> None:
    assert identify(name).key == key


def test_boards_of_one_chip_share_a_family_and_differ_in_power() -> None:
    boards = [spec for spec in catalogue().values() if spec.family == "a100"]
    assert {spec.key for spec in boards} >= {"a100", "a100_pcie"}
    assert gpu_spec("a100").tdp_watts != gpu_spec("a100_pcie").tdp_watts


def test_a_board_the_catalogue_does_not_know_gets_a_key_of_its_own() -> None:
    spec = identify("NVIDIA GeForce RTX 9090 Ti")
    assert (spec.key, spec.name) == ("rtx_9090_ti", "NVIDIA GeForce RTX 9090 Ti")


def test_an_unknown_key_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'a1000' is no GPU model key; did you mean 'a100'\? Known: cpu, .*h200"):
        gpu_spec("a1000")


def test_every_specification_is_plausible_and_names_its_source() -> None:
    for spec in catalogue().values():
        if spec.key == "cpu":
            continue
        assert spec.source, spec.key
        assert spec.nvml_names, spec.key
        assert spec.tdp_watts is not None, spec.key
        assert 50 <= spec.tdp_watts <= 1500, spec.key
        assert spec.memory_gib is not None, spec.key
        if spec.key == "rtxpro6000":  # the Server Edition's memory is slower than the Workstation Edition's
            assert spec.memory_gb_per_second is None
            continue
        assert spec.memory_gb_per_second is not None, spec.key
        times_read_per_second = spec.memory_gb_per_second / spec.memory_gib
        assert 10 < times_read_per_second < 60, spec.key  # 12.5 is an L4, and 56 an RTX 5090
        if spec.bf16_dense_tflops and spec.bf16_sparse_tflops:
            assert spec.bf16_sparse_tflops == pytest.approx(2 * spec.bf16_dense_tflops, rel=0.02), (
                spec.key
            )  # 362.05 and 733 are so in the L40S datasheet
