import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from pytest_llm_energy import Scenario, decode_costs_more, decode_dominates, same_rate
from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.serving.ways import Online
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.measured import CaseKey, Measured
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.verdicts.outcome import Statement
from pytest_llm_energy.verdicts.rows import ClaimRow
from tests.journals import SimulatedSession
from tests.unit.measurements import KEY, arm

PROMPT = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=512, output_tokens=1)
STEADY = (1.0, 1.001, 0.999, 1.0)
RATE = same_rate("input_tokens", across="batch_size")
CLAIMS: tuple[Claim, ...] = (RATE, decode_costs_more, decode_dominates)

Levels = Mapping[tuple[int, int], Sequence[float]]
"""Joules per request of every run, by batch size and input length."""


def prefills(levels: Levels) -> Measured:
    arms = [
        arm(f"{size}x{tokens}", joules, PROMPT.replace(batch_size=size, input_tokens=tokens))
        for (size, tokens), joules in levels.items()
    ]
    return Measured(key=KEY, series=0, arms=tuple(arms))


def growing(
    *, floor: float = 2.0, alone: float = 0.016, batched: float = 0.016, noise: Sequence[float] = STEADY
) -> Levels:
    """Requests that take a floor alone, and so much for each token; what is noisy is the longer prompt alone."""
    return {
        (1, 500): [floor + 500 * alone] * len(noise),
        (1, 2000): [floor + 2000 * alone * x for x in noise],
        (16, 500): [500 * batched] * len(noise),
        (16, 2000): [2000 * batched * x for x in reversed(noise)],
    }


def judged(claim: Claim, measured: Measured) -> Statement:
    (statement,) = claim.statements(measured)
    return statement


@pytest.mark.parametrize(
    ("batched", "outcome"),
    [(0.016, "holds"), (0.015, "holds"), (0.019, "holds"), (0.008, "fails"), (0.024, "fails"), (0.02, "open")],
)
def test_prefill_grows_as_fast_in_a_batch_as_alone_whatever_its_floor(batched: float, outcome: str) -> None:
    statement = judged(RATE, prefills(growing(batched=batched)))
    assert statement.says == "J/request grows with input_tokens as fast at batch_size 16 as at 1 (+-25%)"
    assert statement.outcome == outcome
    assert statement.interval.value == pytest.approx(batched / 0.016 - 1, abs=2e-3)
    assert statement.interval.low < batched / 0.016 - 1 < statement.interval.high


def test_how_far_rates_may_lie_apart_is_the_tests_to_say() -> None:
    measured = prefills(growing(batched=0.015))
    narrow = same_rate("input_tokens", across="batch_size", tolerance=0.02)
    assert judged(narrow, measured).outcome == "fails"
    assert judged(narrow, measured).says.endswith("(+-2%)")


@pytest.mark.parametrize("batched", [0.0001, -0.001])
def test_a_batch_that_does_not_grow_contradicts_that_it_grows_as_fast(batched: float) -> None:
    levels = {point: [3.0 + x for x in joules] for point, joules in growing(batched=batched).items()}
    statement = judged(RATE, prefills(levels))
    assert statement.outcome == "fails"
    assert math.isfinite(statement.interval.low)


@pytest.mark.parametrize("alone", [0.0, -0.0002])
def test_what_does_not_grow_alone_has_no_rate_to_compare_with(alone: float) -> None:
    statement = judged(RATE, prefills(growing(alone=alone)))
    assert statement.outcome == "open"
    assert not any(map(math.isnan, msgspec.structs.astuple(statement.interval)))
    assert (statement.interval.low, statement.interval.high) == (-math.inf, math.inf)


def test_one_round_without_growth_leaves_the_rates_open() -> None:
    levels = {point: list(joules) for point, joules in growing().items()}
    levels[1, 2000][2] = levels[1, 500][2] * 0.99
    assert judged(RATE, prefills(levels)).outcome == "open"


@pytest.mark.parametrize("noise", [(1.0,), (0.7, 1.3, 1.0)])
def test_noise_and_a_single_round_leave_the_rates_open(noise: Sequence[float]) -> None:
    assert judged(RATE, prefills(growing(noise=noise))).outcome == "open"


def test_what_moves_all_levels_of_a_round_alike_does_not_move_the_rates() -> None:
    drift = (1.0, 1.2, 0.8)
    levels = growing(noise=(1.0, 1.0, 1.0))
    drifted = {point: [x * d for x, d in zip(joules, drift, strict=True)] for point, joules in levels.items()}
    interval = judged(RATE, prefills(drifted)).interval
    assert interval.half_width < 1e-9


