"""Everything a run has to say at its end, from the cases' outcomes to lines of text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.carbon import CarbonIntensity
from pytest_llm_energy.reporting.loosened import loosened_lines
from pytest_llm_energy.reporting.messages import headline
from pytest_llm_energy.reporting.no_cases import NoCases, no_cases_lines
from pytest_llm_energy.reporting.selection import Selection, left_out_table, selection_lines
from pytest_llm_energy.reporting.tables import claim_table, level_table, split
from pytest_llm_energy.reporting.why import serving_first
from pytest_llm_energy.verdicts.measured import CaseKey, Metered
from pytest_llm_energy.verdicts.noise import Noise
from pytest_llm_energy.verdicts.rows import (
    ClaimRow,
    Gate,
    LevelRow,
    Row,
    by_severity,
    decided,
    failing,
    open_beside,
)

State = Literal["judged", "undecided", "skipped", "errored", "metered"]


class CaseOutcome(msgspec.Struct, kw_only=True):
    """How one energy test ended.

    Attributes:
        key: the case.
        state: ``judged`` (something was decided), ``undecided``, ``skipped``, ``errored``, or ``metered`` (it only
            used windows and asked for no verdict).
        rows: its verdicts.
        source: what metered it, in words.
        noise: how levels scatter on its GPU model, where a level of it was judged.
        says: why it was skipped, or what went wrong.
        metered: energy of its valid windows.
        starts: seconds that each engine start took that served it, by the start's id.
        resumed: whether it was measured by the earlier run that this one goes on with.
        further: whether it was, and this run meters it on.
        measures: whether it measures, and does not judge baselines alone.
    """

    key: CaseKey
    state: State
    rows: list[Row] = msgspec.field(default_factory=list)
    source: str | None = None
    noise: Noise | None = None
    says: str | None = None
    metered: Metered = Metered()
    starts: dict[str, float] = msgspec.field(default_factory=dict)
    resumed: bool = False
    further: bool = False
    measures: bool = True


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the report is about.

    Attributes:
        outcomes: every energy test that was reached, by node id.
        expected: energy tests selected, reached or not.
        gate: which verdicts fail.
        journal: how to refer to the journal, None when nothing was written.
        carbon: what a joule costs in CO2e, None to leave grams out.
        resumed: how to refer to the journal that the run goes on with, None when it began anew.
        no_cases: tests that have no cases on the GPU model, with their reasons.
        selection: what a time budget chose, None without one.
        device_problem: why devices of the host that measured cannot be used, None where all can.
        unusable: whether none of them can.
        elapsed_seconds: how long the run took in one process; None when it was replayed, resumed or had several.
    """

    outcomes: Mapping[str, CaseOutcome]
    expected: int
    gate: Gate
    journal: str | None = None
    carbon: CarbonIntensity | None = None
    resumed: str | None = None
    no_cases: Sequence[NoCases] = ()
    selection: Selection | None = None
    device_problem: str | None = None
    unusable: bool = False
    elapsed_seconds: float | None = None

    @property
    def rows(self) -> list[Row]:
        """Verdicts of all cases."""
        return [row for outcome in self.outcomes.values() for row in outcome.rows]

    @property
    def judged(self) -> int:
        """Cases in which something was decided."""
        return sum(outcome.state == "judged" for outcome in self.outcomes.values())

    @property
    def cases(self) -> int:
        """Cases that should have been decided."""
        metered = sum(outcome.state == "metered" for outcome in self.outcomes.values())
        return max(self.expected, len(self.outcomes)) - metered

    @property
    def decided_nothing(self) -> bool:
        """Whether there were cases, and none was decided: such a run must not pass.

        Where some measure, one of those: what baselines alone decide, they did before this run.
        """
        alone = [outcome for outcome in self.outcomes.values() if not outcome.measures]
        of_baselines = sum(outcome.state == "judged" for outcome in alone)
        decides = self.judged - of_baselines if self.cases > len(alone) else self.judged
        return self.cases > 0 and decides == 0 and self.gate != "off"

    @property
    def lacks_devices(self) -> bool:
        """Whether cases were decided without the devices that the host seems to have: no more may that pass."""
        return self.cases > 0 and self.unusable and self.gate != "off"


def state_of(rows: Sequence[Row], *, measured: bool) -> State:
    """State of a test whose body has ended without an error."""
    if decided(rows):
        return "judged"
    return "undecided" if rows or measured else "metered"


