"""Options that say which serving stacks are measured: interpreters, engine arguments, servers."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.serving.scenario import ENGINES, SERVER
from pytest_llm_energy.serving.stack import Stack

STARTED = tuple(engine for engine in ENGINES if engine != SERVER)
"""Engines that are started here, so that a Python and arguments can be named for them."""


def add_stack_options(add: Callable[..., None]) -> None:
    """Register them, by a group's ``addoption``."""
    add(
        "--energy-python",
        type=_engine_python,
        action="append",
        metavar="ENGINE=COMMAND",
        help="the Python to run an engine in, such as vllm=/opt/vllm/bin/python; it needs nothing of this plugin "
        "(default: pytest's own; of several for an engine the last)",
    )
    add(
        "--energy-argument",
        type=_engine_argument,
        action="append",
        metavar="ENGINE.NAME=VALUE",
        help="an argument of an engine on top of what its scenarios ask for, such as vllm.enforce_eager=true "
        "(VALUE is JSON, or else text; may be given more than once)",
    )
    add(
        "--energy-against",
        type=_against,
        action="append",
        metavar="[ENGINE=]COMMAND",
        help="measure every arm also on another stack, in turn with this one, and judge against it: the Python to "
        "run engines (or that one engine) in there, such as vllm=/old/bin/python",
    )
    add(
        "--energy-against-argument",
        type=_engine_argument,
        action="append",
        metavar="ENGINE.NAME=VALUE",
        help="the same for the other stack, on top of --energy-argument; alone, it makes that of this one",
    )
    add("--energy-starts", type=_at_least_one, metavar="N", help="engine starts per arm (default: 1)")
    add(
        "--energy-endpoint",
        type=_url,
        metavar="URL",
        help="have a server on this host serve, over OpenAI's API, such as http://localhost:8000/v1, instead of "
        "starting engines; LLM_ENERGY_API_KEY or OPENAI_API_KEY is its key",
    )
    add(
        "--energy-endpoint-gpus",
        metavar="LIST",
        help="devices it runs on, such as 0,1 (default: those a test leases)",
    )
    add("--energy-endpoint-model", metavar="ID", help="which of its models serves (default: the one it has)")
    add(
        "--energy-against-endpoint",
        type=_url,
        metavar="URL",
        help="measure every arm also on this server, on the same devices, in turn with that of --energy-endpoint",
    )


def _engine_python(text: str) -> tuple[str, tuple[str, ...]]:
    engine, _, command = text.partition("=")
    words = tuple(shlex.split(command))
    if engine not in ENGINES or not words:
        raise argparse.ArgumentTypeError(f"{text!r} is not ENGINE=COMMAND with an engine of {', '.join(STARTED)}")
    _require_started(text, engine)
    return engine, words


def _engine_argument(text: str) -> tuple[str, str, Any]:
    path, _, value = text.partition("=")
    engine, _, name = path.partition(".")
    if engine not in ENGINES or not name.isidentifier() or not value:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ENGINE.NAME=VALUE with an engine of {', '.join(STARTED)}"
        )
    _require_started(text, engine)
    try:
        return engine, name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return engine, name, value


def _require_started(text: str, engine: str) -> None:
    if engine not in STARTED:
        raise argparse.ArgumentTypeError(
            f"{text!r}: engine {engine} is a server that runs already, not started here: name it with "
            "--energy-endpoint URL"
        )


def _against(text: str) -> tuple[str | None, tuple[str, ...]]:
    engine, equals, _ = text.partition("=")
    if equals and engine in ENGINES:
        return _engine_python(text)
    if not (words := tuple(shlex.split(text))):
        raise argparse.ArgumentTypeError(f"{text!r} is no command that runs a Python")
    return None, words


