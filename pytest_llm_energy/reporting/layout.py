"""Text that keeps to a screen, however long the names in it are."""

import textwrap
from collections.abc import Iterator

WIDTH = 116
LABEL = 12
"""Columns before the text of a labelled line."""

ELLIPSIS = "..."


def clipped(text: str, most: int) -> str:
    """The text on one line, without its middle where it is too long: both ends of a name tell it from others."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    kept = most - len(ELLIPSIS)
    return text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]


def wrapped(text: str, *, indent: int) -> Iterator[str]:
    """The text in lines; those after the first are indented."""
    yield from textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def labelled(label: str, text: str) -> Iterator[str]:
    """A paragraph of a message: ``  label:    text``."""
    yield from wrapped(f"  {label + ':':<{LABEL - 2}}{text}", indent=LABEL)


def continued(text: str) -> Iterator[str]:
    """A further paragraph under the same label."""
    yield from wrapped(f"{' ' * LABEL}{text}", indent=LABEL)