def text_lines(summary: Summary, *, style: str = "simple") -> Iterator[str]:
    """The tables and what was left out, for the terminal."""
    levels, claims = split(summary.rows)
    yield from device_lines(summary)
    yield from _metered(summary)
    yield from loosened_lines(summary.rows)
    if levels:
        yield ""
        estimated = " (estimated: shown, never gated)" if any(row.estimated for row in levels) else ""
        yield f"Levels: joules per output token{estimated}"
        yield from level_table(levels, style=style, carbon=summary.carbon).splitlines()
        notes = sorted({row.note for row in levels if row.note and row.verdict == "incomparable"})
        yield from (f"  {note}" for note in notes[:MOST_NOTES])
        if len(notes) > MOST_NOTES:
            yield f"  ... and {len(notes) - MOST_NOTES} more"
        yield from (f"  {line}" for line in _noise(summary))
    if claims:
        yield ""
        yield "Claims"
        yield from claim_table(claims, style=style).splitlines()
        yield from (f"  {note}" for note in _notes(claims))
    yield from _not_judged(summary)
    if summary.journal:
        yield ""
        yield f"journal: {summary.journal}"
        if open_beside(summary.rows):
            yield f"to meter on what is open: --energy-resume {summary.journal} --energy-settle SECONDS"


MOST_NOTES = 6


def last_line(summary: Summary) -> str:
    """The line that counts: ``energy: judged 31 of 40 (29 ok, 2 regressed)``."""
    counts: Counter[str] = Counter(row.verdict for row in by_severity(summary.rows) if row.verdict != "shown")
    states = Counter(outcome.state for outcome in summary.outcomes.values())
    parts = [f"{count} {verdict}" for verdict, count in counts.items()]
    parts += [f"{states[s]} {s}" for s in ("errored", "skipped") if states[s]]
    if summary.selection and (left_out := summary.selection.left_out):
        parts += [f"{len(left_out)} left out"]
    if missing := summary.expected - len(summary.outcomes):
        parts += [f"{missing} not reached"] if missing > 0 else []
    detail = f" ({', '.join(parts)})" if parts else ""
    line = f"energy: judged {summary.judged} of {summary.cases}{detail}"
    if summary.decided_nothing:
        line += "; a gate that decided nothing does not pass (--energy-gate=off reports only)"
    elif summary.lacks_devices:
        line += "; a gate without this host's devices does not pass (--energy-gate=off reports only)"
    return line


def device_lines(summary: Summary) -> Iterator[str]:
    """What is wrong with the devices of the host that measured."""
    if summary.device_problem:
        yield f"this host's devices: {summary.device_problem}"
    if summary.unusable:
        yield "none of them was measured on; where the processor is meant, set CUDA_VISIBLE_DEVICES to nothing"


def total_line(summary: Summary) -> str:
    """What was metered, whatever became of it: ``metered in all: 12.3 kJ in 210 windows, 1.3 g CO2e``."""
    total = sum((outcome.metered for outcome in summary.outcomes.values()), start=Metered())
    if not total.windows:
        return "metered in all: no valid window"
    windows = "1 window" if total.windows == 1 else f"{total.windows} windows"
    grams = f", {words.grams(summary.carbon.grams(total.joules))} CO2e" if summary.carbon else ""
    return f"metered in all: {words.joules(total.joules)} in {windows}{grams}"


def engines_line(summary: Summary) -> str | None:
    """What engine starts cost beside metering: ``engines: 12 starts in 95 s; windows 110 s, 33 % of the run``.

    None without any start.
    """
    starts = {start: seconds for outcome in summary.outcomes.values() for start, seconds in outcome.starts.items()}
    if not starts:
        return None
    count = "1 start" if len(starts) == 1 else f"{len(starts)} starts"
    windows = sum((outcome.metered for outcome in summary.outcomes.values()), start=Metered()).seconds
    share = f", {windows / summary.elapsed_seconds * 100:.0f} % of the run" if summary.elapsed_seconds else ""
    return f"engines: {count} in {sum(starts.values()):.0f} s; windows {windows:.0f} s{share}"


