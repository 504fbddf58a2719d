import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from docs import findings
from docs.asides import JUDGED, Aside, asides
from docs.drawing import svg
from docs.findings_plots import PLOTS, plot
from docs.recorded import CPU, H200, checks, claims, published
from pytest_llm_energy.verdicts.measured import CaseKey, Measured
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import ClaimRow, ClaimVerdict
from pytest_llm_energy.verdicts.statistics import Interval

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.stem for path in (ROOT / "baselines" / "published").glob("*.json"))
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "findings.md").read_text(), flags=re.MULTILINE)[1:]


def row(verdict: ClaimVerdict) -> ClaimRow:
    key = CaseKey(gpu="h200", finding="batching", case="falls[4]")
    return ClaimRow(
        key=key, says="batched saves", interval=Interval(-0.7, -0.8, -0.6), kind="effect", verdict=verdict
    )


def test_every_published_finding_has_a_section_and_a_plot() -> None:
    assert sorted(findings.FINDINGS) == PUBLISHED
    assert sorted(PLOTS) == PUBLISHED
    assert [section.partition("\n")[0] for section in SECTIONS] == list(findings.FINDINGS)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_every_section_has_one_line_of_verdict(section: str) -> None:
    (verdict,) = re.findall(r"^\*\*Verdict:\*\* (.+)$", section, flags=re.MULTILINE)
    assert re.match(r"Holds|Open|Fails|Not measured", verdict, flags=re.IGNORECASE)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_every_plot_that_a_section_shows_lies_there(section: str) -> None:
    for shown in re.findall(r"^!\[.*\]\((.+)\)$", section, flags=re.MULTILINE):
        assert (ROOT / "docs" / shown).is_file()


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["confirms", "confirms"], "holds"),
        (["confirms", "inconclusive"], "open in part"),
        (["inconclusive"], "open"),
        (["confirms", "inconclusive", "contradicts"], "holds in part"),
        (["inconclusive", "contradicts"], "fails"),
    ],
)
def test_a_session_holds_only_when_it_confirms_all_that_it_measured(
    verdicts: list[ClaimVerdict], says: str
) -> None:
    assert findings.outcome([row(verdict) for verdict in verdicts]) == says


def test_a_finding_that_no_journal_is_about_is_not_measured() -> None:
    assert not claims("hardware-speed", (*H200, *CPU))
    assert findings.verdict([], []) == "Not measured."
    assert plot("batching") is not None


def test_a_finding_measured_on_a_cpu_alone_says_so() -> None:
    on_cpu = claims("batching", CPU)
    assert findings.verdict([], on_cpu).startswith("Not measured on H200. Holds on a CPU")


def test_a_plot_comes_out_the_same_twice() -> None:
    first, second = plot("cuda-graphs"), plot("cuda-graphs")
    assert first is not None
    assert second is not None
    assert svg(first) == svg(second)


def test_what_is_told_beside_the_tests_is_published() -> None:
    stated = {figure.id for finding in findings.FINDINGS for figure in published(finding).figures}
    assert stated >= JUDGED.keys()


def test_what_contradicts_the_paper_beside_the_tests_stands_in_the_verdict() -> None:
    (figure,) = (each for each in published("cuda-graphs").figures if each.id == "saves-more-at-small-batch")
    aside = Aside(figure=figure, case="1 against 8", session="first", measured="", verdict="contradicts")
    against = [aside, replace(aside, session="second"), replace(aside, verdict="confirms")]
    says = f"Contradicted in 2 of 3 comparisons: {figure.says}."
    assert findings.verdict(claims("cuda-graphs"), [], against).endswith(says)


OF_PHASES = {
    "prefill-floor": {"same-rate-for-every-batch-size"},
    "batching": {"intercepts-in-proportion-to-batch"},
    "decode-linear": {"decode-costs-more-per-token-than-prefill", "decode-dominates"},
}


@pytest.mark.parametrize("finding", OF_PHASES)
def test_recorded_series_tell_what_no_test_asked_for_of_prefill_and_decode(finding: str) -> None:
    told = asides(finding)
    assert {each.figure.id for each in told} == OF_PHASES[finding]
    assert {each.verdict for each in told} == {"confirms"}
    assert len({(each.figure.id, each.session, each.case) for each in told}) == len(told)


@pytest.mark.parametrize("finding", OF_PHASES)
def test_a_session_in_which_a_test_asks_for_it_is_not_told_beside(
    finding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(of: str, names: Sequence[str]) -> Iterator[tuple[str, Checked, Measured]]:
        for name, check, measured in checks(of, names):
            figures = tuple(OF_PHASES[finding]) if name == "h200/sixth-session" else check.figures
            yield name, msgspec.structs.replace(check, figures=figures), measured

    before = {each.session for each in asides(finding)}
    monkeypatch.setattr("docs.asides.checks", asked)
    assert before - {each.session for each in asides(finding)} == {"sixth"}
