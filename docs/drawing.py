"""How the plots of docs/findings.md look: a colour and a marker per session, what the paper says in grey."""

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from docs import journals
from docs.recorded import CPU, H200
from pytest_llm_energy.verdicts.statistics import Interval

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#000000")
"""Okabe and Ito's and one of Tol's, which the colour-blind tell apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
PAPER = "#555555"
DASHES = ("--", "-.", (0, (1, 1.5)))
NAMES = {name: journals.session(name) if name in H200 else "CPU, estimated" for name in (*H200, *CPU)}
SESSIONS = tuple(dict.fromkeys(NAMES.values()))
STYLE: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#dddddd",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "findings",
}
SIZE = (7.0, 3.7)
"""Inches: a page shows it about 670 pixels wide."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A change as measured.

    Attributes:
        group: where on the axis.
        session: when.
        interval: by how much.
    """

    group: str
    session: str
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A change as published.

    Attributes:
        group: where on the axis.
        says: what the legend calls it.
        value: by how much, a fraction.
    """

    group: str
    says: str
    value: float


def svg(figure: Figure) -> str:
    """A plot as text, without anything that differs from time to time."""
    text = io.StringIO()
    with matplotlib.rc_context(dict(STYLE)):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def draw(
    axis: Axes, points: Sequence[Point], stated: Sequence[Stated], *, groups: Sequence[str], bars: bool = False
) -> list[Line2D]:
    """Points with their intervals, the sessions of a group side by side; the paper's figures at their groups.

    Returns:
        The entries of the legend.
    """
    sessions = in_order(point.session for point in points)
    columns = ["", *sessions] if bars else sessions
    width = 0.8 / len(columns)
    axis.axhline(0, color="#444444", linewidth=1)
    handles = [legend_entry(session, marker="s" if bars else "") for session in sessions]
    if bars:
        for each in stated:
            x = groups.index(each.group) - 0.4 + width / 2
            axis.bar(x, each.value * 100, width * 0.9, color="#e4e4e4", edgecolor=PAPER, hatch="//")
        handles.append(legend_entry("the paper", marker="s"))
    else:
        handles += _stated_lines(axis, stated, groups)
    drawn: dict[tuple[str, str], int] = {}
    for point in points:
        place = (point.group, point.session)
        several = sum((other.group, other.session) == place for other in points)
        number = drawn[place] = drawn.get(place, 0) + 1
        column = columns.index(point.session) + (number - 0.5) / several
        x = groups.index(point.group) - 0.4 + column * width
        value, low, high = (
            100 * bound for bound in (point.interval.value, point.interval.low, point.interval.high)
        )
        color = colour_of(point.session)
        if bars:
            axis.bar(x, value, width * 0.9, color=color, alpha=0.8)
        axis.errorbar(
            x,
            value,
            yerr=[[value - low], [high - value]],
            color="#222222" if bars else color,
            marker="" if bars else marker_of(point.session),
            capsize=2.5,
        )
    axis.set_ylim(*_bounds(points, stated, around=axis.get_ylim()))
    axis.set_xticks(range(len(groups)), groups)
    axis.set_xlim(-0.55, len(groups) - 0.45)
    axis.grid(visible=False, axis="x")
    return handles


def _bounds(
    points: Sequence[Point], stated: Sequence[Stated], *, around: tuple[float, float]
) -> tuple[float, float]:
    """Limits in which no interval is so wide that the rest cannot be told apart: it runs out of the plot."""
    values = [0.0, *(100 * point.interval.value for point in points), *(100 * each.value for each in stated)]
    room = 1.5 * (max(values) - min(values))
    return max(around[0], min(values) - room), min(around[1], max(values) + room)


def _stated_lines(axis: Axes, stated: Sequence[Stated], groups: Sequence[str]) -> list[Line2D]:
    """The paper's figures as dashes across the groups they are of, with their entries in the legend."""
    styles = dict(zip(dict.fromkeys(each.says for each in stated), itertools.cycle(DASHES), strict=False))
    for each in stated:
        x = groups.index(each.group)
        axis.hlines(each.value * 100, x - 0.45, x + 0.45, color=PAPER, linestyle=styles[each.says], linewidth=1.3)
    return [Line2D([], [], color=PAPER, linestyle=style, label=says) for says, style in styles.items()]


def in_groups(points: Iterable[Point]) -> list[str]:
    """Groups by their last line, then by their numbers."""
    return sorted(
        {point.group for point in points}, key=lambda group: [_numbers(x) for x in group.split("\n")[::-1]]
    )


def _numbers(text: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", text)], text


def colour_of(session: str) -> str:
    """The colour of a session in every plot."""
    return COLOURS[SESSIONS.index(session) % len(COLOURS)] if session != NAMES["cpu"] else "#888888"


def marker_of(session: str) -> str:
    """The marker of a session in every plot."""
    return MARKERS[SESSIONS.index(session) % len(MARKERS)] if session != NAMES["cpu"] else "*"


def legend_entry(name: str, *, marker: str = "", color: str = "", linestyle: str = "") -> Line2D:
    """A session, or the paper, in the legend."""
    if name not in SESSIONS:
        return Line2D([], [], color=PAPER, marker=marker, linestyle="", label=name, markerfacecolor="#e4e4e4")
    label = name if name == NAMES["cpu"] else f"{name} session"
    marker, color = marker or marker_of(name), color or colour_of(name)
    return Line2D([], [], color=color, marker=marker, linestyle=linestyle, label=label)


def in_order(sessions: Iterable[str]) -> list[str]:
    """Each session once, in the order in which they were measured."""
    return sorted(set(sessions), key=SESSIONS.index)


def log_log(axis: Axes, ticks: Sequence[int]) -> None:
    """Logarithmic axes with ticks where something was measured."""
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_locator(NullLocator())


def with_legend(figure: Figure, handles: Sequence[Line2D]) -> Figure:
    """The figure with a legend below its axes."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3 if longest > 17 else 4, len(handles)))
    return figure