def on_other_starts(measured: Measured, *starts: str) -> Measured:
    """The same, whose first arm has engine starts of its own, so many for its runs in turn."""
    first, *others = measured.arms
    runs = tuple(
        msgspec.structs.replace(run, start=starts[number % len(starts)]) for number, run in enumerate(first.runs)
    )
    return msgspec.structs.replace(measured, arms=(msgspec.structs.replace(first, runs=runs), *others))


def test_engine_starts_of_their_own_widen_what_is_said_of_rates() -> None:
    shared = prefills(growing())
    none, one, two = (
        judged(RATE, measured).interval
        for measured in (shared, on_other_starts(shared, "a"), on_other_starts(shared, "a", "b"))
    )
    assert none.value == one.value == two.value
    assert none.half_width < two.half_width < one.half_width
    assert none.fixed == 0
    assert two.fixed == pytest.approx(one.fixed / math.sqrt(2))
    assert one.fixed > ASSUMED.start.sd  # each level's start is off by that, and a rise is less than the level


def test_bounds_of_rates_are_wrong_as_often_as_they_say() -> None:
    generator, wrong, trials = random.Random(3), 0, 1500
    for _ in range(trials):
        levels = {
            (size, tokens): [(2.0 + 0.016 * tokens) * generator.gauss(1, 0.005) for _ in range(3)]
            for size in (1, 16)
            for tokens in (500, 2000)
        }
        interval = judged(RATE, prefills(levels)).interval
        wrong += not interval.low < 0 < interval.high
    assert 0.01 < wrong / trials < 0.03  # one in a hundred to either side


@pytest.mark.parametrize("gone", [(1, 500), (16, 2000)])
def test_rates_need_every_length_at_every_batch_size(gone: tuple[int, int]) -> None:
    levels = {point: joules for point, joules in growing().items() if point != gone}
    with pytest.raises(MeasurementError, match="two values of input_tokens or more, each at the same two values"):
        RATE.statements(prefills(levels))


def test_rates_are_of_scenarios_alike_in_all_else() -> None:
    whole = prefills(growing())
    first, *others = whole.arms
    longer = {**(first.identity or {}), "output_tokens": 64}
    for odd in (longer, None):
        arms = (msgspec.structs.replace(first, identity=odd), *others)
        with pytest.raises(MeasurementError, match="alike in all else"):
            RATE.statements(msgspec.structs.replace(whole, arms=arms))
    with pytest.raises(MeasurementError, match="two values of decoding or more"):
        same_rate("decoding", across="batch_size").statements(whole)


def test_rates_need_a_round_with_a_run_of_each() -> None:
    whole = prefills(growing())
    first, *others = whole.arms
    late = tuple(msgspec.structs.replace(run, round=run.round + 9) for run in first.runs)
    with pytest.raises(MeasurementError, match="no round in which every scenario has a valid run"):
        RATE.statements(msgspec.structs.replace(whole, arms=(msgspec.structs.replace(first, runs=late), *others)))


def decoded(
    each: float, *, prefill: float = 8.0, lengths: Sequence[int] = (1, 256), noise: Sequence[float] = STEADY
) -> Measured:
    """Requests of several output lengths, whose tokens after the first take so many joules each."""
    arms = [
        arm(
            f"output_tokens={n}",
            [(prefill + each * (n - 1) * x) / n for x in noise],
            PROMPT.replace(output_tokens=n),
        )
        for n in lengths
    ]
    return Measured(key=KEY, series=0, arms=tuple(arms))


@pytest.mark.parametrize(
    ("each", "per_token", "dominates"),
    [
        (0.3, "holds", "holds"),
        (0.02, "holds", "fails"),  # a prefilled token takes 8 J / 512, and 255 decoded ones 5.1 J
        (0.005, "fails", "fails"),
        (8 / 512, "open", "fails"),
        (8 / 255, "holds", "open"),
        (-0.001, "fails", "fails"),
    ],
)
def test_decode_is_compared_with_prefill_by_the_token_and_in_all(
    each: float, per_token: str, dominates: str
) -> None:
    measured = decoded(each)
    token, request = judged(decode_costs_more, measured), judged(decode_dominates, measured)
    assert token.says == "a decoded token takes more than a prefilled one (512+256 tokens)"
    assert request.says == "decode takes more than prefill (512+256 tokens)"
    assert (token.outcome, request.outcome) == (per_token, dominates)
    assert token.interval.value == pytest.approx(each / (8 / 512) - 1, abs=2e-3)
    assert request.interval.value == pytest.approx(each * 255 / 8 - 1, abs=2e-3)
    assert request.interval.low < each * 255 / 8 - 1 < request.interval.high


