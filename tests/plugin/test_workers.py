"""Under pytest-xdist, only tests of energy ask for hardware and a journal, and what is refused ends the run."""

import pytest

NO_HARDWARE = """
import pytest_llm_energy.session as session

def refuse():
    raise AssertionError("asked for the hardware")

session.detect = refuse
"""

ENERGY = "def test_window(energy_meter): raise AssertionError('must not run')"


def test_workers_without_energy_tests_ask_for_no_hardware_and_write_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(NO_HARDWARE)
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-n2", "-pno:cacheprovider")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert not (pytester.path / ".llm-energy").exists()


def test_where_no_journal_can_be_written_tests_of_other_things_run(pytester: pytest.Pytester) -> None:
    (pytester.path / ".llm-energy").touch()
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest_subprocess("-n2")
    result.assert_outcomes(passed=1)
    assert result.ret == 0


def test_where_no_journal_can_be_written_energy_tests_are_refused(pytester: pytest.Pytester) -> None:
    (pytester.path / ".llm-energy").touch()
    pytester.makepyfile(ENERGY)
    result = pytester.runpytest_subprocess("-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: cannot write the journal at *"])
    assert "INTERNALERROR" not in result.stdout.str()
    assert "must not run" not in result.stdout.str()


def test_what_a_worker_refuses_to_collect_is_a_usage_error(pytester: pytest.Pytester) -> None:
    for folder in ("a", "b"):
        (pytester.path / folder).mkdir()
        (pytester.path / folder / "__init__.py").touch()
        (pytester.path / folder / "test_api.py").write_text(ENERGY)
    result = pytester.runpytest_subprocess("-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *are both the case api window*rename one of the modules"])
    assert not (pytester.path / ".llm-energy").exists()
