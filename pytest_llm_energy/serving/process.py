"""The parent's end of a worker: start it, ask it, time it out, end it with everything it started."""

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import msgspec
import psutil

from pytest_llm_energy.errors import EngineError, OutOfMemoryError, warn_in_any_case

BOOTSTRAP = """
import importlib.abc, importlib.util, json, os, sys
sys.path[:] = [entry for entry in sys.path if entry]
requests = os.fdopen(os.dup(0), encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sent = json.loads(requests.readline())
os.environ.update(sent["environment"])
class Sent(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader, importlib.abc.ResourceLoader):
    def find_spec(self, name, path=None, target=None):
        if name in sent["sources"]:
            file, package = sent["files"][name], name in sent["packages"]
            spec = importlib.util.spec_from_loader(name, self, origin=file, is_package=package)
            spec.has_location = True
            return spec
    def get_source(self, name):
        return sent["sources"][name]
    def get_data(self, path):
        return sent["data"][os.path.basename(path)].encode()
    def is_package(self, name):
        return name in sent["packages"]
sys.meta_path.insert(0, Sent())
from llm_energy_serving import worker
worker.main(requests)
"""
"""Takes the worker's modules from the first line it reads, so that it needs nothing but its interpreter: where it
runs, this folder may not be (a container), nor msgspec and pytest, which ``pytest_llm_energy`` itself asks for."""

PACKAGE = "llm_energy_serving"
"""What the worker's modules are imported as."""

SCRATCH = "LLM_ENERGY_SCRATCH"
"""Variable that tells a worker of a folder for what shall not outlive it, on this host; it goes with the worker."""

OUT_OF_MEMORY = re.compile(r"out of memory|Free memory on device", re.IGNORECASE)
"""What an engine's own processes say, whose errors the worker does not see: CUDA's, and that of vLLM's check."""

LAST_WORDS_LINES = 12
TERM_GRACE_SECONDS = 5.0
LOOK_SECONDS = 1.0
"""How often a worker that is waited for is looked at."""

TRACKER = "multiprocessing.resource_tracker"
"""In the command line of the process that takes away what others of a Python program shared, when they are gone."""

GROUP_GRACE_SECONDS = 30.0
"""A process that was killed while it held a device ends when the driver has taken its memory back."""


class Done(msgspec.Struct, tag_field="event", tag="done"):
    """The request was carried out; the fields that its kind answers with are set."""

    seconds: float | None = None
    stack: dict[str, str] | None = None
    processes: tuple[tuple[int, int], ...] | None = None
    started: float | None = None
    ended: float | None = None
    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    acceptance_length: float | None = None


class Failed(msgspec.Struct, tag_field="event", tag="failed"):
    """The request could not be carried out."""

    kind: str
    message: str


class Stage(msgspec.Struct, tag_field="event", tag="stage"):
    """What the worker is at."""

    what: str


Answer = Done | Failed | Stage


