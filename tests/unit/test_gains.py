"""What an optimisation gains on one GPU model against another, by the baselines of both."""

from pathlib import Path

import msgspec
import pytest

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.amending import set_absent
from pytest_llm_energy.verdicts.baselines import (
    Baseline,
    Figure,
    baseline_path,
    read_baseline,
    read_published,
    write_baseline,
)
from pytest_llm_energy.verdicts.gains import GRAPHS, OPTIMISATIONS, Gains, gains
from pytest_llm_energy.verdicts.gpu_speed import faster_first
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import ClaimRow
from tests.gained import EAGER, bless_graphs

ROOT = Path(__file__).parents[2]
KEY = CaseKey(gpu="h200", finding="hardware-speed", case="faster_gpus_gain_more[graphs]")
FASTER_GAINS = "graphs gains more against eager on h200 than on a100"
FEW, MANY = (-0.03, -0.025, -0.035), (-0.25, -0.255, -0.245)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "baselines"


def figure(name: str) -> Figure:
    published = read_published(ROOT / "baselines", "hardware-speed")
    assert published is not None
    return published.figure(name)


def found(folder: Path, gpu: str = "h200") -> Gains:
    return gains(folder, GRAPHS, gpu, figure(GRAPHS.figure))


def rows(folder: Path, gpu: str = "h200") -> list[ClaimRow]:
    return found(folder, gpu).rows(KEY, figure(GRAPHS.figure))


def of_graphs(folder: Path, gpu: str) -> Baseline:
    baseline = read_baseline(folder, gpu, "cuda-graphs")
    assert baseline is not None
    return baseline


@pytest.mark.parametrize(
    ("h200", "a100", "verdict"),
    [(MANY, FEW, "confirms"), (FEW, MANY, "contradicts"), (MANY, MANY, "inconclusive")],
)
def test_the_verdict_is_on_whether_the_faster_gpu_gains_more(
    folder: Path, h200: tuple[float, ...], a100: tuple[float, ...], verdict: str
) -> None:
    bless_graphs(folder, "h200", h200)
    bless_graphs(folder, "a100", a100)
    (row,) = rows(folder)
    assert (row.says, row.verdict, row.paper) == (FASTER_GAINS, verdict, "stated")
    assert row.judged_by == "baselines"
    assert row.interval.value == pytest.approx((1 + h200[0]) / (1 + a100[0]) - 1, abs=0.01)
    assert row.interval.low < row.interval.value < row.interval.high


def test_both_gpu_models_come_to_the_same_verdict(folder: Path) -> None:
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "a100", FEW)
    (one,), (other,) = rows(folder, "h200"), rows(folder, "a100")
    assert (one.says, one.interval, one.verdict) == (other.says, other.interval, other.verdict)


def test_a_board_of_each_leaves_open_what_three_of_each_tell(folder: Path) -> None:
    some = (-0.17, -0.165, -0.175)
    bless_graphs(folder, "h200", some[:1])
    bless_graphs(folder, "a100", FEW[:1])
    (one_board,) = rows(folder)
    assert one_board.verdict == "inconclusive"
    for gpu, effects in (("h200", some), ("a100", FEW)):
        bless_graphs(folder, gpu, effects[1:], first_board=2)
    (three_boards,) = rows(folder)
    assert three_boards.verdict == "confirms"
    assert three_boards.interval.half_width < one_board.interval.half_width
    assert three_boards.note == (
        "by baselines of cuda-graphs graphs_save_energy[1]: -17.0 % on 3 boards of h200, -3.0 % on 3 boards of a100"
    )


def test_boards_that_differ_widely_leave_open_what_alike_ones_tell(folder: Path) -> None:
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "a100", (-0.2, 0.1, -0.03))
    (row,) = rows(folder)
    assert row.verdict == "inconclusive"
    assert "3 boards of a100" in (row.note or "")


def test_a_row_per_other_gpu_model_and_who_is_left_out_is_said(folder: Path) -> None:
    for gpu, effects in (("h200", MANY), ("a100", FEW), ("a6000", FEW), ("h200_nvl", MANY), ("my_gpu", FEW)):
        bless_graphs(folder, gpu, effects)
    made = rows(folder)
    assert [row.says for row in made] == [FASTER_GAINS, FASTER_GAINS.replace("a100", "a6000")]
    assert (made[0].note or "").endswith(
        "not compared with h200_nvl: they are about as fast (memory of 4800 and 4800 GB/s); "
        "not compared with my_gpu: how fast the memory of my_gpu is, is not known"
    )
    assert "not compared" not in (made[1].note or "")


def test_one_gpu_model_alone_is_compared_with_nothing(folder: Path) -> None:
    assert found(folder).why_none == (
        "h200 has no baseline of cuda-graphs: measure it, then llm-energy bless JOURNAL --reason ..."
    )
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "cpu", FEW)
    assert found(folder).why_none == (
        "only h200 has a baseline of cuda-graphs: measure it on another GPU model, then llm-energy bless JOURNAL "
        "--reason ..."
    )


def test_the_smallest_batch_that_both_have_is_compared(folder: Path) -> None:
    for size in (1, 8, 32):
        of_size = EAGER.replace(batch_size=size)
        bless_graphs(folder, "h200", MANY, case=f"graphs_save_energy[{size}]", eager=of_size)
        if size > 1:
            bless_graphs(folder, "a100", FEW, case=f"graphs_save_energy[{size}]", eager=of_size)
    (row,) = rows(folder)
    assert "cuda-graphs graphs_save_energy[8]: " in (row.note or "")


