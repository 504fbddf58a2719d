"""How right one window is, per meter: ours beside Zeus, CodeCarbon, a counter difference and power polling.

    python benchmarks/meter_accuracy.py [--json FILE] [--plot FILE.png] [--windows 10] [--device 0] [--works NAMES]
    python benchmarks/meter_accuracy.py --read FILE [--plot FILE.png]

Bursts of a matrix product and of a memory-bound copy, 40 ms to 4 s, on an otherwise idle NVIDIA device. Every
burst is the same work; the meters take turns, each with windows of its own that begin anywhere between the
counter's ticks. The truth of a burst is amortised: in between come as many bursts that start at moments spread
evenly over the ticks; the counter over all of them, less the measured energy of the gaps, is divided by their
number. The product is in single precision, which leaves an H200 below its power cap, so that its bursts are alike;
``capped-gemm`` is the same in bfloat16, whose bursts truly differ since the cap moves the clocks. Meters that are
not installed are left out, and said.
"""

import argparse
import contextlib
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.accuracy_report import OURS, Pass, Report, Window, conditions, plot, read, text_lines
from pytest_llm_energy.hardware.detection import Device, detect
from pytest_llm_energy.metering.clock import SystemClock
from pytest_llm_energy.metering.codecarbon_gpu import gpu_ids
from pytest_llm_energy.metering.edges import Tick, slope
from pytest_llm_energy.metering.nvml import CALIBRATION_TICKS, READ_SECONDS, NvmlMeter
from pytest_llm_energy.metering.nvml_windows import LAG_SECONDS
from pytest_llm_energy.metering.ticks import PERIOD_SECONDS, grid_from, watch

LENGTHS = (0.04, 0.1, 0.25, 0.5, 1.0, 4.0)
REST_SECONDS = 0.4
IDLE_SECONDS = 0.1
PLAIN = "plain"
TRUTH = "truth"
WARM_UP_BURSTS = 4

Work = Callable[[], tuple[float, float]]
Instrument = Callable[[Work], dict[str, tuple[float, float | None]]]
"""Runs the work in a window; joules and stated uncertainty by name of the method."""


