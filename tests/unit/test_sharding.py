import random
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.planning.sharding import Task, partition
from pytest_llm_energy.verdicts.measured import CaseKey

ENGINES = {"eager": 40.0, "compiled": 90.0, "large": 600.0}


def key(number: int) -> CaseKey:
    return CaseKey(gpu="h200", finding="batching", case=f"falls[{number}]")


@st.composite
def suites(draw: st.DrawFn) -> list[Task]:
    shapes = st.tuples(st.floats(0, 1e4), st.sets(st.sampled_from(sorted(ENGINES))))
    return [
        Task(key=key(number), seconds=seconds, engines=tuple(sorted(engines)))
        for number, (seconds, engines) in enumerate(draw(st.lists(shapes, max_size=30)))
    ]


def seconds(tasks: list[Task], cases: set[CaseKey], starts: Mapping[str, float]) -> float:
    own = [task for task in tasks if task.key in cases]
    return sum(task.seconds for task in own) + sum(starts[e] for e in {e for task in own for e in task.engines})


@given(suites(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_shards_are_disjoint_everything_full_and_the_same_in_any_order(
    tasks: list[Task], shards: int, shuffle: random.Random
) -> None:
    parts = partition(tasks, ENGINES, shards)
    assert len(parts) == shards
    assert sum(map(len, parts)) == len(tasks)
    assert set().union(*parts) == {task.key for task in tasks}
    assert sum(map(bool, parts)) == min(shards, len(tasks))
    shuffled = list(tasks)
    shuffle.shuffle(shuffled)
    assert partition(shuffled, ENGINES, shards) == parts


@given(suites(), st.integers(1, 9))
def test_no_shard_takes_longer_than_a_fair_share_and_its_longest_part(tasks: list[Task], shards: int) -> None:
    starts = dict.fromkeys(ENGINES, 0.0)
    longest = max((task.seconds for task in tasks), default=0.0)
    fair = sum(task.seconds for task in tasks) / shards
    for cases in partition(tasks, starts, shards):
        assert seconds(tasks, cases, starts) <= (fair + max(longest, fair)) * (1 + 1e-9)


def test_an_engine_is_started_in_one_shard_while_its_cases_are_short() -> None:
    tasks = [Task(key=key(n), seconds=20.0, engines=("eager" if n % 2 else "compiled",)) for n in range(8)]
    for cases in partition(tasks, ENGINES, 2):
        assert len({task.engines for task in tasks if task.key in cases}) == 1


def test_it_is_started_in_several_where_its_cases_take_long() -> None:
    tasks = [Task(key=key(n), seconds=300.0, engines=("eager",)) for n in range(8)]
    assert [len(cases) for cases in partition(tasks, ENGINES, 4)] == [2, 2, 2, 2]
    dear = [Task(key=key(n), seconds=20.0, engines=("large",)) for n in range(6)]
    cheap = [Task(key=key(n), seconds=20.0, engines=("eager",)) for n in range(6, 12)]
    assert {key(n) for n in range(6)} in partition(dear + cheap, ENGINES, 2)
