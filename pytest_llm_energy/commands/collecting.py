"""Which cases tests have, found by collecting them and nothing more."""

import contextlib
import io
from collections.abc import Iterable, Sequence

import pytest

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.fixtures import CASE
from pytest_llm_energy.serving.arms import Arms
from pytest_llm_energy.verdicts.measured import CaseKey


class Cases:
    """A plugin that notes every energy test, also those that are left out of a run later."""

    def __init__(self) -> None:
        self.arms: dict[CaseKey, frozenset[str] | None] = {}
        self.skipped: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what is skipped whole, of whose tests nothing is known."""
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note the case, and the names of its arms where they stand among its parameters."""
        if CASE in item.stash:
            callspec = getattr(item, "callspec", None)
            values = callspec.params.values() if callspec else ()
            names = [name for value in values if isinstance(value, Arms) for name in value]
            self.arms[item.stash[CASE]] = frozenset(names) or None


def collect(paths: Sequence[str], gpus: Iterable[str]) -> dict[CaseKey, frozenset[str] | None]:
    """Cases of the energy tests under these paths for GPU models, by key, with their arms.

    The arms are None where a test's body alone knows them.

    Raises:
        UsageError: a test cannot be collected, a module is skipped, or none is an energy test.
    """
    cases = Cases()
    # This package is imported already, which pytest may have been told to take for an error.
    options = ["--collect-only", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main([*paths, *options, "-m", " or ".join(sorted(gpus))], plugins=[cases])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise UsageError(f"{' '.join(paths)} cannot be collected:\n{said.getvalue()}")
    if cases.skipped:
        listed = "\n".join(f"  {each}" for each in cases.skipped)
        raise UsageError(f"{' '.join(paths)}: what is skipped here may hold energy tests:\n{listed}")
    if not cases.arms:
        raise UsageError(f"no energy test under {' '.join(paths)}")
    return cases.arms
