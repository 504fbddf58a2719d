"""What runs say, as intervals: effects against a control, growth exponents, levels against a figure."""

import math
import statistics as stats
from collections.abc import Callable, Iterable
from statistics import NormalDist
from typing import Literal

import msgspec

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.measured import Arm, Measured, Run, metering_sd
from pytest_llm_energy.verdicts.noise import Component, Noise
from pytest_llm_energy.verdicts.scatter import Spread
from pytest_llm_energy.verdicts.served_bins import NOT_BINS, bins_of, but_for_shape, serves_batches, shape_of
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, Sample
from pytest_llm_energy.workloads.bins import Histogram
from pytest_llm_energy.workloads.estimate import Estimate, estimate

Effect = Literal["energy", "energy-per-request", "latency", "device-power"]
"""What an effect is about; latency is seconds per token of the whole batch, power that of each device."""


def effects(
    measured: Measured, alpha: float, *, noise: Noise, control: str | None = None, of: Effect = "energy"
) -> Iterable[tuple[str, str, Interval]]:
    """Every other arm, the arm it is compared with, and the relative difference between the two.

    Args:
        measured: the arms.
        alpha: chance, per bound, that it excludes the truth.
        noise: how levels scatter, as far as these do not tell.
        control: what they are compared with; None for their control.
        of: what of them is compared.

    Raises:
        MeasurementError: there is no control, or no round in which every arm has a valid run.
    """
    control = control or measured.control
    if control is None:
        raise MeasurementError(f"{measured.key}: this claim needs arms with a control, not a series")
    rounds = measured.rounds()
    whole = _devices(measured[control])
    for arm in measured.arms:
        if arm.name == control:
            continue
        pairs = [(r[arm.name], r[control]) for r in rounds]
        if not pairs:
            raise MeasurementError(f"{measured.key}: no round in which every arm has a valid run")
        found = paired(pairs, OF_RUN[of], noise=noise, alpha=alpha)
        yield arm.name, control, _times(found, whole / _devices(arm)) if of == "device-power" else found


def _devices(arm: Arm) -> int:
    return int((arm.identity or {}).get("tensor_parallel_size", 1))


def _times(effect: Interval, factor: float) -> Interval:
    """A relative difference where the first of the two is so many times as large."""
    value, low, high = ((1 + x) * factor - 1 for x in (effect.value, effect.low, effect.high))
    return Interval(value, low, high, effect.fixed)


def _joules_per_unit(run: Run) -> float:
    return run.joules_per_unit


OF_RUN: dict[Effect, Callable[[Run], float]] = {
    "energy": _joules_per_unit,
    "energy-per-request": lambda run: run.joules_per_request,
    "latency": lambda run: run.seconds_per_unit,
    "device-power": lambda run: run.joules_per_unit / run.seconds_per_unit,
}
"""Values of a run that effects are about; power is that of all devices together."""


def paired(
    pairs: Iterable[tuple[Run, Run]],
    of: Callable[[Run], float] = _joules_per_unit,
    *,
    noise: Noise,
    window: Component | None = None,
    alpha: float = ALPHA,
) -> Interval:
    """Relative difference over runs that were interleaved, of joules per unit or of another value.

    Args:
        pairs: the two runs of each round.
        of: the value of a run.
        noise: how levels scatter, as far as these do not tell.
        window: how windows do, to be weighed in (``statistics.ratio``).
        alpha: chance, per bound, that it excludes the truth.
    """
    blocks: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one, other in pairs:
        blocks.setdefault((one.start, other.start), []).append((of(one), of(other)))
    shifted = 2 if any(one != other for one, other in blocks) else 0
    return statistics.ratio(list(blocks.values()), shifted=shifted, noise=noise, window=window, alpha=alpha)


def widening(
    measured: Measured, over: str, *, between: str, control: object, noise: Noise, alpha: float
) -> tuple[int, int, Interval]:
    """How much an effect at the largest value of a field exceeds that at the smallest: their ratio, less one.

    Args:
        measured: a series with two scenarios, apart in one field, at each of these values.
        over: the field that grows.
        between: the field that the two are apart in.
        control: its value in the one that the other is compared with.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        The smallest and the largest value, and how far the effects are apart.

    Raises:
        MeasurementError: something else was measured, or no round has a valid run of each.
    """
    arms: dict[int, dict[bool, str]] = {}
    for arm in measured.arms:
        identity = arm.identity or {}
        is_control = identity.get(between, UNSET) == control
        arms.setdefault(identity.get(over, 0), {})[is_control] = arm.name
    if len(arms) < 2 or any(len(two) != 2 for two in arms.values()) or 2 * len(arms) != len(measured.arms):
        raise MeasurementError(
            f"{measured.key}: this claim needs scenarios with {between} {control!r} and with one other value, at "
            f"two values of {over} or more"
        )
    low, high = min(arms), max(arms)
    blocks: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for runs in measured.rounds():
        four = [runs[arms[value][is_control]] for value in (high, low) for is_control in (False, True)]
        large, large_control, small, small_control = (run.joules_per_unit for run in four)
        starts = tuple(run.start for run in four)
        blocks.setdefault(starts, []).append((large / large_control, small / small_control))
    if not blocks:
        raise MeasurementError(f"{measured.key}: no round in which every scenario has a valid run")
    # Levels of one start may be shifted each by its own, as those of different lengths are.
    shifted = 4 if any(len(set(starts)) > 1 for starts in blocks) else 0
    return low, high, statistics.ratio(list(blocks.values()), shifted=shifted, noise=noise, alpha=alpha)


