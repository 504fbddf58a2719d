"""The ideal energy of a workload, the tasks, and what can be reproduced of the paper's percentages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.hardware.catalogue import CPU, catalogue, gpu_spec
from pytest_llm_energy.serving.flops import decode_flops
from pytest_llm_energy.verdicts.baselines import Published, read_published
from pytest_llm_energy.workloads.bins import PAPER, Histogram
from pytest_llm_energy.workloads.ideal import above_ideal, ideal_joules, joules_per_flop
from pytest_llm_energy.workloads.tasks import TASKS
from tests.unit.test_imports import ROOT

A6000 = gpu_spec("a6000")
TRACES = ("BurstGPT", "Azure code", "Azure conversation")


def published(finding: str) -> Published:
    found = read_published(ROOT / "baselines", finding)
    assert found is not None
    return found


def table_4(trace: str, engine: str) -> float:
    """How far the paper's energy lies above its ideal."""
    for figure in published("flops-estimate").figures:
        if figure.where == {"trace": trace, "engine": engine}:
            assert figure.value is not None
            return figure.value
    raise KeyError(trace, engine)


def histogram(counts: tuple[tuple[int, int, int], ...]) -> Histogram:
    return Histogram(name="made up", bins=PAPER, counts=counts, rows=sum(count for _, _, count in counts))


def test_an_operation_takes_the_boards_power_for_its_share_of_a_second() -> None:
    assert joules_per_flop(A6000, rate="sparse") == pytest.approx(300 / 309.7e12)
    assert joules_per_flop(A6000) == pytest.approx(300 / 154.8e12)


def test_the_ideal_sums_over_bins() -> None:
    workload = histogram(((32, 8, 3), (512, 64, 5)))
    flops = {(32, 8): 10**12, (512, 64): 7 * 10**12, (8192, 512): 10**15}
    assert ideal_joules(workload, flops, A6000) == pytest.approx(300 / 154.8e12 * 38e12)
    assert ideal_joules({(32, 8): 3, (512, 64): 5}, flops, A6000) == ideal_joules(workload, flops, A6000)


def test_a_bin_whose_operations_are_not_known_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"512 \+ 64 tokens"):
        ideal_joules(histogram(((512, 64, 5),)), {(32, 8): 1}, A6000)
    assert ideal_joules({(512, 64): 0}, {}, A6000) == 0


@pytest.mark.parametrize(
    ("spec", "rate", "lacking"),
    [
        (gpu_spec("t4"), "dense", "t4 .* no dense bf16 rate"),
        (gpu_spec("h20"), "sparse", "h20 .* no sparse bf16 rate"),
        (CPU, "dense", "cpu .* no dense bf16 rate"),
    ],
)
def test_a_gpu_without_the_rate_has_no_ideal(spec: object, rate: str, lacking: str) -> None:
    with pytest.raises(UsageError, match=lacking):
        joules_per_flop(spec, rate=rate)  # type: ignore[arg-type]


def test_a_sparse_rate_is_about_twice_the_dense_one_on_every_gpu() -> None:
    for spec in catalogue().values():
        if spec.bf16_dense_tflops and spec.bf16_sparse_tflops:
            assert joules_per_flop(spec) / joules_per_flop(spec, rate="sparse") == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("trace", TRACES)
def test_the_papers_percentages_above_the_ideal_give_its_savings(trace: str) -> None:
    ratio = (1 + table_4(trace, "vllm")) / (1 + table_4(trace, "pytorch"))
    (saving,) = [f.value for f in published("trace-workloads").figures if f.where["trace"] == trace]
    assert ratio - 1 == pytest.approx(saving, abs=1e-4)


@pytest.mark.parametrize(
    ("trace", "engine", "by_the_dense_rate"),
    [
        ("BurstGPT", "pytorch", 2.0326),
        ("BurstGPT", "vllm", -0.1813),
        ("Azure code", "pytorch", 0.0139),
        ("Azure code", "vllm", -0.3671),
        ("Azure conversation", "pytorch", 1.9512),
        ("Azure conversation", "vllm", -0.1789),
    ],
)
def test_the_dense_rate_doubles_the_papers_ideal(trace: str, engine: str, by_the_dense_rate: float) -> None:
    flops = {(512, 64): 8 * 10**12}
    sparse = ideal_joules({(512, 64): 1000}, flops, A6000, rate="sparse")
    dense = ideal_joules({(512, 64): 1000}, flops, A6000, rate="dense")
    measured = sparse * (1 + table_4(trace, engine))
    assert above_ideal(measured, sparse) == pytest.approx(table_4(trace, engine))
    assert above_ideal(measured, dense) == pytest.approx(by_the_dense_rate, abs=2e-3)


@given(
    st.integers(0, 10**12),
    st.integers(0, 10**9),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sets(st.integers(1, 700), min_size=2),
)
def test_decode_steps_are_summed_exactly(a: int, b: int, i: int, o: int, contexts: set[int]) -> None:
    steps = {n: a + b * n for n in contexts}
    assert decode_flops(steps, i, o) == sum(a + b * n for n in range(i + 1, i + o))


@pytest.mark.parametrize("steps", [{1: 10, 2: 20, 3: 31}, {1: 10, 3: 21}])
def test_steps_off_a_line_are_not_summed(steps: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="do not lie on a line"):
        decode_flops(steps, 1, 3)


def test_tasks_are_those_of_the_papers_table_3() -> None:
    assert [(str(task), task.lengths) for task in TASKS] == [
        ("translation", {"input_tokens": 50, "output_tokens": 64}),
        ("generation", {"input_tokens": 137, "output_tokens": 64}),
        ("classification", {"input_tokens": 292, "output_tokens": 1}),
        ("summarisation", {"input_tokens": 838, "output_tokens": 64}),
    ]
    assert all(task.input_std < task.input_mean < task.input_max for task in TASKS)
