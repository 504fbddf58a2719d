"""Engines and the devices they are on: an engine serves only where it was loaded, and keeps its devices leased."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.reporting.live import Silent
from pytest_llm_energy.serving import pool as pools
from pytest_llm_energy.serving.pool import EnginePool
from pytest_llm_energy.serving.process import Done
from pytest_llm_energy.session import EnergySession
from tests.simulated_host import simulated_devices, simulated_host
from tests.unit.measurements import PLAIN

ZERO, ONE, TWO, _ = simulated_devices(4)


class Worker:
    """Stands in for an engine's process: notes the devices it was given, and when it ended."""

    running: list[str]

    def __init__(self, *, python: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        self.devices = environment["CUDA_VISIBLE_DEVICES"]
        self.running.append(self.devices)

    @property
    def alive(self) -> bool:
        return self.devices in self.running

    def ask(self, request: Mapping[str, object], **_: Any) -> Done:
        return Done(seconds=1.0, stack={})

    def end(self) -> None:
        self.running.remove(self.devices)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices of the workers that run."""
    Worker.running = []
    monkeypatch.setattr(pools, "WorkerProcess", Worker)
    return Worker.running


@pytest.fixture
def session(
    running: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[EnergySession]:
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(tmp_path / "leases"))
    options = EnergyConfig.from_pytest_config(request.config)
    made = EnergySession(options, Silent(), id="session", process="main", journal=tmp_path / "j.jsonl")
    made.know_host(simulated_host(4))
    yield made
    made.close()


def test_an_engine_serves_only_on_the_devices_it_was_loaded_on(running: list[str]) -> None:
    pool = EnginePool(name="main", deadline=1.0, on_start=lambda engine, scenario: None)
    one = pool.engine(PLAIN, (ZERO,), print)
    assert pool.engine(PLAIN, (ZERO,), print) is one
    assert pool.engine(PLAIN, (ONE,), print) is not one
    assert pool.engine(PLAIN, (ONE, TWO), print) is not one
    assert running == ["0", "1", "1,2"]
    pool.discard(PLAIN)
    assert not running
    assert pool.empty


def test_devices_stay_leased_while_an_engine_on_them_is_kept(session: EnergySession, running: list[str]) -> None:
    assert session.lease(1, print) == (ZERO,)
    session.pool.engine(PLAIN, (ZERO,), print)
    session.retain([PLAIN.engine_key])
    assert session.leases.held == session.lease(1, print) == (ZERO,)
    assert running == ["0"]
    session.retain(())
    assert not session.leases.held
    assert not running


def test_engines_end_before_their_devices_are_given_back_for_others(
    session: EnergySession, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session.pool.engine(PLAIN, session.lease(1, print), print)
    session.retain([PLAIN.engine_key])
    release = session.leases.release
    running_at_release = []

    def released() -> None:
        running_at_release.append(list(running))
        release()

    monkeypatch.setattr(session.leases, "release", released)
    assert session.lease(2, print) == (ZERO, ONE)
    assert running_at_release == [[]]
    session.pool.engine(PLAIN, (ZERO, ONE), print)
    session.close()
    assert running_at_release == [[], []]
    assert session.leases.held == ()


def test_devices_that_the_tests_own_work_is_still_on_stay_leased(
    session: EnergySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.lease(1, print)
    monkeypatch.setattr(type(session.leases), "in_use", True)
    session.retain(())
    assert session.leases.held == (ZERO,)
