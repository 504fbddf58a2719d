"""Every verdict, reason code and exit status comes out the same however the suite is run."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from pytest_llm_energy.metering.meter import InvalidCode
from pytest_llm_energy.outcomes import STATUS
from pytest_llm_energy.reporting.summary import State
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.rows import (
    DECIDED,
    ClaimReason,
    ClaimVerdict,
    Gate,
    LevelReason,
    LevelVerdict,
)
from tests.plugin import every_answer
from tests.plugin.every_answer import ANSWERS, CASES, EXPECTED, NOT_MEASURED, TROUBLED, WINDOWS

ROOT = Path(__file__).parents[2]

PLUGINS = ("-p", "pytest_llm_energy.plugin", "-p", "xdist.plugin")
"""And no others, which take time to load."""

GATES: tuple[Gate, ...] = get_args(Gate)

Report = dict[str, Any]
"""What a phase of a test was told to be: category, letter, message, verdicts, properties."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the suite, as a user and CI see it.

    Attributes:
        status: exit status.
        tests: reports by node id and phase, in the order in which tests ended.
        junit: of each test in the XML, its properties and what became of it.
        lines: what was printed after the failures, up to pytest's own summary.
        last: the last line, without a duration.
        markdown: the report.
        annotation: GitHub's, None without one.
    """

    status: int
    tests: Mapping[str, Mapping[str, Report]]
    junit: Mapping[str, object]
    lines: tuple[str, ...]
    last: str
    markdown: str
    annotation: str | None

    @property
    def failed(self) -> set[str]:
        """Tests that failed or are in error."""
        return {
            test for test, phases in self.tests.items() if any(p["outcome"] == "failed" for p in phases.values())
        }

    def of(self, tests: Collection[str]) -> tuple[Mapping[str, object], Mapping[str, object]]:
        """Reports, and what the XML says, of some tests."""
        return (
            {test: self.tests[test] for test in sorted(tests)},
            {test: self.junit[test] for test in sorted(tests)},
        )


Suite = Callable[..., Run]


def node_id(case: str) -> str:
    name = "test_is_expected" if case == EXPECTED else "test_is"
    return f"test_{every_answer.FINDING}.py::{name}[h200-{case}]"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Judges the project's journal with options; once, where they are the same."""
    folder = tmp_path_factory.mktemp("project")
    every_answer.make(folder)

    @cache
    def run(*options: str, kill: str = "", cache_of: str | None = None) -> Run:
        """Each has a cache of its own, unless it goes on with that of another."""
        place = f"--override-ini=cache_dir=cache {' '.join(options) if cache_of is None else cache_of}"
        killed = {"KILL": f"test_is[h200-{kill}]"} if kill else {}
        return run_in(folder, "--energy-replay=now.jsonl", place, *options, **killed)

    return run


def run_in(folder: Path, *options: str, **environment: str) -> Run:
    """Run pytest there."""
    reports, junit, markdown = folder / "reports.jsonl", folder / "junit.xml", folder / "energy.md"
    for left in (reports, junit, markdown):
        left.unlink(missing_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGINS, f"--junitxml={junit}", f"--energy-report={markdown}", *options],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "PYTEST_"))},
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "true",
            "GITHUB_ACTIONS": "true",
            "REPORTS": str(reports),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    output = result.stdout.splitlines()
    tests: dict[str, dict[str, Report]] = {}
    assert reports.exists(), result.stdout + result.stderr
    for line in reports.read_text().splitlines():
        test, phase, told = msgspec.json.decode(line)
        tests.setdefault(test, {})[phase] = told
    begin = next((n for n, line in enumerate(output) if " energy: " in line), len(output))
    end = next((n for n, line in enumerate(output) if " short test summary info " in line), len(output))
    return Run(
        status=result.returncode,
        tests=tests,
        junit=dict(junit_of(junit)),
        lines=tuple(line for line in output[begin:end] if not line.startswith(("- generated", "="))),
        last=re.sub(r" in [0-9.]+s", "", output[-1]),
        markdown=markdown.read_text() if markdown.exists() else "",
        annotation=next((line for line in output if line.startswith("::error")), None),
    )


def junit_of(path: Path) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for case in ET.parse(path).getroot().iter("testcase"):
        properties = [(p.get("name"), p.get("value")) for p in case.iter("property")]
        became = [(part.tag, part.get("message"), part.text) for part in case if part.tag != "properties"]
        found.append((f"{case.get('classname')}.py::{case.get('name')}", (properties, became)))
    return found


def same(one: Run, other: Run) -> None:
    """Two runs of the same tests, that must not differ in anything that is said at their end."""
    assert one.of(one.tests) == other.of(other.tests)
    assert one.lines == other.lines
    assert one.markdown == other.markdown
    assert one.annotation == other.annotation
    assert one.last == other.last


def carried(run: Run, key: str) -> list[Any]:
    """One part of what each energy test's outcome is, over all that have one."""
    reports = [report for phases in run.tests.values() for report in phases.values()]
    return [report["carried"]["outcome"][key] for report in reports if report["carried"]]


