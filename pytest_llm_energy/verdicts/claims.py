"""Claims: what a finding asserts, as values that can be recorded and judged again later.

A claim holds, or fails, only when the whole interval says so; otherwise nothing is shown.
"""

import math

import msgspec

from pytest_llm_energy.errors import MeasurementError, UsageError
from pytest_llm_energy.verdicts.estimates import Effect, effects, excess, growth, widening, workload_effects
from pytest_llm_energy.verdicts.measured import Measured
from pytest_llm_energy.verdicts.noise import ASSUMED, Noise
from pytest_llm_energy.verdicts.outcome import Outcome, Statement, decide, inside
from pytest_llm_energy.verdicts.phase_claims import DecodeAbovePrefill, SameRate
from pytest_llm_energy.verdicts.statistics import ALPHA
from pytest_llm_energy.workloads.bins import Histogram

__all__ = [
    "Above",
    "Claim",
    "Costs",
    "DecodeAbovePrefill",
    "Differs",
    "FlatBelow",
    "Outcome",
    "Rises",
    "SameRate",
    "Saves",
    "SavesOn",
    "Slope",
    "Statement",
    "above",
    "costs",
    "decode_costs_more",
    "decode_dominates",
    "differs",
    "draws_less",
    "faster",
    "flat_below",
    "rises",
    "same_rate",
    "saves",
    "saves_on",
    "slope",
]


LESS: dict[Effect, str] = {
    "energy": "saves against",
    "latency": "is faster than",
    "device-power": "draws less per device than",
}
MORE: dict[Effect, str] = {
    "energy": "costs more than",
    "latency": "is slower than",
    "device-power": "draws more per device than",
}
WHAT_OF: dict[Effect, str] = {"energy": "", "latency": " in time", "device-power": " in power per device"}


class Saves(msgspec.Struct, frozen=True, tag_field="claim", tag="saves", forbid_unknown_fields=True):
    """Every arm takes less energy per token than the control, less time, or less power per device.

    Attributes:
        margin: how far above the control an arm must lie before the claim fails.
        of: what it takes less of.
    """

    margin: float = 0.0
    of: Effect = "energy"

    def bearing(self, margin: float) -> "Saves":
        """The claim with a margin for noisy hosts."""
        return Saves(margin, self.of)

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One per arm other than the control."""
        return [
            Statement(
                says=f"{arm} {LESS[self.of]} {control}",
                interval=effect,
                kind="effect",
                outcome=decide(holds=effect.high < 0, fails=effect.low > self.margin),
            )
            for arm, control, effect in effects(measured, alpha, noise=noise, of=self.of)
        ]


class Costs(msgspec.Struct, frozen=True, tag_field="claim", tag="costs", forbid_unknown_fields=True):
    """Every arm takes more energy per token than the control, more time, or more power per device.

    Attributes:
        margin: how far below the control an arm must lie before the claim fails.
        of: what it takes more of.
    """

    margin: float = 0.0
    of: Effect = "energy"

    def bearing(self, margin: float) -> "Costs":
        """The claim with a margin for noisy hosts."""
        return Costs(margin, self.of)

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One per arm other than the control."""
        return [
            Statement(
                says=f"{arm} {MORE[self.of]} {control}",
                interval=effect,
                kind="effect",
                outcome=decide(holds=effect.low > 0, fails=effect.high < -self.margin),
            )
            for arm, control, effect in effects(measured, alpha, noise=noise, of=self.of)
        ]


class Differs(msgspec.Struct, frozen=True, tag_field="claim", tag="differs", forbid_unknown_fields=True):
    """Every arm lies within a fraction of the control, in energy per token, time, or power per device.

    Attributes:
        at_most: largest relative difference, either way.
        of: what it differs in.
    """

    at_most: float
    of: Effect = "energy"

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One per arm other than the control."""
        return [
            Statement(
                says=f"{arm} differs from {control} by at most {self.at_most:.1%}{WHAT_OF[self.of]}",
                interval=effect,
                kind="effect",
                outcome=inside(effect, -self.at_most, self.at_most),
            )
            for arm, control, effect in effects(measured, alpha, noise=noise, of=self.of)
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

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One, about all scenarios of the series."""
        interval = growth(measured, self.over, below=math.inf, noise=noise, alpha=alpha)
        low, high = self.exponent - self.tolerance, self.exponent + self.tolerance
        return [
            Statement(
                says=f"J/request grows as {self.over}^{self.exponent:g} (+-{self.tolerance:g})",
                interval=interval,
                kind="exponent",
                outcome=inside(interval, low, high),
            )
        ]


