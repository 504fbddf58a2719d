"""Workers that import an engine's stack while another engine loads."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.reporting.live import Silent
from pytest_llm_energy.serving import pool as pools
from pytest_llm_energy.serving import spares
from pytest_llm_energy.serving.pool import Engine, EnginePool
from pytest_llm_energy.serving.process import Done, WorkerProcess
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.measured import CaseKey
from tests.simulated_host import simulated_devices, simulated_host
from tests.unit.measurements import PLAIN

ZERO, ONE = simulated_devices(2)
OTHER = PLAIN.replace(model="tiny-olmo")
THIRD = PLAIN.replace(model="tiny-olmoe")


@dataclass
class Workers:
    """What workers were asked, in order, and those that run."""

    log: list[str] = field(default_factory=list)
    running: list["Worker"] = field(default_factory=list)
    started: int = 0
    fails: bool = False
    raises: dict[str, BaseException] = field(default_factory=dict)


class Worker:
    """Stands in for an engine's process."""

    all: Workers
    alive = True

    def __init__(self, *, python: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        self.name = name
        self.all.started += 1
        self.number = self.all.started
        self.all.running.append(self)

    def tell(self, request: Mapping[str, object]) -> None:
        self.all.log.append(f"{self.number} told to {request['do']}")

    def wait(self, **_: Any) -> None:
        if self.all.fails:
            raise EngineError("cannot be imported")
        if error := self.all.raises.get("ready"):
            raise error
        self.all.log.append(f"{self.number} ready")

    def ask(self, request: Mapping[str, object], **_: Any) -> Done:
        if error := self.all.raises.get(str(request["do"])):
            raise error
        self.all.log.append(f"{self.number} {request['do']}")
        return Done(stack={})

    def end(self) -> None:
        self.all.running.remove(self)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    Worker.all = Workers()
    monkeypatch.setattr(pools, "WorkerProcess", Worker)
    monkeypatch.setattr(spares, "WorkerProcess", Worker)
    return Worker.all


@pytest.fixture
def session(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> EnergySession:
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(tmp_path / "leases"))
    options = EnergyConfig.from_pytest_config(request.config)
    made = EnergySession(options, Silent(), id="session", process="main", journal=tmp_path / "j.jsonl")
    made.know_host(simulated_host(4))
    return made


def pool(*coming: Scenario, again: bool = False) -> EnginePool:
    def to_come() -> Iterable[Scenario]:
        return coming

    return EnginePool(name="main", deadline=1.0, on_start=ignore, coming=to_come, again=again)


def ignore(engine: Engine, scenario: Scenario) -> None:
    """Nobody counts starts."""


def test_while_an_engine_loads_the_next_one_s_stack_is_imported_and_no_longer(workers: Workers) -> None:
    engines = pool(PLAIN, OTHER)
    engines.engine(PLAIN, (ZERO,), print)
    assert workers.log == ["2 told to import", "1 load", "2 ready"]
    engines.engine(OTHER, (ZERO,), print)
    assert workers.log[3:] == ["2 load"]
    engines.close()
    assert not workers.running


def test_every_start_but_the_first_finds_its_stack_imported(workers: Workers) -> None:
    engines = pool(PLAIN, OTHER, THIRD)
    for scenario in (PLAIN, OTHER, THIRD):
        engines.engine(scenario, (ZERO,), print)
    assert [line for line in workers.log if line.endswith("load")] == ["1 load", "2 load", "3 load"]
    assert workers.started == 3


ON_VLLM = PLAIN.replace(engine="vllm")


@pytest.mark.parametrize(
    ("first", "next_one"),
    [(PLAIN, PLAIN), (PLAIN, OTHER.replace(engine="vllm")), (ON_VLLM, ON_VLLM.replace(tensor_parallel_size=2))],
)
def test_nothing_is_imported_where_no_start_of_that_stack_on_as_many_devices_follows(
    workers: Workers, first: Scenario, next_one: Scenario
) -> None:
    pool(first, next_one).engine(first, (ZERO,), print)
    assert workers.started == 1


def test_engines_that_are_started_again_find_their_stack_imported(workers: Workers) -> None:
    engines = pool(PLAIN, again=True)
    for _ in range(2):
        engines.engine(PLAIN, (ZERO,), print)
        engines.discard(PLAIN)
    assert [line for line in workers.log if line.endswith("load")] == ["1 load", "2 load"]


def test_a_command_that_cannot_import_ahead_is_said_nothing_of_and_not_asked_again(workers: Workers) -> None:
    workers.fails = True
    engines = pool(PLAIN, OTHER, THIRD)
    engines.engine(PLAIN, (ZERO,), print)
    engines.engine(OTHER, (ZERO,), print)
    assert [worker.number for worker in workers.running] == [1, 3]
    assert workers.started == 3


def test_a_spare_that_has_died_is_replaced(workers: Workers) -> None:
    engines = pool(PLAIN, OTHER)
    engines.engine(PLAIN, (ZERO,), print)
    workers.running[1].alive = False
    engines.engine(OTHER, (ZERO,), print)
    assert "3 load" in workers.log
    assert [worker.number for worker in workers.running] == [1, 3]


@pytest.mark.parametrize("error", [EngineError("refused"), KeyboardInterrupt()])
@pytest.mark.parametrize("during", ["load", "ready"])
def test_where_a_start_fails_its_spare_imports_no_longer(
    workers: Workers, error: BaseException, during: str
) -> None:
    workers.raises[during] = error
    engines = pool(PLAIN, OTHER)
    if (during, type(error)) == ("ready", EngineError):  # of the spare alone
        engines.engine(PLAIN, (ZERO,), print)
        assert [worker.number for worker in workers.running] == [1]
    else:
        with pytest.raises(type(error)):
            engines.engine(PLAIN, (ZERO,), print)
        assert not workers.running


def test_a_test_that_changes_the_environment_is_served_with_it(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = pool(PLAIN, OTHER, THIRD)
    engines.engine(PLAIN, (ZERO,), print)
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "FLASHINFER")
    engines.engine(OTHER, (ZERO,), print)
    assert "2 load" not in workers.log
    monkeypatch.delenv("VLLM_ATTENTION_BACKEND")
    engines.engine(THIRD, (ZERO,), print)
    assert [line for line in workers.log if line.endswith("load")] == ["1 load", "3 load", "5 load"]
    engines.close()
    assert not workers.running


def test_a_spare_outlives_a_case_and_the_lease_of_its_devices_but_sees_no_others(
    workers: Workers, session: EnergySession
) -> None:
    session.to_come = {CaseKey(gpu="h200", finding="f", case=s.preset.name): (s,) for s in (PLAIN, OTHER, THIRD)}
    for scenario, devices in ((PLAIN, 1), (OTHER, 1), (THIRD, 2)):
        session.pool.engine(scenario, session.lease(devices, print), print)
        session.retain(())
        assert not session.leases.held
    assert [line for line in workers.log if line.endswith("load")] == ["1 load", "2 load", "4 load"]
    session.close()
    assert not workers.running


def test_stacks_do_not_share_spares(workers: Workers) -> None:
    engines = pool(PLAIN, OTHER)
    there = Stack(side="against", pythons={"transformers": ("there",)})
    engines.engine(PLAIN, (ZERO,), print)
    engines.engine(PLAIN, (ZERO,), print, stack=there)
    assert [line for line in workers.log if line.endswith("load")] == ["1 load", "3 load"]
    assert workers.started == 4


def test_what_a_worker_was_told_is_done_before_what_it_is_asked() -> None:
    worker = WorkerProcess(python=[sys.executable], environment={}, name="spare")
    try:
        worker.tell({"do": "import", "engine": "nothing"})
        worker.name = "engine"
        with pytest.raises(EngineError, match=r"engine could not import: .* cannot import engine 'nothing'"):
            worker.ask({"do": "load"}, deadline=60, say=print)
        assert worker.alive
    finally:
        worker.end()
