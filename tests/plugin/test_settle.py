"""Verdicts that are open are settled by more windows, as long as there is time for it."""

import re
import sys
from collections import Counter

import pytest

from pytest_llm_energy.verdicts.journal import read_journal
from tests.plugin.conftest import SCATTERING

HOST = """
import itertools, time
from pytest_llm_energy import session
from pytest_llm_energy.hardware.catalogue import CPU
from pytest_llm_energy.hardware.detection import Host
from pytest_llm_energy.metering.meter import Invalid, Reading

class Meter:
    method, estimated, source = "made-up", False, "what the work says"
    spent, scatter = 0.0, itertools.repeat(1.0)

    def open(self):
        Meter.spent = 0.0
        return self

    def close(self, started, ended):
        joules = self.spent * next(self.scatter)
        invalid = () if joules else (Invalid("no-energy", "the counter stood still"),)
        seconds = ended - started
        return Reading(
            joules=joules, seconds=seconds, uncertainty_joules=1e-6, method=self.method, invalid=invalid
        )

    def abandon(self):
        pass

    def shutdown(self):
        pass

def pytest_configure():
    session.detect = lambda: Host(spec=CPU)
    session.choose_meter = lambda name, devices, **_: Meter()
"""
"""A host whose joules are what the work says that it spent, with a scatter from window to window."""

SUITE = """
import itertools
import time
from conftest import Meter
from pytest_llm_energy import saves

def spending(joules, *scatter):
    factors = itertools.cycle(scatter)
    def spend():
        Meter.spent += joules
        Meter.scatter = factors
    return spend

def test_lean(energy_meter):
    # The effect is -6 %; three pairs that scatter by 2 % leave it open, six do not.
    result = energy_meter.compare(lean=spending(0.94, {scatter}), plain=spending(1.0, 1.0))
    energy_meter.check(result, saves)
"""

OPTIONS = (
    "-pno:cacheprovider",
    "--energy-runs=3",
    "--energy-window=0.01",
)


