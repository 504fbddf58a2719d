"""What ``llm-energy doctor`` says of a host: lines of text from what was examined."""

import math
import statistics
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from pytest_llm_energy.hardware.catalogue import identify
from pytest_llm_energy.hardware.detection import Host
from pytest_llm_energy.metering.examine import APART_SECONDS, DeviceHealth, ProcessorHealth, State
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.verdicts.statistics import Sample, change, ratio

WORK_SD = 0.003
"""Relative scatter of equal windows that is the engine's own: 0.15-0.5 % for vLLM with an 8B model on an H200."""

EVENTS = {
    0x1: "idle",
    0x2: "clocks set by a user",
    0x4: "at the power limit",
    0x8: "hardware slowdown",
    0x10: "kept in step with another device",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h)."""

HARMFUL = 0x8 | 0x20 | 0x40 | 0x80


def host_line(host: Host) -> str:
    """What was found, in one line."""
    if not host.devices:
        return f"no NVIDIA device that can be used ({host.problem or 'no driver is loaded'})"
    count = f"{len(host.devices)} device{'s' if len(host.devices) > 1 else ''}"
    return f"NVIDIA driver {host.driver}, CUDA up to {host.cuda}, {count}"


def device_lines(health: DeviceHealth, *, runs: int, window_seconds: float) -> Iterator[str]:
    """One device: how it is metered, what bounds it, what a gate on it can tell."""
    device = health.device
    yield f"GPU {device.index}: {device.name} ({identify(device.name).key}), {device.uuid}"
    yield _item("metered by", "energy counter, at its ticks" if health.counter else "instant power, integrated")
    if ticking := health.ticking:
        yield _item(
            "ticks",
            f"every {ticking.period_seconds * 1e3:.2f} ms, within {ticking.jitter_seconds * 1e3:.1f} ms of an even "
            f"grid, which moved by {ticking.shift_seconds * 1e3:+.1f} ms in {APART_SECONDS:g} s",
        )
        yield _item("a read takes", f"{ticking.read_seconds * 1e3:.1f} ms")
    if health.counter:
        known = "known: what it miscounts where work starts and ends is taken off"
        yield _item("sensor", known if health.sensor_known else "unknown: short windows are less exact")
    if health.idle_watts is not None:
        yield _item("idle", f"{health.idle_watts:.1f} W")
    yield _item("state", _state(health.state))
    yield _item("clock events", _events(health.state.events))
    rows = [
        (f"{floor.seconds:g} s", f"{floor.idle_sd_joules:.2f} J", _percent(floor.loaded, digits=2))
        for floor in health.floors
    ]
    if rows:
        headers = ("one window of", "idle scatter", f"known to, at {health.load_watts:.0f} W")
        yield ""
        yield from _indented(tabulate(rows, headers, disable_numparse=True))
        yield ""
        yield from _budget(health, runs=runs, window_seconds=window_seconds)
    yield from _to_fix(_remedies(health))


def processor_lines(health: ProcessorHealth, *, name: str, runs: int) -> Iterator[str]:
    """A host without a GPU."""
    yield f"processor: {name}"
    estimated = " (an estimate: levels are shown and never gated, claims are judged)" if health.estimated else ""
    yield _item("metered by", f"{health.source}{estimated}")
    spread = f"equal work spreads by {_percent(health.spread)} from window to window"
    yield _item("one window", f"{health.window_seconds:.2f} s of one core: {health.watts:.1f} W, {spread}")
    scatter = _scattered(runs, math.sqrt(2) * health.spread)
    seen = ratio([[(math.exp(each), 1.0) for each in scatter]], shifted=0, noise=ASSUMED).half_width
    yield _item("claims", f"{runs} windows an arm tell effects beyond {_percent(seen)} from none")
    remedies = []
    if health.disturbed:
        remedies.append(
            f"{len(health.disturbed)} windows were disturbed ({health.disturbed[0]}): end what else runs"
        )
    if health.estimated:
        remedies.append("for measured joules: a GPU, or RAPL (energy_uj under /sys/class/powercap made readable)")
    yield from _to_fix(remedies)


def _budget(health: DeviceHealth, *, runs: int, window_seconds: float) -> Iterator[str]:
    """Which budgets a gate with the default plan can defend, by what the baseline was measured on."""
    metering = min(health.floors, key=lambda floor: abs(floor.seconds - window_seconds)).loaded
    values = tuple(math.exp(each) for each in _scattered(runs, WORK_SD))
    here, elsewhere = frozenset({"this"}), frozenset({"another"})
    now = Sample(starts=(values,), relative_uncertainty=metering, boards=here)
    for boards, what in ((here, "this board"), (elsewhere, "another board of this model")):
        stored = Sample(starts=(values,) * 2, relative_uncertainty=metering, session_share=0.5, boards=boards)
        width = change(now, stored, noise=ASSUMED).half_width
        plan = f"{runs} windows of {window_seconds:g} s see {_percent(width)}"
        yield _item("budget", f"{plan} against a baseline of two sessions on {what}")


def _remedies(health: DeviceHealth) -> list[str]:
    state = health.state
    found = [f"{reason.code}: {reason.says}" for reason in health.invalid]
    if not health.counter:
        found.append("no energy counter (a vGPU, or before Volta): readings are known to some percent only")
    if health.device.mig and not any(reason.code == "mig-on" for reason in health.invalid):
        found.append("mig-on: readings are of the whole card; turn multi-instance mode off to meter")
    if state.events and state.events & HARMFUL:
        found.append("the device is slowed down now: see to its cooling and power supply")
    if state.limit_watts and state.default_limit_watts and state.limit_watts < state.default_limit_watts:
        found.append("the power limit is lowered: baselines from boards at their default do not compare")
    if state.persistent is False:
        found.append("persistence mode is off: the counter starts again whenever the last client leaves")
    ticking = health.ticking
    if ticking and abs(ticking.shift_seconds) > 0.01:
        found.append("the ticks drift against the host's clock: short windows are less exact than stated")
    return found


def _to_fix(remedies: Sequence[str]) -> Iterator[str]:
    yield _item("to fix", remedies[0] if remedies else "nothing")
    for remedy in remedies[1:]:
        yield _item("", remedy)


def _state(state: State) -> str:
    parts = []
    if state.temperature_celsius is not None:
        parts.append(f"{state.temperature_celsius:.0f} °C")
    if state.sm_mhz is not None:
        parts.append(f"SM {state.sm_mhz:.0f} of {state.max_sm_mhz or math.nan:.0f} MHz")
    if state.memory_mhz is not None:
        parts.append(f"memory {state.memory_mhz:.0f} MHz")
    if state.limit_watts is not None:
        parts.append(f"limit {state.limit_watts:.0f} W of {state.default_limit_watts or math.nan:.0f} W")
    if state.persistent is not None:
        parts.append(f"persistence {'on' if state.persistent else 'off'}")
    return ", ".join(parts) or "not told"


def _events(bits: int | None) -> str:
    if bits is None:
        return "not told"
    return ", ".join(says for bit, says in EVENTS.items() if bits & bit) or "none"


def _percent(share: float, *, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f} %"


def _item(label: str, text: str) -> str:
    return f"  {label:<13} {text}"


def _indented(text: str) -> Iterator[str]:
    yield from (f"  {line}" for line in text.splitlines())


def _scattered(count: int, sd: float) -> list[float]:
    """Values around zero with exactly that standard deviation."""
    even = [number - (count - 1) / 2 for number in range(count)]
    return [each * sd / statistics.stdev(even) for each in even]
