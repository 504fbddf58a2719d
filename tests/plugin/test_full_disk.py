"""A journal that could not be written for a while."""

import pytest

from pytest_llm_energy.verdicts.journal import read_journal

FULL_ONCE = """
from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.verdicts.records import Opened
from pytest_llm_energy.verdicts.segments import Segment

write, failed = Segment.write, []

def write_later(self, record):
    if isinstance(record, Opened) and not failed:
        failed.append(record)
        raise JournalError("no space left on device")
    write(self, record)

Segment.write = write_later
"""

SUITE = """
import time
import pytest
from pytest_llm_energy import saves

@pytest.mark.parametrize("number", [1, 2, 3])
def test_sleeps(energy_meter, number):
    arms = energy_meter.compare(short=lambda: time.sleep(0.01), long=lambda: time.sleep(0.05))
    energy_meter.check(arms, saves)
"""


def test_cases_after_an_opening_that_could_not_be_written_have_one_of_their_own(host: pytest.Pytester) -> None:
    host.makeconftest(FULL_ONCE)
    host.makepyfile(test_live=SUITE)
    result = host.runpytest_subprocess("--energy-journal=j.jsonl", "--energy-gate=off")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["JournalError: no space left on device"])
    journal = read_journal(host.path / "j.jsonl")
    assert {key.case for key in journal.finished} == {"sleeps[2]", "sleeps[3]"}
    assert len(journal.openings) == 1
