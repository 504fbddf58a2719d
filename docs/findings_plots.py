"""The plots of docs/findings.md: what of each finding is drawn."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from docs import journals
from docs.drawing import (
    COLOURS,
    NAMES,
    PAPER,
    SIZE,
    STYLE,
    Point,
    Stated,
    colour_of,
    draw,
    in_groups,
    in_order,
    legend_entry,
    log_log,
    marker_of,
    with_legend,
)
from docs.recorded import CPU, H200, Effect, checks, claims, effects, field, levels, per_device, published
from pytest_llm_energy.verdicts.claims import FlatBelow, Saves, SavesOn, Slope
from pytest_llm_energy.verdicts.estimates import workload_effects
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.quantities import JOULES, SECONDS, WATTS, Quantity
from pytest_llm_energy.verdicts.statistics import Interval
from pytest_llm_energy.workloads.packaged import packaged

USUAL_MODELS = ("Llama-3.1-8B", "OLMoE-1B-7B")


def plot(finding: str) -> Figure | None:
    """The plot of a finding; None where nothing of it was measured."""
    with matplotlib.rc_context(dict(STYLE)):
        return PLOTS[finding](finding)


def _growth(finding: str, *, over: str, label: str, floor: str | None = None) -> Figure | None:
    """Joules per request over a length: a colour per batch size, a marker per session."""
    found = levels(finding, of=Slope | FlatBelow)
    if not found:
        return None
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    sizes = sorted({field(level.arm, "batch_size") for level in found})
    colours = dict(zip(sizes, itertools.cycle(COLOURS)))
    sessions = in_order(NAMES[level.journal] for level in found)
    for session, size in itertools.product(sessions, sizes):
        points = {
            field(level.arm, over): level.joules_per_request
            for level in found
            if NAMES[level.journal] == session and field(level.arm, "batch_size") == size
        }
        xs = sorted(points)
        axis.plot(xs, [points[x] for x in xs], marker=marker_of(session), color=colours[size], alpha=0.8)
    xs = sorted({field(level.arm, over) for level in found})
    lowest, highest = (of(level.joules_per_request for level in found) for of in (min, max))
    last = 0.7 * min(level.joules_per_request for level in found if field(level.arm, over) == xs[-1])
    axis.plot([xs[0], xs[-1]], [last * xs[0] / xs[-1], last], color=PAPER, linestyle=":")
    axis.set_ylim(lowest * 0.6, highest * 1.5)
    handles = [Line2D([], [], color=colours[size], label=f"batch {size}") for size in sizes]
    handles += [legend_entry(session, color="#999999") for session in sessions]
    handles.append(Line2D([], [], color=PAPER, linestyle=":", label="in proportion"))
    if floor is not None:
        axis.axvline(published(finding).figure(floor).value or 0.0, color=PAPER, linestyle="--")
        handles.append(Line2D([], [], color=PAPER, linestyle="--", label="the paper's floor ends"))
    axis.set(xlabel=label, ylabel="J/request")
    log_log(axis, xs)
    return with_legend(figure, handles)


def _batches(finding: str) -> Figure | None:
    """Joules per token over the batch size, a line per session."""
    found = levels(finding, of=Saves)
    if not found:
        return None
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    handles = []
    for session in in_order(NAMES[level.journal] for level in found):
        points: dict[int, list[float]] = {}
        for level in found:
            if NAMES[level.journal] == session:
                points.setdefault(field(level.arm, "batch_size"), []).append(level.arm.joules_per_token)
        sizes = sorted(points)
        means = [sum(points[size]) / len(points[size]) for size in sizes]
        axis.plot(sizes, means, color=colour_of(session), marker=marker_of(session))
        handles.append(legend_entry(session, linestyle="-"))
    sizes = sorted({field(level.arm, "batch_size") for level in found})
    alone = min(level.arm.joules_per_token for level in found if field(level.arm, "batch_size") == sizes[0])
    axis.plot(sizes, [alone * sizes[0] / size for size in sizes], color=PAPER, linestyle=":")
    handles.append(Line2D([], [], color=PAPER, linestyle=":", label="in proportion to 1/batch"))
    axis.set(xlabel="batch size, requests", ylabel="J/token")
    log_log(axis, sizes)
    return with_legend(figure, handles)


def _changes(
    finding: str,
    group: Callable[[Effect], str],
    *,
    paper: Mapping[str, str],
    label: str,
    names: Sequence[str] = H200,
) -> Figure | None:
    """Energy per token against the control, with the paper's figures at the groups that they are of.

    Args:
        finding: whose effects.
        group: what the axis calls an effect's place.
        paper: published figures, as ``finding/id`` where they are of another finding, each with a pattern of the
            groups it is of.
        label: of the axis.
        names: journals.
    """
    points = [_point(effect, group) for effect in effects(finding, names)]
    if not points:
        return None
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    places = in_groups(points)
    handles = draw(axis, points, _stated(finding, paper, places), groups=places)
    axis.set(xlabel=label, ylabel="energy per token, change in %")
    return with_legend(figure, handles)


def _devices(finding: str) -> Figure | None:
    """Energy, time and power of a device, by how many devices and which batch size."""
    measured: dict[str, tuple[str, Quantity]] = {
        "energy": ("energy per token", JOULES),
        "latency": ("time per token", SECONDS),
        "power": ("power of a device", WATTS),
    }
    figure = Figure(figsize=SIZE)
    handles: dict[str, Line2D] = {}
    for axis, (quantity, (title, of)) in zip(figure.subplots(1, 3), measured.items(), strict=True):
        found = effects(finding, of=of)
        if not found:
            return None
        points = [_point(per_device(x) if of is WATTS else x, _batch_and_devices) for x in found]
        places = in_groups(points)
        figures = [each for each in published(finding).figures if each.quantity == quantity and each.value]
        paper = {each.id: rf".*\n{each.where['tp']} GPUs(\n.*)?" for each in figures}
        drawn = draw(axis, points, _stated(finding, paper, places), groups=places)
        axis.set(title=title, xlabel="batch size")
        axis.tick_params(axis="x", labelsize=8)
        handles |= {str(handle.get_label()): handle for handle in drawn}
    figure.axes[0].set_ylabel("change against one GPU, %")
    return with_legend(figure, list(handles.values()))


def _gpu_models(finding: str) -> Figure | None:
    """What compiling and CUDA graphs change on each GPU model, in the paper's order of speed, and here."""
    figure = Figure(figsize=SIZE)
    techniques = {
        "torch-compile": "compile-gains-more-on-faster-gpus",
        "cuda-graphs": "graphs-gain-more-on-faster-gpus",
    }
    axes = figure.subplots(1, 2)
    handles: dict[str, Line2D] = {}
    for axis, (technique, order) in zip(axes, techniques.items(), strict=True):
        found = effects(technique)
        if not found:
            return None
        ours = found[0].key.gpu
        models = published(finding).figure(order).where["gpus"].split(" > ")
        stated = [
            Stated(group=each.gpu, says="the paper", value=each.value)
            for each in published(technique).figures
            if each.gpu is not None and each.value is not None
        ]
        points = [_point(effect, lambda effect: effect.key.gpu) for effect in found]
        drawn = draw(axis, points, stated, groups=[*reversed(models), ours])
        axis.set(title=technique, xlabel="GPU model; ours by batch size")
        axis.xaxis.label.set_size(9)
        axis.tick_params(axis="x", labelsize=8)
        handles |= {str(handle.get_label()): handle for handle in drawn}
    axes[0].set_ylabel("energy per token, change in %")
    return with_legend(figure, list(handles.values()))


