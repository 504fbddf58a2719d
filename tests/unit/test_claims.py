import math

import msgspec
import pytest

from pytest_llm_energy import (
    Scenario,
    above,
    costs,
    differs,
    draws_less,
    faster,
    flat_below,
    rises,
    saves,
    saves_on,
    slope,
    slower,
)
from pytest_llm_energy.errors import MeasurementError, UsageError
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.estimates import excess
from pytest_llm_energy.verdicts.measured import Measured
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.workloads.bins import PAPER, Histogram
from tests.unit.measurements import KEY, PLAIN, arm, compared, grown

STEADY = (1.0, 1.001, 0.999, 1.0)


def effect(size: float, noise: float = 0.0) -> dict[str, list[float]]:
    signs = (1, -1, 1, -1)
    return {
        "arm": [x * (1 + size) * (1 + s * noise) for x, s in zip(STEADY, signs, strict=True)],
        "control": [*STEADY],
    }


@pytest.mark.parametrize(
    ("claim", "size", "outcome"),
    [
        (saves, -0.10, "holds"),
        (saves, +0.10, "fails"),
        (costs, +0.10, "holds"),
        (costs, -0.10, "fails"),
        (saves.bearing(0.15), +0.10, "open"),
        (saves.bearing(0.05), +0.10, "fails"),
        (costs.bearing(0.05), -0.03, "open"),
        (differs(at_most=0.2), 0.10, "holds"),
        (differs(at_most=0.2), -0.30, "fails"),
        (differs(at_most=0.05), 0.30, "fails"),
    ],
)
def test_a_claim_about_an_effect(claim: Claim, size: float, outcome: str) -> None:
    (statement,) = claim.statements(compared(effect(size)))
    assert statement.outcome == outcome
    assert statement.interval.value == pytest.approx(size)


@pytest.mark.parametrize("claim", [saves, costs])
def test_noise_leaves_a_claim_open(claim: Claim) -> None:
    (statement,) = claim.statements(compared(effect(0.02, noise=0.2)))
    assert statement.outcome == "open"


def test_every_arm_but_the_control_gets_a_statement() -> None:
    measured = compared({"one": [0.8] * 3, "two": [0.9] * 3, "control": [1.0] * 3})
    assert [s.says for s in saves.statements(measured)] == [
        "one saves against control",
        "two saves against control",
    ]


def split_over(devices: int, *, joules: float, seconds: float) -> Measured:
    whole = arm("whole", [*STEADY], PLAIN, seconds=4.0)
    scenario = PLAIN.replace(engine="vllm", tensor_parallel_size=devices)
    split = arm("split", [joules * x for x in STEADY], scenario, seconds=4.0 * seconds)
    return Measured(key=KEY, series=0, arms=(split, whole), control="whole")


def test_a_claim_may_be_about_time_or_about_the_power_of_each_device() -> None:
    measured = split_over(2, joules=1.3, seconds=0.6)
    told = [claim.statements(measured)[0] for claim in (costs, faster, draws_less)]
    assert [(s.says, s.outcome) for s in told] == [
        ("split costs more than whole", "holds"),
        ("split is faster than whole", "holds"),
        ("split draws less per device than whole", "fails"),  # 1.3 / 0.6 / 2 times as much
    ]
    assert [s.interval.value for s in told] == pytest.approx([0.3, -0.4, 1.3 / 0.6 / 2 - 1])
    assert told[2].interval.low < told[2].interval.value < told[2].interval.high
    of_four = draws_less.statements(split_over(4, joules=1.3, seconds=0.6))[0]
    assert of_four.outcome == "holds"
    assert of_four.interval.value == pytest.approx(1.3 / 0.6 / 4 - 1)


