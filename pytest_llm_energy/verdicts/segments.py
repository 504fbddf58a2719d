"""A journal while it is written: a segment per process, joined at the end."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.verdicts.records import Record


class Segment:
    """One process's part of a journal; each record is in the file when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            JournalError: it cannot be created.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise JournalError(_not_written(path, error)) from error

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            JournalError: the disk is full or gone; what was written before is intact.
        """
        line = msgspec.json.encode(record) + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(None, "no room for the whole record")
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise JournalError(
                f"cannot append to the journal {self._path}: {error.strerror or error}; the records before this "
                "one are intact"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def segments_folder(journal: Path) -> Path:
    """Where the segments of a journal lie until they are joined."""
    return journal.with_name(journal.name + ".segments")


def claim(journal: Path) -> Callable[[], None]:
    """Make the folder of its segments, which no other run may have made.

    Returns:
        What takes it away again, if nothing is in it.

    Raises:
        JournalError: another run wrote that journal, or writes it, or it cannot be written.
    """
    folder = segments_folder(journal)
    is_there = f"{journal} exists: a journal is of one run; name another with --energy-journal"
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        if any(folder.glob("*.jsonl")):
            raise JournalError(is_there) from error
        raise JournalError(
            f"{folder} exists: another run writes {journal}, or was killed before it measured anything; name "
            "another with --energy-journal, or remove that folder"
        ) from error
    except OSError as error:
        raise JournalError(_not_written(journal, error)) from error
    if journal.exists():  # seen last: another run may have ended just now
        folder.rmdir()
        raise JournalError(is_there)

    def release() -> None:
        with suppress(OSError):
            folder.rmdir()

    return release


def make_folder(journal: Path) -> None:
    """Make the folder of its segments, unless it is there.

    Raises:
        JournalError: it cannot be made.
    """
    try:
        segments_folder(journal).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(_not_written(journal, error)) from error


def _not_written(path: Path, error: OSError) -> str:
    says = error.strerror or error
    return f"cannot write the journal at {path}: {says}; name another place with --energy-journal"


def join_segments(journal: Path) -> None:
    """Make the journal of its segments, in one step, and remove them; without any, nothing is made.

    Raises:
        JournalError: the journal cannot be written; the segments stay.
    """
    folder = segments_folder(journal)
    segments = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    try:
        if segments:
            joining = folder / "joining"
            with joining.open("wb") as whole:
                for segment in segments:
                    data = segment.read_bytes()
                    whole.write(data[: data.rfind(b"\n") + 1])  # without a line that a crash cut off
            joining.replace(journal)
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise JournalError(
            f"cannot join {folder} into {journal}: {error.strerror or error}; the segments are kept, and "
            f"--energy-replay={journal} reads them"
        ) from error
