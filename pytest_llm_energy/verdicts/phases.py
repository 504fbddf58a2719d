"""Whether a change lies in prefill or in decode, where output lengths of a case can tell.

A request takes ``prefill(input) + decode * (output - 1)`` joules: its first token comes out of the prefill. So two
output lengths or more, everything else equal, give both by a straight line. Each round of runs gives a line of its
own, and the lines scatter as the runs do.
"""

import math
import statistics as stats
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.causes import tells_nothing
from pytest_llm_energy.verdicts.measured import Arm
from pytest_llm_energy.verdicts.noise import Component, Noise
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, Sample

MOST_MISFIT = 0.05
"""Relative distance of a run from its line beyond which a request is not the sum of such parts. The growing
context that attention reads bends the line of Llama-3.1-8B at batch 64 by 0.6 % (calculated, 32 to 256 tokens)."""

RunsByStart = Sequence[Sequence[float]]
"""Joules per output token, by engine start and run."""


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """A change of joules per request, split into prefill and decode.

    Attributes:
        prefill: relative change of the joules of a prefill.
        decode: relative change of the joules of each further token; None where a request has one token alone.
        lengths: output lengths that they are from.
    """

    prefill: Interval
    decode: Interval | None
    lengths: int


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A straight line through the runs of one round.

    Attributes:
        prefill: joules of a request of one token.
        decode: joules of each further token.
        errors: uncertainty of either in joules, in units of the relative one of a run.
        misfit: largest relative distance of a run from the line.
    """

    prefill: float
    decode: float
    errors: tuple[float, float]
    misfit: float


def series_of(arm: Arm, arms: Sequence[Arm]) -> dict[int, Arm]:
    """Arms that serve the same as one, but for the output length, by that; empty where none can be told."""
    work = _but_for_length(arm)
    if work is None or "online" in work:  # online a longer request changes what is served beside it
        return {}
    alike = [other for other in arms if _but_for_length(other) == work]
    return {other.identity["output_tokens"]: other for other in alike if other.identity}


def phases(
    change: Interval,
    now: Mapping[int, RunsByStart],
    then: Mapping[int, RunsByStart],
    sides: tuple[Sample, Sample],
    *,
    noise: Noise,
    alpha: float = ALPHA,
) -> Phases | None:
    """Where a level's change lies; None where the runs cannot tell a part with all of it from one with none.

    Args:
        change: relative change of the level.
        now: runs by output length, of engine starts and rounds in the same order at every length.
        then: the same of the reference.
        sides: the level now and its reference, for all else that the intervals depend on.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.
    """
    lines = _fitted(now, then)
    if lines is None:
        return None
    samples = [_samples(side, of, noise) for side, of in zip(lines, sides, strict=True)]
    prefill, decode = (
        statistics.change(one, other, noise=noise, alpha=alpha) for one, other in zip(*samples, strict=True)
    )
    return _told(change, prefill, decode, lengths=len(now))


def interleaved_phases(
    change: Interval,
    now: Mapping[int, RunsByStart],
    then: Mapping[int, RunsByStart],
    *,
    noise: Noise,
    window: Component | None = None,
    alpha: float = ALPHA,
) -> Phases | None:
    """The same for two stacks side by side, whose rounds share all but their engine starts.

    Args:
        change: relative change of the level.
        now: runs by output length, of engine starts and rounds in the same order at every length and on both sides.
        then: the same of the other stack.
        noise: how levels scatter, as far as these do not tell.
        window: how one window does as other arms have it, to be weighed in (``statistics.ratio``).
        alpha: chance, per bound, that it excludes the truth.
    """
    lines = _fitted(now, then)
    if lines is None:
        return None
    starts = [list(zip(*sides, strict=False)) for sides in zip(*lines, strict=False)]
    pairs = [pair for start in starts for pair in start]
    parts = []
    for of, error in ((_prefill, 0), (_decode, 1)):
        # A part scatters by more than the runs that its line goes through.
        amplified = stats.fmean((line.errors[error] / of(line)) ** 2 for pair in pairs for line in pair)
        scaled = msgspec.structs.replace(window, sd=window.sd * math.sqrt(amplified)) if window else None
        blocks = [[(of(one), of(other)) for one, other in start] for start in starts]
        parts.append(statistics.ratio(blocks, shifted=2 * amplified, noise=noise, window=scaled, alpha=alpha))
    return _told(change, *parts, lengths=len(now))


def _prefill(line: "_Line") -> float:
    return line.prefill


def _decode(line: "_Line") -> float:
    return line.decode


def _fitted(
    now: Mapping[int, RunsByStart], then: Mapping[int, RunsByStart]
) -> tuple[list[list["_Line"]], list[list["_Line"]]] | None:
    """Lines of both sides by start and round; None where one has none, or a round does not lie on its line."""
    if len(now) < 2 or now.keys() != then.keys():
        return None
    lines = (_lines(now), _lines(then))
    if not all(lines) or any(line.misfit > MOST_MISFIT for side in lines for start in side for line in start):
        return None
    return lines


def _told(change: Interval, prefill: Interval, decode: Interval, *, lengths: int) -> Phases | None:
    if tells_nothing(prefill, change.value) or tells_nothing(decode, change.value):
        return None
    return Phases(prefill=prefill, decode=decode, lengths=lengths)


def _but_for_length(arm: Arm) -> dict[str, Any] | None:
    if arm.identity is None or "output_tokens" not in arm.identity:
        return None
    return {name: value for name, value in arm.identity.items() if name != "output_tokens"}


def _lines(runs: Mapping[int, RunsByStart]) -> list[list[_Line]]:
    """A line per start and round; empty where one has a part that is no energy."""
    lengths = sorted(runs)
    starts = []
    for of_start in zip(*(runs[length] for length in lengths), strict=False):
        starts.append([_line(lengths, joules_per_token) for joules_per_token in zip(*of_start, strict=False)])
    whole = starts and all(line.prefill > 0 and line.decode > 0 for start in starts for line in start)
    return starts if whole else []


def _line(lengths: Sequence[int], joules_per_token: Sequence[float]) -> _Line:
    """Least squares of relative distances: the runs' errors grow with their energy."""
    requests = [length * joules for length, joules in zip(lengths, joules_per_token, strict=True)]
    points = [(length - 1, joules, joules**-2) for length, joules in zip(lengths, requests, strict=True)]
    weight = sum(w for _, _, w in points)
    moment = sum(w * x for x, _, w in points)
    square = sum(w * x * x for x, _, w in points)
    spread = weight * square - moment**2
    at_one = [w * (square - moment * x) / spread * y for x, y, w in points]
    per_token = [w * (weight * x - moment) / spread * y for x, y, w in points]
    prefill, decode = sum(at_one), sum(per_token)
    return _Line(
        prefill=prefill,
        decode=decode,
        errors=(math.hypot(*at_one), math.hypot(*per_token)),
        misfit=max(abs(prefill + decode * x - y) / y for x, y, _ in points),
    )


def _samples(starts: Sequence[Sequence[_Line]], side: Sample, noise: Noise) -> tuple[Sample, Sample]:
    """Prefill and decode of one side as levels of their own."""
    lines = [line for start in starts for line in start]
    rounds = len(lines) / len(starts)
    # What an engine start does to one length alone does not average over the runs of that start.
    of_run = math.hypot(side.relative_uncertainty, noise.start.sd * math.sqrt(rounds))
    return (
        msgspec.structs.replace(
            side,
            starts=tuple(tuple(line.prefill for line in start) for start in starts),
            relative_uncertainty=of_run * stats.fmean(line.errors[0] / line.prefill for line in lines),
        ),
        msgspec.structs.replace(
            side,
            starts=tuple(tuple(line.decode for line in start) for start in starts),
            relative_uncertainty=of_run * stats.fmean(line.errors[1] / line.decode for line in lines),
        ),
    )