@pytest.mark.parametrize(("seconds", "outcomes"), [(1.1, ("fails", "holds")), (0.5, ("fails", "fails"))])
def test_a_difference_may_be_in_time_alone(seconds: float, outcomes: tuple[str, str]) -> None:
    measured = split_over(1, joules=2.0, seconds=seconds)
    told = [differs(at_most=0.2, of=of).statements(measured)[0] for of in ("energy", "latency")]
    assert tuple(s.outcome for s in told) == outcomes
    assert told[1].says == "split differs from whole by at most 20.0% in time"
    longer = slower.statements(measured)[0]
    assert (longer.says, longer.outcome) == ("split is slower than whole", "holds" if seconds > 1 else "fails")


def two_models(*, small: float, large: float) -> Measured:
    """What a mixture takes beside a dense model at a small and a large batch."""
    factors = {("OLMo-1B", 1): 3.0, ("OLMoE-1B-7B", 1): 3.0 * small, ("OLMo-1B", 32): 1.0}
    factors["OLMoE-1B-7B", 32] = large
    arms = [
        arm(f"{model} {batch}", [level * x for x in STEADY], PLAIN.replace(model=model, batch_size=batch))
        for (model, batch), level in factors.items()
    ]
    return Measured(key=KEY, series=0, arms=tuple(arms))


OVERHEAD = rises("batch_size", between="model", control="OLMo-1B", what="what a mixture costs")


@pytest.mark.parametrize(("large", "outcome"), [(2.0, "holds"), (1.05, "fails"), (1.2, "open")])
def test_an_effect_that_is_more_at_the_larger_batch_is_told_from_one_that_is_less(
    large: float, outcome: str
) -> None:
    (statement,) = OVERHEAD.statements(two_models(small=1.2, large=large))
    assert statement.says == "what a mixture costs is more at batch_size 32 than at 1"
    assert statement.outcome == outcome
    assert statement.interval.value == pytest.approx(large / 1.2 - 1)


def test_how_an_effect_grows_needs_both_kinds_at_two_values() -> None:
    both = two_models(small=1.2, large=2.0)
    for arms in (both.arms[:2], both.arms[:3]):
        with pytest.raises(MeasurementError, match="with model 'OLMo-1B' and with one other value, at two values"):
            OVERHEAD.statements(msgspec.structs.replace(both, arms=arms))


def test_linear_growth_is_told_from_flat_and_quadratic() -> None:
    linear = {n: [n * x for x in STEADY] for n in (128, 256, 512)}
    quadratic = {n: [n * n * x for x in STEADY] for n in (128, 256, 512)}
    flat = {n: list(STEADY) for n in (128, 256, 512)}
    claim = slope("input_tokens", tolerance=0.2)
    outcomes = [claim.statements(grown("input_tokens", s))[0].outcome for s in (linear, quadratic, flat)]
    assert outcomes == ["holds", "fails", "fails"]


def test_a_floor_is_about_the_scenarios_below_it_only() -> None:
    floor = {16: [1.0] * 3, 64: [1.02] * 3, 128: [1.05] * 3, 1024: [9.0] * 3}
    assert flat_below("input_tokens", 128).statements(grown("input_tokens", floor))[0].outcome == "holds"
    rising = {16: [1.0] * 3, 64: [4.0] * 3, 128: [8.0] * 3}
    assert flat_below("input_tokens", 128).statements(grown("input_tokens", rising))[0].outcome == "fails"


def test_a_claim_about_what_was_not_measured_is_an_error() -> None:
    series = grown("input_tokens", {1: [1.0] * 3, 2: [1.0] * 3})
    with pytest.raises(MeasurementError, match="needs arms with a control"):
        saves.statements(series)
    with pytest.raises(MeasurementError, match="two values of 'input_tokens'"):
        flat_below("input_tokens", 1).statements(series)
    with pytest.raises(MeasurementError, match="no number 'decoding'"):
        slope("decoding").statements(series)


TRACE = Histogram(name="a trace", bins=PAPER, counts=((32, 8, 900), (512, 64, 90), (2048, 256, 10)), rows=1000)
ON_ENGINES = saves_on(TRACE, over="engine", control="transformers")


