"""What a workload costs, from energies of some of its bins."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.workloads.bins import PAPER, Histogram
from pytest_llm_energy.workloads.estimate import Fit, MeasuredBin, estimate, fitted

H200 = Fit(joules=(2.8, 0.016, 3.6e-7, 2.45, 0.0106, 3.7e-5), relative_error=0.0, worst_error=0.0)
"""About what an H200 takes for an 8B model: a pass, a prompt's token, its square, a step, a token, a look back."""

SOME = [(i, o, b) for i in (32, 256, 2048) for o in (8, 64, 512) for b in (1, 32)]


def histogram(*counts: tuple[int, int, int]) -> Histogram:
    return Histogram(name="trace", bins=PAPER, counts=counts, rows=sum(count for _, _, count in counts))


def measured(shapes: Sequence[tuple[int, int, int]], *, noise: float = 0.0, seed: int = 0) -> list[MeasuredBin]:
    chance = random.Random(seed)
    return [
        MeasuredBin(
            input_tokens=i,
            output_tokens=o,
            batch_size=b,
            joules_per_request=H200.joules_per_request(i, o, b) * math.exp(chance.gauss(0.0, noise)),
            relative_sd=noise,
        )
        for i, o, b in shapes
    ]


def test_measured_bins_are_added_up_at_the_largest_batch() -> None:
    bins = measured([(32, 8, 16), (32, 8, 32), (256, 64, 32)], noise=0.01)
    told = estimate(histogram((32, 8, 1000), (256, 64, 10)), bins)
    small, large = 1000 * bins[1].joules_per_request, 10 * bins[2].joules_per_request
    assert told.joules == pytest.approx(small + large)
    assert told.relative_sd == pytest.approx(math.hypot(small, large) / (small + large) * 0.01)
    assert (told.measured_bins, told.filled_bins, told.fit) == (2, 0, None)
    low, high = told.bounds
    assert low < told.joules < high


def test_what_the_metering_has_in_common_does_not_average_out_over_bins() -> None:
    bins = measured([(i, 8, 32) for i in (32, 128, 256)])
    told = estimate(histogram(*((i, 8, 100) for i in (32, 128, 256))), bins, shared_sd=0.005)
    assert told.relative_sd == pytest.approx(0.005)


def test_bins_between_measured_ones_are_filled_in() -> None:
    told = estimate(histogram((128, 32, 500), (512, 256, 100)), measured(SOME))
    truth = 500 * H200.joules_per_request(128, 32, 32) + 100 * H200.joules_per_request(512, 256, 32)
    assert told.joules == pytest.approx(truth, rel=1e-6)
    assert (told.measured_bins, told.filled_bins, told.filled_share) == (0, 2, 1.0)
    assert told.fit is not None
    assert told.fit.joules == pytest.approx(H200.joules, rel=1e-4)
    assert abs(told.fit.worst_error) < 1e-6
    assert told.beyond_share == 0


def test_bins_longer_than_any_measured_are_told_apart() -> None:
    told = estimate(histogram((128, 32, 10), (4096, 32, 10)), measured(SOME))
    assert 0.5 < told.beyond_share < told.filled_share == 1.0


def test_longer_requests_are_served_in_smaller_batches() -> None:
    bins = measured([(i, o, 32) for i in (32, 256) for o in (8, 64, 128)] + [(2048, o, 4) for o in (8, 64)])
    told = estimate(histogram((4096, 8, 1)), bins)
    tokens = max(each.batch_size * sum(each.lengths) for each in bins)
    assert told.joules == pytest.approx(H200.joules_per_request(4096, 8, tokens // 4104), rel=1e-6)


def test_a_bin_measured_in_small_batches_alone_is_filled_in() -> None:
    told = estimate(histogram((128, 32, 1)), [*measured(SOME), *measured([(128, 32, 1)])])
    assert told.filled_bins == 1
    assert told.joules == pytest.approx(H200.joules_per_request(128, 32, 32), rel=1e-6)


def test_nothing_is_filled_in_where_that_is_refused_or_too_little_was_measured() -> None:
    with pytest.raises(UsageError, match=r"2 bins \(128\+32, 512\+8\) were not measured in full batches"):
        estimate(histogram((128, 32, 1), (512, 8, 1)), measured(SOME), exact=True)
    with pytest.raises(UsageError, match="takes requests of 8 lengths, and 2 were measured"):
        estimate(histogram((128, 32, 1)), measured([(32, 8, 1), (32, 16, 1)]))
    nothing = Histogram(name="long", bins=PAPER, counts=(), rows=3, excluded={"longer than the bins": 3})
    with pytest.raises(UsageError, match="long: none of its 3 requests is in a bin"):
        estimate(nothing, measured(SOME))


def test_intervals_of_filled_in_workloads_hold_the_truth() -> None:
    workload = histogram((128, 32, 500), (512, 256, 100), (1024, 16, 300), (2048, 512, 50))
    truth = sum(n * H200.joules_per_request(i, o, 32) for i, o, n in workload.counts)
    held = 0
    for seed in range(200):
        low, high = estimate(workload, measured(SOME, noise=0.01, seed=seed)).bounds
        held += low <= truth <= high
    assert held >= 190


@given(st.lists(st.sampled_from(list(PAPER)), min_size=1, max_size=20, unique=True), st.integers(1, 10**9))
def test_twice_the_requests_cost_twice_as_much(bins: list[tuple[int, int]], requests: int) -> None:
    once, twice = (
        estimate(histogram(*((i, o, times * requests) for i, o in sorted(bins))), measured(SOME))
        for times in (1, 2)
    )
    assert twice.joules == pytest.approx(2 * once.joules)
    assert twice.relative_sd == pytest.approx(once.relative_sd)


def test_no_term_of_a_model_gives_energy_back() -> None:
    assert min(fitted(measured(SOME, noise=0.2)).joules) >= 0
