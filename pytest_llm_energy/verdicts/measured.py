"""What was measured, as values: runs of arms of a case."""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from pytest_llm_energy.errors import MeasurementError
from pytest_llm_energy.metering.host_speed import Host
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.serving.scenario import Identity, Served


class CaseKey(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Where a measurement belongs.

    Attributes:
        gpu: key of the GPU model.
        finding: what the test file is about, such as ``speculative-decoding``.
        case: test function and parameters without the GPU, such as ``pays_off[128]``.
    """

    gpu: str
    finding: str
    case: str

    def __str__(self) -> str:
        return f"{self.finding} {self.case} on {self.gpu}"


class Metered(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of the valid windows of a test or a suite, also of those that were taken again.

    Attributes:
        joules: their energy.
        windows: how many they are.
        seconds: their length.
    """

    joules: float = 0.0
    windows: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, readings: Iterable[Reading]) -> "Metered":
        """The valid ones among readings."""
        valid = [reading for reading in readings if reading.valid]
        joules = math.fsum(reading.joules for reading in valid)
        return cls(joules=joules, windows=len(valid), seconds=math.fsum(reading.seconds for reading in valid))

    def __add__(self, other: "Metered") -> "Metered":
        return Metered(
            joules=self.joules + other.joules,
            windows=self.windows + other.windows,
            seconds=self.seconds + other.seconds,
        )


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reading and what was served in it.

    Attributes:
        start: id of the engine start, or ``in-process`` for a callable.
        round: interleaving round; runs of one round belong together.
        reading: joules of the window.
        served: requests and tokens of the window.
        host: its processors meanwhile; None where they were not probed.
    """

    start: str
    round: int
    reading: Reading
    served: Served
    host: Host | None = None

    @property
    def units(self) -> int:
        """Output tokens, or calls where nothing generates tokens."""
        return self.served.output_tokens or self.served.requests

    @property
    def joules_per_unit(self) -> float:
        """Joules per output token, or per call."""
        return self.reading.joules / self.units

    @property
    def seconds_per_unit(self) -> float:
        """Seconds per output token, or per call, over the whole batch."""
        return self.reading.seconds / self.units

    @property
    def joules_per_request(self) -> float:
        """Joules per request, prefill and decode together."""
        return self.reading.joules / self.served.requests


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """An arm with its valid runs.

    Attributes:
        name: name within the comparison.
        identity: the scenario as plain JSON; None for a callable.
        runs: valid runs, in the order they were taken.
        against: valid runs of the same scenario on the other stack, interleaved with these by round; empty where
            there is no other stack.
    """

    name: str
    identity: Identity | None
    runs: tuple[Run, ...]
    against: tuple[Run, ...] = ()

    @property
    def unit(self) -> str:
        """What joules are counted per: ``token`` or ``call``."""
        return "call" if self.identity is None else "token"

    @property
    def joules_per_token(self) -> float:
        """Level of the arm: geometric mean of joules per output token (per call, for a callable)."""
        return math.exp(statistics.fmean(math.log(run.joules_per_unit) for run in self.runs))

    @property
    def estimated(self) -> bool:
        """Whether any of its joules are modelled rather than measured."""
        return any(run.reading.estimated for run in self.runs)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of ``measure`` or ``compare`` measured.

    Attributes:
        key: the case it belongs to.
        series: position among the measurements of that case.
        arms: the arms, in the order given.
        control: name of the arm that effects are relative to; None for a series.
    """

    key: CaseKey
    series: int
    arms: tuple[Arm, ...]
    control: str | None = None

    def __getitem__(self, name: str) -> Arm:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(f"no arm {name!r}; measured: {', '.join(arm.name for arm in self.arms)}")

    def effect(self, name: str) -> float:
        """Relative difference of an arm's level from the control's: negative saves."""
        if self.control is None:
            raise MeasurementError(f"{self.key}: a series has no control to compare with")
        return self[name].joules_per_token / self[self.control].joules_per_token - 1

    @property
    def runs(self) -> list[Run]:
        """The runs of all arms on the stack under test."""
        return [run for arm in self.arms for run in arm.runs]

    def rounds(self) -> list[dict[str, Run]]:
        """The runs by arm of every round in which each arm has a valid one."""
        by_round: dict[int, dict[str, Run]] = {}
        for arm in self.arms:
            for run in arm.runs:
                by_round.setdefault(run.round, {})[arm.name] = run
        return [runs for _, runs in sorted(by_round.items()) if len(runs) == len(self.arms)]


def metering_sd(runs: Collection[Run]) -> float:
    """Relative standard deviation of the metering of one of these runs, on average."""
    return statistics.fmean(run.reading.uncertainty_joules / run.reading.joules for run in runs)


def stack_of(runs: Iterable[Run], stacks: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What served these runs, of what served each engine start: versions, environment, arguments, by name."""
    starts = sorted({run.start for run in runs} & stacks.keys())
    return {name: version for start in starts for name, version in stacks[start].items()}


def in_common_rounds(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with the runs of those rounds alone in which each of them has one, on every stack that it has."""
    sides = [{run.round for run in runs} for arm in arms for runs in (arm.runs, arm.against) if runs]
    common = set.intersection(*sides)
    return [
        msgspec.structs.replace(
            arm,
            runs=tuple(run for run in arm.runs if run.round in common),
            against=tuple(run for run in arm.against if run.round in common),
        )
        for arm in arms
    ]


def counting(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs that count: valid ones, and of several in a round the last."""
    by_round = {run.round: run for run in runs if run.reading.valid}
    return tuple(run for _, run in sorted(by_round.items()))
