"""A project whose journals hold every verdict, every reason code and every way to end in an error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import msgspec

from pytest_llm_energy import Scenario, costs, saves
from pytest_llm_energy.metering.meter import Invalid, InvalidCode, Reading
from pytest_llm_energy.verdicts.amending import set_absent
from pytest_llm_energy.verdicts.baselines import Figure, Published
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.files import pretty
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.records import Ended, Troubled, Windowed
from pytest_llm_energy.verdicts.rows import ClaimReason, Gate, LevelReason, Verdict
from tests.journals import SimulatedSession

FINDING = "every"
SERVED = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
BLESSED = {"served": 1.0, "control": 2.0}
"""Joules per token of each arm in the first session."""

Decided = tuple[Verdict, LevelReason | ClaimReason | None]
OK: Decided = ("ok", None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A case of the journal, and what must come out for it.

    Attributes:
        rows: verdict and reason code of each row.
        says: part of what a case that is in error says; None for one that is not.
        category: pytest's, of a case that passes the gate.
        factors: how much more than blessed each arm takes.
        noise: standard deviation of its runs.
        claim: what it asserts, with a control.
        figures: ids of published figures of the claim.
        served: what is served now.
        metered: fields of its readings that are not as they would be.
        other_stack: joules per token of the arm on another stack, measured in turn.
        power_limit_watts: of the boards it was measured on.
        blessed: whether it is in the baseline.
        cut: whether the run was killed in it.
    """

    rows: tuple[Decided, ...] = ()
    says: str | None = None
    category: str = "passed"
    factors: Mapping[str, float] = field(default_factory=lambda: {"served": 1.0})
    noise: float = 0.002
    claim: Claim | None = None
    figures: tuple[str, ...] = ()
    served: Scenario = SERVED
    metered: Mapping[str, object] = field(default_factory=dict)
    other_stack: float | None = None
    power_limit_watts: float = 700.0
    blessed: bool = True
    cut: bool = False

    def fails(self, gate: Gate) -> bool:
        """Whether its test fails, or is in error."""
        failing = {"off": (), "on": ("regressed", "contradicts"), "strict": ("inconclusive", "incomparable")}
        codes = {*failing[gate], *(failing["on"] if gate == "strict" else ())}
        return self.says is not None or any(verdict in codes for verdict, _ in self.rows)


def _level(verdict: Verdict, reason: LevelReason | None = None, **options: object) -> Answer:
    return Answer(rows=((verdict, reason),), category=_category(verdict), **options)  # type: ignore[arg-type]


def _claim(verdict: Verdict, reason: ClaimReason | None = None, **options: object) -> Answer:
    rows = (OK, OK, (verdict, reason))
    factors = options.pop("factors", {"served": 1.0, "control": 1.0})
    return Answer(rows=rows, category=_category(verdict), factors=factors, **options)  # type: ignore[arg-type]


def _category(verdict: Verdict) -> str:
    apart = ("regressed", "contradicts", "inconclusive", "incomparable", "improved")
    return verdict if verdict in apart else "passed"


ANSWERS: Mapping[str, Answer] = {
    "ok": _level("ok"),
    "improved": _level("improved", factors={"served": 0.9}),
    "regressed": _level("regressed", factors={"served": 1.2}),
    "near-budget": _level("inconclusive", "near-budget", factors={"served": 1.03}),
    "too-noisy": _level("inconclusive", "too-noisy", noise=0.15),
    "no-baseline": _level("incomparable", "no-baseline", blessed=False),
    "scenario-differs": _level("incomparable", "scenario-differs", served=SERVED.replace(output_tokens=128)),
    "hardware-differs": _level("incomparable", "hardware-differs", power_limit_watts=350.0),
    "method-differs": _level("incomparable", "method-differs", metered={"method": "codecarbon-gpu"}),
    "estimated": _level("shown", "not-gated", metered={"estimated": True}),
    "disturbed": _level("ok", metered={"disturbed": (Invalid("foreign-load", "others took half"),)}),
    "beside-ok": _level("ok", other_stack=1.0),
    "beside-regressed": _level("regressed", factors={"served": 1.1}, other_stack=1.0),
    "confirms": _claim("confirms", claim=saves, figures=("direction",)),
    "new": _claim("new", claim=saves),
    "contradicts": _claim("contradicts", claim=costs),
    "size-differs": _claim("contradicts", "size-differs", claim=saves, figures=("small",)),
    "absent": _claim("absent", claim=costs),
    "no-difference-shown": Answer(
        rows=(("regressed", None), OK, ("inconclusive", "no-difference-shown")),
        category="regressed",
        claim=saves,
        factors={"served": 2.0, "control": 1.0},
    ),
    "cut": Answer(says="the run was cut while this case was measured", cut=True),
    **{
        f"invalid-{code}": Answer(
            says=f"arm 'served' has no valid run: told by {code}",
            metered={"invalid": (Invalid(code, f"told by {code}"),)},
        )
        for code in get_args(InvalidCode)
    },
}

