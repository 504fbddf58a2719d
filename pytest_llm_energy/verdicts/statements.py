"""What a claim states, judged against what the paper published."""

from collections.abc import Mapping

import msgspec

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.verdicts.baselines import Absent, Figure, Published
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.measured import CaseKey, Measured
from pytest_llm_energy.verdicts.noise import ASSUMED, Noise
from pytest_llm_energy.verdicts.outcome import Statement
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import ClaimReason, ClaimRow, ClaimVerdict
from pytest_llm_energy.verdicts.statistics import ALPHA


def published_figure(check: Checked, published: Published | None) -> Figure | None:
    """The published figure of a claim: the one for this GPU model, or else the first; None where it names none.

    Raises:
        MeasurementError: nothing is published about the finding.
        BaselineError: there is no such figure.
    """
    if not check.figures:
        return None
    if published is None:
        raise MeasurementError(
            f"{check.key}: figure {check.figures[0]!r} is named, but nothing is published about {check.key.finding}"
        )
    figures = [published.figure(name) for name in check.figures]
    return next((figure for figure in figures if figure.gpu == check.key.gpu), figures[0])


def judge_claim(
    claim: Claim,
    measured: Measured,
    figure: Figure | None,
    *,
    absent: Mapping[str, Absent] = {},
    noise: Noise = ASSUMED,
    alpha: float = ALPHA,
) -> list[ClaimRow]:
    """One row per statement of the claim.

    Args:
        claim: what the finding asserts.
        measured: what it is about.
        figure: what was published, None where nothing was.
        absent: statements that are known not to hold here.
        noise: how levels scatter on this GPU model.
        alpha: chance, per bound, that it excludes the truth.
    """
    found = claim.statements(measured, noise=noise, alpha=alpha)
    return [judge_statement(statement, measured.key, figure, absent=absent) for statement in found]


def judge_statement(
    statement: Statement, key: CaseKey, figure: Figure | None, *, absent: Mapping[str, Absent] = {}
) -> ClaimRow:
    """The verdict on one statement.

    Args:
        statement: what was found.
        key: the case that asks for it.
        figure: what was published, None where nothing was.
        absent: statements that are known not to hold here.
    """
    row = _verdict_on(statement, key, figure)
    return _known_absent(row, absent[row.says]) if row.says in absent else row


def _known_absent(row: ClaimRow, known: Absent) -> ClaimRow:
    """The verdict on a claim that is known not to hold here; that it holds again is told, not failed."""
    recorded = f"{known.reason}, {known.when[:10]}"
    if row.verdict == "contradicts":
        note = f"known not to hold here: {recorded}"
        return msgspec.structs.replace(row, verdict="absent", note=note)
    if row.verdict in ("confirms", "new"):
        note = f"holds again, where it was known not to: {recorded}; to forget that: llm-energy trim --only"
        return msgspec.structs.replace(row, note=note)
    return row


def _verdict_on(statement: Statement, key: CaseKey, figure: Figure | None) -> ClaimRow:
    """The direction counts on every GPU model; the size where it was published for this one, with a tolerance."""
    verdicts: dict[str, ClaimVerdict] = {
        "holds": "confirms" if figure else "new",
        "fails": "contradicts",
        "open": "inconclusive",
    }
    verdict = verdicts[statement.outcome]
    reason: ClaimReason | None = "no-difference-shown" if statement.outcome == "open" else None
    if verdict == "confirms" and figure is not None and _size_differs(statement, key, figure):
        verdict, reason = "contradicts", "size-differs"
    return ClaimRow(
        key=key,
        says=statement.says,
        interval=statement.interval,
        kind=statement.kind,
        verdict=verdict,
        paper=in_words(figure) if figure else None,
        reason=reason,
    )


def _size_differs(statement: Statement, key: CaseKey, figure: Figure) -> bool:
    """Whether the effect lies beyond doubt outside what was published for this GPU model."""
    published = figure.value if figure.unit == "fraction" and statement.kind == "effect" else None
    if published is None or figure.tolerance is None or figure.gpu != key.gpu:
        return False
    interval = statement.interval
    return interval.high < published - figure.tolerance or interval.low > published + figure.tolerance


def in_words(figure: Figure) -> str:
    """A published figure: ``up to +54.24 %``, or ``stated`` where it is a mere direction."""
    where = f" ({figure.gpu})" if figure.gpu else ""
    if figure.value is None:
        return f"stated{where}"
    amount = f"{figure.value * 100:+.2f} %" if figure.unit == "fraction" else f"{figure.value:g} {figure.unit}"
    return f"{'up to ' if figure.relation == 'at_most' else ''}{amount}{where}"
