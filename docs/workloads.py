"""The figures of docs/workloads.md, from the committed journals."""

from collections.abc import Iterator, Sequence
from functools import cache

from tabulate import tabulate

from docs.journals import blessed, fenced, read
from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.workloads import Costed, estimate_lines, workload_lines
from pytest_llm_energy.serving.flops import request_flops
from pytest_llm_energy.serving.models import model_named
from pytest_llm_energy.verdicts.configurations import Configuration, configurations
from pytest_llm_energy.verdicts.estimates import excess
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm
from pytest_llm_energy.workloads.estimate import LEAST_BINS, estimate, fitted
from pytest_llm_energy.workloads.ideal import ideal_joules
from pytest_llm_energy.workloads.packaged import packaged

NOISE = blessed("h200").noise(method="nvml-counter", simulated=False)
BOTH_ENGINES = "h200/ninth-session"
LARGEST_BATCHES = "h200/ninth-session-largest-batches"
BATCH_BY_BATCH = "h200/seventh-session-engines"
ELSEWHERE = ("workloads/decode-of-512-tokens", "h200/fourth-session-prefill", "h200/fourth-session-online")
TRACES = ("azure_2023_conv", "azure_2023_code")
FULL_BATCH = 16
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


def estimates(journal: str = BOTH_ENGINES, traces: Sequence[str] = TRACES) -> str:
    """``llm-energy estimate`` over Azure's traces, by what one session measured of two engines."""
    lines: list[str] = []
    for histogram in map(packaged, traces):
        ideal = ideal_joules(histogram, _flops(), gpu_spec("h200"))
        costed = [
            Costed(
                name=each.name,
                estimate=estimate(histogram, each.bins, shared_sd=each.shared_sd),
                ideal_joules=ideal,
            )
            for each in _measured(journal)
        ]
        lines += [*workload_lines(histogram), "", *estimate_lines(costed), ""]
    return fenced(lines)


def model() -> str:
    """The six energies that an H200's batches are made of on two engines, and how far off they are."""
    engines = {each.name.partition(",")[0]: each for each in _measured(BOTH_ENGINES)}
    fits = {name: fitted(each.bins) for name, each in engines.items()}
    rows = [
        [what, *(words.joules(fit.joules[number]) for fit in fits.values())] for number, what in enumerate(TERMS)
    ]
    aligned = ("left", *("right" for _ in fits))
    table = str(tabulate(rows, ["what", *fits], disable_numparse=True, colalign=aligned))
    says = [
        f"{name}: fitted to {len(engines[name].bins)} batches; off by {fit.relative_error:.1%} "
        f"(at worst {fit.worst_error:+.1%}) on those of a length that was left out"
        for name, fit in fits.items()
    ]
    return fenced([*table.splitlines(), "", *says])


def elsewhere() -> str:
    """What the model fitted to one board says of batches that others served, of lengths not fitted to."""
    (fit,) = (fitted(each.bins) for each in _measured(BOTH_ENGINES) if each.name.startswith("vllm"))
    rows = [
        [
            each.input_tokens,
            each.output_tokens,
            each.batch_size,
            words.joules(each.joules_per_request),
            words.percent(fit.joules_per_request(*each.lengths, each.batch_size) / each.joules_per_request - 1),
        ]
        for (vllm,) in [_measured(*ELSEWHERE)]
        for each in vllm.bins
        if each.batch_size >= FULL_BATCH
    ]
    headers = ["input tokens", "output tokens", "batch", "J/request", "the model says"]
    return fenced(str(tabulate(rows, headers, disable_numparse=True)).splitlines())


def _measured(*names: str) -> list[Configuration]:
    """Ways of serving of which journals hold enough lengths for an estimate."""
    found = configurations([read(name) for name in names], noises={"h200": NOISE})
    return [each for each in found if len({bin.lengths for bin in each.bins}) >= LEAST_BINS]


def larger_batches() -> str:
    """What requests of the same lengths take in batches of 32 and in the largest, on each engine."""
    usual, largest = (
        {
            (engine.name.partition(",")[0], *bin.lengths): bin
            for engine in _measured(name)
            for bin in sorted(engine.bins, key=lambda bin: bin.batch_size)
        }
        for name in (BOTH_ENGINES, LARGEST_BATCHES)
    )
    rows = []
    for (engine, i, o), bin in largest.items():
        if at := usual.get((engine, i, o)):
            change = words.percent(bin.joules_per_request / at.joules_per_request - 1)
            each = [words.joules(x.joules_per_request) for x in (at, bin)]
            rows.append([engine, i, o, at.batch_size, each[0], bin.batch_size, each[1], change])
    headers = ["served by", "input tokens", "output tokens", "batch", "J/request", "largest", "J/request", "change"]
    return fenced(str(tabulate(rows, headers, disable_numparse=True)).splitlines())


def above_the_ideal() -> str:
    """How far two engines lie above the ideal, by batch size."""
    ideal = ideal_joules({LENGTHS: 1}, _flops(), gpu_spec("h200"))
    rows = []
    for batch_size, arms in sorted(_by_batch(read(BATCH_BY_BATCH))):
        cells = [words.change(excess(arms[name], ideal, noise=NOISE)) for name in ("vllm", "transformers")]
        rows.append([batch_size, *cells])
    headers = ["batch", "vLLM above the ideal", "transformers above the ideal"]
    table = str(tabulate(rows, headers, disable_numparse=True))
    says = f"the ideal: {words.joules(ideal)} a request of {LENGTHS[0]} + {LENGTHS[1]} tokens"
    return fenced([says, "", *table.splitlines()])


@cache
def _flops() -> dict[tuple[int, int], int]:
    """Operations of every request here, by its lengths: counting them takes seconds."""
    lengths = {(i, o) for trace in TRACES for i, o, _ in packaged(trace).counts}
    counted = request_flops(model_named(MODEL), sorted({LENGTHS, *lengths}))
    return {lengths: flops.total for lengths, flops in counted.items()}


def _by_batch(journal: Journal) -> Iterator[tuple[int, dict[str, Arm]]]:
    for check in journal.measurements:
        if check.key.finding == "serving-engine":
            arms = {arm.name: arm for arm in journal.measured(check).arms}
            identity = arms["vllm"].identity
            assert identity is not None
            yield identity["batch_size"], arms