def test_the_journal_holds_every_verdict_reason_code_and_state_that_there_is(suite: Suite) -> None:
    rows = [row for rows in carried(suite("--energy-gate=on"), "rows") for row in rows]
    levels = {row["verdict"] for row in rows if row["row"] == "level"}
    claims = {row["verdict"] for row in rows if row["row"] == "claim"}
    assert (levels, claims) == (set(get_args(LevelVerdict)), set(get_args(ClaimVerdict)))
    assert {row["reason"] for row in rows if row["row"] == "level"} == {None, *get_args(LevelReason)}
    assert {row["reason"] for row in rows if row["row"] == "claim"} == {None, *get_args(ClaimReason)}
    assert set(carried(suite("--energy-gate=on"), "state")) == set(get_args(State))
    assert set(STATUS) == levels | claims


def test_the_journal_holds_every_code_of_an_invalid_reading(suite: Suite, tmp_path: Path) -> None:
    every_answer.make(tmp_path)
    journal = read_journal(tmp_path / "now.jsonl")
    readings = [reading for key in journal.cases for reading in journal.readings_of(key)]
    assert {reason.code for reading in readings for reason in reading.invalid} == set(get_args(InvalidCode))


@pytest.mark.parametrize("gate", GATES)
def test_each_case_has_the_verdicts_that_it_was_made_for(suite: Suite, gate: Gate) -> None:
    run = suite(f"--energy-gate={gate}")
    for name, answer in ANSWERS.items():
        report = run.tests[node_id(name)]["call"]
        rows = [(row["verdict"], row["reason"]) for row in report["carried"]["outcome"]["rows"]]
        assert rows == list(answer.rows), name
        category = "error" if answer.says else "failed" if answer.fails(gate) else answer.category
        assert report["category"] == category, name
        assert (answer.says or "") in report["says"], name
    judged = sum(any(verdict in DECIDED for verdict, _ in answer.rows) for answer in ANSWERS.values())
    # The one that is marked xfail counts, the one with windows alone need not be decided.
    assert run.last.startswith(f"energy: judged {judged + 1} of {len(CASES)} (")
    assert run.status == 1


@pytest.mark.parametrize("gate", GATES)
def test_two_workers_find_the_same(suite: Suite, gate: Gate) -> None:
    alone, two = suite(f"--energy-gate={gate}"), suite(f"--energy-gate={gate}", "-n2")
    same(alone, two)
    assert two.status == alone.status


@pytest.mark.parametrize("gate", GATES)
def test_what_was_found_up_to_the_first_failure_is_the_same(suite: Suite, gate: Gate) -> None:
    whole, cut = suite(f"--energy-gate={gate}"), suite(f"--energy-gate={gate}", "-x")
    reached = list(whole.tests)[: len(cut.tests)]
    assert list(cut.tests) == reached
    assert cut.failed == {reached[-1]}
    assert cut.of(reached) == whole.of(reached)
    assert cut.status == 1
    energy = len(CASES) + 1  # with the one that is marked xfail
    assert f"{energy - len(reached)} not reached" in cut.last


def test_two_workers_that_stop_at_the_first_failure_found_the_same_so_far(suite: Suite) -> None:
    whole, cut = suite("--energy-gate=on"), suite("-n2", "-x")
    assert cut.failed
    assert cut.of(cut.tests) == whole.of(cut.tests)
    assert len(cut.tests) < len(whole.tests)
    assert cut.status == pytest.ExitCode.INTERRUPTED, "what pytest-xdist calls a run that it stops"


@pytest.mark.parametrize(("gate", "workers"), [("on", "-n0"), ("strict", "-n0"), ("off", "-n0"), ("strict", "-n2")])
def test_what_failed_is_judged_again_with_the_same_verdicts(suite: Suite, gate: Gate, workers: str) -> None:
    before = f"--energy-gate={gate}"
    whole, again = suite(before), suite(before, "--lf", workers, cache_of=before)
    assert whole.failed == {node_id(name) for name, a in ANSWERS.items() if a.fails(gate)} | {node_id(TROUBLED)}
    assert again.tests.keys() == whole.failed
    assert again.of(again.tests) == whole.of(again.tests)
    assert again.status == 1


@pytest.mark.parametrize("killed", ["ok", "regressed"])
def test_a_killed_worker_takes_nothing_but_its_own_test(suite: Suite, killed: str) -> None:
    whole, rest = suite("--energy-gate=on"), suite("-n2", kill=killed, cache_of=f"killed {killed}")
    others = whole.tests.keys() - {node_id(killed)}
    assert rest.tests.keys() == whole.tests.keys()
    assert rest.of(others) == whole.of(others)
    ((phase, report),) = [(p, r) for p, r in rest.tests[node_id(killed)].items() if r["outcome"] == "failed"]
    assert (phase, report["category"]) == ("???", "failed")
    crash = f"crashed while running '{node_id(killed)}'"
    assert crash in report["says"]
    assert rest.status == 1
    assert "not reached" not in rest.last
    assert f"- every is[{killed}] on h200: error: worker 'gw" in rest.markdown
    again = suite("--lf", cache_of=f"killed {killed}")
    assert again.tests.keys() == whole.failed | {node_id(killed)}
    assert again.of(again.tests) == whole.of(again.tests)


