"""Histograms of public traces that ship with the package, with their sources and licences."""

from importlib import resources
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import TraceError, UsageError
from pytest_llm_energy.workloads.bins import Histogram

LARGEST = 2**24
"""Bytes: a line for each of a hundred by a hundred bins takes about 250 kB."""


def packaged_names() -> tuple[str, ...]:
    """Names of the histograms that ship with the package."""
    return tuple(sorted(file.name.removesuffix(".json") for file in _folder().iterdir()))


def packaged(name: str) -> Histogram:
    """One of them.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in packaged_names():
        raise UsageError(f"no packaged histogram {name!r}; there are {', '.join(packaged_names())}")
    return msgspec.json.decode(_folder().joinpath(f"{name}.json").read_bytes(), type=Histogram)


def read_histogram(path: Path) -> Histogram:
    """A histogram from a file, as ``llm-energy bins --json`` writes it.

    Raises:
        TraceError: the file cannot be read, or is no histogram.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise TraceError(f"{path} is no histogram: it has more than {LARGEST:,} bytes")
        return msgspec.json.decode(path.read_bytes(), type=Histogram)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} is no histogram: {error}") from error


def written(histogram: Histogram) -> bytes:
    """A histogram as text of a file: one line a bin, so that a difference reads well."""
    fields = msgspec.to_builtins(histogram)
    lines = [f"{_json(key)}: {_json(value)}" for key, value in fields.items() if key != "counts"]
    counts = ",\n    ".join(_json(count) for count in fields["counts"])
    lines.append(f'"counts": [\n    {counts}\n  ]' if counts else '"counts": []')
    return ("{\n  " + ",\n  ".join(lines) + "\n}\n").encode()


def _folder() -> resources.abc.Traversable:
    return resources.files("pytest_llm_energy.workloads") / "data"


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
