"""How energy tests ended: on each report, gathered over all of them, and written out at the end."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.fixtures import BASELINES, CASE, METER, SESSION, measures
from pytest_llm_energy.hardware.detection import Host
from pytest_llm_energy.reporting import messages, summary
from pytest_llm_energy.reporting.no_cases import NoCases
from pytest_llm_energy.reporting.selection import Selection, too_little
from pytest_llm_energy.reporting.summary import CaseOutcome, Summary
from pytest_llm_energy.reporting.tables import natural
from pytest_llm_energy.verdicts import files
from pytest_llm_energy.verdicts.measured import CaseKey, Metered
from pytest_llm_energy.verdicts.rows import Row, failing, worst
from pytest_llm_energy.verdicts.segments import join_segments

REFUSED = "llm_energy_refused"
"""Of what an xdist worker hands to the controller: why it measures nothing."""

EXIT_DECIDED_NOTHING = pytest.ExitCode.NO_TESTS_COLLECTED

STATUS = {
    "regressed": ("regressed", "R", ("REGRESSED", {"red": True})),
    "contradicts": ("contradicts", "C", ("CONTRADICTS", {"red": True})),
    "inconclusive": ("inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})),
    "incomparable": ("incomparable", "~", ("INCOMPARABLE", {"yellow": True})),
    "improved": ("improved", "I", ("IMPROVED", {"green": True})),
    "absent": ("passed", "a", "ABSENT"),
    "new": ("passed", "n", "NEW"),
    "confirms": ("passed", "c", "CONFIRMS"),
    "ok": ("passed", ".", "OK"),
    "shown": ("passed", "s", "SHOWN"),
}
"""Category, letter and word by verdict. A test that fails the gate stays in pytest's category ``failed``, whose
messages it prints; only its letter and word are the verdict's."""


class Outcomes:
    """Gathers how energy tests ended where reports arrive: in the only process, or in xdist's controller.

    Attributes:
        cases: the energy tests that were selected, by node id.
        no_cases: tests that have no cases on this GPU model, with their reasons.
        selection: what a time budget chose in an xdist worker; each chooses the same.
        problem: why the journal could not be written at the end.
    """

    def __init__(self) -> None:
        self.cases: dict[str, CaseKey] = {}
        self.no_cases: list[NoCases] = []
        self.selection: Selection | None = None
        self._reported: dict[str, CaseOutcome] = {}
        self._crashed: dict[str, str] = {}
        self.problem: str | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome off a report."""
        carried = getattr(report, "llm_energy", None)
        if carried is not None:
            self._reported[report.nodeid] = msgspec.convert(carried["outcome"], CaseOutcome)

    @property
    def by_test(self) -> dict[str, CaseOutcome]:
        """How the tests ended that were reached, by finding and case: processes end theirs in any order."""
        crashed = {
            test: CaseOutcome(key=self.cases[test], state="errored", says=says)
            for test, says in self._crashed.items()
            if test in self.cases
        }
        return dict(sorted((crashed | self._reported).items(), key=lambda ended: natural(ended[1].key)))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Note the test at which an xdist worker died, of which no report of ours comes."""
        self._crashed[crashitem] = str(report.longrepr)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Learn from an xdist worker which energy tests it selected, and on which host; each selects the same.

        Raises:
            UsageError: it refused to measure.
        """
        output = getattr(node, "workeroutput", {})
        if refused := output.get(REFUSED):
            raise pytest.UsageError(refused)
        if host := output.get("llm_energy_host"):
            node.config.stash[SESSION].know_host(msgspec.convert(host, Host))
        self.cases |= msgspec.convert(output.get("llm_energy_cases", {}), dict[str, CaseKey])
        self.no_cases = msgspec.convert(output.get("llm_energy_no_cases", self.no_cases), list[NoCases])
        if selection := output.get("llm_energy_selection"):
            self.selection = msgspec.convert(selection, Selection)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Close what was held and join the journal; a run that decided nothing does not pass.

        Last of all, since xdist ends its workers, who still write, in this hook too.
        """
        config = session.config
        energy = config.stash[SESSION]
        energy.close()
        if hasattr(config, "workeroutput"):
            config.workeroutput["llm_energy_cases"] = msgspec.to_builtins(self.cases)
            config.workeroutput["llm_energy_no_cases"] = msgspec.to_builtins(self.no_cases)
            config.workeroutput["llm_energy_selection"] = msgspec.to_builtins(energy.selection)
            config.workeroutput["llm_energy_host"] = msgspec.to_builtins(energy.detected)
            return
        if not (energy.options.replay or config.option.collectonly):  # those write none, and another run may
            try:
                join_segments(energy.journal)
            except EnergyError as error:
                self.problem = str(error)
        if energy.options.journal is None:
            with suppress(OSError):  # of ours, where nothing is in it
                energy.journal.parent.rmdir()
        if self.selection and self.selection.fits_nothing:
            self.problem = too_little(self.selection)
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        found = summary_of(config)
        undecided = found.decided_nothing or found.lacks_devices
        if undecided and not config.option.collectonly and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = EXIT_DECIDED_NOTHING