class WorkerProcess:
    """A worker in a process group of its own.

    Attributes:
        name: what errors call it.
    """

    def __init__(self, *, python: Sequence[str], environment: Mapping[str, str], name: str) -> None:
        """Start the interpreter; returns before it has imported anything.

        Args:
            python: command prefix that runs a Python, such as ``[sys.executable]``.
            environment: variables set on top of this process's own.
            name: what errors call it.

        Raises:
            EngineError: the command cannot be started.
        """
        self.name = name
        self._told: list[str] = []
        self._stderr = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - lives as long as the worker
        self._folder = tempfile.mkdtemp(prefix="llm-energy-")
        try:
            self._process = subprocess.Popen(
                [*python, "-c", BOOTSTRAP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **environment},
                # Not a session of its own: Linux schedules sessions as groups, and where an engine's threads spin
                # and yield (vLLM's do), one of them can keep this process waiting for half a minute (Linux 6.18).
                process_group=0,
            )
        except OSError as error:
            Path(self._folder).rmdir()
            raise EngineError(f"{name}: cannot start {' '.join(python)}: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, daemon=True).start()
        self._send(_modules() | {"environment": {**environment, SCRATCH: self._folder}})

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the worker's process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def tell(self, request: Mapping[str, object]) -> None:
        """Send a request whose answer ``wait`` waits for, or else the next request."""
        self._told.append(str(request["do"]))
        self._send(request)

    def wait(self, *, deadline: float, say: Callable[[str], None]) -> None:
        """Wait until everything that the worker was told is done.

        Raises:
            EngineError: as of ``ask``.
        """
        while self._told:
            try:
                self._answer(self._told[0], deadline=deadline, say=say)
            except EngineError:  # an answer too; what else breaks in leaves it to come
                del self._told[0]
                raise
            del self._told[0]

    def ask(self, request: Mapping[str, object], *, deadline: float, say: Callable[[str], None]) -> Done:
        """Send a request and wait for its answer.

        Args:
            request: JSON object with the key ``do``.
            deadline: seconds after which the worker is ended.
            say: told each stage the worker reports.

        Raises:
            EngineError: the worker refused, failed, died, spoke nonsense or took too long; it is ended
                unless it merely refused or failed.
        """
        self.wait(deadline=deadline, say=say)
        self._send(request)
        return self._answer(str(request["do"]), deadline=deadline, say=say)

    def _answer(self, what: str, *, deadline: float, say: Callable[[str], None]) -> Done:
        until = time.monotonic() + deadline
        while True:
            left = until - time.monotonic()
            dead = not self.alive
            try:
                line = self._answers.get(timeout=max(0.0, min(LOOK_SECONDS, left)))
            except queue.Empty:
                if dead:  # what it forked may hold its end of the pipe open
                    raise self._died(what) from None
                if left > LOOK_SECONDS:
                    continue
                words = self.last_words()
                self.end()
                raise EngineError(
                    f"{self.name} did not finish {what!r} within {deadline:g} s (--energy-deadline) and was ended."
                    + words
                ) from None
            if not line:
                raise self._died(what)
            answer = self._decode(line)
            if isinstance(answer, Stage):
                say(answer.what)
            elif isinstance(answer, Failed):
                words = "" if answer.kind == "refused" else self.last_words()
                if answer.kind == "out-of-memory" or OUT_OF_MEMORY.search(self._written()):
                    raise OutOfMemoryError(f"{self.name} ran out of memory: {answer.message}{words}")
                raise EngineError(f"{self.name} could not {what}: {answer.message}{words}")
            else:
                return answer

    def last_words(self) -> str:
        """The end of what the worker wrote to stderr, as lines to append to a message."""
        lines = self._written().replace("\r", "\n").splitlines()
        kept = [line for line in lines if line.strip()][-LAST_WORDS_LINES:]
        return "\nIts last words:\n" + "\n".join(f"  | {line}" for line in kept) if kept else ""

    def _written(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def end(self) -> None:
        """End the whole process group and wait for it; harmless when it is gone already.

        A process that not even SIGKILL ends (the driver keeps it) is warned of by its id, and waited for no longer.
        """
        self._signal(signal.SIGTERM)
        self._requests.put(b"")  # what ends a worker in a container: its first process heeds no signal
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERM_GRACE_SECONDS)
        # Shared memory that an engine's processes leave is taken away by Python's resource tracker, which is in the
        # group and does so when they are gone: a GPU host's /dev/shm would fill up, engine by engine.
        self._wait_for(self._kill_all_but_trackers, GROUP_GRACE_SECONDS)
        self._wait_for(self._members, TERM_GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GROUP_GRACE_SECONDS)
        self._wait_for(self._members, GROUP_GRACE_SECONDS)
        # What serves in a container is in no group of ours, and gone when nothing holds the pipe's other end.
        self._reader.join(TERM_GRACE_SECONDS)
        self._stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.alive:
            says = f"{self.name}: process {self.pid} did not end within {GROUP_GRACE_SECONDS:g} s of SIGKILL"
            warn_in_any_case(f"{says}; it may hold its devices", RuntimeWarning)

    def _send(self, value: Mapping[str, object]) -> None:
        self._requests.put(msgspec.json.encode(value) + b"\n")

    def _write(self) -> None:
        """Write requests until an empty one; those to a container that is still being fetched can wait."""
        with contextlib.suppress(OSError), self._stdin:  # one that has died: the other pipe tells
            while line := self._requests.get():
                self._stdin.write(line)
                self._stdin.flush()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def _members(self) -> list[psutil.Process]:
        return _living_members(self._process.pid)

    def _kill_all_but_trackers(self) -> list[psutil.Process]:
        """Those that lived still, forked in the meantime or not."""
        found = [member for member in self._members() if not _is_tracker(member)]
        for member in found:
            with contextlib.suppress(psutil.Error):
                member.kill()
        return found

    def _wait_for(self, living: Callable[[], list[psutil.Process]], seconds: float) -> None:
        """Wait until those of the group are gone: what they held of a device's memory is free only then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and living():
            time.sleep(0.02)

    def _read(self, stream: IO[bytes]) -> None:
        """Read answers until nobody holds the pipe's other end, and close it.

        Here and in no other thread: one that closes it would wait for the lock that reading holds, for as long as
        anything lives that the worker has forked, in its group or not.
        """
        with contextlib.suppress(OSError, ValueError), stream:
            for line in stream:
                self._answers.put(line)
        self._answers.put(b"")

    def _decode(self, line: bytes) -> Answer:
        try:
            answer: Answer = msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError as error:
            self.end()
            raise EngineError(f"{self.name} answered what is no answer ({error}): {line[:200]!r}") from error
        return answer

    def _died(self, what: str) -> EngineError:
        try:
            reason = _exit_reason(self._process.wait(TERM_GRACE_SECONDS))
        except subprocess.TimeoutExpired:
            reason = "it answers no more, though it lives"
        words = self.last_words()
        self.end()
        return EngineError(f"{self.name} died during {what!r}: {reason}.{words}")


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(TRACKER in argument for argument in process.cmdline())
    return False


def _living_members(group: int) -> list[psutil.Process]:
    """Those of a process group that are not mere zombies."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return []
    living = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


@cache
def _modules() -> dict[str, object]:
    """The worker's modules by name: their sources, where they lie here, and the data beside them."""
    here = Path(__file__).parent
    files = {
        ".".join([PACKAGE, *path.relative_to(here).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(here.rglob("*.py"))
    }
    return {
        "sources": {name: path.read_text() for name, path in files.items()},
        "files": {name: str(path) for name, path in files.items()},
        "packages": [name for name, path in files.items() if path.stem == "__init__"],
        "data": {"prompt.txt": (here / "prompt.txt").read_text()},
    }


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    hint = ", which the kernel also sends when the host is out of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