def test_other_scenarios_under_the_same_name_are_not_compared(folder: Path) -> None:
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "a100", FEW, eager=EAGER.replace(output_tokens=128))
    assert not rows(folder)
    assert (found(folder).why_none or "").endswith(
        "not compared with a100: no case of cuda-graphs that both have measured alike, with the same scenarios"
    )


@pytest.mark.parametrize("what", ["real", "sliced"])
def test_simulated_sessions_and_slices_are_not_compared_with_whole_gpus_of_their_kind(
    folder: Path, what: str
) -> None:
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "a100", FEW)
    assert rows(folder)
    baseline = of_graphs(folder, "a100")
    identity = {**baseline.sessions[0].fingerprint.identity, "mig": what == "sliced"}
    sessions = tuple(
        msgspec.structs.replace(
            session,
            simulated=what == "sliced",
            fingerprint=msgspec.structs.replace(session.fingerprint, identity=identity),
        )
        for session in baseline.sessions
    )
    write_baseline(folder, msgspec.structs.replace(baseline, sessions=sessions))
    assert not rows(folder)


def test_what_a_level_was_before_it_was_moved_counts_no_more(folder: Path) -> None:
    bless_graphs(folder, "a100", FEW)
    bless_graphs(folder, "h200", FEW)
    bless_graphs(folder, "h200", MANY, first_board=4)
    baseline = of_graphs(folder, "h200")
    sessions = [msgspec.structs.replace(session, moved={}) for session in baseline.sessions]
    write_baseline(folder, msgspec.structs.replace(baseline, sessions=tuple(sessions)))
    (mixed,) = rows(folder)
    sessions[3] = msgspec.structs.replace(sessions[3], moved={"graphs_save_energy[1]": ("graphs",)})
    write_baseline(folder, msgspec.structs.replace(baseline, sessions=tuple(sessions)))
    (since,) = rows(folder)
    assert (mixed.verdict, since.verdict) == ("inconclusive", "confirms")
    assert "-25.0 % on 3 boards of h200" in (since.note or "")


def test_another_s_corrupt_baseline_is_said_and_one_s_own_is_an_error(folder: Path) -> None:
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "a100", FEW)
    baseline_path(folder, "a100", "cuda-graphs").write_text("{")
    assert "a100/cuda-graphs.json cannot be read" in (found(folder).why_none or "")
    with pytest.raises(BaselineError, match="is corrupt"):
        found(folder, "a100")


@pytest.mark.parametrize(
    ("one", "other", "faster"),
    [
        ("a100_pcie", "rtx6000ada", "a100_pcie"),
        ("rtx6000ada", "a6000", "rtx6000ada"),
        ("a6000", "a100", "a100"),
        ("h200", "a100", "h200"),
        ("l4", "a100", "a100"),
        ("a100", "a100_pcie", None),
        ("l40s", "a100", "a100"),
        ("h100", "h200", "h200"),
        ("t4", "h200", "h200"),
        ("b200", "b300", None),
        ("my_gpu", "h200", None),
    ],
)
def test_the_faster_gpu_is_the_paper_s_or_the_one_with_the_faster_memory(
    one: str, other: str, faster: str | None
) -> None:
    ranked = figure("compile-gains-more-on-faster-gpus")
    for pair in ((one, other), (other, one)):
        if faster is None:
            with pytest.raises(BaselineError, match=r"about as fast|is not known"):
                faster_first(*pair, ranked)
        else:
            assert faster_first(*pair, ranked)[0] == faster


def test_gpu_models_that_the_paper_puts_side_by_side_are_not_compared() -> None:
    ranked = figure("speculation-gains-most-on-fastest-gpu")
    assert faster_first("a6000", "a100_pcie", ranked) == ("a100_pcie", "a6000")
    with pytest.raises(BaselineError, match="the paper ranks neither"):
        faster_first("a6000", "rtx6000ada", ranked)


def test_the_committed_baselines_have_the_arms_that_are_compared() -> None:
    for optimisation in OPTIMISATIONS:
        baseline = read_baseline(ROOT / "baselines", "h200", optimisation.finding)
        assert baseline is not None
        arms = {optimisation.arm, optimisation.control}
        assert any(case.arms.keys() >= arms for case in baseline.cases.values())


def test_that_it_does_not_hold_is_recorded_with_the_case_that_was_compared(folder: Path) -> None:
    bless_graphs(folder, "h200", FEW)
    bless_graphs(folder, "a100", MANY)
    claim = f"{KEY}: {FASTER_GAINS}"
    with pytest.raises(BaselineError, match="needs a reason"):
        set_absent(None, folder, claim, reason="", when="2026-03-01")
    path, row = set_absent(None, folder, claim, reason="a faster host", when="2026-03-01")
    assert path == baseline_path(folder, "h200", "cuda-graphs")
    assert row.verdict == "contradicts"
    for gpu in ("h200", "a100"):
        (after,) = rows(folder, gpu)
        assert after.verdict == "absent"
        assert (after.note or "").endswith("known not to hold here: a faster host, 2026-03-01")
    with pytest.raises(BaselineError, match="recorded already"):
        set_absent(None, folder, claim, reason="a faster host", when="2026-03-01")


def test_what_baselines_do_not_contradict_is_not_recorded(folder: Path) -> None:
    bless_graphs(folder, "h200", MANY)
    bless_graphs(folder, "a100", FEW)
    with pytest.raises(BaselineError, match="does not contradict it"):
        set_absent(None, folder, f"{KEY}: {FASTER_GAINS}", reason="x", when="2026-03-01")
    with pytest.raises(BaselineError, match="name the journal"):
        set_absent(None, folder, "batching falls[4]: batched saves", reason="x", when="2026-03-01")
