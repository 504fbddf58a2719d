"""Tests that have no cases on the GPU model they would be run on, with the reason that their author states."""

from collections.abc import Iterable, Iterator

import msgspec

from pytest_llm_energy.verdicts.measured import CaseKey


class NoCases(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An energy test without cases.

    Attributes:
        finding: its finding.
        test: its function, without ``test_``.
        gpu: key of the GPU model.
        why: the reason.
    """

    finding: str
    test: str
    gpu: str
    why: str


def no_cases_lines(found: Iterable[NoCases], *, run: Iterable[CaseKey]) -> Iterator[str]:
    """A line per finding and reason.

    Args:
        found: the tests.
        run: cases that there are: tests are named where others of their finding have some.
    """
    there = {(key.gpu, key.finding) for key in run}
    by_gpu: dict[str, dict[tuple[str, str], list[NoCases]]] = {}
    for each in sorted(found):
        by_gpu.setdefault(each.gpu, {}).setdefault((each.finding, each.why), []).append(each)
    for gpu, by_reason in by_gpu.items():
        yield ""
        yield f"no cases on {gpu}:"
        for (finding, why), tests in by_reason.items():
            named = f" ({', '.join(each.test for each in tests)})" if (gpu, finding) in there else ""
            yield f"  {finding}{named}: {why}"
