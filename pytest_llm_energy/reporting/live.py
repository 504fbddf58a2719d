"""Says what is being loaded, warmed and measured, so that nobody stares at a silent screen."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Live(Protocol):
    """Told what is going on; shows it or not."""

    def say(self, case: str, what: str) -> None:
        """A case entered a stage."""

    def clear(self) -> None:
        """Nothing is going on any more."""


class Terminal(Protocol):
    """The part of pytest's terminal writer that is needed."""

    fullwidth: int

    @property
    def width_of_current_line(self) -> int:
        """Column of the cursor."""

    def write(self, msg: str, *, flush: bool = False) -> None:
        """Write without a newline."""


class Silent:
    """Shows nothing."""

    def say(self, case: str, what: str) -> None:
        """Ignore it."""

    def clear(self) -> None:
        """Nothing to clear."""


class StatusLine:
    """One line below pytest's progress, rewritten in place; for a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shown = False

    def say(self, case: str, what: str) -> None:
        """Rewrite the line."""
        self._below(f"{case}: {what}"[: self._terminal.fullwidth - 1])
        self._shown = True

    def clear(self) -> None:
        """Blank the line."""
        if self._shown:
            self._below("")
            self._shown = False

    def _below(self, text: str) -> None:
        """Write on the next line and come back; relative moves survive scrolling."""
        column = self._terminal.width_of_current_line
        back = f"\x1b[1A\r\x1b[{column}C" if column else "\x1b[1A\r"
        write_raw(self._terminal, f"\n\r\x1b[K{text}{back}")


SILENT_SECONDS = 30.0
"""After so long a log gets a line of whatever goes on."""


class LogLines:
    """A line when a case begins to wait for devices, to load, and to measure, or after a long silence; for logs."""

    def __init__(
        self, write_line: "WriteLine", prefix: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write_line = write_line
        self._prefix = prefix
        self._clock = clock
        self._said = clock()
        self._last: tuple[str, str] | None = None

    def say(self, case: str, what: str) -> None:
        """Write a line unless this stage of the case has one that is not long ago."""
        stage = (case, what.split(" ", 1)[0])
        begins = stage[1] in ("waiting", "loading", "measuring", "metering", "repeating") and stage != self._last
        if begins or self._clock() - self._said >= SILENT_SECONDS:
            self._last = stage
            self._said = self._clock()
            self._write_line(f"{self._prefix}{case}: {what}")

    def clear(self) -> None:
        """Lines stay."""


class Uncaptured:
    """Shows what another shows, past pytest's capture of the running test's output."""

    def __init__(self, live: Live, uncaptured: Callable[[], AbstractContextManager[None]]) -> None:
        self._live = live
        self._uncaptured = uncaptured

    def say(self, case: str, what: str) -> None:
        """Show it."""
        with self._uncaptured():
            self._live.say(case, what)

    def clear(self) -> None:
        """Clear it."""
        with self._uncaptured():
            self._live.clear()


class WriteLine(Protocol):
    """Writes a whole line."""

    def __call__(self, line: str, /) -> None:
        """Write it."""


def write_raw(terminal: Terminal, text: str) -> None:
    """Write escape sequences without moving pytest's idea of the cursor."""
    file = getattr(terminal, "_file")  # noqa: B009 - the writer counts every character as one column
    file.write(text)
    file.flush()
