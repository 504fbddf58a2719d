"""``llm-energy estimate``: what the requests of a trace cost, by journals."""

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llm_energy import Online, Scenario
from pytest_llm_energy.cli import main
from tests.journals import SimulatedSession

LENGTHS = [(i, o) for i in (32, 512, 2048) for o in (8, 64, 256)]
PLAIN = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=8, output_tokens=8, batch_size=32)
TRACE = "azure_2023_conv"
NO_TORCH = ["--ideal-python", "false"]


def joules_per_token(input_tokens: int, output_tokens: int) -> float:
    steps = output_tokens - 1
    request = (
        2.8 / 32 + 0.016 * input_tokens + steps * (2.45 / 32 + 0.01 + 4e-5 * (input_tokens + output_tokens / 2))
    )
    return request / output_tokens


def journal(path: Path, factors: dict[str, float], *, gpu: str = "h200") -> Path:
    """A journal of requests of several lengths on engines, whose joules are those of one model times a factor."""
    session = SimulatedSession(path, gpu=gpu)
    levels = {
        f"{engine} {i}+{o}": (
            PLAIN.replace(engine=engine, input_tokens=i, output_tokens=o),
            factor * joules_per_token(i, o),
        )
        for engine, factor in factors.items()
        for i, o in LENGTHS
    }
    return session.case("trace-workloads", "grid", levels, series=True).path


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    assert main(["estimate", *map(str, arguments)]) == code
    told = capsys.readouterr()
    return told.err if code else told.out


def test_stacks_are_compared_over_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal(tmp_path / "j.jsonl", {"vllm": 0.6, "transformers": 1.0})
    text = said(capsys, TRACE, "--journal", path, "--price", "0.3", "--intensity", "400", *NO_TORCH)
    lines = text.splitlines()
    assert lines[0].startswith("azure_2023_conv: 19,366 requests, 18,803 in 43 bins; left out: 563 ")
    hungry, lean = (next(line for line in lines if line.startswith(name)) for name in ("transformers", "vllm"))
    assert lines.index(hungry) < lines.index(lean)
    assert "-40.0 % [" in lean
    assert "7 measured + 36 filled in" in lean
    assert "no ideal for Llama-3.1-8B" in text
    assert "CO2e: 400 g/kWh (as stated), pue 1.0" in text


def test_a_python_without_torch_says_by_which_option_another_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = journal(tmp_path / "j.jsonl", {"vllm": 1.0})
    without = f"{sys.executable} -S -I"  # no site-packages
    text = said(capsys, TRACE, "--journal", path, "--ideal-python", without)
    assert "name a Python that has them: --ideal-python COMMAND" in text
    assert "--energy-python" not in text


def test_what_was_not_measured_is_refused_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal(tmp_path / "j.jsonl", {"vllm": 1.0})
    text = said(capsys, TRACE, "--journal", path, "--exact", *NO_TORCH, code=2)
    assert (
        "36 bins (32+128, 32+512, 128+16, 128+32, 128+64, 128+128, ...) were not measured in full batches" in text
    )


def test_a_gpu_model_that_was_not_measured_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal(tmp_path / "j.jsonl", {"vllm": 1.0})
    assert "nothing was measured on a100; measured: h200" in said(
        capsys, TRACE, "--journal", path, "--gpu", "a100", code=2
    )
    other = journal(tmp_path / "other.jsonl", {"vllm": 1.0}, gpu="a100")
    assert "--gpu KEY says which of these is meant: h200, a100" in said(
        capsys, TRACE, "--journal", path, "--journal", other, code=2
    )


def test_options_that_contradict_each_other_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = journal(tmp_path / "j.jsonl", {"vllm": 1.0})
    both = said(capsys, TRACE, "--journal", path, "--country", "DEU", "--intensity", "1", code=2)
    assert "give one of them" in both
    assert "--pue enters grams" in said(capsys, TRACE, "--journal", path, "--pue", "1.2", code=2)


@pytest.mark.parametrize("option", ["--price=-1", "--price=free", "--intensity=-5", "--pue=0.5"])
def test_numbers_that_mean_nothing_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["estimate", TRACE, "--journal", "absent.jsonl", option])
    assert " is no " in capsys.readouterr().err


def test_a_journal_without_static_batches_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = SimulatedSession(tmp_path / "j.jsonl")
    online = PLAIN.replace(online=Online(), input_tokens=8, output_tokens=8)
    session.case("continuous-batching", "online", {"online": (online, 1.0)}, series=True)
    assert "the journal holds no static batches" in said(capsys, TRACE, "--journal", session.path, code=2)


def test_the_ideal_is_counted_where_torch_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    text = said(capsys, TRACE, "--journal", journal(tmp_path / "j.jsonl", {"vllm": 1.0}))
    assert "above the ideal" in text
    assert "no ideal" not in text


def test_who_has_read_enough_is_not_told_of_a_broken_pipe() -> None:
    command = [sys.executable, "-m", "pytest_llm_energy.cli", "bins", TRACE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
