"""Claims about prefill and decode: how fast prefill grows, and what decoding takes beside it."""

import math
from typing import Literal

import msgspec

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.estimates import paired
from pytest_llm_energy.verdicts.measured import Measured
from pytest_llm_energy.verdicts.noise import ASSUMED, Noise
from pytest_llm_energy.verdicts.outcome import Statement, decide, inside
from pytest_llm_energy.verdicts.phases import series_of
from pytest_llm_energy.verdicts.scatter import Spread
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval

Per = Literal["token", "request"]
"""What the energy of decoding and that of prefill are compared per."""


class SameRate(msgspec.Struct, frozen=True, tag_field="claim", tag="same-rate", forbid_unknown_fields=True):
    """Energy per request grows with one field of a scenario as fast, whatever another field is.

    A quarter either way is the usual tolerance: a tenth of a decade, and the paper has the rates as lines on
    logarithmic axes of several decades (Fig. 1, 9), where less is hardly seen. The rates at batch 16 and 1 were
    recorded within 2 % of each other on H200s (``docs/findings.md``), those at 4 and 1 within a fifth on a CPU.

    Attributes:
        over: the field that energy grows with, such as ``input_tokens``.
        across: the field that makes no difference, such as ``batch_size``.
        tolerance: largest relative difference of the rate at its largest value from that at the smallest.
    """

    over: str
    across: str
    tolerance: float = 0.25

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One, about the rates between the smallest and the largest value of the field that energy grows with.

        Raises:
            MeasurementError: the scenarios do not have two values of either field, or differ in others.
        """
        low, high, apart = rates_apart(measured, self.over, across=self.across, noise=noise, alpha=alpha)
        return [
            Statement(
                says=f"J/request grows with {self.over} as fast at {self.across} {high} as at {low} "
                f"(+-{self.tolerance:.0%})",
                interval=apart,
                kind="effect",
                outcome=inside(apart, -self.tolerance, self.tolerance),
            )
        ]


SAYS: dict[Per, str] = {
    "token": "a decoded token takes more than a prefilled one",
    "request": "decode takes more than prefill",
}


class DecodeAbovePrefill(
    msgspec.Struct, frozen=True, tag_field="claim", tag="decode-above-prefill", forbid_unknown_fields=True
):
    """Decoding takes more energy than prefill: per token of each, or in all of a request.

    Prefill is a request of one output token, and decoding is what a longer one takes beyond that.

    Attributes:
        per: what the energy of either is divided by.
    """

    per: Per

    def statements(self, measured: Measured, *, noise: Noise = ASSUMED, alpha: float = ALPHA) -> list[Statement]:
        """One, about the longest output.

        Raises:
            MeasurementError: the scenarios differ in more than the output length, or none has one output token.
        """
        input_tokens, output_tokens, beyond = decode_beside_prefill(measured, self.per, noise=noise, alpha=alpha)
        return [
            Statement(
                says=f"{SAYS[self.per]} ({input_tokens}+{output_tokens} tokens)",
                interval=beyond,
                kind="effect",
                outcome=decide(holds=beyond.low > 0, fails=beyond.high < 0),
            )
        ]


def rates_apart(
    measured: Measured, over: str, *, across: str, noise: Noise, alpha: float
) -> tuple[int, int, Interval]:
    """How much faster energy per request grows with a field at the largest value of another than at the smallest.

    A rate is joules per request and unit of the field, from the smallest to the largest value of it. Each round of
    runs gives both rates; what moves all levels of an engine start alike moves both, and not their ratio.

    Args:
        measured: a series with every value of the one field at every value of the other, alike in all else.
        over: the field that energy grows with.
        across: the field that the rates are compared at two values of.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        The smallest and the largest value of the other field, and the relative difference of the rates. It has no
        bounds where a round shows no growth at the smallest value: there is no rate then to compare with.

    Raises:
        MeasurementError: something else was measured, or no round has a valid run of each.
    """
    low, high, corners = _corners(measured, over, across)
    ratios: list[float] = []
    of_starts: list[float] = []
    starts: set[tuple[str, ...]] = set()
    for runs in measured.rounds():
        joules = [runs[name].joules_per_request for name in corners]
        rise, usual = joules[0] - joules[1], joules[2] - joules[3]
        if usual <= 0:
            return low, high, Interval(math.inf, -math.inf, math.inf)
        ratios.append(rise / usual)
        # By how much the ratio moves as each of the levels does, relative.
        moves = [level / usual * factor for level, factor in zip(joules, (1, 1, *[rise / usual] * 2), strict=True)]
        of_starts.append(noise.start.spread.variance * math.fsum(move**2 for move in moves))
        starts.add(tuple(runs[name].start for name in corners))
    if not ratios:
        raise MeasurementError(f"{measured.key}: no round in which every scenario has a valid run")
    apart = any(len(set(four)) > 1 for four in starts)
    own = Spread(math.fsum(of_starts) / len(of_starts) / len(starts), noise.start.spread.freedom)
    differences = [ratio - 1 for ratio in ratios]
    return low, high, statistics.mean_interval(differences, beside=[own] if apart else [], alpha=alpha)


def _corners(measured: Measured, over: str, across: str) -> tuple[int, int, list[str]]:
    """Extremes of the other field, and at the larger of those first, the arms at the largest and smallest one."""
    arms: dict[tuple[int, int], str] = {}
    rest = []
    for arm in measured.arms:
        fields = dict(arm.identity or {})
        one, other = (fields.pop(name, None) for name in (over, across))
        if isinstance(one, int) and isinstance(other, int):
            arms[one, other] = arm.name
        rest.append(fields)
    xs, values = ({point[of] for point in arms} for of in (0, 1))
    is_grid = len(arms) == len(measured.arms) == len(xs) * len(values)
    if not is_grid or min(len(xs), len(values)) < 2 or any(fields != rest[0] for fields in rest):
        raise MeasurementError(
            f"{measured.key}: this claim needs scenarios at two values of {over} or more, each at the same two "
            f"values or more of {across}, and alike in all else"
        )
    low, high = min(values), max(values)
    return low, high, [arms[x, value] for value in (high, low) for x in (max(xs), min(xs))]


def decode_beside_prefill(measured: Measured, per: Per, *, noise: Noise, alpha: float) -> tuple[int, int, Interval]:
    """How far the energy of decoding lies above that of prefill, relative to it.

    A request of one token is prefilled and no more, so a longer one that takes ``1 + d`` times its energy decodes
    for ``d`` times that of its prefill. Energies are positive, so their ratio has an interval also where the two
    are hardly apart.

    Args:
        measured: a series over the output length, with one token and more.
        per: whether either is divided by its tokens: those of the input, and those of the output after the first.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        Tokens of the input, tokens of the longest output, and the relative difference.

    Raises:
        MeasurementError: something else was measured, or no round has a valid run of each.
    """
    series = series_of(measured.arms[0], measured.arms)
    if len(series) < 2 or len(series) != len(measured.arms) or 1 not in series:
        raise MeasurementError(
            f"{measured.key}: this claim needs scenarios that differ in output_tokens alone, one of them with 1, "
            "and not online, where a longer request changes what is served beside it"
        )
    longest = max(series)
    pairs = [(runs[series[longest].name], runs[series[1].name]) for runs in measured.rounds()]
    if not pairs:
        raise MeasurementError(f"{measured.key}: no round in which every scenario has a valid run")
    whole = paired(pairs, lambda run: run.joules_per_request, noise=noise, alpha=alpha)
    prefilled = int((series[1].identity or {})["input_tokens"])
    times = prefilled / (longest - 1) if per == "token" else 1.0
    value, low, high = (x * times - 1 for x in (whole.value, whole.low, whole.high))
    return prefilled, longest, Interval(value, low, high, whole.fixed * times)
