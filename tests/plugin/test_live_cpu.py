"""A user's own tests on this host: real processor time, estimated joules."""

import pytest

from tests.journals import SimulatedSession

WORK = """
import pytest
from pytest_llm_energy import costs, saves

def work(n):
    total = 0
    for i in range(n):
        total += i * i
    return total
"""


def test_a_file_with_the_fixtures_alone_meters_a_function_and_compares_two(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums=WORK
        + """
def test_window(energy_meter, gpu_model):
    with energy_meter.window("sum") as window:
        work(3_000_000)
    assert window.reading.valid
    assert window.joules > 0
    assert window.reading.estimated == (gpu_model.key == "cpu")

def test_half_the_work_saves(energy_meter):
    result = energy_meter.compare(half=lambda: work(100_000), whole=lambda: work(200_000))
    assert -0.8 < result.effect("half") < -0.2
    energy_meter.check(result, saves)
"""
    )
    result = pytester.runpytest_subprocess("-v", "--energy-window=0.3")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*test_half_the_work_saves*NEW*",
            "metered by: *",
            "sums *half the work saves *half * ?J/call *shown",
            "energy: judged 1 of 1 (1 new)",
        ]
    )
    journals = list((pytester.path / ".llm-energy").iterdir())
    assert len(journals) == 1
    assert '"record":"windowed"' in journals[0].read_text()


def test_twenty_percent_more_work_said_to_save_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums=WORK
        + """
def test_more_is_less(energy_meter):
    result = energy_meter.compare(more=lambda: work(120_000), less=lambda: work(100_000))
    energy_meter.check(result, saves.bearing(0.05))
"""
    )
    for runs in (24, 96):  # a busy host leaves it open, and is asked for what a reader would then ask for
        result = pytester.runpytest_subprocess("--junitxml=junit.xml", f"--energy-runs={runs}")
        if result.ret != pytest.ExitCode.NO_TESTS_COLLECTED:
            break
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "sums more_is_less on cpu: contradicts the claim: more saves against less",
            "  measured: +??.? % energy, between +* % and +* %, each bound wrong at most 1 % of the time",
            "energy: judged 1 of 1 (1 contradicts)",
        ]
    )
    assert "<failure" in (pytester.path / "junit.xml").read_text()


def test_windows_alone_ask_for_no_verdict(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums=WORK
        + """
def test_window(energy_meter):
    with energy_meter.window() as window:
        work(3_000_000)
    assert window.joules > 0
"""
    )
    assert pytester.runpytest_subprocess().ret == 0


def test_what_was_measured_and_not_checked_is_not_decided(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums=WORK
        + """
def test_forgets(energy_meter):
    energy_meter.compare(one=lambda: work(10_000), two=lambda: work(10_000))
"""
    )
    result = pytester.runpytest_subprocess("--energy-window=0.05", "--energy-runs=2")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["energy: judged 0 of 1*does not pass*"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("energy_meter.compare(one=work)", "*two at least*"),
        ("energy_meter.measure()", "*measure() needs a scenario*"),
        ("energy_meter.check(energy_meter.compare(a=f, b=f), saves, published='x')", "*nothing is published*"),
    ],
)
def test_a_wrong_call_says_how_to_call(pytester: pytest.Pytester, call: str, message: str) -> None:
    body = f"\ndef test_wrong(energy_meter):\n    f = lambda: work(1000)\n    {call}\n"
    pytester.makepyfile(test_sums=WORK + body)
    result = pytester.runpytest_subprocess("--energy-window=0.05", "--energy-runs=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines([message])


def test_a_journal_is_not_overwritten(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    (pytester.path / "j.jsonl").touch()
    result = pytester.runpytest_subprocess("--energy-journal=j.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*j.jsonl exists: a journal is of one run*"])


def test_a_journal_that_another_run_is_about_to_write_is_left_to_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    (pytester.path / "j.jsonl.segments").mkdir()
    for workers in ("-n0", "-n2"):
        result = pytester.runpytest_subprocess("--energy-journal=j.jsonl", workers)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*j.jsonl.segments exists: another run writes *j.jsonl, or was killed*"])
    SimulatedSession(pytester.path / "old.jsonl")
    for measuring_nothing in ("--collect-only", "--energy-replay=old.jsonl"):
        assert pytester.runpytest_subprocess("--energy-journal=j.jsonl", measuring_nothing).ret == 0
    assert (pytester.path / "j.jsonl.segments").is_dir()


def test_a_journal_that_was_to_be_written_leaves_nothing_where_none_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    assert pytester.runpytest_subprocess("--energy-journal=j.jsonl").ret == 0
    pytester.makeconftest("import pytest\ndef pytest_sessionstart(): pytest.exit('no service')")
    assert pytester.runpytest_subprocess("--energy-journal=j.jsonl").ret == pytest.ExitCode.INTERRUPTED
    assert not list(pytester.path.glob("j.jsonl*"))


def test_a_journal_is_not_written_packed(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--energy-journal=j.jsonl.gz")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*j.jsonl.gz: a journal is written as plain lines; pack it when it is done"])


def test_a_journal_that_cannot_be_written_stops_before_anything_is_measured(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_sums=WORK + "\ndef test_window(energy_meter): raise AssertionError('must not run')\n")
    (pytester.path / "file").touch()
    result = pytester.runpytest_subprocess("--energy-journal=file/j.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*cannot write the journal at *name another place with --energy-journal*"])
    assert "must not run" not in result.stdout.str()


def test_what_fails_for_another_reason_is_shown_as_failed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums=WORK
        + """
def test_asserts(energy_meter):
    energy_meter.check(energy_meter.compare(half=lambda: work(10_000), whole=lambda: work(20_000)), saves)
    assert 1 == 2
"""
    )
    result = pytester.runpytest_subprocess("-v", "--energy-window=0.1", "--energy-runs=3")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*test_asserts[[]cpu[]] FAILED*"])


def test_windows_cannot_be_nested_and_must_not_miss_a_child(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums=WORK
        + """
import subprocess, sys

def test_nested(energy_meter):
    with energy_meter.window("outer"):
        with energy_meter.window("inner"):
            work(1000)

def test_child(energy_meter):
    with energy_meter.window() as window:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        work(3_000_000)
    child.kill()
    assert [reason.code for reason in window.reading.invalid] == ["processes-changed"]
"""
    )
    result = pytester.runpytest_subprocess("--energy-meter=codecarbon")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["MeterError: CodeCarbon meters one window at a time*"])


def test_tests_without_our_fixtures_do_not_ask_for_the_hardware(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest_llm_energy.session as session\n"
        "def refuse(): raise AssertionError('asked')\n"
        "session.detect = refuse\n"
    )
    pytester.makepyfile("def test_plain(): pass")
    assert pytester.runpytest_subprocess().ret == 0
    assert not (pytester.path / ".llm-energy").exists()


def test_a_journal_that_two_workers_cannot_write_stops_before_anything_is_measured(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_sums=WORK + "\ndef test_window(energy_meter): raise AssertionError('must not run')\n")
    (pytester.path / "file").touch()
    result = pytester.runpytest_subprocess("-n2", "--energy-journal=file/j.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*cannot write the journal at *"])
