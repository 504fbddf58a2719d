from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.planning.choosing import Candidate, Choice, Place, Starting, choose
from pytest_llm_energy.verdicts.measured import CaseKey
from tests.unit.test_ordering import engine_starts

SECONDS: dict[Place, float] = {(1, "eager"): 40.0, (1, "compiled"): 90.0, (2, "large"): 600.0}
STARTING = Starting(seconds=SECONDS, counts=dict.fromkeys(SECONDS, 1))
EAGER = frozenset([(1, "eager")])


def case(finding: str, number: int, *engines: Place, seconds: float = 20.0, recorded: bool = False) -> Candidate:
    return Candidate(
        key=CaseKey(gpu="h200", finding=finding, case=f"falls[{number}]"),
        engines=frozenset(engines),
        seconds=0.0 if recorded else seconds,
        metered_seconds=0.0 if recorded else 0.8 * seconds,
        position=(number,),
        recorded=recorded,
    )


@st.composite
def suites(draw: st.DrawFn) -> list[Candidate]:
    shapes = st.tuples(
        st.sampled_from("abc"), st.floats(0.1, 1e3), st.sets(st.sampled_from(sorted(SECONDS))), st.booleans()
    )
    drawn = draw(st.lists(shapes, max_size=12))
    return [case(f, n, *engines, seconds=s, recorded=r) for n, (f, s, engines, r) in enumerate(drawn)]


def run_seconds(cases: list[Candidate], numbers: list[int], starting: Starting) -> float:
    """What a run of these takes, engine by engine, reckoned apart from the choice."""
    alive: frozenset[Place] = frozenset()
    seconds = 0.0
    for measured in (cases[number] for number in numbers if not cases[number].recorded):
        seconds += sum(starting.seconds[place] for place in measured.engines - alive) + measured.seconds
        seconds += (starting.times - 1) * sum(starting.seconds[place] for place in measured.engines)
        alive = measured.engines
    return seconds


def findings(cases: list[Candidate], numbers: list[int]) -> set[str]:
    return {cases[number].key.finding for number in numbers}


@given(suites(), st.floats(0, 3e3), st.integers(1, 3))
def test_the_budget_is_kept_and_its_sums_are_those_of_the_run(
    cases: list[Candidate], budget: float, times: int
) -> None:
    starting = Starting(seconds=SECONDS, counts=dict.fromkeys(SECONDS, 1), times=times)
    choice = choose(cases, starting, budget)
    seconds = run_seconds(cases, choice.chosen, starting)
    assert seconds <= budget * (1 + 1e-9)
    assert abs(sum(cost.seconds for cost in choice.in_order()) - seconds) <= 1e-6
    assert abs(choice.seconds - seconds) <= 1e-6
    engines = [cases[number].engines for number in choice.chosen if not cases[number].recorded]
    if times == 1:
        assert sum(cost.starts for cost in choice.in_order()) == engine_starts(engines)


@given(suites(), st.floats(0, 3e3))
def test_nothing_that_would_still_fit_is_left_out_and_what_was_measured_is_kept(
    cases: list[Candidate], budget: float
) -> None:
    choice = choose(cases, STARTING, budget)
    left_out = [number for number in range(len(cases)) if number not in choice.chosen]
    assert not any(cases[number].recorded for number in left_out)
    assert all(choice.seconds + choice.added(number).seconds > budget for number in left_out)
    assert choose(cases, STARTING, budget).chosen == choice.chosen


@given(suites(), st.floats(0, 3e3))
def test_a_finding_without_a_case_has_none_that_fits_beside_one_of_each_other(
    cases: list[Candidate], budget: float
) -> None:
    choice = choose(cases, STARTING, budget)
    missing = findings(cases, list(range(len(cases)))) - findings(cases, choice.chosen)
    for number, absent in enumerate(cases):
        if absent.key.finding in missing:
            assert choice.seconds + choice.added(number).seconds > budget
    enough = run_seconds(cases, list(range(len(cases))), STARTING)
    assert choose(cases, STARTING, enough + 1e-6).chosen == list(range(len(cases)))


def test_each_finding_comes_before_a_second_case_of_any() -> None:
    cheap = [case("batching", n, *EAGER, seconds=10.0) for n in range(4)]
    dear = [case("cuda-graphs", n, (1, "compiled"), seconds=50.0) for n in range(2)]
    choice = choose([*cheap, *dear], STARTING, 200.0)
    assert findings([*cheap, *dear], choice.chosen) == {"batching", "cuda-graphs"}
    assert choice.chosen == [0, 3, 4]  # 40 + 10 and 90 + 50, then 10 for another of the first


def test_a_case_on_an_engine_that_is_needed_anyhow_comes_before_one_on_another() -> None:
    cases = [
        case("batching", 0, *EAGER),
        case("decoding", 1, (1, "compiled")),
        case("decoding", 2, *EAGER),
    ]
    assert choose(cases, STARTING, 80.0).chosen == [0, 2]


def test_the_ends_of_a_series_come_before_its_middle() -> None:
    cases = [case("batching", n, *EAGER, seconds=20.0) for n in range(5)]
    chosen = [choose(cases, STARTING, 40.0 + 20.0 * n).chosen for n in (1, 2, 3)]
    assert chosen == [[0], [0, 4], [0, 2, 4]]


def test_an_end_tells_more_than_a_middle_that_is_a_little_cheaper() -> None:
    cases = [case("batching", n, *EAGER, seconds=15.0 if n == 2 else 20.0) for n in range(5)]
    assert choose(cases, STARTING, 60.0).chosen == [0]
    assert choose(cases, STARTING, 55.0).chosen == [2]


def test_what_tells_as_much_in_less_time_comes_first() -> None:
    long, *short = (case(finding, n, *EAGER, seconds=90.0 if n == 0 else 30.0) for n, finding in enumerate("abcd"))
    assert choose([long, *short], STARTING, 140.0).chosen == [1, 2, 3]


def test_a_case_that_was_measured_counts_for_its_finding_and_its_series() -> None:
    cases = [case("batching", n, *EAGER, recorded=n == 0) for n in range(3)] + [case("decoding", 3, *EAGER)]
    assert choose(cases, STARTING, 60.0).chosen == [0, 3]
    assert choose(cases, STARTING, 80.0).chosen == [0, 2, 3]


def test_what_one_more_case_adds_depends_on_its_neighbours() -> None:
    cases = [case("batching", 0, *EAGER), case("graphs", 1, (1, "compiled")), case("batching", 2, *EAGER)]
    choice = Choice(cases, STARTING)
    choice.add(0)
    assert choice.added(2).starts == 0
    choice.add(2)
    between = choice.added(1)  # ends the engine that the case after it wants
    assert (between.starts, between.start_seconds) == (2, 130.0)