TROUBLED, WINDOWS, NOT_MEASURED, EXPECTED = "troubled", "windows", "not-measured", "expected"
"""In error when it was measured, with windows alone, not in the journal, and marked xfail."""

CASES = (*ANSWERS, TROUBLED, WINDOWS, NOT_MEASURED)

TEST_FILE = f"""
import pytest

@pytest.mark.parametrize("case", {list(CASES)})
def test_is(energy_meter, case):
    raise AssertionError("no body is run where a journal is judged")

@pytest.mark.xfail(reason="known")
@pytest.mark.parametrize("case", ["{EXPECTED}"])
def test_is_expected(energy_meter, case):
    raise AssertionError("no body is run where a journal is judged")

def test_has_nothing_to_do_with_energy():
    pass
"""

CONFTEST = '''
"""Writes down every report, where reports arrive; kills the process that is to run the case named in KILL."""

import json, os, signal
import pytest

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reports(config))

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if os.environ.get("KILL") == pyfuncitem.name:
        os.kill(os.getpid(), signal.SIGKILL)

class Reports:
    def __init__(self, config):
        self.config = config
        self.file = open(os.environ["REPORTS"], "w")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        category, letter, word = self.config.hook.pytest_report_teststatus(report=report, config=self.config)
        told = {
            "category": category,
            "letter": letter,
            "word": word if isinstance(word, str) else word[0],
            "outcome": report.outcome,
            "says": str(report.longrepr or ""),
            "carried": getattr(report, "llm_energy", None),
            "properties": report.user_properties,
        }
        self.file.write(json.dumps([report.nodeid, report.when, told]) + "\\n")
        self.file.flush()
'''


def make(folder: Path) -> None:
    """Write the tests, the baselines, what was published, and the journal ``now.jsonl``."""
    (folder / f"test_{FINDING}.py").write_text(TEST_FILE)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    baselines, now = folder / "baselines", folder / "now.jsonl"
    first = SimulatedSession(folder / "first.jsonl")
    for name, answer in (*ANSWERS.items(), (EXPECTED, ANSWERS["regressed"])):
        if answer.blessed:
            first.case(FINDING, _case(name), {arm: (SERVED, BLESSED[arm]) for arm in answer.factors})
    first.bless(baselines)
    published = baselines / "published" / f"{FINDING}.json"
    published.parent.mkdir()
    published.write_text(pretty(PUBLISHED))
    for number, (name, answer) in enumerate((*ANSWERS.items(), (EXPECTED, ANSWERS["regressed"]))):
        _record(now, name, answer, when=f"2026-02-02T00:{number // 60:02}:{number % 60:02}+00:00")
    SimulatedSession(now, when="2026-02-03T00:00:00+00:00").other(
        FINDING, _case(TROUBLED), lambda key: Troubled(key=key, says="the engine died")
    ).other(
        FINDING,
        _case(WINDOWS),
        lambda key: Windowed(
            key=key,
            name="window",
            reading=Reading(joules=1.0, seconds=1.0, uncertainty_joules=0.1, method="simulated"),
        ),
        lambda key: Ended(key=key, seconds=1.0),
    )
    set_absent(
        read_journal(now),
        baselines,
        f"{FINDING} {_case('absent')} on h200: served costs more than control",
        reason="the power limit levels them",
        when="2026-02-02T00:00:00+00:00",
    )


def _record(path: Path, name: str, answer: Answer, *, when: str) -> None:
    against = "vllm: /old/bin/python" if answer.other_stack else None
    session = SimulatedSession(path, when=when, noise=answer.noise, against=against)
    if answer.power_limit_watts != 700.0:
        session.opened(when=when, boards=("simulated-board",), power_limit_watts=answer.power_limit_watts)
    session.case(
        FINDING,
        _case(name),
        {arm: (answer.served, BLESSED[arm] * factor) for arm, factor in answer.factors.items()},
        claim=answer.claim,
        figures=answer.figures,
        series=answer.claim is None,
        against={"served": answer.other_stack} if answer.other_stack else None,
        metered=lambda reading: msgspec.structs.replace(reading, **answer.metered),
        cut=answer.cut,
    )


def _case(name: str) -> str:
    return f"is_expected[{name}]" if name == EXPECTED else f"is[{name}]"


def _figure(name: str, *, value: float | None) -> Figure:
    return Figure(
        id=name,
        says="one serves at less energy than the other",
        quantity="energy",
        relation="direction" if value is None else "equals",
        direction="saves",
        value=value,
        unit="fraction",
        tolerance=None if value is None else 0.05,
        gpu=None if value is None else "h200",
        where={},
        source="made up",
    )


PUBLISHED = Published(
    schema=1,
    finding=FINDING,
    claim="One serves at less energy than the other.",
    source="made up",
    figures=(_figure("direction", value=None), _figure("small", value=-0.2)),
)