OUTCOMES = pytest.StashKey[Outcomes]()
"""On the config: outcomes so far, and how many energy tests this process selected."""


class GateError(AssertionError):
    """The body of a test has ended, and its verdicts fail the gate."""


def fail_by_verdicts(item: pytest.Item) -> None:
    """Raise what fails a test whose body has ended, if its verdicts do.

    It is raised, and not put on the report later, so that what pytest knows of expected failures (conditions,
    ``strict``, ``raises``, ``--runxfail``) applies to it as to any other.

    Raises:
        GateError: they fail the gate.
    """
    failed = failing(_rows(item), item.config.stash[SESSION].options.gate)
    if failed:
        raise GateError(messages.failure(failed))


def put_on(report: pytest.TestReport, item: pytest.Item, error: BaseException | None) -> None:
    """Put how an energy test stands, with its verdicts, on the report of a phase.

    Args:
        report: of the phase that has ended.
        item: the test.
        error: what the phase raised, None if nothing.
    """
    if isinstance(error, GateError):
        report.longrepr = str(error)
    elif isinstance(error, EnergyError) and item.config.option.tbstyle == "auto":
        report.longrepr = f"{type(error).__name__}: {error}"
    outcome = _outcome(item, report, error)
    if outcome is None:
        return
    carried: dict[str, Any] = {"outcome": msgspec.to_builtins(outcome), "error": isinstance(error, EnergyError)}
    if outcome.rows and outcome.state != "errored":
        if report.passed or isinstance(error, GateError):
            carried["verdict"] = worst(outcome.rows)
        item.user_properties.append(("energy_verdict", worst(outcome.rows)))
    report.llm_energy = carried  # type: ignore[attr-defined]


def status(report: pytest.TestReport) -> Any:
    """Category, letter and word of a report that carries a verdict, or an engine's or meter's error; else None."""
    carried = getattr(report, "llm_energy", None)
    if carried is None or report.when != "call" or report.skipped or hasattr(report, "wasxfail"):
        return None
    if carried["error"]:
        return "error", "E", "ERROR"
    if "verdict" not in carried:
        return None
    category, letter, word = STATUS[carried["verdict"]]
    return ("failed" if report.failed else category), letter, word