def _traces(finding: str) -> Figure | None:
    """What the faster engine saves on all requests of a trace, the paper's beside ours."""
    traces = {"Azure conversation": packaged("azure_2023_conv"), "Azure code": packaged("azure_2023_code")}
    changes: dict[tuple[str, str], Interval] = {}
    for name, check, measured in checks(finding, H200):
        claim = check.claim
        if not isinstance(claim, SavesOn):
            continue
        for group, trace in traces.items():
            if (group, NAMES[name]) in changes and trace != claim.workload:
                continue  # another case of this session asks for this trace itself
            noise = journals.noise(name, check.key)
            ways = workload_effects(measured, trace, over=claim.over, control=claim.control, noise=noise)
            (changes[group, NAMES[name]],) = ways.values()
    if not changes:
        return None
    points = [Point(group=group, session=s, interval=change) for (group, s), change in changes.items()]
    stated = [
        Stated(group=figure.where["trace"], says="the paper", value=figure.value)
        for figure in published(finding).figures
        if figure.value is not None
    ]
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    handles = draw(axis, points, stated, groups=[each.group for each in stated], bars=True)
    axis.set(ylabel="energy of the trace, change in %")
    return with_legend(figure, handles)


def _excesses(finding: str) -> Figure | None:
    """How far each engine lies above the ideal, the paper's whole traces beside our requests of mean lengths."""
    engines = {"transformers": "pytorch", "vllm": "vllm"}
    points = [
        Point(group=_trace_and_engine(_parameter(each.row.key), engine), session=name, interval=each.row.interval)
        for each in claims(finding)
        for engine in engines
        for name in [each.session]
        if each.row.says.startswith(f"{engine} takes more")
    ]
    if not points:
        return None
    stated = [
        Stated(group=_trace_and_engine(figure.where["trace"], engine), says="the paper", value=figure.value)
        for figure in published(finding).figures
        for engine, called in engines.items()
        if figure.value is not None and figure.where.get("engine") == called
    ]
    figure = Figure(figsize=SIZE)
    axis = figure.subplots()
    handles = draw(axis, points, stated, groups=sorted({point.group for point in points}), bars=True)
    axis.set(ylabel="energy above the ideal, %")
    return with_legend(figure, handles)