def served(factors: dict[str, float], lengths: list[tuple[int, int]], *, noise: float = 0.002) -> Measured:
    """Requests of several lengths on engines, whose joules are those of prefill and decode times a factor."""
    arms = []
    for engine, factor in factors.items():
        for i, o in lengths:
            scenario = Scenario(model="Llama-3.1-8B", engine=engine, input_tokens=i, output_tokens=o, batch_size=32)
            joules = factor * (2.8 / 32 + 0.016 * i + (o - 1) * (2.45 / 32 + 0.01 + 4e-5 * (i + o / 2)))
            levels = [joules / o * (1 + sign * noise) for sign in (-1, 0, 1)]
            arms.append(arm(f"{engine} {i}+{o}", levels, scenario))
    return Measured(key=KEY, series=0, arms=tuple(arms))


GRID = [(i, o) for i in (32, 512, 2048) for o in (8, 64, 256)]


@pytest.mark.parametrize(("factor", "outcome"), [(0.6, "holds"), (1.3, "fails"), (1.001, "open")])
def test_a_workload_is_saved_on_as_a_whole(factor: float, outcome: str) -> None:
    (statement,) = ON_ENGINES.statements(served({"vllm": factor, "transformers": 1.0}, GRID))
    assert statement.says == "vllm saves on a trace against transformers"
    assert statement.outcome == outcome
    assert statement.interval.value == pytest.approx(factor - 1, abs=1e-3)
    assert statement.interval.low < factor - 1 < statement.interval.high


def test_lengths_that_were_not_measured_widen_what_is_said_of_a_workload() -> None:
    missing = [(i, o) for i in (32, 256, 1024) for o in (16, 128, 512)]
    all_measured, filled_in = (
        ON_ENGINES.statements(served({"vllm": 0.6, "transformers": 1.0}, lengths, noise=0.02))[0].interval
        for lengths in (GRID, missing)
    )
    assert filled_in.half_width > all_measured.half_width
    assert filled_in.low < -0.4 < filled_in.high


def test_a_claim_about_a_workload_needs_both_ways_of_serving_it() -> None:
    with pytest.raises(MeasurementError, match="scenarios with engine 'transformers' and with another, not vllm"):
        ON_ENGINES.statements(served({"vllm": 1.0}, GRID))
    with pytest.raises(MeasurementError, match="and with another, not vllm"):
        ON_ENGINES.statements(Measured(key=KEY, series=0, arms=(arm("a", [1.0], PLAIN.replace(engine="vllm")),)))


def test_a_way_of_serving_is_one_way_and_serves_batches() -> None:
    both = served({"vllm": 0.6, "transformers": 1.0}, GRID)
    of_half = [
        msgspec.structs.replace(
            each, name=f"{each.name} half", identity={**(each.identity or {}), "dtype": "float16"}
        )
        for each in both.arms
    ]
    with pytest.raises(MeasurementError, match="of vllm differ in more than lengths and batch size"):
        ON_ENGINES.statements(msgspec.structs.replace(both, arms=(*both.arms, *of_half)))
    online = [msgspec.structs.replace(a, identity={**(a.identity or {}), "online": {}}) for a in both.arms]
    with pytest.raises(MeasurementError, match="a workload is of batches of requests, not of online or"):
        ON_ENGINES.statements(msgspec.structs.replace(both, arms=tuple(online)))


def on_starts_of_their_own(measured: Measured) -> Measured:
    """The same, each arm on an engine start of its own."""
    arms = [
        msgspec.structs.replace(
            each, runs=tuple(msgspec.structs.replace(run, start=each.name) for run in each.runs)
        )
        for each in measured.arms
    ]
    return msgspec.structs.replace(measured, arms=tuple(arms))


