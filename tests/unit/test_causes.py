"""Time or power: what a change of energy is put down to."""

import pytest

from pytest_llm_energy.reporting import why
from pytest_llm_energy.verdicts.causes import Cause, Kind
from pytest_llm_energy.verdicts.rows import Change
from pytest_llm_energy.verdicts.statistics import Interval


def around(value: float, half: float = 0.01) -> Interval:
    return Interval(value, value - half, value + half)


def change(joules: Interval, seconds: Interval, watts: Interval) -> Change:
    cause = Cause.of(joules, seconds, watts)
    return Change(joules=joules, cause=cause, reference_joules=1.0, reference="baseline")


@pytest.mark.parametrize(
    ("joules", "seconds", "watts", "kind", "says"),
    [
        (
            0.20,
            -0.20,
            0.50,
            "faster-but-hungrier",
            "faster but hungrier: power rises more than time per token",
        ),
        (
            0.20,
            0.50,
            -0.20,
            "slower-but-leaner",
            "slower, at less power: time per token rises more than power falls",
        ),
        (0.21, 0.10, 0.10, "slower-and-hungrier", "slower, and hungrier per second"),
        (0.20, 0.20, 0.00, "slower", "slower at the same power"),
        (0.20, 0.00, 0.20, "hungrier", "the same speed at more power"),
        (
            -0.20,
            -0.50,
            0.60,
            "faster-but-hungrier",
            "faster, at more power: time per token falls more than power",
        ),
        (-0.20, 0.60, -0.50, "slower-but-leaner", "leaner but slower: power "),
        (-0.19, -0.10, -0.10, "faster-and-leaner", "faster, and leaner per second"),
        (-0.20, -0.20, 0.00, "faster", "faster at the same power"),
        (-0.20, 0.00, -0.20, "leaner", "the same speed at less power"),
    ],
)
def test_a_change_is_named_by_what_moved(
    joules: float, seconds: float, watts: float, kind: Kind, says: str
) -> None:
    made = change(around(joules), around(seconds), around(watts))
    assert made.cause.kind == kind
    assert why.says(made, "token").startswith(says)


def test_every_kind_has_its_words() -> None:
    for kind in Kind.__args__:  # type: ignore[attr-defined]
        assert why.SHORT[kind]
        assert kind in why.SAYS or {(kind, True), (kind, False)} <= why.OUTWEIGHED.keys()


@pytest.mark.parametrize(
    ("seconds", "kind"), [(around(0.03, 0.02), "slower-and-hungrier"), (around(0.03, 0.04), "hungrier")]
)
def test_the_same_is_what_an_interval_says_that_holds_none(seconds: Interval, kind: Kind) -> None:
    assert Cause.of(around(0.20), seconds, around(0.165, 0.04)).kind == kind


def test_a_part_that_may_be_none_or_all_of_the_change_is_not_called_the_same() -> None:
    assert Cause.of(around(0.05), around(0.02, 0.04), around(0.03, 0.04)).kind == "unclear"
    assert Cause.of(around(0.05), around(0.045, 0.01), around(0.005, 0.06)).kind == "unclear"


def test_a_sliver_that_is_beyond_doubt_is_no_cause() -> None:
    assert Cause.of(around(0.20), around(0.002, 0.001), around(0.198)).kind == "hungrier"
    assert Cause.of(around(0.004, 0.001), around(0.002, 0.001), around(0.002, 0.001)).kind == "slower-and-hungrier"


def test_what_serves_is_said_first_and_the_least_likely_of_many_are_counted() -> None:
    differs = [f"env X{number}: 1 -> 2" for number in range(9)]
    differs += ["os: a -> b", "python: 3.11 -> 3.12", "numpy: 1 -> 2", "triton: 3.5 -> 3.6", "driver: 570 -> 580"]
    differs += ["env VLLM_ATTENTION_BACKEND: none -> FLASHINFER", "torch: 2.10 -> 2.11", "vllm: 0.20.2 -> 0.25.1"]
    assert why.changed(sorted(differs)) == (
        "vllm: 0.20.2 -> 0.25.1, torch: 2.10 -> 2.11, driver: 570 -> 580, "
        "env VLLM_ATTENTION_BACKEND: none -> FLASHINFER, triton: 3.5 -> 3.6, numpy: 1 -> 2, and 11 more"
    )
