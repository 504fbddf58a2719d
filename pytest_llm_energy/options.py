"""Command line and ini settings, read once into a frozen configuration."""

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import pytest

from pytest_llm_energy import stack_options
from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.metering.choice import METERS
from pytest_llm_energy.reporting.carbon import CarbonIntensity, carbon_intensity
from pytest_llm_energy.serving.scenario import ENGINES
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET
from pytest_llm_energy.verdicts.rows import Gate

T = TypeVar("T")

GATES: tuple[str, ...] = get_args(Gate)

DEFAULT_SETTLE_SECONDS = 300.0
"""Two stacks with ten cases: as much again as their first three windows an arm take."""

DEFAULT_DEADLINE_SECONDS = 1800.0
"""Loading and compiling a 32B model takes minutes; half an hour without an answer is a hang."""

NO_TIME = {
    "replay": "replay measures nothing: it takes seconds, whatever was measured",
    "self_test": "self-test measures something else in place of it: choose with -k",
}
"""Options with which a time budget makes no sense, and why."""

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

DEFAULT_LEASE_TIMEOUT_SECONDS = 3600.0
"""Another suite takes that long on a GPU; who has waited longer had better know who holds it."""


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """What the options say.

    Attributes:
        gate: which verdicts fail a test: ``on`` (regressed, contradicts), ``strict`` (also whatever was not
            decided), ``off`` (none).
        budget: relative increase of a level that passes, above all others; None leaves those of the tests and
            baselines.
        default_budget: where those have none either.
        baselines: folder of the baseline files.
        journal: where the journal is written.
        replay: journals to judge, as one, instead of measuring; empty to measure.
        resume: journal of a run to go on with, where it was cut or left verdicts open; None to begin anew.
        shard: which part of how many of the cases is run, counted from 1; None for all.
        costs: journal that tells what cases cost; None for baselines and estimates.
        time_budget_seconds: how long the selected cases may take; None for all of them, however long.
        report: Markdown file to write, None for none.
        meter: one of METERS.
        self_test: test the gate on the selected cases, in place of what they test.
        settle_seconds: how long this process may meter on where a verdict is open; None for the default, which is
            not to, but for two stacks on a GPU.
        runs: metered windows per arm, None for the GPU model's default.
        window_seconds: shortest window, None for the GPU model's default.
        deadline_seconds: longest time any one request to an engine may take.
        lease_timeout_seconds: longest wait for devices that others hold.
        starts: engine starts per arm and stack.
        stacks: the stack that is tested, and the one it is measured against, if there is one.
        carbon: what a joule costs in CO2e, None where nothing says.
        endpoint_gpus: indices or UUIDs of the devices that servers run on, empty for those a test leases.
        endpoint_model: which of its models serves, None to go by the scenario.
    """

    gate: Gate
    budget: float | None
    default_budget: float
    baselines: Path
    journal: Path | None
    replay: tuple[Path, ...]
    resume: Path | None
    shard: tuple[int, int] | None
    costs: Path | None
    time_budget_seconds: float | None
    report: Path | None
    meter: str
    self_test: bool
    settle_seconds: float | None
    runs: int | None
    window_seconds: float | None
    deadline_seconds: float
    lease_timeout_seconds: float
    starts: int
    stacks: tuple[Stack, ...]
    carbon: CarbonIntensity | None
    endpoint_gpus: tuple[str, ...] = ()
    endpoint_model: str | None = None

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> "EnergyConfig":
        """Read the command line, and the ini file where the command line is silent.

        Raises:
            UsageError: a value makes no sense.
        """

        def option(name: str) -> Any:
            return config.getoption(f"energy_{name}")

        def path(name: str) -> Path | None:
            value = option(name)
            return None if value is None else config.invocation_params.dir / value

        if option("replay") and option("resume"):
            raise UsageError(
                "--energy-replay measures nothing, and --energy-resume what is missing: give one of them"
            )
        if option("costs") and not (option("shard") or option("time_budget") or states_costs(config)):
            raise UsageError(
                "--energy-costs tells what cases cost: give --energy-shard, --energy-time-budget or "
                "--collect-only -v too"
            )
        if (option("journal") or "").endswith(".gz"):
            raise UsageError(f"{option('journal')}: a journal is written as plain lines; pack it when it is done")
        for other, does in NO_TIME.items():
            if option("time_budget") and option(other):
                raise UsageError(f"--energy-time-budget chooses what to measure, and --energy-{does}")
        baselines = config.getini("energy_baselines") or "baselines"
        return cls(
            gate=option("gate") or _ini_gate(config.getini("energy_gate") or "on"),
            budget=config.getoption("energy_budget"),
            default_budget=_from_ini(config, "energy_budget", percentage) or DEFAULT_BUDGET,
            baselines=path("baselines") or config.rootpath / baselines,
            journal=path("journal"),
            replay=tuple(config.invocation_params.dir / name for name in option("replay") or ()),
            resume=path("resume"),
            shard=option("shard"),
            costs=path("costs"),
            time_budget_seconds=option("time_budget"),
            report=path("report"),
            meter=option("meter") or "auto",
            self_test=option("self_test"),
            settle_seconds=option("settle"),
            runs=option("runs"),
            window_seconds=option("window"),
            deadline_seconds=option("deadline") or DEFAULT_DEADLINE_SECONDS,
            lease_timeout_seconds=option("lease_timeout") or DEFAULT_LEASE_TIMEOUT_SECONDS,
            starts=option("starts") or 1,
            stacks=stack_options.stacks(config),
            carbon=_carbon(config),
            **stack_options.endpoint_of(config),
        )

    @property
    def arguments_by_name(self) -> dict[str, Any]:
        """Arguments of the stack under test that its scenarios do not ask for; or the server that it is."""
        present = self.stacks[0]
        found = {f"{e}.{name}": value for e, given in present.arguments.items() for name, value in given.items()}
        return found | ({"endpoint": present.endpoint} if present.endpoint else {})

    @property
    def against_says(self) -> str | None:
        """The other stack in words; None without one."""
        if len(self.stacks) == 1:
            return None
        other = self.stacks[1]
        if other.endpoint:
            return other.endpoint
        engines = sorted(other.engines or ENGINES)
        told = {f"{engine}: {other.says(engine)}" if other.engines else other.says(engine) for engine in engines}
        return ", ".join(sorted(told))


