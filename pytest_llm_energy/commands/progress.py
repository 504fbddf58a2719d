"""What commands print: progress for whoever watches, and lines that stay."""

import sys
from collections.abc import Iterable


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
