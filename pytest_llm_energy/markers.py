"""Marks of energy tests: GPU models and tensor-parallel degree; where an item belongs."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_llm_energy.hardware.catalogue import GpuSpec, catalogue, unknown_gpu_message
from pytest_llm_energy.serving.arms import Arms, Series
from pytest_llm_energy.serving.scenario import Scenario
from pytest_llm_energy.verdicts.measured import CaseKey

FIXTURES = "pytest_llm_energy.fixtures"
OF_GPU_MODELS = ("gpu_model", "energy_baselines")
"""Fixtures by which a test is an energy test; it is collected for a GPU model."""

GPU = "gpu"
FULL = "full"
CASES = "energy_cases"
NO_CASES = "-"
"""GPU model of the stand-in for a test that has no cases on the GPU models collected for."""

LOOKS_LIKE_A_KEY = re.compile(r"(?:a|b|gh|gb|h|l|t|v|rtx)\d+\w*|[cg]pu\w")
WORD = re.compile(r"[A-Za-z_]\w*")
TP_DEGREES = (1, 2, 4, 8)


def register(config: pytest.Config, specs: Iterable[GpuSpec]) -> None:
    """Make the marks known, so that ``--strict-markers`` accepts them and ``--markers`` explains them."""

    def line(text: str) -> None:
        config.addinivalue_line("markers", text)

    for spec in specs:
        line(f"{spec.key}: energy tests on {spec.name}; marks put on a test limit it to these GPU models")
    line(f"{GPU}: energy tests on any GPU")
    line(f"{FULL}: large grids, off unless named in -m")
    line(
        f"{CASES}(name, **values): values of a parameter by GPU model key, '{GPU}' for any GPU not named; text in "
        "place of values says why there are none"
    )
    line(f"tp(degree): energy test on this many devices, one of {TP_DEGREES}")
    for degree in TP_DEGREES:
        line(f"tp{degree}: energy tests on {degree} device(s)")


class Key(str):
    """Key of a GPU model that this package has an energy test collected for, or ``NO_CASES``."""

    __slots__ = ()


def of_gpu_model(metafunc: pytest.Metafunc) -> str | None:
    """The fixture by which a test is an energy test, and is collected for GPU models; None for other tests.

    Raises:
        pytest.Collector.CollectError: the test asks for fixtures that do not go together.
    """
    requested = [name for name in OF_GPU_MODELS if _gets_own(metafunc, name)]
    if len(requested) > 1:
        raise pytest.Collector.CollectError(
            "energy_baselines judges what was measured before: request it without gpu_model and energy_meter"
        )
    if not requested and _gets_own(metafunc, "energy_meter"):
        raise pytest.Collector.CollectError(
            "energy_meter needs the gpu_model of its package, and another one hides that: call the other otherwise"
        )
    return requested[0] if requested else None


def _gets_own(metafunc: pytest.Metafunc, name: str) -> bool:
    """Whether a test gets this package's fixture of a name, and not one or a parameter that a project calls so."""
    for definition in reversed(metafunc._arg2fixturedefs.get(name, ())):
        if definition.func.__module__ == FIXTURES:
            return True
        if name not in definition.argnames:
            return False
    return False


def gpu_keys_in(expression: str) -> list[str]:
    """GPU model keys that occur as words in a ``-m`` expression, in order, each once."""
    return list(dict.fromkeys(word for word in WORD.findall(expression) if word in catalogue()))


def assert_spelt(expression: str, *, known_marks: Sequence[str]) -> None:
    """Each word of a ``-m`` expression is a mark, or looks like no GPU model's key.

    Raises:
        pytest.UsageError: a word looks like a misspelt key.
    """
    for word in WORD.findall(expression):
        if word not in catalogue() and word not in known_marks and LOOKS_LIKE_A_KEY.fullmatch(word):
            raise pytest.UsageError(f"-m: {unknown_gpu_message(word)}")


def cases(mark: pytest.Mark, specs: Iterable[GpuSpec]) -> tuple[str, list[Any]]:
    """Parameter name of an ``energy_cases`` mark, and pairs of a GPU model's key and a value.

    The most specific list wins: that of the board, of its family, of any GPU.

    Raises:
        pytest.Collector.CollectError: the mark names no parameter, or an unknown GPU model.
    """
    if len(mark.args) != 1 or not isinstance(mark.args[0], str) or not mark.kwargs:
        raise pytest.Collector.CollectError(f"write {CASES}('name', cpu=[...], gpu=[...]), not {mark}")
    for key in mark.kwargs.keys() - catalogue().keys() - {GPU}:
        raise pytest.Collector.CollectError(f"{CASES}: {unknown_gpu_message(key)}, {GPU}")
    parameters = []
    for spec in specs:
        values = _values(mark, spec)
        parameters += [_parameter(spec.key, value) for value in (() if isinstance(values, str) else values)]
    return mark.args[0], parameters or [pytest.param(Key(NO_CASES), None)]