def test_a_crash_is_annotated_where_nothing_else_failed(suite: Suite) -> None:
    run = suite("-n2", *map(node_id, ("ok", "improved", "new")), kill="improved")
    assert run.status == 1
    assert run.last == "energy: judged 2 of 3 (1 new, 3 ok, 1 errored)"
    assert run.annotation is not None
    assert "every is[improved] on h200: worker 'gw" in run.annotation


UNDECIDED = (
    *("near-budget", "too-noisy", "no-baseline", "scenario-differs", "hardware-differs", "method-differs"),
    *("estimated", NOT_MEASURED),
)

MODES = ("-n0", "-n2", "-x", "--lf")


@pytest.mark.parametrize(
    ("cases", "gate", "status", "modes"),
    [
        (UNDECIDED, "on", 5, MODES),
        (UNDECIDED, "off", 0, ("-n0", "-n2")),
        (UNDECIDED, "strict", 1, MODES),
        ((NOT_MEASURED,), "strict", 5, ("-n0",)),
        (("ok", EXPECTED, *UNDECIDED), "on", 0, MODES),
        ((WINDOWS,), "on", 0, ("-n0", "-n2")),
    ],
)
def test_the_exit_status_is_the_same(
    suite: Suite, cases: tuple[str, ...], gate: Gate, status: int, modes: tuple[str, ...]
) -> None:
    runs = {mode: suite(*map(node_id, cases), f"--energy-gate={gate}", mode) for mode in modes}
    assert {mode: run.status for mode, run in runs.items()} == dict.fromkeys(modes, status)
    for mode in modes:
        if status != 1 or mode != "-x":
            same(runs["-n0"], runs[mode])


LIVE = """
import os, signal, time
import pytest
from pytest_llm_energy import costs, saves

@pytest.mark.parametrize("case", ["saves", "costs", "raises", "killed", "last"])
def test_live(energy_meter, case):
    arms = energy_meter.compare(short=lambda: time.sleep(0.01), long=lambda: time.sleep(0.05))
    if os.environ.get("KILL_WITHIN") == case:
        os.kill(os.getpid(), signal.SIGKILL)
    energy_meter.check(arms, costs if case == "costs" else saves)
    assert case != "raises"
"""


def test_what_is_measured_has_the_same_verdicts_with_two_workers_one_killed_and_from_their_journal(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_live.py").write_text(LIVE)
    (tmp_path / "conftest.py").write_text(every_answer.CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = ("-p", "tests.simulated_host", "--energy-runs=4", "--energy-window=0.02")
    host = {
        "SIMULATED_DEVICES": "2",
        "SIMULATED_LOG": str(tmp_path / "windows.jsonl"),
        "LLM_ENERGY_LEASES": str(tmp_path / "leases"),
    }
    alone = run_in(tmp_path, *options, "--energy-journal=alone.jsonl", **host)
    rest = run_in(tmp_path, *options, "-n2", "--energy-journal=rest.jsonl", **host, KILL_WITHIN="killed")
    replayed = run_in(tmp_path, "--energy-replay=rest.jsonl")
    killed = "test_live.py::test_live[h200-killed]"
    assert rest.tests.keys() == alone.tests.keys()
    others = alone.tests.keys() - {killed}
    assert verdicts(rest, others) == verdicts(alone, others)
    assert (alone.status, rest.status, replayed.status) == (1, 1, 1)
    assert alone.last == "energy: judged 4 of 5 (1 contradicts, 10 incomparable, 4 new, 1 errored)"
    # What raised has no verdicts in the end, and is in error again.
    raised = "test_live.py::test_live[h200-raises]"
    assert verdicts(replayed, others - {raised}) == verdicts(alone, others - {raised})
    assert "when it was measured: assert" in replayed.tests[raised]["call"]["says"]
    assert "the run was cut while this case was measured" in replayed.tests[killed]["call"]["says"]
    journal = read_journal(tmp_path / "rest.jsonl")
    (cut,) = journal.cut
    assert cut.case == "live[killed]"
    assert len(journal.readings_of(cut)) >= 8


def verdicts(run: Run, tests: Collection[str]) -> Mapping[str, object]:
    """Category, state and each verdict with its reason code, of measurements that differ in their figures."""
    return {
        test: (
            told["category"],
            told["carried"]["outcome"]["state"],
            [(row["verdict"], row["reason"]) for row in told["carried"]["outcome"]["rows"]],
        )
        for test in tests
        for told in [run.tests[test]["call"]]
    }
