"""Prefill or decode: which of them a change of energy lies in."""

import random
from collections.abc import Mapping

import msgspec
import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.reporting import why
from pytest_llm_energy.serving.ways import Online
from pytest_llm_energy.verdicts.baselines import Baseline, BaselineCase, Samples, Session
from pytest_llm_energy.verdicts.judge import Conditions, judge
from pytest_llm_energy.verdicts.measured import Arm, Measured, in_common_rounds
from pytest_llm_energy.verdicts.phases import Phases
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import Change, LevelRow
from tests.unit.measurements import KEY, arm

HERE = Fingerprint(identity={"gpu": "NVIDIA H200"}, state={}, boards=("board",))
LENGTHS = (32, 64, 128, 256)
BATCH = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64, batch_size=64, engine="vllm")


def series(
    prefill: float, decode: float, *, lengths: tuple[int, ...] = LENGTHS, noise: float = 0.001, seed: int = 1
) -> Mapping[int, list[float]]:
    """Joules per token of three runs by output length."""
    rnd = random.Random(seed)
    return {n: [(prefill + decode * (n - 1)) / n * (1 + rnd.gauss(0, noise)) for _ in range(3)] for n in lengths}


def arms(levels: Mapping[int, list[float]], like: Scenario = BATCH) -> tuple[Arm, ...]:
    return tuple(arm(f"output_tokens={n}", runs, like.replace(output_tokens=n)) for n, runs in levels.items())


def baseline(levels: Mapping[int, list[float]], like: Scenario = BATCH) -> Baseline:
    made = arms(levels, like)
    samples = {
        each.name: Samples(
            joules_per_token=tuple(run.joules_per_unit for run in each.runs),
            seconds_per_token=tuple(run.seconds_per_unit for run in each.runs),
        )
        for each in made
    }
    session = Session(
        when="2026-01-01T00:00:00+00:00",
        reason="first",
        method="simulated",
        fingerprint=HERE,
        stack={},
        relative_uncertainty=0.001,
        starts=({KEY.case: samples},),
    )
    case = BaselineCase(tp=1, arms={each.name: each.identity or {} for each in made})
    return Baseline(schema=1, finding=KEY.finding, gpu=KEY.gpu, cases={KEY.case: case}, sessions=(session,))


def judged(now: tuple[Arm, ...], reference: Baseline | None, *, regressed: int = 0) -> list[Phases | None]:
    """What each arm's change is put down to; at least so many arms must have regressed."""
    return [change.phases if change else None for change in changes(now, reference, regressed=regressed)]


def says(change: Change | None) -> str:
    assert change is not None
    assert change.phases is not None
    return str(why.where(change.phases, change))


def changes(now: tuple[Arm, ...], reference: Baseline | None, *, regressed: int = 0) -> list[Change | None]:
    check = Checked(key=KEY, series=0, tp=1, arms=tuple(each.name for each in now))
    conditions = Conditions(fingerprint=HERE, stacks={}, baseline=reference)
    rows = judge(check, Measured(key=KEY, series=0, arms=now), conditions)
    assert sum(row.verdict == "regressed" for row in rows) >= regressed
    return [row.change for row in rows if isinstance(row, LevelRow)]


def test_a_change_of_decode_is_told_from_one_of_prefill() -> None:
    found = changes(arms(series(10.0, 0.1 * 1.10, seed=2)), baseline(series(10.0, 0.1)))
    short, long = found[0], found[-1]
    assert short is not None
    assert short.phases is None  # within its budget: mostly prefill, which has not changed
    assert says(long).startswith("in decode: decode +10.")
    assert says(long).endswith("from 4 output lengths")
    assert long is not None
    assert why.short(long) == "more power in decode"


def test_a_change_of_prefill_is_told_from_one_of_decode() -> None:
    for now, then in ((12.0, 10.0), (10.0, 12.0)):
        told = changes(arms(series(now, 0.1, seed=2)), baseline(series(then, 0.1)))[0]
        assert says(told).startswith("in prefill: decode ")


def test_the_first_token_comes_out_of_the_prefill() -> None:
    told = judged(arms(series(12.0, 0.1, noise=0.0)), baseline(series(10.0, 0.1, noise=0.0)))[0]
    assert told is not None
    assert told.decode is not None
    assert (told.prefill.value, told.decode.value) == pytest.approx((0.2, 0.0), abs=1e-4)


