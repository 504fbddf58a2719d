"""What a workload costs in joules, from energies measured of some of its bins.

Source: Fernandez et al. 2025, section 2 (arXiv 2504.17674): E_total is the sum over bins of N / B * E_batch, with N
requests in a bin and E_batch the energy of a batch of B. Bins that were not measured are filled in from a model
of prefill and decode fitted to those that were; its error on bins left out of the fit is part of the interval.
"""

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.workloads.bins import Histogram

COVERAGE_Z = NormalDist().inv_cdf(0.99)
"""Either bound excludes the truth once in a hundred, as those of verdicts do."""

LEAST_BINS = 8
"""Fewer say little about a model of six terms, and nothing about its error."""


class MeasuredBin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energy of a static batch of equal requests.

    Attributes:
        input_tokens: of each request.
        output_tokens: of each request.
        batch_size: requests of the batch.
        joules_per_request: energy of the batch over its size.
        relative_sd: of that mean, from the scatter of windows: independent from bin to bin.
    """

    input_tokens: int
    output_tokens: int
    batch_size: int
    joules_per_request: float
    relative_sd: float

    @property
    def lengths(self) -> tuple[int, int]:
        """The bin."""
        return self.input_tokens, self.output_tokens


class Fit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of a batch's energy.

    Attributes:
        joules: energies of the terms that ``_terms`` lists, none negative.
        relative_error: root mean square of the relative errors on bins left out of the fit, one at a time.
        worst_error: the largest of those.
    """

    joules: tuple[float, ...]
    relative_error: float
    worst_error: float

    def joules_per_request(self, input_tokens: int, output_tokens: int, batch_size: int) -> float:
        """What a request of such a batch takes."""
        terms = _terms(input_tokens, output_tokens, batch_size)
        return sum(joules * term for joules, term in zip(self.joules, terms, strict=True)) / batch_size


