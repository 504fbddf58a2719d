"""Parts of the suite on several hosts, and the verdict on all of them."""

import re

import pytest

from pytest_llm_energy import saves
from tests.journals import SimulatedSession
from tests.plugin.conftest import PLAIN, SIZES, Project

SIX = """
import pytest

@pytest.mark.parametrize("size", range(6))
def test_x(energy_meter, size): pass

def test_of_something_else(): pass
"""

THREE_ENGINES = """
import pytest
from pytest_llm_energy import Scenario

PLAIN = Scenario(model="tiny-llama", input_tokens=8, output_tokens=4)
SCENARIOS = [PLAIN.replace(batch_size=n, dtype=d) for n in (1, 2) for d in ("float16", "float32", "bfloat16")]

@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.dtype} {s.batch_size}")
def test_x(energy_meter, scenario): pass
"""

LIVE = """
import pytest

def work(n):
    return sum(i * i for i in range(n))

@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sum(energy_meter, size):
    result = energy_meter.compare(half=lambda: work(20_000), whole=lambda: work(40_000))
    energy_meter.check(result)
"""

FAST = ("--energy-window=0.05", "--energy-runs=2", "--energy-gate=off")


def collected(pytester: pytest.Pytester, *options: str) -> list[str]:
    result = pytester.runpytest("--collect-only", "-q", *options)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def shards(pytester: pytest.Pytester, of: int, *options: str) -> list[list[str]]:
    return [collected(pytester, f"--energy-shard={n}/{of}", *options) for n in range(1, of + 1)]


@pytest.mark.parametrize("of", [1, 4, 8])
def test_shards_are_disjoint_and_together_everything(pytester: pytest.Pytester, of: int) -> None:
    pytester.makepyfile(test_finding=SIX)
    parts = shards(pytester, of)
    assert sorted(name for part in parts for name in part) == sorted(collected(pytester))
    assert "test_of_something_else" in parts[0]
    sizes = [sum("test_x" in name for name in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_only_what_is_selected_is_shared_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_finding=SIX)
    assert [len(part) for part in shards(pytester, 2, "-k", "cpu-0 or cpu-5")] == [1, 1]
    assert [len(part) for part in shards(pytester, 2, "-m", "h200")] == [3, 3]


def test_cases_of_one_engine_stay_together(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_finding=THREE_ENGINES)
    for part in shards(pytester, 3):
        assert len(part) == 2
        assert len({name.split()[0] for name in part}) == 1


def test_recorded_times_balance_the_shards(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_finding=SIX)
    session = SimulatedSession(pytester.path / "earlier.jsonl")
    for size in range(6):
        levels = {"one": (PLAIN, 1.0), "two": (PLAIN.replace(batch_size=2), 1.0)}
        session.case("finding", f"x[{size}]", levels, seconds=1000.0 if size == 3 else 100.0)
    first, second = shards(pytester, 2, "-m", "h200", "--energy-costs=earlier.jsonl")
    assert first == ["test_x[h200-3]"]
    assert len(second) == 5


def test_a_long_batch_in_a_baseline_counts(project: Project) -> None:
    session = SimulatedSession(project.path / "slow.jsonl")
    session.case("finding", "x[3]", {"one": (PLAIN.replace(batch_size=2), 1.0), "two": (PLAIN, 1.0)})
    session.bless(project.path / "baselines")
    path = project.path / "baselines" / "h200" / "finding.json"
    one_second = '"seconds_per_token": [1.0, 1.0, 1.0]'
    path.write_text(re.sub(r'"seconds_per_token": \[.*\]', one_second, path.read_text()))
    project.pytester.makepyfile(test_finding=SIX)
    first, second = shards(project.pytester, 2, "-m", "h200", "-k", "test_x")
    assert ["test_x[h200-3]"] in (first, second)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_what_is_no_shard_is_refused(pytester: pytest.Pytester, shard: str) -> None:
    result = pytester.runpytest_subprocess(f"--energy-shard={shard}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*is no shard: write 1/4 for the first of four"])