def test_what_a_start_may_do_to_one_length_is_in_the_doubt() -> None:
    then, now = series(6.0, 2.0, noise=0.0), series(6.48, 2.16, noise=0.0)
    assert set(judged(arms(now), baseline(then), regressed=4)) == {None}


def test_stacks_that_are_measured_in_turn_tell_as_well() -> None:
    then = arms(series(10.0, 0.1))
    now = tuple(
        msgspec.structs.replace(one, against=other.runs)
        for one, other in zip(arms(series(10.0, 0.12, seed=2)), then, strict=True)
    )
    assert says(changes(now, None)[-1]).startswith("in decode: decode +")


def test_of_lengths_metered_in_more_rounds_than_others_those_that_all_have_tell() -> None:
    def of_rounds(one: Arm, now: tuple[int, ...], then: tuple[int, ...]) -> Arm:
        made = [tuple(msgspec.structs.replace(one.runs[0], round=n) for n in rounds) for rounds in (now, then)]
        return msgspec.structs.replace(one, runs=made[0], against=made[1])

    short, long = arms(series(10.0, 0.1, lengths=(32, 256)))
    found = in_common_rounds([of_rounds(short, (0, 1, 2), (0, 1, 2)), of_rounds(long, (0, 2, 6, 7), (0, 1, 2, 6))])
    assert [[run.round for run in runs] for each in found for runs in (each.runs, each.against)] == [[0, 2]] * 4


def test_two_lengths_are_enough_and_one_is_not() -> None:
    two, one = (32, 256), (256,)
    now, then = (10.0, 0.13), (10.0, 0.10)
    assert judged(arms(series(*now, lengths=two)), baseline(series(*then, lengths=two)))[-1] is not None
    assert judged(arms(series(*now, lengths=one)), baseline(series(*then, lengths=one)), regressed=1)[-1] is None


@pytest.mark.parametrize(
    ("prefill", "decode", "noise"),
    [
        pytest.param(0.3, 2.0, 0.001, id="prefill is too small a share to be told"),
        pytest.param(10.0, 0.1, 0.02, id="the runs scatter"),
        pytest.param(-0.5, 0.1, 0.001, id="no prefill takes less than nothing"),
    ],
)
def test_a_fit_that_cannot_tell_says_nothing(prefill: float, decode: float, noise: float) -> None:
    now = series(prefill * 1.1, decode * 1.1, noise=noise, seed=2)
    then = baseline(series(prefill, decode, noise=noise))
    assert set(judged(arms(now), then, regressed=1)) == {None}


def test_energy_that_is_no_straight_line_says_nothing() -> None:
    bent = {n: [joules * (1.5 if n == 64 else 1.0) for joules in runs] for n, runs in series(10.0, 0.1).items()}
    now = {n: [1.2 * joules for joules in runs] for n, runs in bent.items()}
    assert set(judged(arms(now), baseline(bent), regressed=4)) == {None}


def test_arms_that_differ_in_more_than_the_output_are_no_series() -> None:
    def mixed(factor: float) -> tuple[Arm, ...]:
        made = arms({n: [factor * x for x in runs] for n, runs in series(10.0, 0.1, lengths=(32, 64)).items()})
        other = BATCH.replace(output_tokens=64, input_tokens=128)
        return (made[0], arm("short", [run.joules_per_unit for run in made[1].runs], other))

    then = baseline(series(10.0, 0.1, lengths=(32, 64)))
    short = {"short": mixed(1.0)[1].identity or {}}
    samples = then.sessions[0].starts[0][KEY.case]
    case = msgspec.structs.replace(then.cases[KEY.case], arms={**then.cases[KEY.case].arms, **short})
    session = msgspec.structs.replace(
        then.sessions[0], starts=({KEY.case: {**samples, "short": samples["output_tokens=64"]}},)
    )
    both = msgspec.structs.replace(then, cases={KEY.case: case}, sessions=(session,))
    assert judged(mixed(1.2), both, regressed=2) == [None, None]


def test_requests_that_arrive_online_are_not_taken_apart() -> None:
    online = BATCH.replace(online=Online())
    now = series(10.0, 0.13, seed=2)
    assert set(judged(arms(now, online), baseline(series(10.0, 0.1), online), regressed=4)) == {None}


def test_one_output_token_is_prefill_alone() -> None:
    one = BATCH.replace(output_tokens=1)
    (told,) = changes(arms({1: [12.0, 12.01, 12.02]}, one), baseline({1: [10.0, 10.01, 10.02]}, one))
    assert says(told) == "in prefill: a request of one output token is prefill alone"
