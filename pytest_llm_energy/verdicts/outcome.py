"""What one claim comes to: a statement with its interval, and whether that holds, fails or is left open."""

from typing import Literal

import msgspec

from pytest_llm_energy.verdicts.statistics import Interval

Outcome = Literal["holds", "fails", "open"]


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What the measurement says about one claim.

    Attributes:
        says: the claim in words, with the arms it is about.
        interval: the effect or growth exponent it is about.
        kind: what the interval is: ``effect`` (relative difference) or ``exponent``.
        outcome: whether the claim holds, fails, or is left open by the noise.
    """

    says: str
    interval: Interval
    kind: Literal["effect", "exponent"]
    outcome: Outcome


def inside(interval: Interval, low: float, high: float) -> Outcome:
    """That the truth lies between two limits: shown by the whole interval, or refuted by it."""
    return decide(
        holds=low < interval.low and interval.high < high,
        fails=interval.high < low or interval.low > high,
    )


def decide(*, holds: bool, fails: bool) -> Outcome:
    """The outcome of what is shown to hold, to fail, or neither."""
    return "fails" if fails else "holds" if holds else "open"
