"""Measured values to judge, made without measuring."""

from collections.abc import Mapping, Sequence

from pytest_llm_energy import Scenario
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.serving.scenario import Served
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, Run

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
KEY = CaseKey(gpu="h200", finding="batching", case="falls[8]")


def arm(
    name: str,
    levels: Sequence[float],
    scenario: Scenario | None = PLAIN,
    *,
    estimated: bool = False,
    seconds: float = 2.5,
) -> Arm:
    """An arm with one start and a run per level, in joules per token."""
    tokens = scenario.output_tokens * scenario.batch_size if scenario else 0
    requests = scenario.batch_size if scenario else 1
    runs = tuple(
        Run(
            start="main-1",
            round=number,
            reading=Reading(
                joules=level * (tokens or 1),
                seconds=seconds,
                uncertainty_joules=level * (tokens or 1) * 1e-3,
                method="simulated",
                estimated=estimated,
            ),
            served=Served(started=0, ended=seconds, requests=requests, output_tokens=tokens),
        )
        for number, level in enumerate(levels)
    )
    return Arm(name=name, identity=scenario.identity() if scenario else None, runs=runs)


def compared(arms: Mapping[str, Sequence[float]], *, key: CaseKey = KEY) -> Measured:
    """Arms against the last of them."""
    made = tuple(arm(name, levels) for name, levels in arms.items())
    return Measured(key=key, series=0, arms=made, control=list(arms)[-1])


def grown(field: str, levels: Mapping[int, Sequence[float]]) -> Measured:
    """A series over a field; levels are joules per request."""
    made = []
    for value, joules in levels.items():
        scenario = PLAIN.replace(**{field: value})
        per_token = [level / scenario.output_tokens for level in joules]
        made.append(arm(f"{field}={value}", per_token, scenario))
    return Measured(key=KEY, series=0, arms=tuple(made))