def main() -> None:
    """Measure, print, and write what was asked for; or print and plot what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--read", type=Path, help="print and plot an earlier result")
    parser.add_argument("--windows", type=int, default=10, help="of ours; the others take fewer")
    parser.add_argument("--device", type=int, default=0, help="as CUDA counts those that are visible")
    parser.add_argument("--works", default="gemm,copy", help="of gemm, copy, capped-gemm (default: gemm,copy)")
    options = parser.parse_args()
    report = read(options.read) if options.read else _measure(options)
    print(conditions(report))
    print()
    print("\n".join(text_lines(report)))
    if options.plot:
        plot(report, options.plot)


def _measure(options: argparse.Namespace) -> Report:
    host = detect()
    if not host.devices:
        sys.exit("meter_accuracy needs an NVIDIA device with an energy counter")
    device = host.devices[options.device]
    report = Report(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        gpu=device.name,
        driver=host.driver or "?",
        cuda=host.cuda or "?",
        versions=_versions(),
        passes=(),
    )
    with contextlib.ExitStack() as stack:
        instruments = dict(_instruments(options.device, device, stack))
        works = _works(options.device)
        for name in options.works.split(","):
            for seconds in LENGTHS:
                found = _measure_pass(name, seconds, works[name], instruments, options.windows, device.uuid)
                report = msgspec.structs.replace(report, passes=(*report.passes, found))
                if options.json:
                    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return report


def _measure_pass(
    name: str,
    seconds: float,
    run: Callable[[int], None],
    instruments: dict[str, Instrument],
    windows: int,
    uuid: str,
) -> Pass:
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

    order = _order(instruments, max(3 if seconds < 2 else 2, round(windows * min(1.6, 0.5 / seconds))))
    rests = random.Random(name)
    found: dict[str, list[Window]] = {name: [] for name in instruments if name != PLAIN}
    truths: list[Window] = []
    phases = [(number + 0.5) / order.count(TRUTH) for number in range(order.count(TRUTH))]
    rests.shuffle(phases)
    for _ in range(max(1, WARM_UP_BURSTS - round(seconds))):
        time.sleep(REST_SECONDS)
        burst()
    spans.clear()
    counter = _Counter(uuid)
    for turn in order:
        time.sleep(REST_SECONDS + rests.uniform(0, 0.1))
        if turn == TRUTH:
            joules = _amortised(burst, counter, phases.pop())
            truths.append(Window(spans[-1][0], joules))
            continue
        for method, (joules, uncertainty) in instruments[turn](burst).items():
            found.setdefault(method, []).append(Window(spans[-1][0], joules, uncertainty))
    done = Pass(
        work=name,
        seconds=seconds,
        spans_sd=statistics.stdev(end - start for start, end in spans),
        truths=tuple(truths),
        methods={method: tuple(windows) for method, windows in found.items()},
    )
    print(
        f"{name} {seconds * 1000:.0f} ms: truth {done.truth:.2f} J (sd {done.truth_sd:.2f}), ours rmse "
        f"{done.rmse(OURS):.2%} bias {done.bias(OURS):+.2%}, sigmas {[round(z, 1) for z in done.sigmas(OURS)]}",
        flush=True,
    )
    return done


class _Counter:
    """The device's energy counter, read once per tick: watching it would disturb the sensor behind it."""

    def __init__(self, uuid: str) -> None:
        import pynvml

        self._read = partial(pynvml.nvmlDeviceGetTotalEnergyConsumption, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        brackets = watch(self._read, SystemClock(), count=CALIBRATION_TICKS)
        self._grid = grid_from(brackets, now=time.monotonic())

    def tick(self, after: float) -> Tick:
        """The first tick after a moment."""
        at = self._grid.after(after)
        time.sleep(max(0.0, at + READ_SECONDS - time.monotonic()))
        return Tick(at, self._read() / 1000)


def _amortised(burst: Work, counter: _Counter, phase: float) -> float:
    """One burst's share of the truth: the counter between ticks around it, less the measured gaps, in joules.

    It starts at a phase, 0 to 1, of the ticks: the counter errs by where in a tick work starts and ends, and over
    phases spread evenly that cancels.
    """
    rested = counter.tick(time.monotonic())
    before = counter.tick(rested.at + IDLE_SECONDS)
    time.sleep(before.at + (1 + phase) * PERIOD_SECONDS - time.monotonic())
    started, ended = burst()
    after = counter.tick(ended + LAG_SECONDS)
    cooled = counter.tick(after.at + IDLE_SECONDS)
    lead = slope(rested, before) * (started - before.at)
    tail = slope(after, cooled) * (after.at - ended)
    return after.joules - before.joules - lead - tail


def _order(instruments: dict[str, Instrument], windows: int) -> list[str]:
    """Ours and bursts for the truth in turn; the others in between, at most six times."""
    others = [name for name in instruments if name != OURS]
    times = max(1, min(6, windows // 3))
    turns = {round(number * windows / times) for number in range(times)}
    order = []
    for number in range(windows):
        order += [OURS, TRUTH] if number % 2 else [TRUTH, OURS]
        if number in turns:
            order += others
    return order


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
    c = torch.randn(4096, 4096, device="cuda", dtype=torch.float32)
    d = torch.randn_like(c)
    single = torch.empty_like(c)
    source = torch.empty(2**30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)

    def gemm(repeats: int) -> None:
        for _ in range(repeats):
            torch.matmul(c, d, out=single)

    def capped(repeats: int) -> None:
        for _ in range(repeats):
            torch.matmul(a, b, out=product)

    def copy(repeats: int) -> None:
        for _ in range(repeats):
            target.copy_(source)

    return {"gemm": gemm, "copy": copy, "capped-gemm": capped}


def _instruments(index: int, device: Device, stack: contextlib.ExitStack) -> Iterator[tuple[str, Instrument]]:
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
    yield PLAIN, lambda work: _plain(device.uuid, work)
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
            gpu_ids=gpu_ids([device]),
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


def _plain(uuid: str, work: Work) -> dict[str, tuple[float, float | None]]:
    """A counter difference, and polling of instant and average power every 10 ms, around one window."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
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
