"""How much levels scatter on a GPU model is what its baselines show, and reports say it."""

from pathlib import Path

import pytest

from pytest_llm_energy.cli import main
from tests.journals import SimulatedSession
from tests.plugin.conftest import PLAIN, Project

QUIET = (1.0, 1.0, 1.0, 1.0)
NOISY = (1.0, 1.022, 0.985, 1.02)


def bless_another_finding(project: Project, factors: tuple[float, ...]) -> Path:
    """Sessions of another finding on the same board, whose levels differ by so much."""
    for number, factor in enumerate(factors, start=1):
        when = f"2026-01-0{number}T12:00:00+00:00"
        session = SimulatedSession(project.path / f"other-{number}.jsonl", when=when)
        session.case("other", "stays[1]", {"one": (PLAIN, 2.0 * factor), "two": (PLAIN, 2.0 * factor)})
        session.bless(project.path / "baselines")
    return project.path / "baselines" / "h200" / "other.json"


def test_the_same_journal_is_ok_on_a_quiet_gpu_model_and_undecided_on_a_noisy_one(project: Project) -> None:
    journal = project.journal("now.jsonl")
    path = bless_another_finding(project, QUIET)
    quiet = project.replay(journal)
    quiet.stdout.fnmatch_lines(
        [
            "  noise of h200: windows 0.3 %, starts 0.2 % (assumed), sessions 0.7 % (assumed), "
            "boards 3.8 % (assumed)",
            "energy: judged 3 of 3 (3 new, 6 ok)",
        ]
    )
    path.unlink()
    bless_another_finding(project, NOISY)
    assert '"moved"' not in path.read_text()
    noisy = project.replay(journal)
    noisy.stdout.fnmatch_lines(
        ["  noise of h200: * sessions 1.? % (4 on 1 board), *", "energy: judged 3 of 3 (6 inconclusive, 3 new)"]
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_noise_is_in_the_markdown_whichever_process_judged(project: Project, workers: str) -> None:
    bless_another_finding(project, NOISY)
    project.replay(project.journal("now.jsonl"), f"-n{workers}", "--energy-report=energy.md")
    assert (project.path / "energy.md").read_text().count("noise of h200: windows ") == 1


def test_a_corrupt_baseline_of_another_finding_fails_nothing_and_is_named(project: Project) -> None:
    bless_another_finding(project, NOISY).write_text("{")
    result = project.replay(project.journal("now.jsonl"))
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "  noise of h200: *, sessions 0.7 % (assumed), *; not told by other, whose baseline cannot be read",
            "energy: judged 3 of 3 (3 new, 6 ok)",
        ]
    )


def test_no_noise_is_told_where_no_level_was_judged(project: Project) -> None:
    bless_another_finding(project, NOISY)
    result = project.replay(project.journal("now.jsonl"), "--energy-baselines=elsewhere")
    result.stdout.no_fnmatch_line("*noise of*")


def test_blessing_tells_a_raise_from_noise_and_refuses_where_that_cannot_be_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bless_another_finding(project, QUIET)
    dearer = project.journal("dearer.jsonl", factors={(4, "batched"): 1.034})
    command = ["bless", str(dearer.path), "--reason", "x", "--baselines", str(project.path / "baselines")]
    assert main(command) == 2
    assert "levels that this would raise: 1" in capsys.readouterr().err
    path.unlink()
    bless_another_finding(project, NOISY)
    whole = path.read_text()
    path.write_text("{")
    assert main(command) == 2
    assert "other.json is corrupt" in capsys.readouterr().err
    path.write_text(whole)
    assert main(command) == 0
    assert " keep " in capsys.readouterr().out


def test_one_journal_is_compared_with_another_by_the_noise_of_baselines(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (project.journal(f"{when}.jsonl", when=f"2026-0{when}-01T00:00:00+00:00").path for when in (3, 4))
    folder = str(project.path / "baselines")
    assert main(["compare", str(old), str(new), "--baselines", folder]) == 0
    assert "sessions 0.7 % (assumed)" in capsys.readouterr().out
    bless_another_finding(project, NOISY)
    assert main(["compare", str(old), str(new), "--baselines", folder]) == 5
    assert "% (4 on 1 board)" in capsys.readouterr().out
