"""What commands print: progress for whoever watches, and lines that stay."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO


def say(what: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what} ...", end="", file=sys.stderr, flush=True)


def print_lines(lines: Iterable[str]) -> None:
    """Lines, in place of the progress."""
    clear()
    for line in lines:
        print(line)


def clear() -> None:
    """Take the progress away."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Go on within the block when who reads the output has seen enough, as ``head`` has: the verdict is due yet."""
    heard = _Heard(sys.stdout)
    with contextlib.redirect_stdout(heard):
        yield
        heard.flush()


class _Heard:
    """A stream that drops what nobody reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, while somebody reads."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flush, while somebody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        """Have the rest, also what is in the stream's buffer, written to nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
