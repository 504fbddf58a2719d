"""Bins of requests by input and output length, and histograms: how many requests of a workload fall into each.

Source: Fernandez et al. 2025, section 2 (arXiv 2504.17674). A request goes to the nearest bin at or above it in
both lengths; one that is longer than every bin is excluded, and counted.
"""

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pytest_llm_energy.errors import UsageError


class Bins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Upper edges of bins, ascending; a bin is a pair of edges.

    Attributes:
        input_tokens: longest input of each bin.
        output_tokens: longest output of each bin.
    """

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens"):
            edges: tuple[int, ...] = getattr(self, name)
            if not edges or edges[0] < 1 or list(edges) != sorted(set(edges)):
                raise UsageError(f"bins of {name} are whole numbers that grow, from 1 on, not {list(edges)}")

    def of(self, input_tokens: int, output_tokens: int) -> tuple[int, int] | None:
        """The bin of a request; None where it is longer than every bin, or has no input or no output."""
        if min(input_tokens, output_tokens) < 1:
            return None
        found = [
            bisect.bisect_left(edges, tokens)
            for edges, tokens in ((self.input_tokens, input_tokens), (self.output_tokens, output_tokens))
        ]
        if found[0] == len(self.input_tokens) or found[1] == len(self.output_tokens):
            return None
        return self.input_tokens[found[0]], self.output_tokens[found[1]]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((i, o) for i in self.input_tokens for o in self.output_tokens)


PAPER = Bins(
    input_tokens=(32, 128, 256, 512, 1024, 2048, 4096, 8192),
    output_tokens=(8, 16, 32, 64, 128, 256, 512),
)
"""The sets that the paper lists; those that the formula in its text describes are others."""


class Lengths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the inputs, or the outputs, of a workload are, in tokens; of all its requests, excluded ones too.

    Attributes:
        mean: arithmetic mean.
        std: standard deviation of the sample.
        median: the median.
        p99: 99th percentile, interpolated linearly.
        min: the shortest.
        max: the longest.
    """

    mean: float
    std: float
    median: float
    p99: float
    min: int
    max: int


class Histogram(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workload as counts of requests by bin.

    Attributes:
        name: of the workload.
        bins: the bins.
        counts: ``(input_tokens, output_tokens, requests)`` of each bin that holds any, ascending.
        rows: requests of the workload, those in no bin included.
        excluded: requests in no bin by reason, such as ``longer than the bins``; zero counts are left out.
        input: lengths of the inputs; None where no row can be read.
        output: lengths of the outputs.
        source: where the workload comes from.
        license: under which licence.
    """

    name: str
    bins: Bins
    counts: tuple[tuple[int, int, int], ...]
    rows: int
    excluded: Mapping[str, int] = {}
    input: Lengths | None = None
    output: Lengths | None = None
    source: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if self.requests + sum(self.excluded.values()) != self.rows:
            raise UsageError(
                f"{self.name}: {self.requests} requests in bins and {sum(self.excluded.values())} excluded are not "
                f"the {self.rows} there are"
            )

    @property
    def requests(self) -> int:
        """Requests that are in a bin."""
        return sum(count for _, _, count in self.counts)


def merged(histograms: Sequence[Histogram], *, name: str) -> Histogram:
    """The histogram of a trace from those of its parts, in whatever order and on whatever machine these were made.

    How long inputs and outputs are in all cannot be told from the parts, and is left out.

    Args:
        histograms: of the parts, in the same bins.
        name: of the whole.

    Raises:
        UsageError: their bins differ, or there are none.
    """
    if not histograms or any(histogram.bins != histograms[0].bins for histogram in histograms):
        raise UsageError("histograms are merged where there are some, and all are of the same bins")
    counts: Counter[tuple[int, int]] = Counter()
    excluded: Counter[str] = Counter()
    for histogram in histograms:
        counts.update({(i, o): count for i, o, count in histogram.counts})
        excluded.update(histogram.excluded)
    sources = {(histogram.source, histogram.license) for histogram in histograms}
    source, license = sources.pop() if len(sources) == 1 else (None, None)
    return Histogram(
        name=name,
        bins=histograms[0].bins,
        counts=tuple((*lengths, count) for lengths, count in sorted(counts.items())),
        rows=sum(histogram.rows for histogram in histograms),
        excluded=dict(sorted(excluded.items())),
        source=source,
        license=license,
    )