class Estimate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Energy of a workload on one stack.

    Attributes:
        requests: requests that it covers: those in bins.
        joules: the estimate.
        relative_sd: its standard deviation, relative.
        measured_bins: bins whose energy was measured.
        filled_bins: bins whose energy the model says.
        filled_share: of the joules, those that the model says.
        beyond_share: of the joules, those that it says of bins longer than any measured: how far off it is there,
            nothing tells.
        fit: the model; None where every bin was measured.
    """

    requests: int
    joules: float
    relative_sd: float
    measured_bins: int
    filled_bins: int = 0
    filled_share: float = 0.0
    beyond_share: float = 0.0
    fit: Fit | None = None

    @property
    def joules_per_request(self) -> float:
        """Mean over the requests."""
        return self.joules / self.requests

    @property
    def bounds(self) -> tuple[float, float]:
        """Joules that are exceeded, and fallen short of, once in a hundred."""
        factor = math.exp(COVERAGE_Z * self.relative_sd)
        return self.joules / factor, self.joules * factor


def estimate(
    histogram: Histogram, measured: Sequence[MeasuredBin], *, shared_sd: float = 0.0, exact: bool = False
) -> Estimate:
    """Energy of a workload.

    Bins are taken to be served in batches as large as the device takes: as the largest measured ones were, in
    requests and in tokens. One that was measured in batches of less than half of that counts as not measured.

    Args:
        histogram: the workload.
        measured: energies of bins on one stack.
        shared_sd: relative standard deviation that all measured bins have in common: of the metering, and of the
            engine start.
        exact: refuse to fill in bins.

    Raises:
        UsageError: no request is in a bin; bins were not measured and are not to be filled in, or too few were
            measured to do so.
    """
    if not histogram.requests:
        raise UsageError(f"{histogram.name}: none of its {histogram.rows} requests is in a bin")
    largest = {
        each.lengths: each
        for each in sorted(measured, key=lambda each: each.batch_size)
        if 2 * each.batch_size >= _batch_size(measured, sum(each.lengths))
    }
    missing = [(i, o) for i, o, _ in histogram.counts if (i, o) not in largest]
    fit = None
    if missing:
        if exact:
            raise UsageError(f"{histogram.name}: {_named(missing)} not measured in full batches")
        fit = fitted(measured)
    joules, variance, filled, beyond = 0.0, 0.0, 0.0, 0.0
    for input_tokens, output_tokens, requests in histogram.counts:
        found = largest.get((input_tokens, output_tokens))
        if found is not None:
            energy = requests * found.joules_per_request
            variance += (energy * found.relative_sd) ** 2
        else:
            assert fit is not None
            batch_size = _batch_size(measured, input_tokens + output_tokens)
            energy = requests * fit.joules_per_request(input_tokens, output_tokens, batch_size)
            filled += energy
            beyond += energy if _is_beyond(measured, input_tokens, output_tokens) else 0.0
        joules += energy
    # What a model gets wrong it gets wrong for bins that are alike: their errors add up.
    variance += (filled * _error_of(fit, measured)) ** 2
    return Estimate(
        requests=histogram.requests,
        joules=joules,
        relative_sd=math.sqrt(variance / joules**2 + shared_sd**2),
        measured_bins=len(histogram.counts) - len(missing),
        filled_bins=len(missing),
        filled_share=filled / joules,
        beyond_share=beyond / joules,
        fit=fit,
    )


def fitted(measured: Sequence[MeasuredBin]) -> Fit:
    """The model that fits measured bins best, by relative errors.

    Raises:
        UsageError: they are too few.
    """
    if (found := len({each.lengths for each in measured})) < LEAST_BINS:
        raise UsageError(
            f"a model to fill in bins takes requests of {LEAST_BINS} lengths, and {found} were measured"
        )
    errors = []
    for left_out in {each.lengths for each in measured}:
        fit = _fit([each for each in measured if each.lengths != left_out])
        for each in (each for each in measured if each.lengths == left_out):
            told = _told(fit, each)
            errors.append(told / each.joules_per_request - 1)
    return Fit(
        joules=_fit(measured),
        relative_error=math.sqrt(statistics.fmean(error**2 for error in errors)),
        worst_error=max(errors, key=abs),
    )


def _error_of(fit: Fit | None, measured: Sequence[MeasuredBin]) -> float:
    """Relative standard deviation of what a model says: no less than that of what it was fitted to."""
    scatter = math.sqrt(statistics.fmean(each.relative_sd**2 for each in measured))
    return max(fit.relative_error, scatter) if fit else 0.0


def _told(joules: tuple[float, ...], of: MeasuredBin) -> float:
    return Fit(joules=joules, relative_error=0.0, worst_error=0.0).joules_per_request(*of.lengths, of.batch_size)


def _fit(measured: Sequence[MeasuredBin]) -> tuple[float, ...]:
    """Non-negative least squares on relative errors: no term may give energy back."""
    from scipy.optimize import nnls

    rows = []
    for each in measured:
        energy = each.joules_per_request * each.batch_size
        rows.append([term / energy for term in _terms(*each.lengths, each.batch_size)])
    scales = [max(column) or 1.0 for column in zip(*rows, strict=True)]
    scaled = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
    solution, _ = nnls(scaled, [1.0] * len(rows))
    return tuple(float(value) / scale for value, scale in zip(solution, scales, strict=True))


def _terms(input_tokens: int, output_tokens: int, batch_size: int) -> tuple[float, ...]:
    """What a batch does: the prefill, which makes the first token, and a decode step for each further one.

    A pass reads the weights whatever the batch; each token of each request is worked on, and attends to those
    before it.
    """
    steps = output_tokens - 1
    attended = steps * input_tokens + steps * (steps + 1) / 2
    return (
        1.0,
        batch_size * input_tokens,
        batch_size * input_tokens**2,
        steps,
        batch_size * steps,
        batch_size * attended,
    )


def _batch_size(measured: Sequence[MeasuredBin], tokens: int) -> int:
    """Requests of so many tokens that are served together, going by what was."""
    most_requests = max(each.batch_size for each in measured)
    most_tokens = max(each.batch_size * sum(each.lengths) for each in measured)
    return max(1, min(most_requests, most_tokens // tokens))


def _is_beyond(measured: Sequence[MeasuredBin], input_tokens: int, output_tokens: int) -> bool:
    """Whether requests are longer than any that were measured."""
    longest_input = max(each.input_tokens for each in measured)
    return input_tokens > longest_input or output_tokens > max(each.output_tokens for each in measured)


def _named(bins: Sequence[tuple[int, int]], most: int = 6) -> str:
    """Bins in words, the first few by name."""
    named = ", ".join(f"{i}+{o}" for i, o in bins[:most]) + (", ..." if len(bins) > most else "")
    return f"bin {named} was" if len(bins) == 1 else f"{len(bins)} bins ({named}) were"
