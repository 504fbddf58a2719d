"""Folders whose path follows from what is in them."""

from pathlib import Path
from typing import Any

import pytest

from pytest_llm_energy.serving import lasting
from pytest_llm_energy.serving.checkpoint import CACHE_VARIABLE
from pytest_llm_energy.serving.lasting import lasting_folder


def test_equal_files_are_at_the_same_path_and_others_at_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    weights = tmp_path / "model.safetensors"
    weights.write_text("weights")
    first = lasting_folder("tiny", {"config.json": "{}"})
    (first / "config.json").write_text("spoilt")
    assert lasting_folder("tiny", {"config.json": "{}"}) == first
    assert [(file.name, file.read_text()) for file in first.iterdir()] == [("config.json", "{}")]
    linked = lasting_folder("tiny", {"config.json": "{}"}, links=[weights])
    again = lasting_folder("tiny", {"config.json": "{}"}, links=[weights])
    assert again == linked
    assert sorted(file.name for file in linked.iterdir()) == ["config.json", "model.safetensors"]
    assert (linked / "model.safetensors").read_text() == "weights"
    other = lasting_folder("tiny", {"config.json": '{"layers": 2}'})
    assert len({first, linked, other}) == 3


def test_where_the_cache_cannot_be_written_to_they_lie_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = lasting._filled

    def refuse(folder: Path, *args: Any) -> Path:
        if folder.is_relative_to(tmp_path / "cache"):
            raise PermissionError("read-only")
        return filled(folder, *args)

    monkeypatch.setattr(lasting, "_filled", refuse)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = lasting_folder("tiny", {"config.json": "{}"})
    assert folder.is_relative_to(tmp_path / "temporary")
    assert folder == lasting_folder("tiny", {"config.json": "{}"})