def test_engine_starts_of_their_own_widen_what_is_said_of_decode() -> None:
    shared = decoded(0.3)
    apart = on_other_starts(shared, "a")
    one, token, request = (
        judged(claim, measured).interval
        for claim, measured in (
            (decode_costs_more, shared),
            (decode_costs_more, apart),
            (decode_dominates, apart),
        )
    )
    assert token.value == one.value
    assert token.half_width > one.half_width
    assert token.fixed == pytest.approx(request.fixed * 512 / 255)
    assert token.fixed > one.fixed == 0


def test_of_several_outputs_the_longest_is_what_decode_is_judged_by() -> None:
    measured = decoded(0.1, lengths=(1, 8, 256))
    assert judged(decode_dominates, measured).outcome == "holds"  # of eight tokens it would not
    assert judged(decode_dominates, decoded(0.1, lengths=(1, 8))).outcome == "fails"


@pytest.mark.parametrize("claim", [decode_costs_more, decode_dominates])
def test_noise_and_a_single_round_leave_decode_open(claim: Claim) -> None:
    for each, noise in ((0.05, (0.1, 3.0, 1.0)), (0.3, (1.0,))):
        statement = judged(claim, decoded(each, noise=noise))
        assert statement.outcome == "open"
        assert not any(map(math.isnan, msgspec.structs.astuple(statement.interval)))


@pytest.mark.parametrize("claim", [decode_costs_more, decode_dominates])
def test_decode_needs_a_prefill_alone_and_a_longer_output_of_the_same(claim: Claim) -> None:
    whole = decoded(0.3)
    online = PROMPT.replace(online=Online(), batch_size=8)
    odd = [
        decoded(0.3, lengths=(2, 256)).arms,
        whole.arms[:1],
        (*whole.arms, arm("another prompt", STEADY, PROMPT.replace(input_tokens=64))),
        (arm("one call", STEADY, None), whole.arms[1]),
        (arm("1", STEADY, online), arm("64", STEADY, online.replace(output_tokens=64))),
    ]
    for arms in odd:
        with pytest.raises(
            MeasurementError, match=r"differ in output_tokens alone, one of them with 1,.*not online"
        ):
            claim.statements(msgspec.structs.replace(whole, arms=arms))


def test_decode_needs_a_round_with_a_run_of_each() -> None:
    short, long = decoded(0.3).arms
    late = tuple(msgspec.structs.replace(run, round=run.round + 9) for run in long.runs)
    measured = Measured(key=KEY, series=0, arms=(short, msgspec.structs.replace(long, runs=late)))
    with pytest.raises(MeasurementError, match="no round in which every scenario has a valid run"):
        decode_dominates.statements(measured)


def test_claims_about_phases_are_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(CLAIMS), type=tuple[Claim, ...]) == CLAIMS


@pytest.mark.parametrize("claim", CLAIMS, ids=["rates", "per token", "in all"])
def test_a_journal_is_judged_again_by_the_claim_that_it_records(claim: Claim, tmp_path: Path) -> None:
    of_rate = claim is RATE
    measured = prefills(growing(batched=0.008)) if of_rate else decoded(0.3)
    scenarios = {
        each.name: PROMPT.replace(
            **{field: (each.identity or {})[field] for field in ("batch_size", "input_tokens", "output_tokens")}
        )
        for each in measured.arms
    }
    levels = {each.name: (scenarios[each.name], each.joules_per_token) for each in measured.arms}
    journal = tmp_path / "run.jsonl"
    SimulatedSession(journal).case("decode-linear", "case", levels, claim=claim, series=True)
    key = CaseKey(gpu="h200", finding="decode-linear", case="case")
    rows = judge_recorded(read_journal(journal), key, baseline=None, published=None, budget=None)
    (row,) = (row for row in rows if isinstance(row, ClaimRow))
    assert row.verdict == ("contradicts" if of_rate else "new")
    assert row.says == judged(claim, measured).says
    assert row.interval.value == pytest.approx(judged(claim, measured).interval.value, abs=0.02)
