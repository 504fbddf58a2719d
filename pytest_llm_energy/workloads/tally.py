"""Requests counted as a trace is read: bins, lengths, exclusions. Memory does not grow with the requests.

What is kept is one count per pair of bins and one per distinct length, so medians and percentiles are exact.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_llm_energy.workloads.bins import Bins, Histogram, Lengths
from pytest_llm_energy.workloads.traces import UnreadableRow

LONGEST = 2**24
"""Tokens above which a length is no length: the longest context announced, Llama 4 Scout's, is 10 million."""

SHOWN = 5
"""Unreadable rows that are kept to be shown."""

LONGER = "longer than the bins"
NO_INPUT = "no input tokens"
NO_OUTPUT = "no output tokens"
MISSING = "missing or empty"
NOT_A_NUMBER = "not a number"
NOT_WHOLE = "not a whole number"
NEGATIVE = "negative"
ABSURD = f"over {LONGEST} tokens"


class Tally:
    """Counts of what was read so far; ``rows`` grows with every request and every unreadable row."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins
        self.rows = 0
        self.unreadable: list[UnreadableRow] = []
        self._refused: Counter[str] = Counter()
        self._place_of_input = _places(bins.input_tokens)
        self._place_of_output = _places(bins.output_tokens)
        self._shape = (len(bins.input_tokens) + 2, len(bins.output_tokens) + 2)
        self._pairs = np.zeros(self._shape, dtype=np.int64)
        self._inputs = np.zeros(1, dtype=np.int64)
        self._outputs = np.zeros(1, dtype=np.int64)

    def count(self, inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
        """Add requests, whose lengths are from 0 to ``LONGEST``."""
        if not len(inputs):
            return
        places = [
            place[np.minimum(lengths, len(place) - 1)]
            for place, lengths in ((self._place_of_input, inputs), (self._place_of_output, outputs))
        ]
        pairs = np.bincount(places[0] * self._shape[1] + places[1], minlength=self._pairs.size)
        self._pairs += pairs.reshape(self._shape)
        self._inputs = _added(self._inputs, np.bincount(inputs))
        self._outputs = _added(self._outputs, np.bincount(outputs))
        self.rows += len(inputs)

    def refuse(self, file: str, row: int, reason: str, text: Callable[[], str] = str) -> None:
        """Add a row that cannot be read; ``text`` makes what stands there."""
        self.rows += 1
        self._refused[reason] += 1
        if len(self.unreadable) < SHOWN:
            self.unreadable.append(UnreadableRow(file=file, row=row, reason=reason, text=shortened(text())))

    def histogram(self, name: str, *, source: str | None = None, license: str | None = None) -> Histogram:
        """What was counted."""
        pairs = self._pairs
        inside = pairs[1:-1, 1:-1]
        excluded = {
            NO_INPUT: int(pairs[0].sum()),
            NO_OUTPUT: int(pairs[1:, 0].sum()),
            LONGER: int(pairs[1:, 1:].sum() - inside.sum()),
            **self._refused,
        }
        return Histogram(
            name=name,
            bins=self.bins,
            counts=tuple(
                (self.bins.input_tokens[i], self.bins.output_tokens[o], int(inside[i, o]))
                for i, o in np.argwhere(inside).tolist()
            ),
            rows=self.rows,
            excluded={reason: count for reason, count in excluded.items() if count},
            input=lengths(self._inputs),
            output=lengths(self._outputs),
            source=source,
            license=license,
        )


def lengths(counts: NDArray[np.int64]) -> Lengths | None:
    """Statistics of lengths, from how often each occurs: ``counts[n]`` requests are ``n`` tokens long."""
    values = np.flatnonzero(counts)
    if not len(values):
        return None
    weights = counts[values]
    total = int(weights.sum())
    mean = float((values * weights).sum() / total)
    below = np.cumsum(weights)

    def quantile(share: float) -> float:
        position = (total - 1) * share
        lower, upper = (
            int(values[np.searchsorted(below, rank, side="right")])
            for rank in (int(position), min(int(position) + 1, total - 1))
        )
        return lower + (upper - lower) * (position - int(position))

    squares = float((weights * (values - mean) ** 2).sum())
    return Lengths(
        mean=mean,
        std=(squares / (total - 1)) ** 0.5 if total > 1 else 0.0,
        median=quantile(0.5),
        p99=quantile(0.99),
        min=int(values[0]),
        max=int(values[-1]),
    )


def tokens(value: object) -> int | str:
    """The token count that a cell holds, or the reason why it holds none."""
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return NOT_A_NUMBER
    try:
        number = value if isinstance(value, int) else float(value)
    except ValueError:
        return NOT_A_NUMBER
    if number != number or (isinstance(value, str) and ("_" in value or not value.isascii())):
        return NOT_A_NUMBER
    if number < 0:
        return NEGATIVE
    if number > LONGEST:
        return ABSURD
    return int(number) if number == int(number) else NOT_WHOLE


def shortened(text: str, longest: int = 60) -> str:
    """Text on one line, printable, and short."""
    cut = text if len(text) <= longest else f"{text[:longest]}..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def _places(edges: Sequence[int]) -> NDArray[np.intp]:
    """Where each length belongs: 0 for none, the number of its bin from 1, and one more for longer ones."""
    known = np.arange(min(edges[-1], LONGEST) + 2)
    places = np.searchsorted(np.array(edges), known) + 1
    places[0] = 0
    return places


def _added(some: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    longer, shorter = (some, more) if len(some) >= len(more) else (more, some)
    longer[: len(shorter)] += shorter
    return longer