def why_none(mark: pytest.Mark, spec: GpuSpec) -> str | None:
    """Why a test has no cases on a GPU model, by what its mark has in their place; None where it says nothing."""
    values = _values(mark, spec)
    return values if isinstance(values, str) else None


def _values(mark: pytest.Mark, spec: GpuSpec) -> Any:
    fallback = "cpu" if spec.key == "cpu" else GPU
    chosen = next((k for k in (spec.key, spec.family, fallback) if k in mark.kwargs), None)
    return mark.kwargs[chosen] if chosen else ()


def _parameter(key: str, value: Any) -> Any:
    """A pair of GPU model and value, from a value or from what ``pytest.param`` made of it."""
    if not isinstance(value, type(pytest.param())):
        return pytest.param(Key(key), value, id=f"{key}-{value}")
    (inner,) = value.values
    return pytest.param(Key(key), inner, id=f"{key}-{value.id or inner}", marks=value.marks)


def limited_to(item: pytest.Item, spec: GpuSpec) -> bool:
    """Whether the GPU marks put on the test, if any, admit this GPU model."""
    names = {mark.name for mark in item.iter_markers()}
    limits = names & (catalogue().keys() | {spec.key, GPU})
    return not limits or bool(limits & _names(spec))


def mark(item: pytest.Function, spec: GpuSpec) -> None:
    """Put the GPU model's and the tensor-parallel marks on an energy test.

    Raises:
        pytest.Collector.CollectError: its ``tp`` mark makes no sense.
    """
    degree = tp_degree(item)
    for name in sorted(_names(spec)):
        item.add_marker(name)
    item.add_marker(f"tp{degree}")
    if item.get_closest_marker("tp") is None:
        item.add_marker(pytest.mark.tp(degree=degree))


def tp_degree(item: pytest.Item) -> int:
    """Devices an energy test runs on: its ``tp`` mark, or the most any of its scenarios needs.

    Raises:
        pytest.Collector.CollectError: the mark is not ``tp(degree=...)`` with a known degree, or is too small.
    """
    needed = max((s.tensor_parallel_size for s in scenarios(item)), default=1)
    found = item.get_closest_marker("tp")
    if found is None:
        return needed
    if found.args or found.kwargs.keys() != {"degree"} or found.kwargs["degree"] not in TP_DEGREES:
        given = ", ".join([*map(repr, found.args), *(f"{k}={v!r}" for k, v in found.kwargs.items())])
        raise pytest.Collector.CollectError(
            f"{item.nodeid}: tp({given}) is not known; write tp(degree=N), N one of {TP_DEGREES}"
        )
    degree: int = found.kwargs["degree"]
    if degree < needed:
        raise pytest.Collector.CollectError(
            f"{item.nodeid}: tp(degree={degree}), but a scenario is split over {needed} devices"
        )
    return degree


def scenarios(item: pytest.Item) -> Iterator[Scenario]:
    """Every scenario among an item's parameters."""
    callspec = getattr(item, "callspec", None)
    for value in callspec.params.values() if callspec else ():
        if isinstance(value, Scenario):
            yield value
        elif isinstance(value, Arms):
            yield from value.values()
        elif isinstance(value, Series):
            yield from value


def engine_keys(item: pytest.Item) -> list[str]:
    """Engines an item's scenarios run on, in order, each once."""
    return list(dict.fromkeys(scenario.engine_key for scenario in scenarios(item)))


def engine_places(item: pytest.Item) -> list[tuple[int, str]]:
    """Engines an item runs on, with the number of devices it leases: engines do not outlive a lease."""
    return [(tp_degree(item), key) for key in engine_keys(item)]


def case_key(item: pytest.Function, gpu: str) -> CaseKey:
    """Finding and case of an energy test: from its module, class, function and parameters."""
    parameters = item.callspec.id.removeprefix(gpu).removeprefix("-")
    names = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    names.append((item.originalname or item.name).removeprefix("test_"))
    case = ".".join(names) + (f"[{parameters}]" if parameters else "")
    return CaseKey(gpu=gpu, finding=finding(item), case=case)


def finding(item: pytest.Item) -> str:
    """What an energy test is about: its module, such as ``torch-compile``."""
    module = item.getparent(pytest.Module)
    stem = module.path.stem if module else "tests"
    return stem.removeprefix("test_").replace("_", "-")


def _names(spec: GpuSpec) -> set[str]:
    return {spec.key, spec.family} | (set() if spec.key == "cpu" else {GPU})