@pytest.fixture
def host(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(HOST)
    return pytester


def runs(pytester: pytest.Pytester, name: str = "run.jsonl") -> tuple[int, int]:
    """Runs of an arm, and how often they may have been judged."""
    journal = read_journal(pytester.path / name)
    (check,) = journal.checks
    (count,) = {len(arm.runs) for arm in journal.measured(check).arms}
    return count, check.looks


def measured(result: pytest.RunResult) -> str:
    """The interval that the claim was judged by."""
    found = re.search(r"lean saves against plain +(\S+ % \[[^]]+\])", result.stdout.str())
    assert found is not None
    return found.group(1)


def assert_judged_the_same_from_the_journal(host: pytest.Pytester, live: pytest.RunResult) -> None:
    replayed = host.runpytest_subprocess("--energy-replay=run.jsonl")
    assert replayed.ret == live.ret
    assert measured(replayed) == measured(live)


def test_an_open_verdict_is_settled_by_more_windows_and_judged_the_same_from_the_journal(
    host: pytest.Pytester,
) -> None:
    host.makepyfile(test_spending=SUITE.format(scatter="1.02, 0.98"))
    open_ = host.runpytest_subprocess(*OPTIONS, "--energy-journal=open.jsonl")
    assert open_.ret == 5
    open_.stdout.fnmatch_lines(["*no-difference-shown*", "*judged 0 of 1*"])
    assert runs(host, "open.jsonl") == (3, 1)
    settled = host.runpytest_subprocess(*OPTIONS, "--energy-settle=60", "--energy-journal=run.jsonl")
    assert settled.ret == 0
    settled.stdout.fnmatch_lines(["*judged 1 of 1 (1 new)"])
    assert runs(host) == (6, 3)
    assert_judged_the_same_from_the_journal(host, settled)


MISLED = "1.2, 1.2001, 1.2002, 0.8, 0.8001, 0.8002"
"""Three windows that plainly cost more, and three that take it back."""


def test_what_would_fail_is_metered_again_and_what_the_first_windows_alone_said_does_not_fail(
    host: pytest.Pytester,
) -> None:
    host.makepyfile(test_spending=SUITE.format(scatter=MISLED))
    told_off = host.runpytest_subprocess(*OPTIONS, "--energy-settle=0", "--energy-journal=first.jsonl")
    assert told_off.ret == 1
    assert runs(host, "first.jsonl") == (3, 1)
    live = host.runpytest_subprocess(*OPTIONS, "--energy-journal=run.jsonl")
    assert live.ret == 5
    live.stdout.fnmatch_lines(["*no-difference-shown*"])
    assert runs(host) == (6, 1)
    assert_judged_the_same_from_the_journal(host, live)


def test_what_cannot_be_metered_again_fails_by_what_was(host: pytest.Pytester) -> None:
    host.makepyfile(test_spending=SUITE.format(scatter=f"1.2, 1.2001, 1.2002, {'0, ' * 20}"))
    live = host.runpytest_subprocess(*OPTIONS, "-Werror::UserWarning", "--energy-journal=run.jsonl")
    assert live.ret == 1
    live.stdout.fnmatch_lines(["*fails, and could not be metered again: *the counter stood still*"])
    live.stdout.fnmatch_lines(["*judged 1 of 1 (1 contradicts)"])
    assert runs(host) == (3, 1)
    assert_judged_the_same_from_the_journal(host, live)


def test_nothing_is_metered_again_where_nothing_fails(host: pytest.Pytester) -> None:
    host.makepyfile(test_spending=SUITE.format(scatter=MISLED))
    shown = host.runpytest_subprocess(*OPTIONS, "--energy-gate=off", "--energy-journal=run.jsonl")
    assert shown.ret == 0
    assert runs(host) == (3, 1)


def test_what_fails_by_all_its_windows_fails_and_is_metered_again_once(host: pytest.Pytester) -> None:
    twice = SUITE.format(scatter="1.2, 1.21").replace(
        "energy_meter.check(result, saves)",
        "energy_meter.check(result, saves)\n    energy_meter.check(result, saves)",
    )
    host.makepyfile(test_spending=twice)
    result = host.runpytest_subprocess(*OPTIONS, "--energy-journal=run.jsonl")
    assert result.ret == 1
    assert {check.rounds for check in read_journal(host.path / "run.jsonl").checks} == {6}


def test_a_later_check_that_settles_leaves_an_earlier_verdict_as_it_is(host: pytest.Pytester) -> None:
    twice = SUITE.format(scatter="1.02, 0.98").replace(
        "energy_meter.check(result, saves)", "energy_meter.check(result)\n    energy_meter.check(result, saves)"
    )
    host.makepyfile(test_spending=twice)
    live = host.runpytest_subprocess(*OPTIONS, "--energy-settle=60", "--energy-journal=run.jsonl")
    journal = read_journal(host.path / "run.jsonl")
    assert [check.rounds for check in journal.checks] == [3, 6]
    assert [len(journal.measured(check).arms[0].runs) for check in journal.checks] == [3, 6]
    assert_judged_the_same_from_the_journal(host, live)


@pytest.mark.parametrize(("seconds", "most", "looks"), [(300, 12, 3), (301, 48, 5)])
def test_who_gives_more_time_than_usual_gets_more_looks(
    host: pytest.Pytester, seconds: int, most: int, looks: int
) -> None:
    host.makepyfile(test_spending=SUITE.format(scatter="1.3, 0.7"))
    live = host.runpytest_subprocess(*OPTIONS, f"--energy-settle={seconds}", "--energy-journal=run.jsonl")
    assert runs(host) == (most, looks)
    assert_judged_the_same_from_the_journal(host, live)


def test_a_settled_verdict_takes_no_more_time_though_its_interval_is_wider(host: pytest.Pytester) -> None:
    host.makepyfile(test_spending=SUITE.format(scatter="1.001, 0.999"))
    result = host.runpytest_subprocess(*OPTIONS, "--energy-settle=60", "--energy-journal=run.jsonl")
    assert result.ret == 0
    assert runs(host) == (3, 3)


@pytest.mark.parametrize(("seconds", "most"), [(1.0, 3), (3.4, 6)])
def test_what_there_is_not_enough_time_for_is_not_begun(host: pytest.Pytester, seconds: float, most: int) -> None:
    # Three more windows of two arms take 1.2 s at least, and six 2.4 s.
    slow = SUITE.replace("Meter.spent += joules", "time.sleep(0.2); Meter.spent += joules")
    host.makepyfile(test_spending=slow.format(scatter="1.3, 0.7"))
    options = (f"--energy-settle={seconds}", "--energy-journal=run.jsonl")
    result = host.runpytest_subprocess(*OPTIONS, *options)
    assert result.ret == 5
    assert runs(host) == (most, 3)


INTERRUPTED = """
import itertools
numbers, close = itertools.count(1), Meter.close
def interrupted_once(self, started, ended):
    if next(numbers) == {}:
        raise KeyboardInterrupt
    return close(self, started, ended)
Meter.close = interrupted_once
"""


@pytest.mark.parametrize(
    ("scatter", "options", "looks"),
    [
        pytest.param("1.02, 0.98", ("--energy-settle=60",), 3, id="open"),
        pytest.param("1.2, 1.2001, 1.2002", (), 1, id="would fail"),
    ],
)
def test_who_interrupts_what_is_metered_beyond_the_plan_gets_a_verdict_by_the_rounds_that_are_whole(
    host: pytest.Pytester, scatter: str, options: tuple[str, ...], looks: int
) -> None:
    host.makeconftest(HOST + INTERRUPTED.format(12))  # of the sixth round the second window
    later = "\ndef test_later(energy_meter):\n    assert not energy_meter\n"
    host.makepyfile(test_spending=SUITE.format(scatter=scatter) + later)
    live = host.runpytest_subprocess(*OPTIONS, *options, "--energy-journal=run.jsonl")
    assert live.ret == pytest.ExitCode.INTERRUPTED
    live.stdout.fnmatch_lines(
        ["*lean saves against plain*", "*Interrupted: by the user, while a verdict was being settled*"]
    )
    assert runs(host) == (5, looks)
    replayed = host.runpytest_subprocess("--energy-replay=run.jsonl")
    assert measured(replayed) == measured(live)


@pytest.mark.parametrize(
    ("scatter", "options"),
    [pytest.param("1.3, 0.7", ("--energy-settle=60",), id="open"), pytest.param("1.2", (), id="would fail")],
)
def test_who_interrupts_one_check_has_nothing_metered_for_the_next(
    host: pytest.Pytester, scatter: str, options: tuple[str, ...]
) -> None:
    host.makeconftest(HOST + INTERRUPTED.format(16))
    twice = SUITE.format(scatter=scatter).replace(
        "    energy_meter.check(result, saves)\n",
        "    more = energy_meter.compare(lean2=spending(0.94, 1.3, 0.7), plain2=spending(1.0, 1.0))\n"
        "    energy_meter.check(result, saves)\n"
        "    energy_meter.check(more, saves)\n",
    )
    host.makepyfile(test_spending=twice)
    live = host.runpytest_subprocess(*OPTIONS, *options, "--energy-journal=run.jsonl")
    assert live.ret == pytest.ExitCode.INTERRUPTED
    journal = read_journal(host.path / "run.jsonl")
    assert [(check.series, check.rounds) for check in journal.checks] == [(0, 4), (1, 3)]
    assert [len(list(arm.runs)) for check in journal.checks for arm in journal.measured(check).arms] == [4, 4, 3, 3]


TWO_ARMS = """
from pytest_llm_energy import Scenario

def test_serving(energy_meter):
    plain = Scenario(model="tiny-llama", input_tokens=8, output_tokens=8)
    result = energy_meter.measure(plain, plain.replace(input_tokens=16))
    energy_meter.check(result)
"""


def test_beside_another_stack_only_what_is_open_is_metered_again(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(SCATTERING)
    pytester.makepyfile(test_serving=TWO_ARMS)
    options = ("--energy-runs=3", "--energy-window=0.01", f"--energy-against=transformers={sys.executable}")
    result = pytester.runpytest_subprocess(*options, "--energy-journal=run.jsonl")
    journal = read_journal(pytester.path / "run.jsonl")
    (check,) = journal.checks
    arms = journal.measured(check).arms
    assert [(len(arm.runs), len(arm.against)) for arm in arms] == [(12, 12), (3, 3)]
    expected = ["serving *8 *mJ * % * 12 *", "* *16 *mJ * % * 3 *", "energy: judged 1 of 1 *"]
    result.stdout.fnmatch_lines(expected)
    replayed = pytester.runpytest_subprocess("--energy-replay=run.jsonl")
    assert replayed.ret == result.ret
    replayed.stdout.fnmatch_lines(expected)


def test_beside_another_stack_what_would_fail_is_metered_again_where_no_time_is_left_to_settle(
    pytester: pytest.Pytester,
) -> None:
    # Three rounds in which this stack takes a fifth more, and three in which it takes a fifth less.
    dearer, leaner = [1.2, 1.0, 1.0, 1.2, 1.2, 1.0], [1.0, 0.8, 0.8, 1.0, 1.0, 0.8]
    no_time = "\nfrom pytest_llm_energy.patience import Patience\nPatience.seconds = 0.0\n"
    joules = f"joules = itertools.cycle({dearer + leaner})"
    pytester.makeconftest(re.sub(r"joules = itertools\.chain\(.*\)", joules, SCATTERING) + no_time)
    pytester.makepyfile(test_serving=NEAR_ITS_BUDGET)
    options = ("--energy-runs=3", "--energy-window=0.01", f"--energy-against=transformers={sys.executable}")
    told_not_to = pytester.runpytest_subprocess(*options, "--energy-settle=0", "--energy-journal=three.jsonl")
    told_not_to.stdout.fnmatch_lines(["* 3 * regressed", "energy: judged 1 of 1 (1 regressed)"])
    result = pytester.runpytest_subprocess(*options, "--energy-journal=six.jsonl")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["* 6 * inconclusive (too-noisy)", "energy: judged 0 of 1 (1 inconclusive)*"])


NEAR_ITS_BUDGET = """
from pytest_llm_energy import Scenario

def test_serving(energy_meter):
    energy_meter.check(energy_meter.measure(Scenario(model="tiny-llama", input_tokens=8, output_tokens=8)))
"""


def test_what_engine_starts_leave_open_is_metered_again_on_new_ones(pytester: pytest.Pytester) -> None:
    # A level 2.3 % above the other stack's, which windows tell almost exactly.
    joules = "itertools.cycle([1.023, 1.0, 1.0, 1.023])"
    pytester.makeconftest(re.sub(r"joules = itertools\.chain\(.*\)", f"joules = {joules}", SCATTERING))
    pytester.makepyfile(test_serving=NEAR_ITS_BUDGET)
    options = ("--energy-runs=12", "--energy-window=0.01", f"--energy-against=transformers={sys.executable}")
    result = pytester.runpytest_subprocess(*options, "--energy-journal=run.jsonl")
    journal = read_journal(pytester.path / "run.jsonl")
    (check,) = journal.checks
    (arm,) = journal.measured(check).arms
    for runs in (arm.runs, arm.against):
        assert list(Counter(run.start for run in runs).values()) == [12, 12]
    result.stdout.fnmatch_lines(["engines: 4 starts in *", "energy: judged 1 of 1 (1 ok)"])