def test_costs_need_something_to_tell_them_for_and_a_journal(pytester: pytest.Pytester) -> None:
    for options, message in (
        (["--energy-costs=j.jsonl"], "*give --energy-shard, --energy-time-budget or --collect-only -v too"),
        (["--energy-costs=j.jsonl", "--collect-only", "-v"], "*no journal at *j.jsonl"),
        (["--energy-costs=j.jsonl", "--energy-shard=1/2"], "*no journal at *j.jsonl"),
    ):
        result = pytester.runpytest_subprocess(*options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([message])


def test_journals_of_all_shards_are_judged_together(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_sums=LIVE)
    for number, workers in ((1, "0"), (2, "2")):
        result = pytester.runpytest_subprocess(
            *FAST, f"--energy-shard={number}/2", f"--energy-journal={number}.jsonl", f"-n{workers}"
        )
        assert result.ret == 0
        result.stdout.fnmatch_lines(["energy: judged 0 of 2*"])
    replayed = pytester.runpytest_subprocess(*FAST, "--energy-replay=1.jsonl", "--energy-replay=2.jsonl")
    replayed.stdout.fnmatch_lines(["*4 passed*", "energy: judged 0 of 4*"])
    assert sum(line.endswith(" shown") for line in replayed.outlines) == 8


def test_a_shard_is_resumed_with_the_same_cases(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_sums=LIVE)
    options = (*FAST, "--energy-shard=2/2")
    pytester.runpytest_subprocess(*options, "--energy-journal=shard.jsonl")
    result = pytester.runpytest_subprocess(*options, "--energy-resume=shard.jsonl")
    result.stdout.fnmatch_lines(["resumed: 2 of 2 cases from shard.jsonl", "energy: judged 0 of 2*"])


def test_shards_go_on_with_one_journal_and_are_judged_together(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_sums=LIVE)
    some = "cpu-1 or cpu-2 or cpu-3"
    pytester.runpytest_subprocess(*FAST, "-k", some, "--energy-journal=cut.jsonl").assert_outcomes(passed=3)
    resumed = 0
    for number in (1, 2):
        options = (f"--energy-shard={number}/2", "--energy-resume=cut.jsonl", f"--energy-journal={number}.jsonl")
        result = pytester.runpytest_subprocess(*FAST, *options)
        result.assert_outcomes(passed=2)
        (found,) = re.findall(r"^resumed: (\d) of 2 cases", result.stdout.str(), flags=re.MULTILINE)
        resumed += int(found)
    assert resumed == 3
    replayed = pytester.runpytest_subprocess(*FAST, "--energy-replay=1.jsonl", "--energy-replay=2.jsonl")
    replayed.stdout.fnmatch_lines(["*4 passed*", "energy: judged 0 of 4*"])


def test_journals_that_hold_the_same_case_or_differ_in_hardware_are_not_judged_together(project: Project) -> None:
    def shard(name: str, sizes: tuple[int, ...], gpu: str = "h200") -> str:
        session = SimulatedSession(project.path / f"{name}.jsonl", gpu=gpu)
        for size in sizes:
            levels = {"batched": (PLAIN.replace(batch_size=size), 0.4), "alone": (PLAIN, 2.0)}
            session.case("batching", f"falls[{size}]", levels, claim=saves)
        return f"--energy-replay={session.path}"

    one, other = shard("one", SIZES[:1]), shard("other", SIZES[1:])
    result = project.pytester.runpytest_subprocess(one, other)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["energy: judged 3 of 3*"])
    for second, message in (
        (shard("overlapping", SIZES[:2]), "*cannot be judged together: both hold batching falls[[]4[]] on h200"),
        (shard("elsewhere", SIZES[1:], "a100"), "*cannot be judged together: GPU model: h200 -> a100; gpu: *"),
    ):
        result = project.pytester.runpytest_subprocess(one, second)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([message])