def add_options(parser: pytest.Parser) -> None:
    """Register every option, and its ini twin where a project would fix it."""
    group = parser.getgroup("llm-energy", "energy of LLM serving")
    add = group.addoption
    stack_options.add_stack_options(add)
    add("--energy-gate", choices=GATES, help="which verdicts fail a test (default: on)")
    add(
        "--energy-budget",
        type=percentage,
        metavar="PERCENT",
        help="allowed increase of J/token, such as 2.5%%, above what tests and baselines say "
        f"(default there: {DEFAULT_BUDGET:.0%})".replace("%)", "%%)"),
    )
    add("--energy-baselines", metavar="DIR", help="folder of baselines (default: ROOTDIR/baselines)")
    add("--energy-journal", metavar="FILE", help="journal to write (default: ROOTDIR/.llm-energy/TIME.jsonl)")
    add(
        "--energy-replay",
        action="append",
        metavar="JOURNAL",
        help="judge a journal; no body, engine or GPU is needed (given several times: as one, such as all shards')",
    )
    add(
        "--energy-resume",
        metavar="JOURNAL",
        help="go on where the run of this journal was cut, in a new journal; with --energy-settle also where "
        "levels beside another stack's are open",
    )
    add(
        "--energy-shard",
        type=_shard,
        metavar="I/N",
        help="run the I-th of N parts of the selected cases, balanced by cost (default: all; tests of other things "
        "run in part 1)",
    )
    add(
        "--energy-time-budget",
        type=duration,
        metavar="TIME",
        help="of the selected cases run those that tell most in this time, such as 15m, and say which are left out "
        "(with --energy-shard: in each part)",
    )
    add("--energy-costs", metavar="JOURNAL", help="take the time that cases took there, for parts and time budgets")
    add("--energy-report", metavar="FILE.md", help="write the tables as Markdown")
    add("--energy-meter", choices=METERS, help="how joules are metered (default: auto, the most exact one)")
    add("--energy-runs", type=_at_least_two, metavar="N", help="windows per arm (default: 3; on a CPU 5)")
    add(
        "--energy-self-test",
        action="store_true",
        help="test the gate on this host, in place of the selected energy tests: their stack against itself must "
        "be ok, and a planted increase of twice the budget regressed",
    )
    add(
        "--energy-settle",
        type=_not_negative,
        metavar="SECONDS",
        help="time, over all tests of a process, to meter twice and four times as many windows where a verdict is "
        f"open, up to sixteen times where it is more than {DEFAULT_SETTLE_SECONDS:g}, and on new engine starts "
        "where those leave two stacks' difference open; intervals are then a little "
        "wider, since each check may be judged three (five) times (default: "
        f"{DEFAULT_SETTLE_SECONDS:g} for two stacks on a GPU; else only what would fail is metered again, which 0 "
        "leaves out)",
    )
    add("--energy-window", type=_positive, metavar="SECONDS", help="shortest window (default: 1.5; CPU 0.5)")
    add(
        "--energy-deadline",
        type=_positive,
        metavar="SECONDS",
        help=f"longest wait for an engine's answer (default: {DEFAULT_DEADLINE_SECONDS:g})",
    )
    add(
        "--energy-lease-timeout",
        type=_positive,
        metavar="SECONDS",
        help=f"longest wait for GPUs that other runs hold (default: {DEFAULT_LEASE_TIMEOUT_SECONDS:g})",
    )
    add("--energy-country", metavar="ISO3", help="add grams of CO2e, by this country's electricity, such as DEU")
    add("--energy-intensity", type=intensity, metavar="G_PER_KWH", help="add grams of CO2e, by this intensity")
    add(
        "--energy-pue",
        type=pue,
        metavar="FACTOR",
        help="energy of the building per energy of the devices, in the grams alone (default: 1.0)",
    )
    parser.addini("energy_gate", "default of --energy-gate", default="")
    parser.addini("energy_budget", "budget of levels that neither test nor baseline give one", default="")
    parser.addini("energy_baselines", "default of --energy-baselines, relative to the root folder", default="")
    parser.addini("energy_country", "default of --energy-country", default="")
    parser.addini("energy_intensity", "default of --energy-intensity", default="")
    parser.addini("energy_pue", "default of --energy-pue", default="")


