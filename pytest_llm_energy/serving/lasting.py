"""Folders that have the same path at every start of an engine.

Runs inside a worker, on the standard library alone. An engine keeps what it compiled for a model by the model's
path, among other things; under another path it compiles again, which takes vLLM 14 s for an 8B model (0.25.1 on an
H200, by its log of 2026-11-21).
"""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from .checkpoint import cache_folder

MODELS = "models"
"""Their folder in the cache, beside the checkpoints."""


def lasting_folder(name: str, files: Mapping[str, str], *, links: Sequence[Path] = ()) -> Path:
    """A folder with these files and links, at a path that follows from what is in it.

    It lies in the cache or, where that cannot be written to, among temporary files.

    Args:
        name: what its own name begins with.
        files: contents by name.
        links: files that are linked to, each under its own name.
    """
    held = json.dumps([dict(files), [os.fspath(link) for link in links]], sort_keys=True)
    full_name = f"{name}-{hashlib.sha256(held.encode()).hexdigest()[:16]}"
    try:
        return _filled(cache_folder() / MODELS / full_name, files, links)
    except OSError:
        temporary = Path(tempfile.gettempdir(), f"llm-energy-{os.getuid()}")
        temporary.mkdir(mode=0o700, exist_ok=True)
        return _filled(temporary / full_name, files, links)


def _filled(folder: Path, files: Mapping[str, str], links: Sequence[Path]) -> Path:
    """The folder, each of its files replaced at once: others may be reading them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        unfinished = folder / f".{name}-{uuid.uuid4().hex}"
        unfinished.write_text(text)
        unfinished.replace(folder / name)
    for link in links:
        unfinished = folder / f".{link.name}-{uuid.uuid4().hex}"
        unfinished.symlink_to(link)
        unfinished.replace(folder / link.name)
    return folder
