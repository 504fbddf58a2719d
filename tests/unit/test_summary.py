from pytest_llm_energy.reporting.summary import CaseOutcome, Summary, engines_line, text_lines
from pytest_llm_energy.verdicts.measured import CaseKey, Metered

KEY = CaseKey(gpu="h200", finding="batching", case="saves[8]")


def outcome(starts: dict[str, float], seconds: float) -> CaseOutcome:
    metered = Metered(joules=100.0, windows=3, seconds=seconds)
    return CaseOutcome(key=KEY, state="judged", metered=metered, starts=starts)


def test_an_engine_start_that_served_two_tests_counts_once() -> None:
    outcomes = {"one": outcome({"main-1": 30.0}, 20.0), "two": outcome({"main-1": 30.0, "main-2": 12.4}, 13.0)}
    live = Summary(outcomes=outcomes, expected=2, gate="on", elapsed_seconds=100.0)
    assert engines_line(live) == "engines: 2 starts in 42 s; windows 33 s, 33 % of the run"
    assert engines_line(live) in list(text_lines(live))
    replayed = Summary(outcomes=outcomes, expected=2, gate="on")
    assert engines_line(replayed) == "engines: 2 starts in 42 s; windows 33 s"


def test_without_an_engine_nothing_is_said_of_starts() -> None:
    assert engines_line(Summary(outcomes={"one": outcome({}, 2.0)}, expected=1, gate="on")) is None