def summary_of(config: pytest.Config) -> Summary:
    """What there is to report so far."""
    energy = config.stash[SESSION]
    journal = energy.journal if energy.journal.exists() else None
    host = None if energy.options.replay else energy.detected
    workers = getattr(config.option, "numprocesses", None)
    return Summary(
        outcomes=config.stash[OUTCOMES].by_test,
        expected=len(config.stash[OUTCOMES].cases),
        gate=energy.options.gate,
        journal=_shown(journal, config) if journal else None,
        carbon=energy.options.carbon,
        resumed=_shown(energy.options.resume, config) if energy.options.resume else None,
        no_cases=() if _single_tests(config) else tuple(config.stash[OUTCOMES].no_cases),
        selection=energy.selection or config.stash[OUTCOMES].selection,
        device_problem=host.problem if host else None,
        unusable=host is not None and host.unusable,
        elapsed_seconds=None
        if energy.options.replay or energy.options.resume or workers
        else time.monotonic() - energy.begun,
    )


def _single_tests(config: pytest.Config) -> bool:
    """Whether -k or node ids ask for single tests: that others have no cases is no news then."""
    return bool(config.option.keyword) or any("::" in argument for argument in config.args)


def write_reports(report: Path | None, found: Summary) -> Iterable[str]:
    """Write the Markdown to the file asked for and to GitHub's step summary; yields what could not be written."""
    text = summary.markdown(found)
    if report is not None:
        try:
            files.write_whole(report, text)
        except EnergyError as error:
            yield str(error)
    if place := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            yield f"cannot write the step summary {place}: {error.strerror}"


def _outcome(item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> CaseOutcome | None:
    """How the test stands after this phase; None while it goes on, or when that was told before."""
    ended, stopped = _body_ended(report, error), _stopped(report, error)
    if report.when == "teardown" or not (ended or report.skipped or report.failed):
        return None
    key = item.stash[CASE]
    meter = item.stash.get(METER, None)
    rows = _rows(item)
    metered = meter.metered if meter else Metered()
    starts = meter.starts if meter else {}
    measuring = measures(item)
    source = item.config.stash[SESSION].source(key) if measuring else None
    resumed = bool(item.config.stash[SESSION].resumed and meter and meter.stands)
    if meter is not None and (ended or (stopped and meter.windows)):
        meter.ended()
    if ended or (stopped and rows):
        return CaseOutcome(
            key=key,
            state=summary.state_of(rows, measured=bool(meter and meter.measured)),
            rows=rows,
            source=source,
            noise=meter.noise if meter else None,
            metered=metered,
            starts=starts,
            resumed=resumed,
            further=measuring and not resumed and key in item.config.stash[SESSION].reopening,
            measures=measuring,
        )
    says = str(error or report.longrepr) or type(error).__name__
    if meter is not None and not stopped:
        meter.trouble(says)
    if report.skipped:
        return CaseOutcome(key=key, state="skipped", says=_why_skipped(report), metered=metered, measures=measuring)
    return CaseOutcome(
        key=key,
        state="errored",
        rows=rows,
        source=source,
        says=says,
        metered=metered,
        starts=starts,
        measures=measuring,
    )


XPASS_STRICT = "[XPASS(strict)]"
"""How pytest begins the report of a test that was to fail and whose body has ended without an error."""


def _body_ended(report: pytest.TestReport, error: BaseException | None) -> bool:
    """Whether the body ran to its end: then its verdicts are what became of it, whatever pytest makes of them."""
    unexpected = report.failed and str(report.longrepr).startswith(XPASS_STRICT)
    quiet = error is None and (report.passed or unexpected)
    return report.when == "call" and (quiet or isinstance(error, GateError))


def _stopped(report: pytest.TestReport, error: BaseException | None) -> bool:
    """Whether the test itself left out what was left of it: what it checked before that stands."""
    return report.skipped and (isinstance(error, pytest.xfail.Exception) or not hasattr(report, "wasxfail"))


def _why_skipped(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}".removesuffix(": ")
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _rows(item: pytest.Item) -> list[Row]:
    """Verdicts of an energy test so far."""
    judges = item.stash.get(METER, None) or item.stash.get(BASELINES, None)
    return judges.rows if judges else []


def _shown(path: Path, config: pytest.Config) -> str:
    return os.path.relpath(path, config.invocation_params.dir)
