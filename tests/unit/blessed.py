"""Blessed sessions of one case, by the logs of their levels."""

import math
from collections.abc import Sequence

from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.verdicts.baselines import Samples, Session

METHOD = "nvml-counter"


def session(
    starts: Sequence[dict[str, Sequence[float]]],
    *,
    when: str = "1",
    board: str = "one",
    method: str = METHOD,
    simulated: bool = False,
    moved: Sequence[str] = (),
    power_limit_watts: float = 700.0,
) -> Session:
    """Logs of joules per token, by engine start and arm of one case."""
    return Session(
        when=when,
        reason="",
        method=method,
        fingerprint=Fingerprint(identity={"power_limit_watts": power_limit_watts}, state={}, boards=(board,)),
        stack={},
        relative_uncertainty=0.001,
        starts=tuple({"case": {arm: samples(logs) for arm, logs in start.items()}} for start in starts),
        simulated=simulated,
        moved={"case": tuple(moved)} if moved else {},
    )


def samples(logs: Sequence[float]) -> Samples:
    return Samples(joules_per_token=tuple(map(math.exp, logs)), seconds_per_token=(1 / 600,) * len(logs))
