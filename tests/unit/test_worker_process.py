"""A worker and what its parent notices of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.serving import process
from pytest_llm_energy.serving.process import WorkerProcess

FORKING = """
import multiprocessing

class Engine:
    packages = ()

    def __init__(self, request, say):
        child = multiprocessing.get_context("fork").Process(target=print, args=("forked",))
        child.start()
        child.join(10)
        if child.exitcode != 0:
            child.kill()
            raise RuntimeError(f"what was forked ended with {child.exitcode}")
"""


def ignore(stage: str) -> None:
    """Nobody watches."""


def test_a_worker_that_dies_is_noticed_though_a_process_it_forked_holds_its_pipe_open() -> None:
    dies = ["bash", "-c", "sleep 60 & read sent; read request; kill -KILL $$"]
    worker = WorkerProcess(python=dies, environment={}, name="worker")
    with pytest.raises(EngineError, match="worker died during 'load': killed by SIGKILL"):
        worker.ask({"do": "load"}, deadline=60, say=ignore)


def test_a_worker_that_does_not_answer_is_ended_at_its_deadline() -> None:
    deaf = ["bash", "-c", "trap '' TERM; sleep 600; true"]  # it reads nothing either: the pipe to it is full
    worker = WorkerProcess(python=deaf, environment={}, name="worker")
    with pytest.raises(EngineError, match=r"did not finish 'load' within 1.5 s \(--energy-deadline\)"):
        worker.ask({"do": "load"}, deadline=1.5, say=ignore)
    assert not worker.alive


def worker_with(engine: str, monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    """A worker that has this source as the engine ``own``."""
    modules = process._modules()
    sources = {**modules["sources"], f"{process.PACKAGE}.engines.own": engine}  # type: ignore[dict-item]
    files = {**modules["files"], f"{process.PACKAGE}.engines.own": "own.py"}  # type: ignore[dict-item]
    monkeypatch.setattr(process, "_modules", lambda: modules | {"sources": sources, "files": files})
    return WorkerProcess(python=[sys.executable], environment={}, name="worker")


LOAD: dict[str, object] = {"do": "load", "identity": {"engine": "own"}}


def test_an_engine_may_fork_while_requests_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_with(FORKING, monkeypatch)
    try:
        assert worker.ask(LOAD, deadline=60, say=ignore).stack is not None
    finally:
        worker.end()


SHARING = """
import os, pathlib, signal
from multiprocessing import shared_memory

class Engine:
    packages = ()

    def __init__(self, request, say):
        self.kept = shared_memory.SharedMemory(create=True, size=4096)
        pathlib.Path(os.environ["LLM_ENERGY_SCRATCH"], "socket").touch()
        if not os.fork():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pause()
        say(self.kept.name)
"""


def test_what_the_processes_of_an_engine_shared_goes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_with(SHARING, monkeypatch)
    said: list[str] = []
    worker.ask(LOAD, deadline=60, say=said.append)
    kept = [Path("/dev/shm", said[-1]), Path(worker._folder, "socket")]
    assert all(path.exists() for path in kept)
    worker.end()
    assert not any(path.exists() for path in [*kept, Path(worker._folder)])


ESCAPING = """
import sys
from pytest_llm_energy.serving.process import WorkerProcess

forks = ["bash", "-c", "setsid sleep 60 & echo $! > escaped; read sent; read request"]
worker = WorkerProcess(python=forks, environment={}, name="worker")
worker._requests.put(b"go on\\n")
while worker.alive:
    pass
worker.end()
print("ended")
"""


def test_what_left_the_group_and_holds_the_pipe_open_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, "-c", ESCAPING],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
    finally:
        os.kill(int((tmp_path / "escaped").read_text()), signal.SIGKILL)


def test_a_worker_that_closes_its_answers_and_lives_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TERM_GRACE_SECONDS", 0.2)
    worker = WorkerProcess(python=["bash", "-c", "exec 1>&-; sleep 60"], environment={}, name="worker")
    with pytest.raises(EngineError, match="worker died during 'load': it answers no more, though it lives"):
        worker.ask({"do": "load"}, deadline=60, say=ignore)
    assert not worker.alive


def test_a_process_that_does_not_end_is_named_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TERM_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(process, "GROUP_GRACE_SECONDS", 0.2)
    worker = WorkerProcess(python=["bash", "-c", "sleep 60"], environment={}, name="worker")
    kill = worker._signal
    monkeypatch.setattr(worker, "_signal", lambda number: None)
    monkeypatch.setattr(worker, "_kill_all_but_trackers", list)
    begun = time.monotonic()
    with pytest.warns(RuntimeWarning, match=f"worker: process {worker.pid} did not end within 0.2 s of SIGKILL"):
        worker.end()
    assert time.monotonic() - begun < 10
    kill(signal.SIGKILL)
