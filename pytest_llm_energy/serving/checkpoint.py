"""Checkpoints of normally distributed random weights: written once, then loaded from disk by whatever serves them.

Runs inside a worker, on the standard library alone. Where a checkpoint lies depends on the model, its dtype and the
seed, and on no library's version: two stacks that are compared load the same bytes, those of the first that asked.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .worker import RefusedError, Say

CACHE_VARIABLE = "LLM_ENERGY_CACHE"
"""Environment variable that names the folder of checkpoints; default: ``llm-energy`` in the user's cache."""

FORMAT = 1
"""To be raised when other weights are written for the same model, dtype and seed."""

MANIFEST = "llm-energy.json"
"""Names and sizes in bytes of a checkpoint's files; written last."""

WRITER = ".engines.normal_weights"
NO_ROOM = 3
"""Exit status of the writer when the disk is too full; the last line it printed says so."""

Write = Callable[[Path, dict[str, Any], Say], None]
"""Writes a checkpoint into an empty folder, told what is wanted: ``model``, ``dtype``, ``seed``."""


def cache_folder() -> Path:
    """Where checkpoints are kept."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser().absolute()
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser().absolute() / "llm-energy"


def folder_name(model: dict[str, Any], *, dtype: str, seed: int) -> str:
    """Name of a checkpoint's folder: the model's, and a hash of all that decides its bytes."""
    decisive = [FORMAT, model["model_type"], model["config"], dtype, seed]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', model['name'])}-{digest}"


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint in words; None when it is whole."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"has no readable {MANIFEST}"
    for name, size in sizes.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            return f"lacks {name}" if found is None else f"has {found} bytes of {name}, not {size}"
    return None


def write_normal_weights(folder: Path, wanted: dict[str, Any], say: Say) -> None:
    """Have a short-lived process write the weights: with it goes the memory it took, the device's too.

    Raises:
        RefusedError: there is not enough room on the disk.
        RuntimeError: the process failed; why stands on stderr.
    """
    spec = importlib.util.find_spec(WRITER, __package__)
    assert spec is not None
    source = spec.loader.get_source(spec.name)  # type: ignore[union-attr]
    command = [sys.executable, "-c", source, json.dumps(wanted)]
    # Its working directory is empty, so that nothing in the caller's is imported by mistake.
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        line = ""
        for line in writer.stdout:
            say(line.strip())
    if writer.returncode == NO_ROOM:
        raise RefusedError(f"{line.strip()}; make room, or name a folder that has some: {CACHE_VARIABLE}")
    if writer.returncode != 0:
        raise RuntimeError(f"writing normal weights of {wanted['model']['name']} ended with {writer.returncode}")


def checkpoint(
    model: dict[str, Any], *, dtype: str, seed: int, say: Say, write: Write = write_normal_weights
) -> Path:
    """The folder with a model's normal weights in Hugging Face layout, without tokenizer; written if need be.

    Args:
        model: name, model_type and config of the model.
        dtype: of the weights.
        seed: of the random numbers. The same seed gives other numbers on another kind of device.
        say: told when weights are written or waited for.
        write: how they are written.

    Raises:
        RefusedError: the cache cannot be written to, or has not enough room.
    """
    folder = cache_folder() / folder_name(model, dtype=dtype, seed=seed)
    if damage(folder) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder, say):
            _fill(folder, {"model": model, "dtype": dtype, "seed": seed}, say, write)
    except OSError as error:
        do = "Make room, or name" if error.errno == errno.ENOSPC else "Name"
        raise RefusedError(f"cannot keep weights in {folder}: {error}. {do} a folder: {CACHE_VARIABLE}") from error
    return folder


def _fill(folder: Path, wanted: dict[str, Any], say: Say, write: Write) -> None:
    """Write beside the folder, then rename: what has its name is whole, or was damaged later."""
    if folder.exists():
        found = damage(folder)
        if found is None:
            return  # another process has written it since
        say(f"{folder} {found}: writing it again")
        shutil.rmtree(folder)
    unfinished = folder.with_name(f"{folder.name}.unfinished-{uuid.uuid4().hex}")
    unfinished.mkdir()
    try:
        write(unfinished, wanted, say)
        sizes = {file.name: file.stat().st_size for file in sorted(unfinished.iterdir())}
        (unfinished / MANIFEST).write_text(json.dumps(sizes, indent=1))
        publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def publish(unfinished: Path, folder: Path) -> None:
    """Give a finished checkpoint its name, unless another process was first: then that one's stays.

    Raises:
        OSError: the name is taken by something that is no whole checkpoint.
    """
    try:
        unfinished.rename(folder)
    except OSError:
        if damage(folder) is not None:
            raise


@contextlib.contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Hold the lock of a checkpoint, so that two processes at once do not both spend its time and room."""
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that writes {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: both write, and the first to rename wins
            yield
            return
        for left in folder.parent.glob(f"{folder.name}.unfinished-*"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        yield
