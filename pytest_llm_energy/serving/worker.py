"""The process that holds an engine: reads requests from a pipe, answers on a private copy of stdout.

Standard library only, since it may run in another interpreter than pytest's; engines import their own stack.
The parent meters: it opens a window, sends ``run``, and closes the window with the monotonic times answered here.

Requests, one JSON object a line: ``load``, ``prepare``, ``run``; ``serve`` and ``stop`` for engines that serve
online; ``import`` ahead of ``load`` where there is time for it. Answers: ``stage`` (any number, while working),
then one of ``done`` or ``failed``.
"""

import importlib
import importlib.metadata
import json
import os
import pkgutil
import platform
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

Say = Callable[[str], None]


class RefusedError(Exception):
    """The engine cannot do what is asked; the message says what it can."""


def prompt_text() -> str:
    """Text that prompts are cut from where there is a tokenizer."""
    data = pkgutil.get_data(__name__.rpartition(".")[0], "prompt.txt")
    assert data is not None
    return data.decode()


class Worker:
    """Carries out requests one after another."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._engine: Any = None
        self._settings = _settings()  # before an engine sets its own
        self._actions: dict[str, Callable[..., dict[str, Any]]] = {
            "import": self._import,
            "load": self._load,
            "prepare": self._prepare,
            "run": self._run,
            "serve": self._serve,
            "stop": self._stop,
        }

    def handle(self, request: dict[str, Any]) -> None:
        """Carry out one request and answer it, whatever happens."""
        try:
            self._answer(event="done", **self._actions[request.pop("do")](**request))
        except RefusedError as error:
            self._answer(event="failed", kind="refused", message=str(error))
        except Exception as error:
            traceback.print_exc()
            kind = "out-of-memory" if _is_out_of_memory(error) else "error"
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            self._answer(event="failed", kind=kind, message=f"{type(error).__name__}: {error} ({place})")

    def _import(self, engine: str) -> dict[str, Any]:
        """Have an engine's stack imported before a scenario is loaded into it."""
        _module(engine)
        return {}

    def _load(self, **request: Any) -> dict[str, Any]:
        identity = request["identity"]
        self._stage(f"importing {identity['engine']}")
        kind = next((f"_{kind}" for kind in ("online", "feed_forward") if identity.get(kind)), "")
        self._engine = _module(identity["engine"], kind).Engine(request, self._stage)
        arguments = {f"argument {n}": json.dumps(v) for n, v in sorted((request.get("arguments") or {}).items())}
        # An engine that is a client knows of the server's stack; its own interpreter does not matter.
        stack = getattr(self._engine, "stack", None) or (
            self._settings | arguments | _versions(self._engine.packages)
        )
        return {"stack": stack, "processes": _family()}

    def _prepare(self, work: dict[str, Any]) -> dict[str, Any]:
        self._engine.prepare(work)
        return {}

    def _run(self, batches: int) -> dict[str, Any]:
        return dict(self._engine.run(batches))

    def _serve(self) -> dict[str, Any]:
        return {"seconds": self._engine.serve()}

    def _stop(self, started: float, ended: float) -> dict[str, Any]:
        return dict(self._engine.stop(started, ended))

    def _stage(self, what: str) -> None:
        self._answer(event="stage", what=what)

    def _answer(self, **fields: Any) -> None:
        self._answers.write(json.dumps(fields) + "\n")
        self._answers.flush()


def _module(engine: str, kind: str = "") -> Any:
    try:
        return importlib.import_module(f".engines.{engine}{kind}", __package__)
    except ImportError as error:
        raise RefusedError(
            f"{sys.executable} cannot import engine {engine!r}: {error}. "
            f"Install it there, e.g. pip install 'pytest-llm-energy[{engine}]', or name the Python "
            f"that has it: --energy-python {engine}=COMMAND (--energy-against for the other stack)"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__} {error}".lower()
    return "outofmemory" in text or "out of memory" in text or "can't allocate memory" in text


RECORDED_VARIABLES = ("VLLM_", "TORCH", "PYTORCH_", "NCCL_", "OMP_", "CUDA_", "HF_")
"""Beginnings of the environment variables that change how an engine serves."""

NOT_RECORDED = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
"""Parts of names whose values are secret, or ours."""


def _settings() -> dict[str, str]:
    """Python and environment variables."""
    found = {"python": platform.python_version()}
    for name, value in sorted(os.environ.items()):
        if name.startswith(RECORDED_VARIABLES) and not any(part in name for part in NOT_RECORDED):
            found[f"env {name}"] = value
    return found


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _family() -> list[tuple[int, int]]:
    """This process, then its descendants: ids as seen from in here, and when each began, in clock ticks since boot.

    The parent may see other ids, where this is a container; the moments are the same.
    """
    parents: dict[int, int] = {}
    began: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # proc(5): after the name in brackets, any bytes, come the state, the parent's id, ... the beginning.
            fields = path.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], began[pid] = int(fields[1]), int(fields[19])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family and pid not in family}:
        family |= more
    return [(pid, began[pid]) for pid in sorted(family & began.keys(), key=lambda pid: pid != os.getpid())]


def _read_requests(lines: TextIO, requests: "queue.SimpleQueue[str]") -> None:
    """Hand lines over; when the parent is gone, end this whole process group, children of the engine included."""
    for line in lines:
        requests.put(line)
    os.killpg(0, signal.SIGKILL)
    os._exit(1)  # the first process of a container is immune to its own signals, and takes the rest along


def main(lines: TextIO) -> None:
    """Serve requests until the parent closes its end or is gone.

    Args:
        lines: where requests come from. Not ``sys.stdin``, which ``multiprocessing`` closes in what it forks: that
            would wait for ever for the thread that reads here.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # an engine that prints must not break the protocol
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(lines, requests), daemon=True).start()
    worker = Worker(answers)
    while True:
        worker.handle(json.loads(requests.get()))