def stacks(config: pytest.Config) -> tuple[Stack, ...]:
    """The stack under test, and the one it is measured against, if one is named.

    Raises:
        UsageError: every engine's other Python is named, and so is one engine's.
    """
    present_url, other_url = config.getoption("energy_endpoint"), config.getoption("energy_against_endpoint")
    if present_url or other_url:
        if config.getoption("energy_self_test"):
            raise UsageError("--energy-self-test starts engines: it does not test a gate on a server that runs")
        return _servers(config, present_url, other_url)
    present = Stack(
        pythons=dict(config.getoption("energy_python") or ()),  # the last one: addopts may hold another
        arguments=_by_engine(config.getoption("energy_argument")),
    )
    named = _others(config.getoption("energy_against"))
    own = _by_engine(config.getoption("energy_against_argument"))
    if config.getoption("energy_self_test"):
        if named or own:
            raise UsageError("--energy-self-test measures one stack against itself: leave --energy-against out")
        return present, replace(present, side="against")
    if not named and not own:
        return (present,)
    arguments = {
        engine: {**present.arguments.get(engine, {}), **own.get(engine, {})}
        for engine in present.arguments.keys() | own.keys()
    }
    if None in named and len(named) > 1:
        raise UsageError("--energy-against names a Python for every engine, and another for one: give one kind")
    every = named.pop(None, None)
    pythons = dict.fromkeys(ENGINES, every) if every else {**present.pythons, **named}
    engines = None if every else frozenset(named.keys() | own.keys())
    return present, Stack(side="against", pythons=pythons, arguments=arguments, engines=engines)


def _servers(config: pytest.Config, present_url: str | None, other_url: str | None) -> tuple[Stack, ...]:
    if present_url is None:
        raise UsageError(
            "--energy-against-endpoint names the other server: name the one under test, --energy-endpoint"
        )
    if present_url == other_url:
        raise UsageError(f"--energy-endpoint and --energy-against-endpoint are both {present_url}")
    for name in ("python", "argument", "against", "against_argument"):
        if config.getoption(f"energy_{name}"):
            option = name.replace("_", "-")
            raise UsageError(f"--energy-{option} is about engines that are started, and a server serves them all")
    if (config.getoption("energy_starts") or 1) > 1:
        raise UsageError("--energy-starts is about engines that are started here: a server that runs is one start")
    present = Stack(endpoint=present_url)
    return (present,) if other_url is None else (present, Stack(side="against", endpoint=other_url))


def _others(given: Sequence[tuple[Any, tuple[str, ...]]] | None) -> dict[Any, tuple[str, ...]]:
    """Commands of the other stack by engine, None for every engine.

    Raises:
        UsageError: an engine has several, as if there were several other stacks.
    """
    named: dict[Any, tuple[str, ...]] = {}
    for engine, words in given or ():
        if named.setdefault(engine, words) != words:
            both = f"{shlex.join(named[engine])} and {shlex.join(words)}"
            raise UsageError(f"--energy-against names two Pythons for {engine or 'every engine'}: {both}; give one")
    return named


def _by_engine(given: Sequence[tuple[str, str, Any]] | None) -> dict[str, dict[str, Any]]:
    arguments: dict[str, dict[str, Any]] = {}
    for engine, name, value in given or ():
        arguments.setdefault(engine, {})[name] = value
    return arguments


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of engine starts")
    return int(text)


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no URL of an API: write one such as http://localhost:8000/v1"
        )
    if "@" in parts.netloc:  # it would stand in journals and reports
        raise argparse.ArgumentTypeError(
            "keep credentials out of the URL: set LLM_ENERGY_API_KEY to the server's key"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def endpoint_of(config: pytest.Config) -> dict[str, Any]:
    """What the command line says about a server."""
    url, gpus, model = (config.getoption(f"energy_endpoint{name}") for name in ("", "_gpus", "_model"))
    if url is None and (gpus or model):
        raise UsageError(
            "--energy-endpoint-gpus and --energy-endpoint-model are of a server: give --energy-endpoint"
        )
    names = tuple(name.strip() for name in (gpus or "").split(",") if name.strip())
    return {"endpoint_gpus": names, "endpoint_model": model}
