"""JSON files that are read strictly and written whole or not at all."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_llm_energy.errors import BaselineError

T = TypeVar("T")


class _SchemaOnly(msgspec.Struct):
    schema: int


def read_strict(path: Path, kind: type[T], *, schema: int) -> T:
    """Decode a file, refusing unknown fields, wrong types, NaN and newer schemas.

    Raises:
        BaselineError: names the file and the place within it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BaselineError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        found = msgspec.json.decode(data, type=_SchemaOnly).schema
        if found > schema:
            raise BaselineError(
                f"{path} has schema {found}; this version reads up to {schema}: upgrade pytest-llm-energy"
            )
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path} is corrupt: {error}{_place(data, error)}") from error


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step; the old one stays when anything goes wrong.

    Raises:
        BaselineError: the folder is read-only, the disk is full, ...; nothing half-written is left.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise BaselineError(f"cannot write {path}: {error.strerror or error}; it was left as it was") from error


SIGNIFICANT_DIGITS = 5
MEASURED = ("joules_per_token", "seconds_per_token", "relative_uncertainty")


def pretty(value: Any) -> str:
    """JSON that reads well in a diff: sorted keys, rounded floats, one line per list of numbers."""
    builtins = msgspec.to_builtins(value, order="sorted")
    text = msgspec.json.format(msgspec.json.encode(_rounded(builtins), order="sorted"), indent=2).decode()
    return re.sub(r"\[[\s\d.,eE+-]*\]", lambda found: " ".join(found.group().split()), text) + "\n"


def _rounded(value: Any) -> Any:
    """The same with measured numbers rounded; what identifies a scenario or a device stays exact."""
    if isinstance(value, dict):
        return {key: _round_all(item) if key in MEASURED else _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _round_all(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_round_all(item) for item in value]
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _place(data: bytes, error: Exception) -> str:
    """Line and column, where the decoder tells the byte, or the file ends too early."""
    found = re.search(r"\(byte (\d+)\)", str(error))
    if not found and "truncated" not in str(error):
        return ""
    before = data[: int(found.group(1))] if found else data
    line = before.count(b"\n") + 1
    column = len(before) - before.rfind(b"\n")
    return f" (line {line}, column {column})"
