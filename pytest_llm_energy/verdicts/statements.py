"""What a claim states, judged against what the paper published."""

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.verdicts.baselines import Figure, Published
from pytest_llm_energy.verdicts.claims import Claim, Statement
from pytest_llm_energy.verdicts.measured import CaseKey, Measured
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import ClaimRow, ClaimVerdict
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


def judge_claim(claim: Claim, measured: Measured, figure: Figure | None, *, alpha: float = ALPHA) -> list[ClaimRow]:
    """One row per statement of the claim, its bounds wrong with a chance of ``alpha`` each."""
    return [_judge_statement(s, measured.key, figure) for s in claim.statements(measured, alpha=alpha)]


def _judge_statement(statement: Statement, key: CaseKey, figure: Figure | None) -> ClaimRow:
    """The direction counts on every GPU model; the size where it was published for this one, with a tolerance."""
    verdicts: dict[str, ClaimVerdict] = {
        "holds": "confirms" if figure else "new",
        "fails": "contradicts",
        "open": "inconclusive",
    }
    verdict = verdicts[statement.outcome]
    reason = "no-difference-shown" if statement.outcome == "open" else None
    if verdict == "confirms" and figure is not None and _size_differs(statement, key, figure):
        verdict, reason = "contradicts", "size-differs"
    return ClaimRow(
        key=key,
        says=statement.says,
        interval=statement.interval,
        kind=statement.kind,
        verdict=verdict,
        paper=_paper(figure) if figure else None,
        reason=reason,
    )


def _size_differs(statement: Statement, key: CaseKey, figure: Figure) -> bool:
    """Whether the effect lies beyond doubt outside what was published for this GPU model."""
    published = figure.value if figure.unit == "fraction" and statement.kind == "effect" else None
    if published is None or figure.tolerance is None or figure.gpu != key.gpu:
        return False
    interval = statement.interval
    return interval.high < published - figure.tolerance or interval.low > published + figure.tolerance


def _paper(figure: Figure) -> str:
    where = f" ({figure.gpu})" if figure.gpu else ""
    if figure.value is None:
        return f"stated{where}"
    amount = f"{figure.value * 100:+.2f} %" if figure.unit == "fraction" else f"{figure.value:g} {figure.unit}"
    return f"{'up to ' if figure.relation == 'at_most' else ''}{amount}{where}"