def test_engine_starts_of_their_own_are_in_the_doubt_of_growth_and_of_effects_that_rise() -> None:
    linear = grown("input_tokens", {n: [float(n)] * 3 for n in (128, 256)})
    (shared,) = slope("input_tokens").statements(linear)
    (own,) = slope("input_tokens").statements(on_starts_of_their_own(linear))
    assert shared.interval.half_width == pytest.approx(0.0, abs=1e-9)
    # Each of two levels is shifted, and their logs are log(2) apart.
    assert own.interval.half_width > 2.33 * math.sqrt(2) * ASSUMED.start.sd / math.log(2)
    both = two_models(small=1.2, large=2.0)
    alike, apart = (OVERHEAD.statements(m)[0].interval for m in (both, on_starts_of_their_own(both)))
    assert apart.half_width > alike.half_width
    assert math.log1p(apart.fixed) == pytest.approx(2.33 * 2 * ASSUMED.start.sd, rel=0.2)


def outcomes(claim: Claim, levels: dict[str, list[float]]) -> dict[str, str]:
    return {statement.says: statement.outcome for statement in claim.statements(compared(levels))}


def test_every_arm_lies_above_a_figure_and_one_is_nearest_to_it() -> None:
    # Levels are per token, of requests with 64 output tokens.
    levels = {"vllm": [1.5 * x for x in STEADY], "transformers": [4.0 * x for x in STEADY]}
    assert outcomes(above(64.0, what="the ideal", nearest="vllm"), levels) == {
        "vllm takes more than the ideal of 64 J/request": "holds",
        "transformers takes more than the ideal of 64 J/request": "holds",
        "transformers is farther from the ideal than vllm": "holds",
    }
    assert list(outcomes(above(128.0, what="it", nearest="transformers"), levels).values()) == [
        "fails",
        "holds",
        "fails",
    ]
    (first, *_) = above(64.0, what="the ideal").statements(compared(levels))
    assert first.kind == "effect"
    assert first.interval.value == pytest.approx(0.5, abs=1e-3)


def test_what_is_nearest_to_a_figure_of_requests_is_told_by_requests() -> None:
    longer = PLAIN.replace(output_tokens=4 * PLAIN.output_tokens)
    arms = (arm("longer", [0.5 * x for x in STEADY], longer), arm("vllm", STEADY))
    told = above(10.0, what="the ideal", nearest="vllm").statements(Measured(key=KEY, series=0, arms=arms))
    assert (told[-1].says, told[-1].outcome) == ("longer is farther from the ideal than vllm", "holds")
    assert told[-1].interval.value == pytest.approx(1.0)


def test_what_lies_within_the_noise_or_the_meters_uncertainty_of_a_figure_is_open() -> None:
    noisy = {"arm": [0.8, 1.05, 1.3], "control": [*STEADY]}
    assert list(outcomes(above(64.0, what="it"), noisy).values()) == ["open", "open"]
    steady = arm("arm", STEADY)
    roughly = msgspec.structs.replace(
        steady,
        runs=tuple(
            msgspec.structs.replace(
                run, reading=msgspec.structs.replace(run.reading, uncertainty_joules=0.04 * run.reading.joules)
            )
            for run in steady.runs
        ),
    )
    assert excess(steady, 60.0, noise=ASSUMED).low > 0.05
    assert excess(roughly, 60.0, noise=ASSUMED).low < 0 < excess(roughly, 60.0, noise=ASSUMED).high


def test_one_run_says_nothing_about_a_figure() -> None:
    (statement,) = above(1.0, what="it").statements(grown("input_tokens", {128: [5.0]}))
    assert statement.outcome == "open"


def test_a_figure_must_be_one_and_its_nearest_arm_measured() -> None:
    with pytest.raises(MeasurementError, match="no arm 'sglang'"):
        above(1.0, what="it", nearest="sglang").statements(compared({"one": [1.0] * 3, "other": [2.0] * 3}))
    for figure in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match="nothing lies above"):
            above(figure, what="it")


def test_a_claim_is_plain_data() -> None:
    claims: list[Claim] = [above(12.5, what="the ideal", nearest="vllm"), above(1.0, what="it"), saves]
    assert msgspec.json.decode(msgspec.json.encode(claims), type=list[Claim]) == claims