class FlatBelow(msgspec.Struct, frozen=True, tag_field="claim", tag="flat-below", forbid_unknown_fields=True):
    """Energy per request hardly grows with a scenario's field up to a limit.

    Attributes:
        over: the field, such as ``input_tokens``.
        limit: the claim is about scenarios up to this value.
        tolerance: largest growth exponent that counts as flat (proportional growth has 1). With a quarter eight
            times the tokens take two thirds more at most: a floor rises too, by each token's arithmetic.
    """

    over: str
    limit: int
    tolerance: float = 0.25

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One, about the scenarios up to the limit."""
        interval = growth(measured, self.over, below=self.limit, noise=noise, alpha=alpha)
        return [
            Statement(
                says=f"J/request is flat up to {self.limit} {self.over} (exponent < {self.tolerance:g})",
                interval=interval,
                kind="exponent",
                outcome=decide(holds=interval.high < self.tolerance, fails=interval.low > self.tolerance),
            )
        ]


class Rises(msgspec.Struct, frozen=True, kw_only=True, tag_field="claim", tag="rises", forbid_unknown_fields=True):
    """What one kind of scenario takes beside another is more, the larger a field of both is.

    Attributes:
        over: the field, such as ``batch_size``.
        between: the field that the two kinds are apart in.
        control: its value in the kind that the other stands beside.
        what: the effect, in words.
    """

    over: str
    between: str
    control: str | bool
    what: str

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One, about the largest and the smallest value of the field."""
        low, high, apart = widening(
            measured, self.over, between=self.between, control=self.control, noise=noise, alpha=alpha
        )
        return [
            Statement(
                says=f"{self.what} is more at {self.over} {high} than at {low}",
                interval=apart,
                kind="effect",
                outcome=decide(holds=apart.low > 0, fails=apart.high < 0),
            )
        ]


class Above(msgspec.Struct, frozen=True, kw_only=True, tag_field="claim", tag="above", forbid_unknown_fields=True):
    """Every arm takes more energy per request than a figure that was computed, not measured.

    Attributes:
        joules_per_request: the figure.
        what: what it is, in words.
        nearest: the arm that comes nearer to it than every other; None to claim that of none.
    """

    joules_per_request: float
    what: str
    nearest: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.joules_per_request < math.inf:
            raise UsageError(f"{self.what} is {self.joules_per_request} J a request: nothing lies above that")

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One per arm, and one per arm that the nearest is nearer than."""
        figure = f"{self.what} of {self.joules_per_request:.4g} J/request"
        found = []
        for arm in measured.arms:
            above = excess(arm, self.joules_per_request, noise=noise, alpha=alpha)
            outcome = decide(holds=above.low > 0, fails=above.high < 0)
            says = f"{arm.name} takes more than {figure}"
            found.append(Statement(says=says, interval=above, kind="effect", outcome=outcome))
        if self.nearest is None:
            return found
        if self.nearest not in [arm.name for arm in measured.arms]:
            raise MeasurementError(f"{measured.key}: no arm {self.nearest!r} was measured")
        for arm_name, nearest, effect in effects(
            measured, alpha, noise=noise, control=self.nearest, of="energy-per-request"
        ):
            outcome = decide(holds=effect.low > 0, fails=effect.high < 0)
            says = f"{arm_name} is farther from {self.what} than {nearest}"
            found.append(Statement(says=says, interval=effect, kind="effect", outcome=outcome))
        return found


class SavesOn(msgspec.Struct, frozen=True, tag_field="claim", tag="saves-on", forbid_unknown_fields=True):
    """All requests of a workload take less energy served in one way than in another.

    Of a series over requests of several lengths, each served in both ways; lengths that were not measured are
    filled in by a model, whose error is part of the interval.

    Attributes:
        workload: how many requests of which lengths there are.
        over: the field of a scenario that tells the two ways apart, such as ``engine``.
        control: its value in the way that is saved against.
    """

    workload: Histogram
    over: str
    control: str

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One per way other than the control."""
        effects = workload_effects(
            measured, self.workload, over=self.over, control=self.control, noise=noise, alpha=alpha
        )
        return [
            Statement(
                says=f"{way} saves on {self.workload.name} against {self.control}",
                interval=effect,
                kind="effect",
                outcome=decide(holds=effect.high < 0, fails=effect.low > 0),
            )
            for way, effect in effects.items()
        ]


Claim = Saves | Costs | Differs | Slope | FlatBelow | Rises | SameRate | DecodeAbovePrefill | Above | SavesOn

saves = Saves()
costs = Costs()
faster = Saves(of="latency")
slower = Costs(of="latency")
draws_less = Saves(of="device-power")
decode_costs_more = DecodeAbovePrefill("token")
decode_dominates = DecodeAbovePrefill("request")


def differs(*, at_most: float, of: Effect = "energy") -> Differs:
    """Every arm lies within ``at_most`` (a fraction) of the control."""
    return Differs(at_most, of)


def slope(over: str, *, exponent: float = 1.0, tolerance: float = 0.2) -> Slope:
    """Energy per request grows as ``over ** exponent``, the exponent within ``tolerance``."""
    return Slope(over, exponent, tolerance)


def flat_below(over: str, limit: int, *, tolerance: float = 0.25) -> FlatBelow:
    """Energy per request hardly grows with ``over`` up to ``limit``."""
    return FlatBelow(over, limit, tolerance)


def rises(over: str, *, between: str, control: str | bool, what: str) -> Rises:
    """``what`` scenarios take beside those whose field ``between`` is ``control`` is more at a larger ``over``."""
    return Rises(over=over, between=between, control=control, what=what)


def same_rate(over: str, *, across: str, tolerance: float = 0.25) -> SameRate:
    """Energy per request grows with ``over`` as fast at the largest ``across`` as at the smallest."""
    return SameRate(over, across, tolerance)


def above(joules_per_request: float, *, what: str, nearest: str | None = None) -> Above:
    """Every arm takes more energy per request than a computed figure; ``nearest`` exceeds it the least."""
    return Above(joules_per_request=joules_per_request, what=what, nearest=nearest)


def saves_on(workload: Histogram, *, over: str, control: str) -> SavesOn:
    """All requests of ``workload`` take less than where the field ``over`` of their scenarios is ``control``."""
    return SavesOn(workload, over, control)
