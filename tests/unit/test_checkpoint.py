"""Checkpoints of random weights: where they lie, and what becomes of damaged ones and of two writers at once."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_llm_energy.serving.checkpoint import Write, cache_folder, checkpoint, damage, folder_name, publish
from pytest_llm_energy.serving.worker import RefusedError, Say

MODEL: dict[str, Any] = {"name": "tiny", "model_type": "llama", "config": {"hidden_size": 8, "vocab_size": 16}}

ROOT = Path(__file__).parents[2]

SLOW_WRITER = """
import sys, time
from pytest_llm_energy.serving.checkpoint import checkpoint
def write(folder, wanted, say):
    print("wrote", flush=True)
    for name in "ab":
        (folder / name).write_text(sys.argv[1] * 1000)
        time.sleep(0.3)
model = {"name": "tiny", "model_type": "llama", "config": {}}
sys.stdin.readline()
folder = checkpoint(model, dtype="float32", seed=0, say=print, write=write)
print((folder / "a").read_text()[0] + (folder / "b").read_text()[0])
"""


def ignore(stage: str) -> None:
    """Nobody watches."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_ENERGY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def of_text(text: str) -> Write:
    def write(folder: Path, wanted: dict[str, Any], say: Say) -> None:
        (folder / "model.safetensors").write_text(text)

    return write


def never(folder: Path, wanted: dict[str, Any], say: Say) -> None:
    pytest.fail("it was there already")


def made(write: Write, say: Say = ignore) -> Path:
    return checkpoint(MODEL, dtype="float32", seed=0, say=say, write=write)


def test_a_folder_is_named_by_all_that_decides_its_bytes() -> None:
    name = folder_name(MODEL, dtype="float32", seed=0)
    reordered = {**MODEL, "config": dict(reversed(MODEL["config"].items())), "hub_id": "some/where"}
    assert folder_name(reordered, dtype="float32", seed=0) == name
    others = {
        folder_name(MODEL, dtype="bfloat16", seed=0),
        folder_name(MODEL, dtype="float32", seed=1),
        folder_name({**MODEL, "config": {}}, dtype="float32", seed=0),
        folder_name({**MODEL, "model_type": "olmo"}, dtype="float32", seed=0),
    }
    assert len(others | {name}) == 5
    assert "/" not in folder_name({**MODEL, "name": "meta/tiny"}, dtype="float32", seed=0)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("LLM_ENERGY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert cache_folder() == Path("/some/cache/llm-energy")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "llm-energy"


def test_a_checkpoint_is_written_once(cache: Path) -> None:
    folder = made(of_text("weights"))
    assert made(never) == folder
    assert (folder / "model.safetensors").read_text() == "weights"
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_text("we"), "has 2 bytes of model.safetensors, not 7"),
        (lambda folder: (folder / "llm-energy.json").unlink(), "has no readable llm-energy.json"),
    ],
    ids=["missing", "cut", "no-manifest"],
)
def test_a_damaged_checkpoint_is_written_again(harm: Any, words: str) -> None:
    folder = made(of_text("weights"))
    harm(folder)
    assert damage(folder) == words
    said: list[str] = []
    assert made(of_text("again"), said.append) == folder
    assert said == [f"{folder} {words}: writing it again"]
    assert (folder / "model.safetensors").read_text() == "again"


def test_what_a_writer_leaves_unfinished_is_never_used(cache: Path) -> None:
    def killed(folder: Path, wanted: dict[str, Any], say: Say) -> None:
        (folder / "model.safetensors").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        made(killed)
    (cache / f"{folder_name(MODEL, dtype='float32', seed=0)}.unfinished-0").mkdir()
    folder = made(of_text("weights"))
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}


def test_of_two_processes_at_once_one_writes_and_both_load_that() -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_WRITER, text],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for text in "xy"
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].splitlines() for process in started]
    assert sorted("wrote" in lines for lines in said) == [False, True]
    assert said[0][-1] == said[1][-1]
    assert said[0][-1] in ("xx", "yy")


def test_where_locks_are_missing_the_first_to_finish_wins(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    def overtaken(folder: Path, wanted: dict[str, Any], say: Say) -> None:
        made(of_text("winner"))
        (folder / "model.safetensors").write_text("loser")

    folder = made(overtaken)
    assert (folder / "model.safetensors").read_text() == "winner"
    assert {path.name for path in cache.iterdir()} == {folder.name, f"{folder.name}.lock"}


def test_a_name_taken_by_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    taken = tmp_path / "folder"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "unfinished", taken)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errno.EACCES, r"Permission denied.*\. Name a folder: LLM_ENERGY_CACHE"),
        (errno.EROFS, r"Read-only file system.*\. Name a folder: LLM_ENERGY_CACHE"),
        (errno.ENOSPC, r"No space left.*\. Make room, or name a folder: LLM_ENERGY_CACHE"),
    ],
    ids=["forbidden", "read-only", "full"],
)
def test_a_cache_that_cannot_be_written_says_which_variable_names_another(
    cache: Path, error: int, says: str
) -> None:
    def forbidden(folder: Path, wanted: dict[str, Any], say: Say) -> None:
        raise OSError(error, os.strerror(error), str(folder))

    with pytest.raises(RefusedError, match=rf"cannot keep weights in {cache}.*{says}"):
        made(forbidden)


def test_a_cache_that_is_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_ENERGY_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match=r"cannot keep weights in .*\. Name a folder: LLM_ENERGY_CACHE"):
        made(of_text("any"))
