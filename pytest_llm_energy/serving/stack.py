"""Serving stacks: what runs an engine, and with which arguments; two of them can be measured side by side."""

import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_llm_energy.serving.scenario import SERVER

Side = Literal["present", "against"]
"""Which of two stacks: the one under test, or the one it is measured against."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where engines run.

    Attributes:
        side: which of the two.
        pythons: command prefix that runs a Python, by engine; pytest's own for an engine not named.
        arguments: engine arguments on top of those that a scenario asks for, by engine.
        engines: engines that this stack serves; None for all.
        endpoint: URL of a server that serves every scenario, None where engines are started.
    """

    side: Side = "present"
    pythons: Mapping[str, Sequence[str]] = field(default_factory=dict)
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    engines: frozenset[str] | None = None
    endpoint: str | None = None

    def serves(self, engine: str) -> bool:
        """Whether scenarios of an engine are measured on this stack."""
        return self.engines is None or engine in self.engines

    def python(self, engine: str) -> Sequence[str]:
        """Command prefix of the Python that an engine runs in."""
        return self.pythons.get(engine, (sys.executable,))

    def lacks(self, engine: str) -> bool:
        """Whether pytest's own Python would have to serve an engine, and has it not."""
        return (
            self.endpoint is None
            and engine != SERVER
            and self.serves(engine)
            and engine not in self.pythons
            and importlib.util.find_spec(engine) is None
        )

    def says(self, engine: str) -> str:
        """The stack of an engine in words: its Python and its arguments."""
        arguments = self.arguments.get(engine, {})
        return " ".join(
            [shlex.join(self.python(engine)), *(f"{name}={value}" for name, value in arguments.items())]
        )
