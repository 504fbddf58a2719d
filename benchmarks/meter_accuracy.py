"""How right one window is, per meter: ours beside Zeus, CodeCarbon, a counter difference and power polling.

    python benchmarks/meter_accuracy.py [--json FILE] [--plot FILE.png] [--windows 10] [--device 0]

Bursts of a matrix product and of a memory-bound copy, 40 ms to 4 s, on an otherwise idle NVIDIA device. Every
burst is the same work; the meters take turns, each with windows of its own. The truth of a burst is amortised: the
counter over a whole pass of bursts, less the measured energy of the gaps between them, divided by their number.
Meters that are not installed are left out, and said.
"""

import argparse
import contextlib
import json
import math
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pytest_llm_energy.hardware.detection import detect
from pytest_llm_energy.metering.nvml import NvmlMeter

LENGTHS = (0.04, 0.1, 0.25, 0.5, 1.0, 4.0)
GAP_SECONDS = 0.7
SETTLING_SECONDS = 0.2
OURS = "pytest-llm-energy"

Work = Callable[[], tuple[float, float]]
Instrument = Callable[[Work], dict[str, tuple[float, float | None]]]
"""Runs the work in a window; joules and stated uncertainty by name of the method."""


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--windows", type=int, default=10, help="of ours; the others take half as many")
    parser.add_argument("--device", type=int, default=0)
    options = parser.parse_args()
    host = detect()
    if not host.devices:
        sys.exit("meter_accuracy needs an NVIDIA device with an energy counter")
    device = host.devices[options.device]
    with contextlib.ExitStack() as stack:
        instruments = dict(_instruments(options.device, device, stack))
        works = _works(options.device)
        results = [
            _measure_pass(name, seconds, run, instruments, options.windows, options.device)
            for name, run in works.items()
            for seconds in LENGTHS
        ]
    report = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": device.name,
        "driver": host.driver,
        "cuda": host.cuda,
        "versions": _versions(),
        "passes": results,
    }
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)


def print_report(report: dict[str, Any]) -> None:
    """The tables: one-window rmse and bias per meter, and the coverage of our intervals."""
    print(f"{report['gpu']}, driver {report['driver']}, {report['when']}, {report['versions']}")
    for quantity in ("rmse", "bias"):
        print(f"\n{quantity} of one window, % of the true energy")
        methods = list(report["passes"][0]["methods"])
        rows = [
            [p["work"], f"{p['seconds'] * 1000:.0f} ms", f"{p['true_joules']:.1f} J"]
            + [
                f"{p['methods'][m][quantity] * 100:+.2f}"
                if quantity == "bias"
                else f"{p['methods'][m][quantity] * 100:.2f}"
                for m in methods
            ]
            for p in report["passes"]
        ]
        print(tabulate(rows, ["work", "burst", "truth", *methods], disable_numparse=True))
    inside = [abs(z) <= 2 for p in report["passes"] for z in p["methods"][OURS]["z"]]
    share = sum(inside) / len(inside)
    print(f"\ncoverage of our 2-sigma interval: {sum(inside)} of {len(inside)} windows ({share:.1%})")


def plot(report: dict[str, Any], path: Path) -> None:
    """One-window rmse over burst length, a line per meter."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    works = sorted({p["work"] for p in report["passes"]})
    figure, axes = pyplot.subplots(1, len(works), figsize=(6 * len(works), 4.5), sharey=True)
    for axis, work in zip(axes, works, strict=True):
        passes = [p for p in report["passes"] if p["work"] == work]
        for method in passes[0]["methods"]:
            axis.plot(
                [p["seconds"] for p in passes],
                [p["methods"][method]["rmse"] * 100 for p in passes],
                marker="o",
                linewidth=2.5 if method == OURS else 1.2,
                label=method,
            )
        axis.set(xscale="log", yscale="log", title=work, xlabel="burst, seconds")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("rmse of one window, % of the true energy")
    axes[-1].legend(fontsize=8)
    figure.suptitle(f"{report['gpu']}, driver {report['driver']}, {report['when'][:10]}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _measure_pass(
    name: str,
    seconds: float,
    run: Callable[[int], None],
    instruments: dict[str, Instrument],
    windows: int,
    index: int,
) -> dict[str, Any]:
    """All meters on bursts of one kind, in turn, and the truth from the whole pass."""
    import torch

    per_repeat = _seconds_per_repeat(run)
    repeats = max(1, round(seconds / per_repeat))
    spans: list[tuple[float, float]] = []

    def burst() -> tuple[float, float]:
        torch.cuda.synchronize()
        started = time.monotonic()
        run(repeats)
        torch.cuda.synchronize()
        spans.append((started, time.monotonic()))
        return spans[-1]

    order = _order(instruments, windows if seconds < 2 else max(2, windows // 3))
    found: dict[str, list[tuple[float, float | None]]] = {}
    for _ in range(2):
        time.sleep(GAP_SECONDS)
        burst()
    spans.clear()
    begun, joules = _tick(index)
    gaps: list[float] = []
    phases = random.Random(name)
    last = begun
    for instrument in order:
        watts = _gap_watts(index)
        gaps.append(watts * -last)
        time.sleep(phases.uniform(0, 0.1))  # the gap ended at a tick; windows begin anywhere between ticks
        for method, reading in instruments[instrument](burst).items():
            found.setdefault(method, []).append(reading)
        started, last = spans[-1]
        gaps[-1] += watts * started
    watts = _gap_watts(index)
    ended, total = _tick(index)
    gaps.append(watts * (ended - last))
    truth = (total - joules - sum(gaps)) / len(spans)
    idle_watts = sum(gaps) / (ended - begun - sum(end - start for start, end in spans))
    methods = {method: _against(truth, readings) for method, readings in found.items()}
    ours = methods[OURS]
    print(
        f"{name} {seconds * 1000:.0f} ms: truth {truth:.2f} J, idle {idle_watts:.1f} W, ours rmse "
        f"{ours['rmse']:.2%} bias {ours['bias']:+.2%}, z {[round(z, 1) for z in ours['z']]}",
        flush=True,
    )
    return {
        "work": name,
        "seconds": seconds,
        "true_joules": truth,
        "idle_watts": idle_watts,
        "methods": methods,
        "spans": [end - start for start, end in spans],
    }


def _against(truth: float, readings: list[tuple[float, float | None]]) -> dict[str, Any]:
    errors = [joules / truth - 1 for joules, _ in readings]
    return {
        "joules": [joules for joules, _ in readings],
        "rmse": math.sqrt(statistics.fmean(error**2 for error in errors)),
        "bias": statistics.fmean(errors),
        "z": [(joules - truth) / uncertainty for joules, uncertainty in readings if uncertainty],
    }


def _order(instruments: dict[str, Instrument], windows: int) -> list[str]:
    """Ours in every second turn, the others one after another in between."""
    others = [name for name in instruments if name != OURS]
    order = []
    for number in range(windows):
        order.append(OURS)
        if number % 2 == 0:
            order += others
    return order


def _gap_watts(index: int) -> float:
    """Idle power within the gap before a burst, from the counter's ticks; the gap's first part is left out."""
    time.sleep(SETTLING_SECONDS)
    begun, joules = _tick(index)
    time.sleep(GAP_SECONDS - SETTLING_SECONDS)
    ended, later = _tick(index)
    return (later - joules) / (ended - begun)


def _tick(index: int) -> tuple[float, float]:
    """Watch the counter until it advances: when, and the joules then."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    while (joules := pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) == first:
        pass
    return time.monotonic(), joules / 1000


