"""What docs/findings.md says of each finding of the paper, from the committed journals."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from docs.asides import Aside, asides
from docs.drawing import svg
from docs.findings_plots import plot
from docs.journals import MEASUREMENTS, ROOT, fenced
from docs.recorded import CPU, H200, Judged, checks, claims, published
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.tables import natural, short_cases
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import ClaimRow
from pytest_llm_energy.verdicts.statements import in_words
from pytest_llm_energy.verdicts.statistics import Interval

FINDINGS = (
    "prefill-floor",
    "decode-linear",
    "batching",
    "decoding-strategy",
    "speculative-decoding",
    "mixture-of-experts",
    "serving-engine",
    "torch-compile",
    "cuda-graphs",
    "continuous-batching",
    "tensor-parallel",
    "hardware-speed",
    "nlp-tasks",
    "trace-workloads",
    "flops-estimate",
)
"""In the order of the paper."""

UNDECIDED = {"inconclusive": "open", "contradicts": "contradicted"}
OUTCOMES = ("holds", "holds in part", "open in part", "open", "fails")


def overview() -> str:
    """A line per finding: the paper's figure, ours, and whether it holds."""
    rows = []
    for finding in FINDINGS:
        seen = claims(finding)
        held = "<br>".join([_holds(seen), *_beside_the_direction(finding, seen)])
        rows.append([f"[{finding}](#{finding})", _published_briefly(finding), _briefly(seen), held])
    headers = ["finding", "the paper's figure", "ours on H200", "holds?"]
    return str(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


def section(finding: str) -> str:
    """Whether a finding holds, the plot, and the paper's figure beside ours in every session."""
    seen, on_cpu = claims(finding), claims(finding, CPU)
    beside = asides(finding)
    lines = [f"**Verdict:** {verdict(seen, on_cpu, beside)}"]
    if plot(finding):
        lines += ["", f"![plot of {finding}]({picture(finding).relative_to(ROOT / 'docs')})"]
    if seen or on_cpu:
        lines += ["", fenced([_table(seen, on_cpu)])]
    if beside:
        lines += ["", "Asked for by no test then, and told by the same runs:", "", fenced([_asides_table(beside)])]
    unjudged = list(_unjudged(finding))
    if unjudged:
        lines += ["", "In the paper too, and not judged on H200s:", "", *unjudged]
    return "\n".join(lines)


def picture(finding: str) -> Path:
    """Where the plot of a finding lies."""
    return MEASUREMENTS / "findings" / f"{finding}.svg"


def pictures() -> Iterator[tuple[Path, str]]:
    """The plots of all findings that were measured, as text."""
    for finding in FINDINGS:
        if figure := plot(finding):
            yield picture(finding), svg(figure)


def verdict(on_h200: Sequence[Judged], on_cpu: Sequence[Judged], beside: Sequence[Aside] = ()) -> str:
    """One line on whether a finding holds today, and on what."""
    if not on_h200 and not on_cpu:
        return "Not measured."
    parts = [_on("H200", on_h200)]
    if on_cpu:
        parts.append(_on("a CPU, by estimated joules", on_cpu))
    beyond, of = _exceeded(on_h200)
    if beyond:
        largest = max((row.interval.value for row in beyond), key=abs)
        parts.append(
            f'the paper\'s "up to" is exceeded on H200 in {len(beyond)} of '
            f"{words.counted(of, 'effect')}, by one of {words.percent(largest)}"
        )
    parts += [f"contradicted in {share} comparisons: {says}" for says, share in _contradicted(beside).items()]
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def _beside_the_direction(finding: str, on_h200: Sequence[Judged]) -> Iterator[str]:
    """What a reader of "holds" is to know besides: sizes, what no test asks for, and what was not judged."""
    if not on_h200:
        return
    beyond, of = _exceeded(on_h200)
    if beyond:
        yield f'"up to" is exceeded in {len(beyond)} of {of}'
    for says, share in _contradicted(asides(finding)).items():
        yield f"in {share} not: {says}"
    if unjudged := len(list(_unjudged(finding))):
        yield f"{unjudged} of {words.counted(len(published(finding).figures), 'published statement')} not judged"


def _exceeded(seen: Sequence[Judged]) -> tuple[list[ClaimRow], int]:
    """Effects beyond an "up to" of the paper's, and how many there is one for."""
    bounded = [(each.row, figure.value) for each in seen for figure in each.figures if figure.relation == "at_most"]
    return [row for row, bound in bounded if bound is not None and _beyond(row.interval, bound)], len(bounded)


def _contradicted(beside: Sequence[Aside]) -> dict[str, str]:
    """Statements that cases taken one after the other contradict, and in how many of them: ``3 of 6``."""
    against = [each.figure.says for each in beside if each.verdict == "contradicts"]
    return {
        says: f"{against.count(says)} of {sum(each.figure.says == says for each in beside)}"
        for says in dict.fromkeys(against)
    }


def _on(hardware: str, seen: Sequence[Judged]) -> str:
    """Such as ``holds on H200 (vllm 0.25.1) in 4 of 5 sessions; open in 1 (fifth: 2 open of 3)``."""
    if not seen:
        return f"not measured on {hardware}"
    sessions = _by_session(seen)
    engines = sorted(set().union(*(each.engines for each in seen)))
    said: list[str] = []
    for what in OUTCOMES:
        of = {name: rows for name, rows in sessions.items() if outcome(rows) == what}
        if not of:
            continue
        undecided = "; ".join(f"{name}: {_undecided(rows)}" for name, rows in of.items())
        which = "" if what == "holds" else f" ({undecided})"
        if said:
            said.append(f"{what} in {len(of)}{which}")
        else:
            said.append(f"{what} on {hardware} ({', '.join(engines)}) in {_of(len(of), len(sessions))}{which}")
    return "; ".join(said)


def _by_session(seen: Sequence[Judged]) -> dict[str, list[ClaimRow]]:
    sessions: dict[str, list[ClaimRow]] = {}
    for each in seen:
        sessions.setdefault(each.session, []).append(each.row)
    return sessions


def outcome(rows: Sequence[ClaimRow]) -> str:
    """What one session says of a finding; that of its statements which it leaves open is told apart."""
    verdicts = {row.verdict for row in rows}
    if "contradicts" in verdicts:
        return "holds in part" if "confirms" in verdicts else "fails"
    if "inconclusive" in verdicts:
        return "open in part" if "confirms" in verdicts else "open"
    return "holds"


def _undecided(rows: Sequence[ClaimRow]) -> str:
    """How many statements of a session are open or contradicted."""
    counts = {says: sum(row.verdict == v for row in rows) for v, says in UNDECIDED.items()}
    told = ", ".join(f"{count} {says}" for says, count in counts.items() if count)
    return f"{told} of {len(rows)}"


def _holds(seen: Sequence[Judged]) -> str:
    """The verdict in a cell: ``holds in 4, open in 1 of 5 sessions``."""
    if not seen:
        return "not measured"
    outcomes = [outcome(rows) for rows in _by_session(seen).values()]
    told = [what for what in OUTCOMES if what in outcomes]
    if len(told) == 1:
        return f"{told[0]} in {_of(len(outcomes), len(outcomes))}"
    counted = [f"{what} in {outcomes.count(what)}" for what in told]
    return f"{', '.join(counted)} of {len(outcomes)} sessions"


def _of(number: int, sessions: int) -> str:
    """So many of all sessions."""
    if sessions == 1:
        return "the one session"
    return f"all {sessions} sessions" if number == sessions else f"{number} of {sessions} sessions"


def _beyond(effect: Interval, bound: float) -> bool:
    """Whether an effect is larger, beyond doubt, than what the paper says it is at most."""
    return effect.high < bound if bound < 0 else effect.low > bound


def _table(on_h200: Sequence[Judged], on_cpu: Sequence[Judged]) -> str:
    """Claim by claim, a line per session."""
    found: dict[tuple[CaseKey, str], list[Judged]] = {}
    for each in (*on_h200, *on_cpu):
        found.setdefault((each.row.key, each.row.says), []).append(each)
    cases = short_cases(key for key, _ in found)
    rows = [
        {
            "case": cases[key],
            "claim": says,
            "paper": "\n".join(map(in_words, of[0].figures)),
            "on": "CPU" if key.gpu == "cpu" else key.gpu.upper(),
            "session": "\n".join(each.session if key.gpu != "cpu" else "" for each in of),
            "measured": "\n".join(words.measured(each.row) for each in of),
            "verdict": "\n".join(words.verdict(each.row) for each in of),
        }
        for (key, says), of in sorted(
            found.items(), key=lambda item: (item[0][0].gpu == "cpu", natural(item[0][0]))
        )
    ]
    return str(tabulate(rows, headers="keys", disable_numparse=True))


def _asides_table(beside: Sequence[Aside]) -> str:
    """Statement by statement, a line per session and case."""
    found: dict[str, list[Aside]] = {}
    for each in beside:
        found.setdefault(each.figure.id, []).append(each)
    rows = [
        {
            "statement": of[0].figure.says,
            "case": "\n".join(each.case for each in of),
            "session": "\n".join(each.session for each in of),
            "measured": "\n".join(each.measured for each in of),
            "verdict": "\n".join(each.verdict for each in of),
        }
        for of in found.values()
    ]
    return str(tabulate(rows, headers="keys", disable_numparse=True))


def _briefly(seen: Sequence[Judged]) -> str:
    """The range of what was measured, by claim."""
    ranges: dict[str, list[ClaimRow]] = {}
    for each in seen:
        ranges.setdefault(re.sub(r" of [\d.]+ J/request", "", each.row.says), []).append(each.row)
    lines = []
    for says, rows in ranges.items():
        values = sorted(row.interval.value for row in rows)
        written = [words.percent(x) if rows[0].kind == "effect" else f"{x:.2f}" for x in values]
        exponent = "exponent " if rows[0].kind == "exponent" else ""
        lines.append(f"{says}: {exponent}{' to '.join(dict.fromkeys((written[0], written[-1])))}")
    return "<br>".join(lines)


def _published_briefly(finding: str) -> str:
    """The paper's figures of energy by GPU, or that it states the finding without any."""
    by_gpu: dict[str, list[str]] = {}
    for figure in published(finding).figures:
        if figure.value is not None and figure.quantity in ("energy", "length"):
            number, _, gpu = in_words(figure).partition(" (")
            by_gpu.setdefault(f" ({gpu}" if gpu else "", []).append(number)
    return "<br>".join(f"{', '.join(numbers)}{gpu}" for gpu, numbers in by_gpu.items()) or "stated"


def _unjudged(finding: str) -> Iterator[str]:
    """Published statements that nothing on H200s says anything of."""
    on_h200, on_cpu = (
        {figure for _, check, _ in checks(finding, names) for figure in check.figures} for names in (H200, CPU)
    )
    beside = {each.figure.id for each in asides(finding)}
    for figure in published(finding).figures:
        if figure.id not in on_h200 | beside:
            yield f"- {figure.says} ({figure.source}){'; on a CPU alone' if figure.id in on_cpu else ''}"
