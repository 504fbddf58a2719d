import time
from collections.abc import Sequence

from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.measuring import Plan
from tests.unit.measurements import KEY
from tests.unit.test_measuring import ScriptedMeter, Steps, ignore


class Restarting(Steps):
    """Work whose engine takes long to end."""

    def end(self) -> None:
        time.sleep(0.02)
        super().end()


def arm_runs(works: Sequence[Steps], plan: Plan) -> ArmRuns:
    for work in works:
        work.meter = ScriptedMeter()
    series = ArmRuns(
        key=KEY,
        number=0,
        control=None,
        identities=dict.fromkeys([work.name for work in works]),
        works=works,
        record=lambda ran: None,
    )
    series.meter(plan, ignore)
    return series


def test_arms_are_metered_as_often_again_as_all_of_those_have_been() -> None:
    plan = Plan(runs=3, window_seconds=1.0)
    series = arm_runs([Steps("a", [1.0], []), Steps("b", [1.0], [])], plan)
    said: list[str] = []

    def counts() -> list[int]:
        return [len(arm.runs) for arm in series.measured().arms]

    for _ in range(2):
        series.meter_again(plan, said.append, why="not settled", only={"a"})
    assert counts() == [12, 3]
    assert series.rounds_of({"a"}) == 12
    series.meter_again(plan, said.append, why="not settled", only={"a", "b"})
    assert counts() == [15, 6]
    assert series.rounds_of({"a", "b"}) == 6
    assert [what for what in said if what.startswith("not settled")] == [
        "not settled by 3 runs of a: as many again",
        "not settled by 6 runs of a: as many again",
        "not settled by 3 runs an arm: as many again",
    ]


def test_what_metering_again_takes_holds_its_engine_starts() -> None:
    alive = arm_runs([Restarting("a", [0.0], [])], Plan(runs=6, window_seconds=0.0))
    assert alive.seconds_again({"a"}) < 0.02
    afresh = arm_runs([Restarting("a", [0.0], [])], Plan(runs=6, starts=3, window_seconds=0.0))
    assert afresh.seconds_again({"a"}) >= 2 * 0.02
