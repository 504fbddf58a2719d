"""What a test checked before it was skipped is judged, and a replay tells the same."""

import pytest

from pytest_llm_energy.verdicts.journal import read_journal

SUITE = """
import time
import pytest
from pytest_llm_energy import costs, saves

@pytest.fixture
def skips_at_the_end():
    yield
    pytest.skip("nothing to clean up")

def test_case(energy_meter{fixture}):
    arms = energy_meter.compare(short=lambda: time.sleep(0.01), long=lambda: time.sleep(0.05))
    {check}
    {last}
"""

SKIP = "pytest.skip('the rest needs more memory')"


def both(host: pytest.Pytester, *, check: str, last: str, fixture: str = "") -> tuple[pytest.RunResult, str]:
    """The run that measures, and the last line of its replay, which ends with the same status."""
    host.makepyfile(test_live=SUITE.format(check=check, last=last, fixture=fixture))
    live = host.runpytest_subprocess("--energy-journal=j.jsonl")
    replayed = host.runpytest_subprocess("--energy-replay=j.jsonl")
    assert replayed.ret == live.ret
    assert not read_journal(host.path / "j.jsonl").cut
    return live, replayed.outlines[-1]


@pytest.mark.parametrize("last", [SKIP, "import unittest; raise unittest.SkipTest('no more')"])
def test_a_contradiction_fails_though_the_rest_is_skipped(host: pytest.Pytester, last: str) -> None:
    live, replayed = both(host, check="energy_meter.check(arms, costs)", last=last)
    assert live.ret == 1
    live.assert_outcomes(failed=1)
    live.stdout.fnmatch_lines(["live case on h200: contradicts the claim: short costs more than long"])
    assert live.outlines[-1] == replayed == "energy: judged 1 of 1 (1 contradicts, 2 incomparable)"


def test_what_holds_is_decided_though_the_rest_is_skipped(host: pytest.Pytester) -> None:
    live, replayed = both(host, check="energy_meter.check(arms, saves)", last=SKIP)
    assert live.ret == 0
    live.assert_outcomes(skipped=1)
    assert live.outlines[-1] == replayed == "energy: judged 1 of 1 (2 incomparable, 1 new)"
    assert [key.case for key in read_journal(host.path / "j.jsonl").finished] == ["case"]


def test_what_was_measured_and_skipped_before_any_check_was_not_cut(host: pytest.Pytester) -> None:
    live, replayed = both(host, check="", last=SKIP)
    assert live.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    live.stdout.fnmatch_lines(["not judged here, the rest needs more memory:"])
    assert live.outlines[-1] == replayed
    assert not read_journal(host.path / "j.jsonl").finished


def test_a_skip_while_fixtures_end_leaves_the_verdict(host: pytest.Pytester) -> None:
    check = "energy_meter.check(arms, saves)"
    live, _ = both(host, check=check, last="", fixture=", skips_at_the_end")
    assert live.outlines[-1] == "energy: judged 1 of 1 (2 incomparable, 1 new)"