def states_costs(config: pytest.Config) -> bool:
    """Whether what cases cost is listed, and none is run."""
    return bool(config.option.collectonly and config.option.verbose > 0)


def percentage(text: str) -> float:
    """``3%`` as 0.03; also a plain fraction below 1.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no budget: write a percentage such as 3%")
    return value


def duration(text: str) -> float:
    """Seconds from ``90s``, ``15m``, ``1h30m``.

    Raises:
        argparse.ArgumentTypeError: it is none of these, or no time at all; a number without a unit may mean either.
    """
    found = DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if not total:
        raise argparse.ArgumentTypeError(f"{text!r} is no time budget: write 90s, 15m or 1h30m")
    return float(total)


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def intensity(text: str) -> float:
    """Grams of CO2e per kWh from an argument."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no carbon intensity: write grams of CO2e per kWh, such as 381"
        )
    return value


def pue(text: str) -> float:
    """Power usage effectiveness from an argument."""
    value = _number(text)
    if not 1 <= value < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no power usage effectiveness: write 1.0 or more, such as 1.2"
        )
    return value


def price(text: str) -> float:
    """Price of a kWh from an argument, in whatever currency."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no price: write what a kWh costs, such as 0.30")
    return value


def _number(text: str) -> float:
    """The number, or one that no comparison holds for."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _at_least_two(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: two runs at least, or there is no spread to judge by")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    shard, _, of = text.partition("/")
    if not (shard.isdecimal() and of.isdecimal() and 1 <= int(shard) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard: write 1/4 for the first of four")
    return int(shard), int(of)


def _carbon(config: pytest.Config) -> CarbonIntensity | None:
    """What the command line says about grams, or else the ini file."""
    stated_pue = config.getoption("energy_pue")
    found_pue = stated_pue or _from_ini(config, "energy_pue", pue) or 1.0
    places = (
        (config.getoption("energy_country"), config.getoption("energy_intensity")),
        (config.getini("energy_country"), _from_ini(config, "energy_intensity", intensity)),
    )
    for country, grams_per_kwh in places:
        found = carbon_intensity(
            country, grams_per_kwh, pue=found_pue, options="energy-country and energy-intensity"
        )
        if found is not None:
            return found
    if stated_pue is not None:
        raise UsageError("--energy-pue enters grams of CO2e alone: give --energy-country or --energy-intensity too")
    return None


def _from_ini(config: pytest.Config, name: str, read: Callable[[str], T]) -> T | None:
    """The setting of that name, None where the ini file is silent."""
    text = config.getini(name)
    if not text:
        return None
    try:
        return read(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"ini setting {name}: {error}") from None


def _ini_gate(text: str) -> Gate:
    if text not in GATES:
        raise UsageError(f"ini setting energy_gate: {text!r}; known: {', '.join(GATES)}")
    return cast(Gate, text)
