"""Claims: what a finding asserts, as values that can be recorded and judged again later.

A claim holds, or fails, only when the whole interval says so; otherwise nothing is shown.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.measured import Measured, Run
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval

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


class Saves(msgspec.Struct, frozen=True, tag_field="claim", tag="saves", forbid_unknown_fields=True):
    """Every arm takes less energy per token than the control.

    Attributes:
        margin: how far above the control an arm must lie before the claim fails.
    """

    margin: float = 0.0

    def bearing(self, margin: float) -> "Saves":
        """The claim with a margin for noisy hosts."""
        return Saves(margin)

    def statements(self, measured: Measured, *, alpha: float = ALPHA) -> list[Statement]:
        """One per arm other than the control."""
        return [
            Statement(
                says=f"{arm} saves against {control}",
                interval=effect,
                kind="effect",
                outcome=_decide(holds=effect.high < 0, fails=effect.low > self.margin),
            )
            for arm, control, effect in _effects(measured, alpha)
        ]


class Costs(msgspec.Struct, frozen=True, tag_field="claim", tag="costs", forbid_unknown_fields=True):
    """Every arm takes more energy per token than the control.

    Attributes:
        margin: how far below the control an arm must lie before the claim fails.
    """

    margin: float = 0.0

    def bearing(self, margin: float) -> "Costs":
        """The claim with a margin for noisy hosts."""
        return Costs(margin)

    def statements(self, measured: Measured, *, alpha: float = ALPHA) -> list[Statement]:
        """One per arm other than the control."""
        return [
            Statement(
                says=f"{arm} costs more than {control}",
                interval=effect,
                kind="effect",
                outcome=_decide(holds=effect.low > 0, fails=effect.high < -self.margin),
            )
            for arm, control, effect in _effects(measured, alpha)
        ]


class Differs(msgspec.Struct, frozen=True, tag_field="claim", tag="differs", forbid_unknown_fields=True):
    """Every arm lies within a fraction of the control.

    Attributes:
        at_most: largest relative difference, either way.
    """

    at_most: float

    def statements(self, measured: Measured, *, alpha: float = ALPHA) -> list[Statement]:
        """One per arm other than the control."""
        return [
            Statement(
                says=f"{arm} differs from {control} by at most {self.at_most:.1%}",
                interval=effect,
                kind="effect",
                outcome=_inside(effect, -self.at_most, self.at_most),
            )
            for arm, control, effect in _effects(measured, alpha)
        ]


class Slope(msgspec.Struct, frozen=True, tag_field="claim", tag="slope", forbid_unknown_fields=True):
    """Energy per request grows as a power of a scenario's field.

    Attributes:
        over: the field, such as ``output_tokens``.
        exponent: the power; 1 is linear growth.
        tolerance: how far the exponent may lie from it, either way.
    """

    over: str
    exponent: float = 1.0
    tolerance: float = 0.2

    def statements(self, measured: Measured, *, alpha: float = ALPHA) -> list[Statement]:
        """One, about all scenarios of the series."""
        interval = _growth(measured, self.over, below=math.inf, alpha=alpha)
        low, high = self.exponent - self.tolerance, self.exponent + self.tolerance
        return [
            Statement(
                says=f"J/request grows as {self.over}^{self.exponent:g} (+-{self.tolerance:g})",
                interval=interval,
                kind="exponent",
                outcome=_inside(interval, low, high),
            )
        ]


class FlatBelow(msgspec.Struct, frozen=True, tag_field="claim", tag="flat-below", forbid_unknown_fields=True):
    """Energy per request hardly grows with a scenario's field up to a limit.

    Attributes:
        over: the field, such as ``input_tokens``.
        limit: the claim is about scenarios up to this value.
        tolerance: largest growth exponent that counts as flat (proportional growth has 1).
    """

    over: str
    limit: int
    tolerance: float = 0.25

    def statements(self, measured: Measured, *, alpha: float = ALPHA) -> list[Statement]:
        """One, about the scenarios up to the limit."""
        interval = _growth(measured, self.over, below=self.limit, alpha=alpha)
        return [
            Statement(
                says=f"J/request is flat up to {self.limit} {self.over} (exponent < {self.tolerance:g})",
                interval=interval,
                kind="exponent",
                outcome=_decide(holds=interval.high < self.tolerance, fails=interval.low > self.tolerance),
            )
        ]


Claim = Saves | Costs | Differs | Slope | FlatBelow

saves = Saves()
costs = Costs()


def differs(*, at_most: float) -> Differs:
    """Every arm lies within ``at_most`` (a fraction) of the control."""
    return Differs(at_most)


def slope(over: str, *, exponent: float = 1.0, tolerance: float = 0.2) -> Slope:
    """Energy per request grows as ``over ** exponent``, the exponent within ``tolerance``."""
    return Slope(over, exponent, tolerance)


def flat_below(over: str, limit: int, *, tolerance: float = 0.25) -> FlatBelow:
    """Energy per request hardly grows with ``over`` up to ``limit``."""
    return FlatBelow(over, limit, tolerance)


def _effects(measured: Measured, alpha: float) -> Iterable[tuple[str, str, Interval]]:
    if measured.control is None:
        raise MeasurementError(f"{measured.key}: this claim needs arms with a control, not a series")
    control = measured[measured.control]
    rounds = measured.rounds()
    for arm in measured.arms:
        if arm.name == control.name:
            continue
        pairs = [(r[arm.name], r[control.name]) for r in rounds]
        if not pairs:
            raise MeasurementError(f"{measured.key}: no round in which every arm has a valid run")
        yield arm.name, control.name, paired(pairs, alpha=alpha)


def _joules_per_unit(run: Run) -> float:
    return run.joules_per_unit


def paired(
    pairs: Iterable[tuple[Run, Run]],
    of: Callable[[Run], float] = _joules_per_unit,
    *,
    window_sd: float | None = None,
    alpha: float = ALPHA,
) -> Interval:
    """Relative difference over runs that were interleaved, of joules per unit or of another value.

    Args:
        pairs: the two runs of each round.
        of: the value of a run.
        window_sd: what is known of the spread of windows beside that of these (``statistics.ratio``).
        alpha: chance, per bound, that it excludes the truth.
    """
    blocks: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one, other in pairs:
        blocks.setdefault((one.start, other.start), []).append((of(one), of(other)))
    starts_differ = any(one != other for one, other in blocks)
    return statistics.ratio(list(blocks.values()), starts_differ=starts_differ, window_sd=window_sd, alpha=alpha)


def _growth(measured: Measured, field: str, *, below: float, alpha: float) -> Interval:
    """Interval of the growth exponent of energy per request, from one estimate a round."""
    xs: dict[str, float] = {}
    for arm in measured.arms:
        value = (arm.identity or {}).get(field)
        if not isinstance(value, int):
            raise MeasurementError(f"{measured.key}: arm {arm.name} has no number {field!r} to grow with")
        if value <= below:
            xs[arm.name] = value
    if len(set(xs.values())) < 2:
        raise MeasurementError(f"{measured.key}: growth needs two values of {field!r} up to {below:g}")
    exponents = [_round_exponent(xs, runs) for runs in measured.rounds()]
    if not exponents:
        raise MeasurementError(f"{measured.key}: no round in which every scenario has a valid run")
    return statistics.mean_interval(exponents, alpha=alpha)


def _round_exponent(xs: dict[str, float], runs: dict[str, Run]) -> float:
    return statistics.exponent(list(xs.values()), [runs[name].joules_per_request for name in xs])


def _inside(interval: Interval, low: float, high: float) -> Outcome:
    return _decide(
        holds=low < interval.low and interval.high < high,
        fails=interval.high < low or interval.low > high,
    )


def _decide(*, holds: bool, fails: bool) -> Outcome:
    return "fails" if fails else "holds" if holds else "open"