def _stated(finding: str, paper: Mapping[str, str], groups: Sequence[str]) -> list[Stated]:
    """Published figures at the groups whose names their patterns match."""
    found = []
    for name, pattern in paper.items():
        of, _, figure_id = name.rpartition("/")
        figure = published(of or finding).figure(figure_id)
        says = "the paper" + (f", {of}" if of else f", {figure.gpu}" if figure.gpu else "")
        for group in groups:
            if figure.value is not None and re.fullmatch(pattern, group, re.DOTALL):
                found.append(Stated(group=group, says=says, value=figure.value))
    return found


def _point(effect: Effect, group: Callable[[Effect], str]) -> Point:
    return Point(group=group(effect), session=NAMES[effect.journal], interval=effect.interval)


def _batch(effect: Effect) -> str:
    return f"{field(effect.arm, 'batch_size')}{_size(effect)}"


def _batch_and_arm(effect: Effect) -> str:
    return f"batch {field(effect.arm, 'batch_size')}\n{effect.arm.name}"


def _batch_and_devices(effect: Effect) -> str:
    return f"{field(effect.arm, 'batch_size')}\n{field(effect.arm, 'tensor_parallel_size')} GPUs{_size(effect)}"


def _size(effect: Effect) -> str:
    """A line with the size of a model other than the usual ones."""
    model = (effect.arm.identity or {})["model"]
    name = model["name"] if isinstance(model, dict) else str(model)
    return "" if name in USUAL_MODELS else f"\n{re.findall(r'[0-9.]+B|$', name)[0] or name}"


def _batch_and_task(effect: Effect) -> str:
    return f"batch {field(effect.arm, 'batch_size')}\n{effect.key.case.partition('[')[0]}"


def _trace_and_engine(trace: str, engine: str) -> str:
    words = trace.replace("-", " ").split()
    return "\n".join([*words, *[""] * (2 - len(words)), engine])


def _parameter(key: CaseKey) -> str:
    return key.case.partition("[")[2].removesuffix("]")


PLOTS: Mapping[str, Callable[[str], Figure | None]] = {
    "prefill-floor": partial(_growth, over="input_tokens", label="input, tokens", floor="flat-below-128-tokens"),
    "decode-linear": partial(_growth, over="output_tokens", label="output, tokens"),
    "batching": _batches,
    "decoding-strategy": partial(
        _changes,
        group=_batch_and_arm,
        paper={f"speculative-decoding/{name}": ".*" for name in ("saves-at-small-batch", "costs-at-large-batch")},
        label="strategy, against greedy",
        names=(*H200, *CPU),
    ),
    "speculative-decoding": partial(
        _changes,
        group=_batch,
        paper={"saves-at-small-batch": r"(1|2|4|8|16)(\n.*)?", "costs-at-large-batch": r"128(\n.*)?"},
        label="batch size, speculative against plain",
    ),
    "mixture-of-experts": partial(
        _changes,
        group=_batch,
        paper={"costs-more-than-dense": ".*"},
        label="batch size, OLMoE-1B-7B against OLMo-1B",
    ),
    "serving-engine": partial(_changes, group=_batch, paper={}, label="batch size, vLLM against transformers"),
    "torch-compile": partial(
        _changes,
        group=_batch,
        paper={"saves-on-a100": ".*", "saves-on-rtx6000ada": ".*", "saves-on-a6000": ".*"},
        label="batch size, compiled against eager",
    ),
    "cuda-graphs": partial(
        _changes,
        group=_batch,
        paper={"saves-on-a100": ".*", "saves-on-a6000": ".*"},
        label="batch size, CUDA graphs against eager",
    ),
    "continuous-batching": partial(
        _changes,
        group=_batch,
        paper={"saves-at-large-batch": "32|64|128|256|512|1024"},
        label="batch size, online against offline",
    ),
    "tensor-parallel": _devices,
    "hardware-speed": _gpu_models,
    "nlp-tasks": partial(_changes, group=_batch_and_task, paper={}, label="vLLM against transformers"),
    "trace-workloads": _traces,
    "flops-estimate": _excesses,
}
