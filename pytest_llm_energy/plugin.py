"""pytest hooks: wiring only."""

import datetime
import os
import re
import secrets
import sys
import unittest
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_llm_energy import markers, options, outcomes, self_test
from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.fixtures import (
    CASE,
    DEGREE,
    METER,
    SESSION,
    energy_baselines,
    energy_meter,
    gpu_model,
    measures,
)
from pytest_llm_energy.hardware.catalogue import GpuSpec, catalogue, gpu_spec
from pytest_llm_energy.outcomes import OUTCOMES, Outcomes
from pytest_llm_energy.planning.ordering import engine_order
from pytest_llm_energy.planning.sharding import Shards
from pytest_llm_energy.planning.skipping import cannot_run
from pytest_llm_energy.planning.time_budget import TimeBudget
from pytest_llm_energy.reporting import summary
from pytest_llm_energy.reporting.live import Live, LogLines, Silent, StatusLine, Uncaptured
from pytest_llm_energy.reporting.no_cases import NoCases
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.segments import claim, make_folder

__all__ = ["energy_baselines", "energy_meter", "gpu_model"]


SPECS = pytest.StashKey[tuple[GpuSpec, ...]]()
"""On the config: GPU models that energy tests are collected for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    options.add_options(parser)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options, make the marks known."""
    try:
        energy = options.EnergyConfig.from_pytest_config(config)
    except EnergyError as error:
        raise pytest.UsageError(str(error)) from error
    handed: dict[str, Any] | None = getattr(config, "workerinput", None)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    default = config.rootpath / ".llm-energy" / f"{now}-{os.getpid()}.jsonl"
    session = EnergySession(
        energy,
        _live(config),
        process=handed["workerid"] if handed else "main",
        journal=Path(handed["llm_energy_journal"]) if handed else energy.journal or default,
        id=handed["llm_energy_session"] if handed else secrets.token_hex(4),
    )
    try:
        _ = session.replayed, session.resumed
        if energy.shard:
            config.pluginmanager.register(Shards(session, *energy.shard), "llm-energy-shards")
        # After the shards: plugins whose hooks come last do so in the order in which they were registered.
        states_costs = options.states_costs(config) and not (energy.replay or energy.self_test)
        if energy.time_budget_seconds or states_costs:
            chooses = TimeBudget(session, energy.time_budget_seconds)
            config.pluginmanager.register(chooses, "llm-energy-time-budget")
    except EnergyError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SESSION] = session
    config.stash[OUTCOMES] = Outcomes()
    config.pluginmanager.register(config.stash[OUTCOMES], "llm-energy-outcomes")
    markers.register(config, catalogue().values())


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the journal that is named for this run alone, before an xdist worker is started."""
    config = session.config
    journal, replay = config.stash[SESSION].options.journal, config.stash[SESSION].options.replay
    if journal and not (replay or config.option.collectonly or hasattr(config, "workerinput")):
        try:
            config.add_cleanup(claim(journal))
        except EnergyError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the suite run's id and the journal's place to an xdist worker; it alone will know of energy tests."""
    session = node.config.stash[SESSION]
    node.workerinput["llm_energy_session"] = session.id
    node.workerinput["llm_energy_journal"] = str(session.journal)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Hand what an xdist worker refuses to do to the controller, which ends the run with it."""
    try:
        return (yield)
    except pytest.UsageError as error:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[outcomes.REFUSED] = str(error)
        raise


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Collect an energy test for this host's GPU model, and for those that -m names."""
    fixture = markers.of_gpu_model(metafunc)
    if fixture is None:
        return
    specs = _specs(metafunc.config)
    if (cases := metafunc.definition.get_closest_marker(markers.CASES)) is None:
        keys = [markers.Key(spec.key) for spec in specs]
        metafunc.parametrize(fixture, keys, indirect=True, ids=keys)
        return
    own, item = specs[0], metafunc.definition
    if why := markers.why_none(cases, own):
        test = item.name.removeprefix("test_")
        without = NoCases(finding=markers.finding(item), test=test, gpu=own.key, why=why)
        metafunc.config.stash[OUTCOMES].no_cases.append(without)
    name, parameters = markers.cases(cases, specs)
    metafunc.parametrize((fixture, name), parameters, indirect=[fixture])


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(
    collector: pytest.Collector,
) -> Generator[None, Any, Any]:
    """Keep the cases that a test's GPU marks admit, and mark them with GPU model and degree."""
    made = yield
    if not isinstance(made, list):
        return made
    kept = []
    for item in made:
        key = _gpu_of(item)
        if key is None:
            kept.append(item)
            continue
        if key == markers.NO_CASES:
            continue
        spec = next(spec for spec in _specs(collector.config) if spec.key == key)
        if markers.limited_to(item, spec):
            markers.mark(item, spec)
            case = markers.case_key(item, key)
            tested = collector.config.stash[SESSION].options.self_test
            item.stash[CASE] = self_test.key_of(case) if tested else case
            item.stash[DEGREE] = markers.tp_degree(item)
            kept.append(item)
    return kept


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out full grids, skip what this host cannot run, bring tests of one engine together."""
    if SPECS in config.stash:  # an energy test was met
        markers.assert_spelt(config.option.markexpr, known_marks=_known_marks(config))
    if not re.search(rf"\b{markers.FULL}\b", config.option.markexpr):
        full = [item for item in items if CASE in item.stash and item.get_closest_marker(markers.FULL)]
        if full:
            config.hook.pytest_deselected(items=full)
            items[:] = [item for item in items if item not in full]
    try:
        _ = config.stash[SESSION].server_devices
    except EnergyError as error:
        raise pytest.UsageError(str(error)) from error
    by_case: dict[object, pytest.Item] = {}
    for item in items:
        if CASE in item.stash and (twin := by_case.setdefault(item.stash[CASE], item)) is not item:
            raise pytest.UsageError(
                f"{twin.nodeid} and {item.nodeid} are both the case {item.stash[CASE]}: rename one of the modules"
            )
    places = []
    for item in items:
        reason = cannot_run(config.stash[SESSION], item) if CASE in item.stash else None
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        places.append(() if reason or _recorded(item) else markers.engine_places(item))
    items[:] = [items[position] for position in engine_order(places)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Prove that the journal can be written, before anything is spent on measuring.

    First of all, since an xdist worker tells in this hook that it is ready.
    """
    config = session.config
    cases = {item.nodeid: item.stash[CASE] for item in session.items if CASE in item.stash}
    config.stash[OUTCOMES].cases = cases
    energy = config.stash[SESSION]
    measures = cases and not config.option.collectonly and not energy.options.replay
    if not measures:
        return
    if energy.servers and hasattr(config, "workerinput"):
        raise pytest.UsageError("two processes would drive the same endpoint: run energy tests on it with -n0")
    energy.to_come = (
        {}
        if energy.options.self_test
        else {
            item.stash[CASE]: tuple(markers.scenarios(item))
            for item in session.items
            if item.nodeid in cases and not (_takes_no_time(item) or item.get_closest_marker("skip"))
        }
    )
    _begin_journal(energy)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """In place of an energy test's body: judge the journal that holds the case already, or test the gate."""
    if CASE not in pyfuncitem.stash:
        return None
    if _recorded(pyfuncitem):
        pyfuncitem.stash[METER].replay()
        return True
    if pyfuncitem.config.stash[SESSION].options.self_test:
        if METER not in pyfuncitem.stash:
            pytest.skip(self_test.NEEDS)
        pyfuncitem.stash[METER].test_gate(list(markers.scenarios(pyfuncitem)))
        return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail an energy test whose body has ended, or skipped what was left of it, if its verdicts fail the gate."""
    try:
        result = yield
    except (pytest.skip.Exception, unittest.SkipTest):
        if CASE in item.stash:
            outcomes.fail_by_verdicts(item)
        raise
    if CASE in item.stash:
        outcomes.fail_by_verdicts(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Keep the engines that the next test wants, with their devices; end the others."""
    try:
        return (yield)
    finally:
        session = item.config.stash[SESSION]
        if CASE in item.stash:
            session.live.clear()
            session.to_come.pop(item.stash[CASE], None)
            # A case that is not measured takes no time: what is alive may serve the one after it.
            if not session.replayed and not (nextitem and _takes_no_time(nextitem)):
                session.retain(markers.engine_keys(nextitem) if nextitem else ())
            if session.patience.interrupted:
                item.session.shouldstop = "by the user, while a verdict was being settled"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdicts on the report."""
    report = yield
    if CASE in item.stash:
        outcomes.put_on(report, item, call.excinfo.value if call.excinfo else None)
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> Any:
    """Letters and words of the verdicts; an engine or meter that failed is an error, not a failure."""
    return outcomes.status(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Count in the last line, below pytest's own."""
    result = yield
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.option.collectonly:
        return result
    found = outcomes.summary_of(config)
    if found.cases:
        reporter.write_line(summary.last_line(found), red=found.decided_nothing or found.lacks_devices)
    if problem := config.stash[OUTCOMES].problem:
        reporter.write_line(f"energy: {problem}", red=True)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables; write the Markdown and the annotation where they are wanted."""
    found = outcomes.summary_of(config)
    if not found.outcomes and found.device_problem:  # tests for GPUs alone are not collected then
        for line in summary.device_lines(found):
            terminalreporter.write_line(f"energy: {line}", yellow=True)
    if not found.outcomes or config.option.collectonly:
        return
    terminalreporter.section(f"energy: {_title(config.stash[SESSION])}")
    for line in summary.text_lines(found):
        terminalreporter.write_line(line)
    for problem in outcomes.write_reports(config.stash[SESSION].options.report, found):
        terminalreporter.write_line(f"energy: {problem}", red=True)
    error = summary.annotation(found) if os.environ.get("GITHUB_ACTIONS") == "true" else None
    if error:
        terminalreporter.write_line(error)


def _begin_journal(session: EnergySession) -> None:
    """Prove that it can be written; begin it with what a resumed one holds."""
    try:
        make_folder(session.journal)
        session.carry_over()
    except EnergyError as error:
        raise pytest.UsageError(str(error)) from error


def _recorded(item: pytest.Item) -> bool:
    """Whether an energy test is judged from a journal instead of measured."""
    if CASE not in item.stash or not measures(item):
        return False
    return item.config.stash[SESSION].recorded(item.stash[CASE]) is not None


def _takes_no_time(item: pytest.Item) -> bool:
    """Whether an energy test is judged from a journal, or by baselines alone."""
    return _recorded(item) or (CASE in item.stash and not measures(item))


def _gpu_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    params = [callspec.params.get(name) for name in markers.OF_GPU_MODELS] if callspec else []
    return next((str(key) for key in params if isinstance(key, markers.Key)), None)


def _specs(config: pytest.Config) -> tuple[GpuSpec, ...]:
    """GPU models to collect for: the one measured or replayed, and those named in -m."""
    if SPECS not in config.stash:
        try:
            own = config.stash[SESSION].spec
        except EnergyError as error:
            raise pytest.UsageError(str(error)) from error
        if own.key not in catalogue():
            markers.register(config, [own])
        keys = markers.gpu_keys_in(config.option.markexpr)
        named = (gpu_spec(key) for key in keys if key not in (own.key, own.family))
        config.stash[SPECS] = (own, *named)
    return config.stash[SPECS]


def _known_marks(config: pytest.Config) -> list[str]:
    return [re.split(r"[(:]", line)[0].strip() for line in config.getini("markers")]


def _title(energy: EnergySession) -> str:
    if energy.replayed:
        simulated = ", simulated" if energy.replayed.opened.simulated else ""
        return f"{energy.spec.name}, replayed{simulated}"
    facts = energy.fingerprint(()).identity
    return f"{facts['processor']}, {facts['cores']} cores" if energy.spec.key == "cpu" else energy.spec.name


def _live(config: pytest.Config) -> Live:
    """A status line on a terminal, lines in a log, lines on stderr from an xdist worker."""
    if config.option.verbose < 0 or config.option.collectonly:
        return Silent()
    capture = config.pluginmanager.get_plugin("capturemanager")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    live: Live
    if hasattr(config, "workerinput"):
        live = LogLines(_stderr_line, prefix=f"[{config.workerinput['workerid']}] ")
    elif reporter is None:
        return Silent()
    else:
        live = StatusLine(config.get_terminal_writer()) if reporter.isatty else LogLines(reporter.write_line)
    return live if capture is None else Uncaptured(live, capture.global_and_fixture_disabled)


def _stderr_line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
