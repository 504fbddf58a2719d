"""Workers that import an engine's stack while another engine loads, so that a start has only its model to load.

Importing vLLM takes a third of an engine start (16 s of 45 s on a host of H200s, 2026-11-22, vLLM 0.25.1). Nothing
that is metered is disturbed: an engine counts as started when the spare is ready too.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.serving.process import WorkerProcess

LONGEST_SECONDS = 120.0
"""A spare that takes longer is ended: it would hold up what it is to speed up. On two cores, with another engine
loading beside it, vLLM took half a minute."""


class Imported(NamedTuple):
    """What a spare is good for.

    Attributes:
        python: command prefix that runs it.
        engine: whose stack it imports.
        environment: variables set for it, among them the devices that it sees.
        inherited: those it has from this process, which tests may change.
    """

    python: tuple[str, ...]
    engine: str
    environment: tuple[tuple[str, str], ...]
    inherited: frozenset[tuple[str, str]]


def imported(engine: str, *, python: Sequence[str], environment: Mapping[str, str]) -> Imported:
    """What a spare that begins now would be good for."""
    inherited = (each for each in os.environ.items() if each[0] != "PYTEST_CURRENT_TEST")
    return Imported(tuple(python), engine, tuple(environment.items()), frozenset(inherited))


class Spares:
    """Spare workers, one at most of an engine on a command and devices."""

    def __init__(self) -> None:
        self._workers: dict[Imported, WorkerProcess] = {}
        self._failed: set[tuple[str, ...]] = set()

    def begin(self, key: Imported) -> None:
        """Have a spare import, in place of one of another environment; a command that failed at it is let be."""
        self.end([other for other in self._workers if other[:3] == key[:3]])
        if key.python in self._failed:
            return
        with contextlib.suppress(EngineError):  # a start that needs the command says so
            worker = WorkerProcess(
                python=key.python, environment=dict(key.environment), name=f"spare of {key.engine}"
            )
            self._workers[key] = worker
            worker.tell({"do": "import", "engine": key.engine})

    def wait_for(self, key: Imported, say: Callable[[str], None]) -> None:
        """Wait until a spare is ready, if there is one; one that fails or takes too long is ended."""
        if key not in self._workers:
            return
        say("importing for the next engine")
        try:
            self._workers[key].wait(deadline=LONGEST_SECONDS, say=say)
        except EngineError:
            self._failed.add(key.python)
            self.end([key])

    def take(self, key: Imported) -> WorkerProcess | None:
        """A spare that is good for this and lives, if there is one."""
        worker = self._workers.pop(key, None)
        if worker is None or worker.alive:
            return worker
        worker.end()
        return None

    def end(self, which: Iterable[Imported] | None = None) -> None:
        """End the spares given, or all."""
        for key in list(self._workers if which is None else which):
            if worker := self._workers.pop(key, None):
                worker.end()
