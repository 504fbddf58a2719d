"""Why an energy test does not run here."""

import pytest

from pytest_llm_energy import markers
from pytest_llm_energy.fixtures import CASE, DEGREE, measures
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.measured import CaseKey


def cannot_run(session: EnergySession, item: pytest.Item) -> str | None:
    """Why an energy test is skipped here, None where it runs."""
    key = item.stash[CASE]
    if not measures(item):
        return _cannot_compare(session, key)
    if session.replayed:
        if key in session.replayed.cases:
            return None
        left_out = any(key in opened.left_out for opened in session.replayed.openings)
        return "left out by the time budget of its run" if left_out else "not in the journal"
    if session.recorded(key):
        return None
    reason = _lacks(session, item)
    if reason and key in session.reopening:
        session.reopening.leave(key)  # what is known of it stands
        return None
    return reason


def _lacks(session: EnergySession, item: pytest.Item) -> str | None:
    """Why a case cannot be measured here."""
    key = item.stash[CASE]
    if key.gpu != session.spec.key:
        return _another_gpu(session, key)
    for engine in sorted({scenario.engine for scenario in markers.scenarios(item)}):
        if any(stack.lacks(engine) for stack in session.options.stacks):
            return f"engine {engine} is not installed here: pip install it, or --energy-python {engine}=COMMAND"
    degree, devices = item.stash[DEGREE], len(session.host.devices)
    if key.gpu != "cpu" and degree > devices:
        return f"needs {degree} devices, this host has {devices}"
    on = len(session.server_devices) or (degree if session.host.devices else 0)
    return session.not_servable(list(markers.scenarios(item)), devices=on)


def _cannot_compare(session: EnergySession, key: CaseKey) -> str | None:
    """Why a test of baselines does not run: they are what was measured before, whatever is measured now."""
    options = session.options
    if options.self_test:
        return "--energy-self-test measures, and this judges baselines alone"
    if options.against_says or session.servers:
        given = "--energy-against" if options.against_says else "--energy-endpoint"
        return f"{given} is about another stack or server than baselines are of, and this judges them alone"
    if key.gpu != session.spec.key:
        return f"not in the journal, of {session.spec.key}" if session.replayed else _another_gpu(session, key)
    return None


def _another_gpu(session: EnergySession, key: CaseKey) -> str:
    problem = f": {session.host.problem}" if session.host.problem else ""
    return f"needs {key.gpu}, this host has {session.spec.key}{problem}"