def _seconds_per_repeat(run: Callable[[int], None]) -> float:
    import torch

    for repeats in (20, 100):
        torch.cuda.synchronize()
        started = time.monotonic()
        run(repeats)
        torch.cuda.synchronize()
        taken = (time.monotonic() - started) / repeats
    return taken


def _works(index: int) -> dict[str, Callable[[int], None]]:
    import torch

    torch.cuda.set_device(index)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn_like(a)
    product = torch.empty_like(a)
    source = torch.empty(2**30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)

    def gemm(repeats: int) -> None:
        for _ in range(repeats):
            torch.matmul(a, b, out=product)

    def copy(repeats: int) -> None:
        for _ in range(repeats):
            target.copy_(source)

    return {"gemm": gemm, "copy": copy}


def _instruments(index: int, device: Any, stack: contextlib.ExitStack) -> Iterator[tuple[str, Instrument]]:
    meter = NvmlMeter([device])
    stack.callback(meter.shutdown)

    def ours(work: Work) -> dict[str, tuple[float, float | None]]:
        window = meter.open()
        reading = window.close(*work())
        if not reading.valid:
            print(f"  invalid: {reading.invalid}", flush=True)
            return {}
        return {OURS: (reading.joules, reading.uncertainty_joules)}

    yield OURS, ours
    yield "plain", lambda work: _plain(index, work)
    try:
        from zeus.monitor import ZeusMonitor

        zeus = ZeusMonitor(gpu_indices=[index])
        count = iter(range(10**9))

        def with_zeus(work: Work) -> dict[str, tuple[float, float | None]]:
            name = f"window {next(count)}"
            zeus.begin_window(name)
            work()
            return {"Zeus": (zeus.end_window(name).total_energy, None)}

        yield "Zeus", with_zeus
    except Exception as error:
        print(f"Zeus is left out: {error!r}")
    try:
        from codecarbon import OfflineEmissionsTracker

        tracker = OfflineEmissionsTracker(
            country_iso_code="USA",
            gpu_ids=[index],
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
        )

        def with_codecarbon(work: Work) -> dict[str, tuple[float, float | None]]:
            tracker.start_task()
            work()
            return {"CodeCarbon": (tracker.stop_task().gpu_energy * 3.6e6, None)}

        tracker.start_task()
        tracker.stop_task()
        yield "CodeCarbon", with_codecarbon
    except Exception as error:
        print(f"CodeCarbon is left out: {error!r}")


def _plain(index: int, work: Work) -> dict[str, tuple[float, float | None]]:
    """A counter difference, and polling of instant and average power every 10 ms, around one window."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    samples: list[tuple[float, float, float]] = []
    stopped = threading.Event()

    def poll() -> None:
        while not stopped.wait(0.01):
            (instant,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
            average = pynvml.nvmlDeviceGetPowerUsage(handle)
            samples.append((time.monotonic(), instant.value.uiVal / 1000, average / 1000))

    thread = threading.Thread(target=poll)
    thread.start()
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    started, ended = work()
    after = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    stopped.set()
    thread.join()
    inside = [s for s in samples if started <= s[0] <= ended] or samples[-1:]
    return {
        "counter difference": ((after - before) / 1000, None),
        "poll instant": (statistics.fmean(s[1] for s in inside) * (ended - started), None),
        "poll average": (statistics.fmean(s[2] for s in inside) * (ended - started), None),
    }


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "nvidia-ml-py", "zeus", "codecarbon"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


if __name__ == "__main__":
    main()