UNSET = object()
"""No value that a scenario could have."""


def growth(measured: Measured, field: str, *, below: float, noise: Noise, alpha: float) -> Interval:
    """Interval of the growth exponent of energy per request, from one estimate a round.

    What moves all levels of an engine start alike does not move the exponent; starts of their own move each level.
    """
    xs: dict[str, float] = {}
    for arm in measured.arms:
        value = (arm.identity or {}).get(field)
        if not isinstance(value, int):
            raise MeasurementError(f"{measured.key}: arm {arm.name} has no number {field!r} to grow with")
        if value <= below:
            xs[arm.name] = value
    if len(set(xs.values())) < 2:
        raise MeasurementError(f"{measured.key}: growth needs two values of {field!r} up to {below:g}")
    rounds = measured.rounds()
    if not rounds:
        raise MeasurementError(f"{measured.key}: no round in which every scenario has a valid run")
    exponents = [_round_exponent(xs, runs) for runs in rounds]
    starts = {tuple(runs[name].start for name in xs) for runs in rounds}
    if all(len(set(of)) == 1 for of in starts):
        return statistics.mean_interval(exponents, alpha=alpha)
    squares = stats.variance(map(math.log, xs.values())) * (len(xs) - 1)
    start = noise.start.spread
    own = Spread(start.variance / squares / len(starts), start.freedom)
    return statistics.mean_interval(exponents, beside=[own], alpha=alpha)


def excess(arm: Arm, joules_per_request: float, *, noise: Noise, alpha: float = ALPHA) -> Interval:
    """How far an arm lies above a figure in joules per request, relative to it.

    Metering is off by as much in every run, so runs without number do not take its uncertainty away.
    """
    starts: dict[str, list[float]] = {}
    for run in arm.runs:
        starts.setdefault(run.start, []).append(run.joules_per_request)
    sample = Sample(starts=tuple(map(tuple, starts.values())), relative_uncertainty=metering_sd(arm.runs))
    return statistics.above(sample, joules_per_request, noise=noise, alpha=alpha)


def workload_effects(
    measured: Measured, workload: Histogram, *, over: str, control: str, noise: Noise, alpha: float = ALPHA
) -> dict[str, Interval]:
    """Relative difference of a workload's energy from that of the control, by way of serving.

    Args:
        measured: requests of several lengths, each served in every way.
        workload: how many requests of which lengths there are.
        over: the field of a scenario that tells the ways apart.
        control: its value in the way that the others are compared with.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Raises:
        MeasurementError: the control was not measured, or nothing else was; or the scenarios of one way differ in
            more than lengths and batch size, or serve no batches of requests.
        UsageError: too few lengths were measured.
    """
    ways: dict[str, list[Arm]] = {}
    for arm in measured.arms:
        ways.setdefault(str((arm.identity or {}).get(over)), []).append(arm)
    if control not in ways or len(ways) < 2:
        raise MeasurementError(
            f"{measured.key}: this claim needs scenarios with {over} {control!r} and with another, "
            f"not {', '.join(ways)}"
        )
    for way, arms in ways.items():
        if len({msgspec.json.encode(but_for_shape(arm.identity or {}), order="sorted") for arm in arms}) > 1:
            raise MeasurementError(f"{measured.key}: scenarios of {way} differ in more than lengths and batch size")
    if any(not serves_batches(arm.identity or {}) for arm in measured.arms):
        raise MeasurementError(
            f"{measured.key}: a workload is of batches of requests, not of {' or '.join(NOT_BINS)}"
        )
    totals = {way: _total(workload, arms, noise) for way, arms in ways.items()}
    return {way: _ratio(total, totals[control], alpha) for way, total in totals.items() if way != control}


def _total(workload: Histogram, arms: Iterable[Arm], noise: Noise) -> Estimate:
    by_shape = {shape_of(arm.identity): arm.runs for arm in arms if arm.identity is not None}
    return estimate(workload, bins_of(by_shape, noise=noise), shared_sd=noise.start.sd)


def _ratio(one: Estimate, other: Estimate, alpha: float) -> Interval:
    """Relative difference of two estimates whose errors have nothing to do with each other."""
    value = math.log(one.joules / other.joules)
    half = NormalDist().inv_cdf(1 - alpha) * math.hypot(one.relative_sd, other.relative_sd)
    return Interval(*(math.expm1(x) for x in (value, value - half, value + half)))


def _round_exponent(xs: dict[str, float], runs: dict[str, Run]) -> float:
    return statistics.exponent(list(xs.values()), [runs[name].joules_per_request for name in xs])
