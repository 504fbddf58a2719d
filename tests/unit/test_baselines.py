import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llm_energy import Sample, Scenario
from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.verdicts.baselines import read_baseline, read_published, write_baseline
from tests.journals import SimulatedSession

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    session = SimulatedSession(tmp_path / "journal.jsonl")
    session.case("batching", "falls[8]", {"batched": (PLAIN.replace(batch_size=8), 0.4), "alone": (PLAIN, 2.0)})
    session.bless(tmp_path)
    return tmp_path / "h200" / "batching.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is corrupt: .*line"),
        (lambda text: "", "is corrupt"),
        (lambda text: text.replace('"schema": 1', '"schema": 99'), "has schema 99; this version reads up to 1"),
        (lambda text: text.replace('"finding"', '"findings"'), "findings"),
        (lambda text: text.replace('"tp": 1', '"tp": 1, "tpp": 1'), r"unknown field `tpp` - at `\$.cases\[...\]`"),
        (
            lambda text: text.replace('"tp": 1', '"tp": "one"'),
            r"Expected `int`, got `str` - at `\$.cases\[...\].tp`",
        ),
        (lambda text: text.replace('_token": [', '_token": [NaN, ', 1), r"is corrupt: .*line \d+, column \d+"),
        (lambda text: text.replace('_token": [', '_token": [-1, ', 1), r"at `\$.sessions\[0\].starts"),
        (lambda text: text.replace('"gpu": "h200"', '"gpu": "h100"'), "is the baseline of batching on h100"),
        (lambda text: text.replace('"falls[8]": {\n      "arms"', '"falls[9]": {\n      "arms"'), "not in cases"),
    ],
    ids=["truncated", "empty", "newer", "misspelt", "unknown-field", "type", "nan", "negative", "moved", "stray"],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_place(file: Path, damage: "object", message: str) -> None:
    assert callable(damage)
    text = file.read_text()
    damaged = damage(text)
    assert damaged != text
    file.write_text(damaged)
    with pytest.raises(BaselineError, match=message) as caught:
        read_baseline(file.parents[1], "h200", "batching")
    assert str(file) in str(caught.value)


def test_reading_what_was_written_gives_the_same(file: Path) -> None:
    baseline = read_baseline(file.parents[1], "h200", "batching")
    assert baseline is not None
    before = file.read_text()
    write_baseline(file.parents[1], baseline)
    assert file.read_text() == before


def test_what_says_nothing_new_is_not_written(file: Path) -> None:
    keys = json.loads(file.read_text())["sessions"][0].keys()
    assert not {"moved"} & keys


def test_what_identifies_a_scenario_is_kept_exactly(tmp_path: Path) -> None:
    odd = PLAIN.replace(decoding=Sample(temperature=0.123456789))
    session = SimulatedSession(tmp_path / "journal.jsonl")
    session.case("sampling", "odd", {"odd": (odd, 0.4123456789), "plain": (PLAIN, 2.0)}).bless(tmp_path)
    baseline = read_baseline(tmp_path, "h200", "sampling")
    assert baseline is not None
    assert baseline.cases["odd"].arms["odd"] == odd.identity()
    assert "0.41152" in (tmp_path / "h200" / "sampling.json").read_text()


def test_a_diff_reads_well(file: Path) -> None:
    text = file.read_text()
    sample_lines = [line for line in text.splitlines() if "joules_per_token" in line]
    assert len(sample_lines) == 2
    assert all(line.strip().endswith(("],", "]")) for line in sample_lines)
    keys = list(json.loads(text))
    assert keys == sorted(keys)


def test_a_full_disk_leaves_the_old_file_and_no_other(file: Path) -> None:
    before = file.read_text()
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from pytest_llm_energy.verdicts.files import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        f"write_whole(Path({str(file)!r}), 'x' * 100000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BaselineError: cannot write" in done.stderr
    assert "it was left as it was" in done.stderr
    assert file.read_text() == before
    assert list(file.parent.iterdir()) == [file]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 64


def test_every_published_file_reads_and_says_where_its_figures_come_from() -> None:
    findings = sorted(path.stem for path in (REPOSITORY / "baselines" / "published").glob("*.json"))
    assert len(findings) == 15
    for finding in findings:
        published = read_published(REPOSITORY / "baselines", finding)
        assert published is not None
        assert published.finding == finding
        assert len({figure.id for figure in published.figures}) == len(published.figures) > 0
        for figure in published.figures:
            assert figure.source, finding
            assert (figure.value is None) == (figure.relation == "direction"), (finding, figure.id)


def test_every_committed_baseline_reads() -> None:
    for path in (REPOSITORY / "baselines").glob("*/*.json"):
        if path.parent.name != "published":
            assert read_baseline(REPOSITORY / "baselines", path.parent.name, path.stem) is not None
