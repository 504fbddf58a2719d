"""The figures of docs/workloads.md, from the committed journals."""

from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.workloads import Costed, estimate_lines, workload_lines
from pytest_llm_energy.serving.flops import request_flops
from pytest_llm_energy.serving.models import model_named
from pytest_llm_energy.verdicts.configurations import configurations
from pytest_llm_energy.verdicts.estimates import excess
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.measured import Arm
from pytest_llm_energy.verdicts.noise import read_gpu_baselines
from pytest_llm_energy.workloads.estimate import Fit, estimate, fitted
from pytest_llm_energy.workloads.ideal import ideal_joules
from pytest_llm_energy.workloads.packaged import packaged

MEASUREMENTS = Path(__file__).parent / "measurements"
NOISE = read_gpu_baselines(Path(__file__).parents[1] / "baselines", "h200").noise(
    method="nvml-counter", simulated=False
)
ONE_SESSION = ("workloads/decode-of-512-tokens", "h200/fourth-session-prefill", "h200/fourth-session-online")
BOTH_ENGINES = "h200-busy-host/same-stack-3"
MODEL = "Llama-3.1-8B"
LENGTHS = (512, 64)
TERMS = (
    "a pass over the weights, in a prefill",
    "a token of a prompt",
    "the square of a prompt's tokens, each looking at the others",
    "a pass over the weights, in a decode step",
    "a decoded token",
    "a decoded token, for each token before it",
)


def estimates() -> str:
    """``llm-energy estimate`` over Azure's traces, by what one session measured of vLLM."""
    (vllm,) = configurations([_journal(name) for name in ONE_SESSION], noises={"h200": NOISE})
    lines: list[str] = []
    for trace in ("azure_2023_conv", "azure_2023_code"):
        histogram = packaged(trace)
        costed = Costed(name=vllm.name, estimate=estimate(histogram, vllm.bins, shared_sd=vllm.shared_sd))
        lines += [*workload_lines(histogram), "", *estimate_lines([costed]), ""]
    return _fenced(lines)


def model() -> str:
    """The six energies that an H200's batches are made of, and how far off they are."""
    (vllm,) = configurations([_journal(name) for name in ONE_SESSION], noises={"h200": NOISE})
    fit: Fit = fitted(vllm.bins)
    rows = [[what, words.joules(joules)] for what, joules in zip(TERMS, fit.joules, strict=True)]
    table = str(tabulate(rows, ["what", "energy"], disable_numparse=True, colalign=("left", "right")))
    error = f"{fit.relative_error:.1%} (at worst {fit.worst_error:+.1%})"
    says = f"fitted to {len(vllm.bins)} batches; off by {error} on those of a length that was left out"
    return _fenced([*table.splitlines(), "", says])


def above_the_ideal() -> str:
    """How far two engines lie above the ideal, by batch size."""
    flops = request_flops(model_named(MODEL), [LENGTHS])[LENGTHS].total
    ideal = ideal_joules({LENGTHS: 1}, {LENGTHS: flops}, gpu_spec("h200"))
    rows = []
    for batch_size, arms in sorted(_by_batch(_journal(BOTH_ENGINES))):
        cells = [words.change(excess(arms[name], ideal, noise=NOISE)) for name in ("vllm", "transformers")]
        rows.append([batch_size, *cells])
    headers = ["batch", "vLLM above the ideal", "transformers above the ideal"]
    table = str(tabulate(rows, headers, disable_numparse=True))
    says = f"the ideal: {words.joules(ideal)} a request of {LENGTHS[0]} + {LENGTHS[1]} tokens"
    return _fenced([says, "", *table.splitlines()])


def _by_batch(journal: Journal) -> Iterator[tuple[int, dict[str, Arm]]]:
    for check in journal.checks:
        if check.key.finding == "serving-engine":
            arms = {arm.name: arm for arm in journal.measured(check).arms}
            identity = arms["vllm"].identity
            assert identity is not None
            yield identity["batch_size"], arms


def _journal(name: str) -> Journal:
    return read_journal(MEASUREMENTS / f"{name}.jsonl.gz")


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```text", *(line.rstrip() for line in "\n".join(lines).rstrip().splitlines()), "```"])