def markdown(summary: Summary) -> str:
    """The same as a Markdown document."""
    levels, claims = split(summary.rows)
    parts = ["## Energy", last_line(summary)]
    parts += [f"**{line}**" for line in device_lines(summary)]
    parts += _metered(summary)
    parts += [f"**{line}**" for line in loosened_lines(summary.rows)]
    parts += [f"- {o.key}: error: {o.says}" for o in summary.outcomes.values() if o.state == "errored"]
    parts += [f"- {headline(row)}" for row in failing(summary.rows, summary.gate)]
    if levels:
        estimated = " (estimated: shown, never gated)" if any(row.estimated for row in levels) else ""
        parts += [
            f"### Levels: joules per output token{estimated}",
            level_table(levels, style="github", carbon=summary.carbon),
            *_noise(summary),
        ]
    if claims:
        parts += ["### Claims", claim_table(claims, style="github")]
        parts += [f"- {note}" for note in _notes(claims)]
    if summary.selection and summary.selection.left_out:
        budget = words.duration(summary.selection.budget_seconds or 0.0)
        parts += [f"### Left out by the time budget of {budget}", left_out_table(summary.selection, style="github")]
    if skipped := list(_not_judged(summary)):
        parts.append("\n".join(["```", *filter(None, skipped), "```"]))
    return "\n\n".join(parts) + "\n"


def annotation(summary: Summary) -> str | None:
    """One GitHub Actions error: the worst failing row, or a case that errored, or the devices; None without any."""
    rows = failing(summary.rows, summary.gate)
    errors = [outcome for outcome in summary.outcomes.values() if outcome.state == "errored"]
    if not rows and not errors and not summary.lacks_devices:
        return None
    title = rows[0].verdict if rows else "error"
    says = [headline(row) for row in rows] + [f"{outcome.key}: {outcome.says}" for outcome in errors]
    says += device_lines(summary) if summary.lacks_devices and not says else []
    more = len(rows) + len(errors) - 1
    text = says[0] + (f" (and {more} more)" if more > 0 else "")
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::error title=Energy {title}::{escaped}"


def _metered(summary: Summary) -> Iterator[str]:
    """By what was metered, how much in all, and what a joule costs in CO2e."""
    yield from sorted({f"metered by: {o.source}" for o in summary.outcomes.values() if o.source})
    if summary.resumed:
        count = sum(outcome.resumed for outcome in summary.outcomes.values())
        further = sum(outcome.further for outcome in summary.outcomes.values())
        on = f"; open there, and metered on: {further}" if further else ""
        yield f"resumed: {count} of {summary.expected} cases from {summary.resumed}{on}"
    if summary.selection:
        yield from selection_lines(summary.selection)
    yield total_line(summary)
    if summary.carbon:
        yield summary.carbon.says
    if engines := engines_line(summary):
        yield engines
    yield from _against(summary)


def _against(summary: Summary) -> Iterator[str]:
    """Which other stack was measured in turn with this one, and in what they differ."""
    changes = [row.change for row in summary.rows if isinstance(row, LevelRow) and row.change]
    found: dict[str, dict[str, None]] = {}
    for change in changes:
        if change.side_by_side:
            found.setdefault(change.reference, {}).update(dict.fromkeys(change.stack))
    for reference, differs in sorted(found.items()):
        yield f"against {reference}"
        yield f"which differs in: {', '.join(serving_first(list(differs))) or 'nothing that is recorded'}"


def _noise(summary: Summary) -> Iterator[str]:
    """How levels scatter on the GPU models on which any was judged."""
    yield from sorted({words.noise(o.key.gpu, o.noise) for o in summary.outcomes.values() if o.noise})


def _notes(claims: Sequence[ClaimRow]) -> Iterator[str]:
    """What baselines record of claims that are known not to hold."""
    yield from (f"{row.key}: {row.says}: {row.note}" for row in claims if row.note)


def _not_judged(summary: Summary) -> Iterator[str]:
    """What was not run here, and what could not be."""
    yield from _skipped(summary)
    yield from no_cases_lines(summary.no_cases, run=[outcome.key for outcome in summary.outcomes.values()])


def _skipped(summary: Summary) -> Iterator[str]:
    reasons: dict[str, list[CaseKey]] = {}
    for outcome in summary.outcomes.values():
        if outcome.state == "skipped":
            reasons.setdefault(outcome.says or "skipped", []).append(outcome.key)
    for reason, keys in sorted(reasons.items()):
        yield ""
        yield f"not judged here, {reason}:"
        tests: dict[tuple[str, str], list[str]] = {}
        for key in keys:
            name, _, parameters = key.case.partition("[")
            tests.setdefault((key.finding, name), []).append(parameters.removesuffix("]"))
        for (finding, name), parameters_of in sorted(tests.items()):
            listed = ", ".join(filter(None, parameters_of))
            yield f"  {finding}: {name}{f'[{listed}]' if listed else ''}"
