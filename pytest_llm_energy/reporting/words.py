"""How numbers are written in every report."""

import math

from pytest_llm_energy.verdicts.noise import Component, Noise
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow
from pytest_llm_energy.verdicts.statistics import Interval

TELLS_NOTHING = 1000
"""Bounds further apart than by this factor tell nothing of a change: two values hardly tell their spread."""


def percent(fraction: float) -> str:
    """A relative change: ``+6.2 %``."""
    if not math.isfinite(fraction):
        return "?"
    return f"{fraction * 100:+.1f} %"


def budget(fraction: float) -> str:
    """An allowed increase, as exactly as it was set: ``+2.5 %``."""
    return f"{fraction * 100:+.3g} %"


def change(interval: Interval) -> str:
    """A relative change with its interval: ``+6.2 % [+5.1, +7.3]``, or ``[?, ?]`` where that bounds nothing."""
    if 1 + interval.high > TELLS_NOTHING * (1 + interval.low):
        return f"{percent(interval.value)} [?, ?]"
    low, high = (f"{x * 100:+.1f}" if math.isfinite(x) else "?" for x in (interval.low, interval.high))
    return f"{percent(interval.value)} [{low}, {high}]"


def exponent(interval: Interval) -> str:
    """A growth exponent with its interval."""
    low, high = (f"{x:.2f}" if math.isfinite(x) else "?" for x in (interval.low, interval.high))
    return f"exponent {interval.value:.2f} [{low}, {high}]"


def joules(value: float, *, like: float | None = None) -> str:
    """Joules with four significant digits and a prefix: the one that they need, or that others need beside them."""
    size = abs(float(f"{value if like is None else like:.4g}"))
    for limit, scale, unit in ((1e-3, 1e6, "uJ"), (1.0, 1e3, "mJ"), (1e3, 1.0, "J"), (1e6, 1e-3, "kJ")):
        if size < limit:
            return f"{value * scale:.4g} {unit}"
    return f"{value / 1e6:.4g} MJ"


def grams(value: float) -> str:
    """Grams with three significant digits and a prefix."""
    for limit, scale, unit in ((1e-3, 1e6, "ug"), (1.0, 1e3, "mg"), (1e3, 1.0, "g")):
        if 0 < abs(value) < limit:
            return f"{significant(value * scale)} {unit}"
    return f"{significant(value / 1e3)} kg"


def significant(value: float) -> str:
    """A number with three significant digits, or all those before the point, and no exponent for large ones."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def counted(number: int, what: str) -> str:
    """So many of something: ``3 runs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """A time as ``--energy-time-budget`` takes it, to the second: ``90s`` as ``1m30s``, ``15m``, ``1h30m``."""
    whole = round(seconds)
    parts = (whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def about(seconds: float) -> str:
    """A time that is estimated: to seconds, from a minute on to ten of them, from ten minutes on to minutes."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    step = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return duration(round(seconds / step) * step)


def spread(row: LevelRow) -> str:
    """Relative spread of the runs of a level."""
    return "" if row.spread is None else f"{row.spread * 100:.1f} %"


def noise(gpu: str, found: Noise) -> str:
    """How levels scatter on a GPU model, with how many sessions and boards that is from."""
    sessions = f"{found.session.seen} on {counted(found.session.boards, 'board')}"
    parts = [
        _scatter("windows", found.window, None),
        _scatter("starts", found.start, None),
        _scatter("sessions", found.session, sessions),
        _scatter("boards", found.board, str(found.board.seen)),
    ]
    unread = f"; not told by {', '.join(found.unread)}, whose baseline cannot be read" if found.unread else ""
    return f"noise of {gpu}: {', '.join(parts)}{unread}"


def _scatter(what: str, component: Component, seen: str | None) -> str:
    from_what = seen if component.measured else "assumed"
    return f"{what} {component.sd * 100:.1f} %{f' ({from_what})' if from_what else ''}"


def verdict(row: LevelRow | ClaimRow) -> str:
    """The verdict, with its reason code where it decides nothing."""
    return f"{row.verdict} ({row.reason})" if row.reason and row.verdict != "shown" else row.verdict


def towards_claim(row: ClaimRow) -> str:
    """The verdict, where the claim follows: what contradicts it must not read as if it were what was found."""
    if row.verdict != "contradicts":
        return verdict(row)
    return f"contradicts the claim{f' ({row.reason})' if row.reason else ''}"


def measured(row: ClaimRow) -> str:
    """What a claim is about, as measured."""
    return change(row.interval) if row.kind == "effect" else exponent(row.interval)


def spelt(row: ClaimRow) -> str:
    """The same as part of a sentence."""
    low, high = row.interval.low, row.interval.high
    if row.kind == "effect":
        what = "energy" if row.judged_by == "runs" else "energy as a ratio to the control's, against the slower GPU"
        return f"{percent(row.interval.value)} {what}, between {percent(low)} and {percent(high)}"
    return f"exponent {row.interval.value:.2f}, between {low:.2f} and {high:.2f}"
