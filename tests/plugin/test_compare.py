"""``llm-energy compare``: one journal judged by another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llm_energy import Scenario, cli
from pytest_llm_energy.verdicts.records import Troubled
from tests.journals import SimulatedSession

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)


def journal(path: Path, when: str, level: float, *, gpu: str = "h200", board: str = "a") -> str:
    session = SimulatedSession(path, when=when, gpu=gpu, board=board)
    session.case("batching", "falls[8]", {"batched": (PLAIN.replace(batch_size=8), level), "alone": (PLAIN, 2.0)})
    return str(path)


@pytest.mark.parametrize(
    ("level", "board", "status", "says"),
    [
        (0.4, "a", 0, "energy: judged 1 of 1 (2 ok)"),
        (0.48, "a", 1, "energy: judged 1 of 1 (1 regressed, 1 ok)"),
        (0.3, "a", 0, "energy: judged 1 of 1 (1 improved, 1 ok)"),
        (0.41, "b", 5, "energy: judged 0 of 1 (2 inconclusive); a gate that decided nothing does not pass"),
    ],
)
def test_levels_of_one_journal_are_judged_by_those_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], level: float, board: str, status: int, says: str
) -> None:
    old = journal(tmp_path / "old.jsonl", "2026-01-01T00:00:00+00:00", 0.4)
    new = journal(tmp_path / "new.jsonl", "2026-02-02T00:00:00+00:00", level, board=board)
    assert cli.main(["compare", old, new]) == status
    printed = capsys.readouterr().out
    assert says in printed
    if status == 1:
        assert "changed:  transformers: 5.0 -> 5.1" in printed
        assert f"on this board since 2026-01-01 ({old})" in " ".join(printed.split())
    assert cli.main(["compare", old, new, "--budget", "99%" if board == "b" else "60%"]) == 0


def test_journals_of_two_gpu_models_or_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = journal(tmp_path / "old.jsonl", "2026-01-01T00:00:00+00:00", 0.4)
    new = journal(tmp_path / "new.jsonl", "2026-02-02T00:00:00+00:00", 0.4, gpu="a100")
    assert cli.main(["compare", old, new]) == 2
    assert "joules of different GPU models are not compared" in capsys.readouterr().err
    assert cli.main(["compare", old, str(tmp_path / "missing.jsonl")]) == 2
    assert "no journal at" in capsys.readouterr().err


def test_cases_that_failed_are_errors_and_those_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = {"batched": (PLAIN.replace(batch_size=8), 0.4), "alone": (PLAIN, 2.0)}
    sides = [SimulatedSession(tmp_path / f"{name}.jsonl", when=f"2026-01-0{name}T00:00:00+00:00") for name in "12"]
    for case in ("falls[8]", "falls[16]", "falls[32]"):
        sides[0].case("batching", case, levels)
    sides[1].case("batching", "falls[8]", levels).case("batching", "falls[16]", levels)
    sides[1].other("batching", "falls[16]", lambda key: Troubled(key=key, says="the engine died"))
    old, new = (str(side.path) for side in sides)
    assert cli.main(["compare", old, new]) == 1
    printed = capsys.readouterr().out
    assert "ERROR batching falls[16] on h200: when it was measured: the engine died" in printed
    assert f"in {old} alone" in printed
    assert "energy: judged 1 of 3 (2 ok, 1 errored, 1 skipped)" in printed


def test_who_has_read_enough_does_not_change_the_verdict(tmp_path: Path) -> None:
    old = journal(tmp_path / "old.jsonl", "2026-01-01T00:00:00+00:00", 0.4)
    new = journal(tmp_path / "new.jsonl", "2026-02-02T00:00:00+00:00", 0.48)
    reading, writing = os.pipe()
    os.close(reading)  # as head does when it has what it wants
    for unbuffered in ([], ["-u"]):
        command = [sys.executable, *unbuffered, "-m", "pytest_llm_energy.cli", "compare", old, new]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "")
    os.close(writing)
