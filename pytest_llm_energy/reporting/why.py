"""Why a level changed, in words: time or power, prefill or decode, and what else is different."""

from collections.abc import Mapping, Sequence

from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.layout import clipped
from pytest_llm_energy.verdicts.causes import Cause, Kind
from pytest_llm_energy.verdicts.phases import Phases
from pytest_llm_energy.verdicts.rows import Change
from pytest_llm_energy.verdicts.statistics import Interval

SHORT: Mapping[Kind, str] = {
    "faster-but-hungrier": "faster, more power",
    "slower-but-leaner": "slower, less power",
    "slower-and-hungrier": "slower, more power",
    "faster-and-leaner": "faster, less power",
    "slower": "slower",
    "faster": "faster",
    "hungrier": "more power",
    "leaner": "less power",
    "unclear": "unclear",
}
"""For a column of a table."""

SAYS: Mapping[Kind, str] = {
    "slower-and-hungrier": "slower, and hungrier per second",
    "faster-and-leaner": "faster, and leaner per second",
    "slower": "slower at the same power",
    "faster": "faster at the same power",
    "hungrier": "the same speed at more power",
    "leaner": "the same speed at less power",
    "unclear": "not known: time and power scatter too much to say which of them moved",
}

OUTWEIGHED: Mapping[tuple[Kind, bool], str] = {
    ("faster-but-hungrier", True): "faster but hungrier: power rises more than time per {unit} falls",
    ("slower-but-leaner", True): "slower, at less power: time per {unit} rises more than power falls",
    ("faster-but-hungrier", False): "faster, at more power: time per {unit} falls more than power rises",
    ("slower-but-leaner", False): "leaner but slower: power falls more than time per {unit} rises",
}
"""Where time and power went opposite ways, by whether energy rose."""

SERVING_FIRST = (
    *("vllm", "sglang", "server", "torch", "transformers", "driver", "cuda", "power", "clock"),
    *("flash", "ATTENTION", "attention", "xformers", "triton", "nccl", "argument"),
)
"""Parts of names of what decides how a model is served, the likeliest to matter first."""

SURROUNDINGS = ("env ", "python", "os")
"""Beginnings of names of what seldom matters: said last."""

MOST_CHANGES = 6
MOST_NAME = 28
MOST_VALUE = 24


def short(change: Change) -> str:
    """What moved, for a table: ``more power in decode``."""
    moved = _moved(change.phases, change) if change.phases else []
    return SHORT[change.cause.kind] + (f" in {' and '.join(moved)}" if moved else "")


def says(change: Change, unit: str) -> str:
    """Which of time and power moved."""
    kind = change.cause.kind
    return SAYS.get(kind) or OUTWEIGHED[kind, change.joules.value > 0].format(unit=unit)


def figures(cause: Cause, unit: str) -> str:
    """By how much they did."""
    return (
        f"energy = power x time per {unit}: time {words.change(cause.seconds)}, power {words.change(cause.watts)}"
    )


def equal_speed(known: Interval) -> str:
    """What a change at equal speed says of a level whose speed scatters."""
    if known.low > 0:
        return "it takes more as fast as the other stack, too"
    if known.high < 0:
        return "it takes less as fast as the other stack, too"
    return "as fast as the other stack, no difference is shown"


def where(phases: Phases, change: Change) -> str | None:
    """Whether it is prefill or decode that changed, None where neither did beyond doubt."""
    if phases.decode is None:
        return "in prefill: a request of one output token is prefill alone"
    moved = _moved(phases, change)
    if not moved:
        return None
    return (
        f"in {' and '.join(moved)}: decode {words.change(phases.decode)}, prefill {words.change(phases.prefill)}, "
        f"from {phases.lengths} output lengths"
    )


def _moved(phases: Phases, change: Change) -> list[str]:
    """The parts that changed as the level did, beyond doubt."""
    parts = {"decode": phases.decode, "prefill": phases.prefill}
    rises = change.whole.value > 0
    if rises != (change.joules.value > 0):  # phases are as metered: they tell of another change
        return []
    return [name for name, part in parts.items() if part and (part.low > 0 if rises else part.high < 0)]


def changed(differences: Sequence[str]) -> str:
    """What is different since, those that serve first; the least likely of many are counted only."""
    if not differences:
        return "nothing that is recorded: neither packages, nor settings, nor the driver"
    shown = [_clipped(each) for each in serving_first(differences)[:MOST_CHANGES]]
    more = len(differences) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


def serving_first(differences: Sequence[str]) -> list[str]:
    """Differences in the order in which to look at them."""
    return sorted(differences, key=_rank)


def _rank(difference: str) -> tuple[int, str]:
    name = difference.partition(": ")[0]
    found = next((i for i, part in enumerate(SERVING_FIRST) if part in name), len(SERVING_FIRST))
    last = found == len(SERVING_FIRST) and name.startswith(SURROUNDINGS)
    return found + last, name


def _clipped(difference: str) -> str:
    name, _, values = difference.partition(": ")
    old, _, new = values.partition(" -> ")
    return f"{clipped(name, MOST_NAME)}: {clipped(old, MOST_VALUE)} -> {clipped(new, MOST_VALUE)}"
