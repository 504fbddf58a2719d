"""An engine in a container: its processes are no descendants of ours and have other ids there."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.errors import MeterError
from pytest_llm_energy.hardware.strangers import Kin, strangers_to_this_process
from pytest_llm_energy.metering.choice import choose_meter, include
from pytest_llm_energy.metering.codecarbon_process import CodeCarbonProcessMeter
from pytest_llm_energy.serving.pool import EnginePool
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.verdicts.journal import read_journal
from tests import container

TINY = Scenario(model="tiny-llama", input_tokens=8, output_tokens=6)

pytestmark = pytest.mark.skipif(not container.works(), reason="namespaces cannot be made here: run as root")

SUITE = """
from pytest_llm_energy import Scenario

def test_level(energy_meter):
    tiny = Scenario(model="tiny-llama", input_tokens=8, output_tokens=16, batch_size=8)
    energy_meter.check(energy_meter.measure(tiny))
"""


def ignore(stage: str) -> None:
    """Nobody watches."""


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[list[str]]:
    with container.daemon(tmp_path / "socket") as command:
        yield [*command, sys.executable]


def test_its_processes_are_known_for_ours_and_end_with_it(prefix: list[str]) -> None:
    kin = Kin()
    pool = EnginePool(name="test", deadline=120, on_start=lambda engine, _: kin.admit(engine.processes))
    before = set(psutil.pids())
    engine = pool.engine(TINY, (), ignore, stack=Stack(pythons={"transformers": tuple(prefix)}))
    assert engine.run(TINY, 2, ignore).output_tokens == 12
    inside = kin.apart()
    assert sorted(kin.here(engine.processes)) == sorted(inside)
    assert engine.processes[0][0] == 1  # as it sees itself
    assert inside
    assert not set(inside) & before
    assert strangers_to_this_process(inside) == list(inside)
    assert kin.strangers([*inside, os.getpid(), os.getppid()]) == [os.getppid()]
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 30
    assert not any(map(running, inside))


def test_a_process_whose_name_is_no_text_is_passed_over(tmp_path: Path) -> None:
    command = tmp_path / ("é" * 8)  # the kernel cuts the name in the middle of a character
    command.symlink_to("/bin/sleep")
    with subprocess.Popen([command, "60"]) as child:
        while b"sleep" in Path(f"/proc/{child.pid}/comm").read_bytes():
            time.sleep(0.01)
        pool = EnginePool(name="test", deadline=120, on_start=lambda engine, _: None)
        engine = pool.engine(TINY, (), ignore)
        assert Kin().sees(engine.processes[0])
        pool.close()
        child.kill()


def test_its_share_of_the_processor_is_metered(pytester: pytest.Pytester, prefix: list[str]) -> None:
    pytester.makepyfile(test_level=SUITE)
    joules = {}
    for where, python in (("here", [sys.executable]), ("container", prefix)):
        result = pytester.runpytest_subprocess(
            f"--energy-python=transformers={' '.join(python)}",
            "--energy-window=1",
            "--energy-runs=2",
            "--energy-gate=off",
            f"--energy-journal={where}.jsonl",
        )
        result.assert_outcomes(passed=1)
        journal = read_journal(pytester.path / f"{where}.jsonl")
        (arm,) = journal.measured(journal.checks[0]).arms
        joules[where] = arm.joules_per_token
    # Without the container's processes it is 0.007, what pytest itself takes in a window (two cores, 2026-11-21).
    assert 0.1 < joules["container"] / joules["here"] < 10


def test_a_process_meter_refuses_an_engine_that_it_cannot_see() -> None:
    meter = choose_meter("codecarbon", ())
    assert isinstance(meter, CodeCarbonProcessMeter)
    with pytest.raises(MeterError, match="cannot be seen from here"):
        include(meter, Kin(), [(1, 7)])
    with subprocess.Popen(["sleep", "60"]) as child:
        include(meter, Kin(), [(child.pid, Kin()._beginning(child.pid)[1])])  # type: ignore[index]
        child.kill()
