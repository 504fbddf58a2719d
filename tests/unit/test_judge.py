from pathlib import Path

import msgspec
import pytest

from pytest_llm_energy import costs, saves
from pytest_llm_energy.errors import BaselineError, MeasurementError
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.metering.host_speed import Host
from pytest_llm_energy.reporting.messages import failure
from pytest_llm_energy.reporting.tables import level_table
from pytest_llm_energy.verdicts.baselines import Baseline, BaselineCase, Published, Samples, Session, read_published
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.further import unsettled
from pytest_llm_energy.verdicts.judge import Conditions, decide, judge
from pytest_llm_energy.verdicts.measured import Arm, Measured
from pytest_llm_energy.verdicts.records import Checked, Looked
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow
from pytest_llm_energy.verdicts.statistics import Interval, runs_to_tell
from tests.unit.measurements import KEY, PLAIN, arm, compared

HERE = Fingerprint(identity={"gpu": "NVIDIA H200", "power_limit_watts": 700.0}, state={}, boards=("board",))
OTHER_LIMIT = Fingerprint(identity={"gpu": "NVIDIA H200", "power_limit_watts": 500.0}, state={}, boards=("board",))


def baseline(
    level: float = 1.0, *, budget: float | None = None, where: Fingerprint = HERE, method: str = "simulated"
) -> Baseline:
    samples = Samples(
        joules_per_token=tuple(level * x for x in (0.999, 1.0, 1.001)), seconds_per_token=(2.5 / 64,) * 3
    )
    session = Session(
        when="2026-01-01T00:00:00+00:00",
        reason="first",
        method=method,
        fingerprint=where,
        stack={"torch": "2.11"},
        relative_uncertainty=0.001,
        starts=({KEY.case: {"arm": samples}},),
    )
    case = BaselineCase(tp=1, arms={"arm": PLAIN.identity()}, budget=budget)
    return Baseline(schema=1, finding=KEY.finding, gpu=KEY.gpu, cases={KEY.case: case}, sessions=(session,))


def level_of(
    made: Arm,
    reference: Baseline | None,
    *,
    gpu: str = "h200",
    override: float | None = None,
    stated: float | None = None,
) -> LevelRow:
    key = msgspec.structs.replace(KEY, gpu=gpu)
    check = Checked(key=key, series=0, tp=1, arms=(made.name,), budget=stated)
    stacks = {"main-1": {"torch": "2.12"}}
    conditions = Conditions(fingerprint=HERE, stacks=stacks, baseline=reference, budget=override)
    (row,) = judge(check, Measured(key=key, series=0, arms=(made,)), conditions)
    assert isinstance(row, LevelRow)
    return row


@pytest.mark.parametrize(
    ("level", "verdict", "reason"),
    [
        (1.20, "regressed", None),
        (1.00, "ok", None),
        (0.90, "improved", None),
        (1.025, "inconclusive", "near-budget"),
        (0.99, "ok", None),
    ],
)
def test_a_level_against_its_baseline(level: float, verdict: str, reason: str | None) -> None:
    row = level_of(arm("arm", [level * x for x in (0.999, 1.0, 1.001)]), baseline())
    assert (row.verdict, row.reason) == (verdict, reason)


def test_noise_wider_than_the_budget_decides_nothing() -> None:
    row = level_of(arm("arm", [0.8, 1.0, 1.25]), baseline())
    assert (row.verdict, row.reason) == ("inconclusive", "too-noisy")


def test_what_is_compared_must_be_the_same_work_on_the_same_hardware() -> None:
    other = level_of(arm("arm", [1.0] * 3, PLAIN.replace(dtype="float16")), baseline())
    assert (other.verdict, other.reason) == ("incomparable", "scenario-differs")
    assert other.note is not None
    assert "dtype: bfloat16 -> float16" in other.note
    limit = level_of(arm("arm", [1.0] * 3), baseline(where=OTHER_LIMIT))
    assert (limit.verdict, limit.reason) == ("incomparable", "hardware-differs")
    assert limit.note is not None
    assert "power_limit_watts: 500.0 -> 700.0" in limit.note
    unknown = level_of(arm("arm", [1.0] * 3), None)
    assert (unknown.verdict, unknown.reason) == ("incomparable", "no-baseline")


def test_levels_metered_by_another_method_are_not_compared() -> None:
    made = arm("arm", [1.2] * 3)
    row = level_of(made, baseline(method="nvml-counter"))
    assert (row.verdict, row.reason) == ("incomparable", "method-differs")
    assert row.note == "the baseline was metered by nvml-counter, and this by simulated: choose --energy-meter"
    both = baseline(method="nvml-counter")
    alike = baseline(1.2).sessions
    row = level_of(made, msgspec.structs.replace(both, sessions=(*both.sessions, *alike)))
    assert row.verdict == "ok"


def test_the_budget_of_the_command_line_is_above_the_tests_above_the_baselines() -> None:
    made = arm("arm", [1.1] * 3)
    assert level_of(made, baseline(budget=0.2)).verdict == "ok"
    assert level_of(made, baseline(budget=0.2), stated=0.05).verdict == "regressed"
    assert level_of(made, baseline(budget=0.2), stated=0.05, override=0.3).verdict == "ok"


def test_estimated_levels_and_those_of_a_cpu_are_shown_only() -> None:
    assert level_of(arm("arm", [2.0] * 3, estimated=True), baseline()).verdict == "shown"
    on_cpu = level_of(arm("arm", [2.0] * 3), None, gpu="cpu")
    assert on_cpu.verdict == "shown"


def test_stacks_side_by_side_on_a_gpu_are_judged_with_what_is_known_of_its_windows() -> None:
    made = arm("arm", [1.0, 1.01, 1.02])
    made = msgspec.structs.replace(made, against=arm("arm", [1.02, 1.0, 1.01]).runs)
    on_gpu, on_cpu = (level_of(made, None, gpu=gpu).change for gpu in ("h200", "cpu"))
    assert on_gpu is not None
    assert on_cpu is not None
    assert on_gpu.joules.half_width < on_cpu.joules.half_width


def test_each_level_is_judged_by_the_looks_of_the_run_that_metered_it_last() -> None:
    first = Looked(rounds=3, looks=1)
    check = Checked(
        key=KEY, series=0, tp=1, arms=("arm",), looks=20, before=Looked(rounds=6, looks=10, before=first)
    )

    def half_width(runs: int, check: Checked) -> float:
        made = arm("arm", [1.0, 1.01, 0.99] * (runs // 3))
        made = msgspec.structs.replace(made, against=arm("arm", [1.0] * runs).runs)
        measured = Measured(key=KEY, series=0, arms=(made,))
        (row,) = judge(check, measured, Conditions(fingerprint=HERE, stacks={}))
        assert isinstance(row, LevelRow)
        assert row.change
        return row.change.joules.half_width

    for runs, looks in ((3, 1), (6, 10), (9, 20)):
        alone = msgspec.structs.replace(check, looks=looks, before=None)
        assert half_width(runs, check) == half_width(runs, alone)
    assert half_width(3, check) < half_width(3, msgspec.structs.replace(check, before=None))


@pytest.mark.parametrize("probed", [True, False])
def test_a_level_beside_another_stack_is_judged_at_equal_speed_of_the_host_where_that_was_probed(
    probed: bool,
) -> None:
    slow = [(1 + (7 * i % 13) / 13, 1 + (5 * i % 13) / 13) for i in range(12)]
    sides = [
        tuple(
            msgspec.structs.replace(
                run, host=Host(loop_seconds=1e-4 * pair[side], busy_cores=1.0, cores=16) if probed else None
            )
            for run, pair in zip(arm("arm", [level * pair[side] for pair in slow]).runs, slow, strict=True)
        )
        for side, level in enumerate((1.2, 1.0))
    ]
    made = msgspec.structs.replace(arm("arm", [1.0]), runs=sides[0], against=sides[1])
    row = level_of(made, None)
    assert row.change is not None
    assert row.verdict == ("regressed" if probed else "inconclusive")
    assert row.change.whole.half_width > 0.1
    assert (row.change.as_metered is not None) == probed
    assert ("as metered" in level_table([row], style="simple")) == probed
    assert ("at equal speed of the host's processors" in failure([row])) == probed
    if probed:
        assert row.change.joules.value == pytest.approx(0.2)
        fewer = level_of(msgspec.structs.replace(made, runs=sides[0][:6], against=sides[1][:6]), None)
        assert fewer.change is not None
        assert fewer.change.to_probe
        assert unsettled([fewer], ["arm"], looks=1) == {"arm"}


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ((1.0265, 1.0265), "about 8 engine starts would tell (--energy-starts 8 --energy-runs 18)"),
        ((1.0295, 1.0295), "more than 30 engine starts would have to tell"),
        ((1.0, 1.06), "2 engine starts hardly tell how they scatter: more would (--energy-starts 4 "),
    ],
)
def test_engine_starts_are_asked_for_where_they_leave_a_level_open(levels: tuple[float, float], says: str) -> None:
    made = arm("arm", [*levels] * 3)
    made = msgspec.structs.replace(made, against=arm("arm", [1.0, 1.0001] * 3).runs)
    starts = [
        tuple(msgspec.structs.replace(run, start=f"{side} {run.round % 2}") for run in runs)
        for side, runs in (("now", made.runs), ("then", made.against))
    ]
    row = level_of(msgspec.structs.replace(made, runs=starts[0], against=starts[1]), None)
    assert row.verdict == "inconclusive"
    assert row.note is not None
    assert says in row.note


def test_a_change_is_split_into_time_and_power_and_names_the_stack() -> None:
    row = level_of(arm("arm", [1.2] * 3, seconds=3.0), baseline())
    assert row.change is not None
    assert row.change.cause.kind == "slower"
    assert row.change.cause.seconds.value == pytest.approx(0.2)
    assert row.change.cause.watts.value == pytest.approx(0.0, abs=1e-3)
    assert row.change.stack == ("torch: 2.11 -> 2.12",)


@pytest.mark.parametrize(
    ("level", "seconds", "kind"),
    [(1.2, 2.5, "hungrier"), (1.2, 2.0, "faster-but-hungrier"), (0.8, 2.0, "faster"), (1.1, 2.55, "hungrier")],
)
def test_what_moved_is_judged_as_the_level_is(level: float, seconds: float, kind: str) -> None:
    row = level_of(arm("arm", [level] * 3, seconds=seconds), baseline())
    assert row.change is not None
    assert row.change.cause.kind == kind


def test_time_and_power_of_stacks_in_turn_are_paired() -> None:
    drifting = [1.0, 1.3, 1.7]
    then = arm("arm", drifting)
    now = msgspec.structs.replace(arm("arm", [1.2 * x for x in drifting]), against=then.runs)
    row = level_of(now, None)
    assert row.change is not None
    assert row.change.cause.kind == "hungrier"
    assert row.change.cause.watts.half_width < 0.01


def test_stacks_side_by_side_differ_in_what_served_that_arm_alone() -> None:
    old, new, alone = (
        tuple(msgspec.structs.replace(run, start=start) for run in arm("any", [1.0, 1.01, 1.02]).runs)
        for start in ("old", "new", "alone")
    )
    served = msgspec.structs.replace(arm("served", [1.0]), runs=new, against=old)
    other = msgspec.structs.replace(arm("other", [1.0]), runs=alone)
    check = Checked(key=KEY, series=0, tp=1, arms=("served", "other"))
    stacks = {"old": {"vllm": "0.20"}, "new": {"vllm": "0.25"}, "alone": {"accelerate": "1.0"}}
    conditions = Conditions(fingerprint=HERE, stacks=stacks)
    rows = judge(check, Measured(key=KEY, series=0, arms=(served, other)), conditions)
    changes = [row.change for row in rows if isinstance(row, LevelRow)]
    assert changes[0] is not None
    assert changes[0].stack == ("vllm: 0.20 -> 0.25",)
    assert changes[1] is None


def test_a_driver_upgrade_is_a_change_of_the_stack() -> None:
    then = msgspec.structs.replace(HERE, state={"driver": "570.86.15", "cuda": "12.8", "os": "Linux"})
    now = msgspec.structs.replace(HERE, state={"driver": "580.159.04", "cuda": "13.0", "fan": 3})
    check = Checked(key=KEY, series=0, tp=1, arms=("arm",))
    conditions = Conditions(fingerprint=now, stacks={"main-1": {"torch": "2.11"}}, baseline=baseline(where=then))
    (row,) = judge(check, Measured(key=KEY, series=0, arms=(arm("arm", [1.2] * 3),)), conditions)
    assert isinstance(row, LevelRow)
    assert row.change is not None
    assert row.change.stack == ("cuda: 12.8 -> 13.0", "driver: 570.86.15 -> 580.159.04")


def blessed(*levels: float, moved: tuple[int, ...] = (), **others: Fingerprint) -> Baseline:
    """A baseline with a session per level; of those whose position is in ``moved`` it is the new reference.

    ``others`` are the fingerprints of sessions by position, as ``at_1``.
    """
    first = baseline()
    sessions = []
    for number, level in enumerate(levels):
        (session,) = baseline(level, where=others.get(f"at_{number}", HERE)).sessions
        arms = {KEY.case: ("arm",)} if number in moved else {}
        when = f"2026-01-0{number + 1}T00:00:00+00:00"
        sessions.append(msgspec.structs.replace(session, when=when, moved=arms))
    return msgspec.structs.replace(first, sessions=tuple(sessions))


def test_a_level_is_compared_with_the_sessions_since_it_was_moved_last() -> None:
    made = arm("arm", [x * 1.1 for x in (0.999, 1.0, 1.001)])
    row = level_of(made, blessed(1.0, 1.2, 1.1, 1.1, moved=(1, 2)))
    assert row.change is not None
    assert row.change.reference_joules == pytest.approx(1.1, rel=1e-3)
    assert row.change.reference.startswith("baseline, 2 sessions on this board since 2026-01-03")


def test_a_session_under_another_power_limit_moves_no_level_but_its_own() -> None:
    made = arm("arm", [0.999, 1.0, 1.001])
    row = level_of(made, blessed(1.0, 1.3, 1.5, moved=(2,), at_1=OTHER_LIMIT, at_2=OTHER_LIMIT))
    assert row.change is not None
    assert row.change.reference_joules == pytest.approx(1.0, rel=1e-3)


def test_small_steps_that_each_agree_are_seen_as_creep_in_the_end() -> None:
    made = arm("arm", [x * 1.05 for x in (0.999, 1.0, 1.001)])
    row = level_of(made, blessed(1.0, 1.01, 1.02, 1.03, 1.04))
    assert row.verdict != "regressed"
    assert row.change is not None
    assert row.change.drift is not None
    assert row.change.drift.joules.value == pytest.approx(0.05, rel=0.01)
    assert row.change.drift.since[:10] == "2026-01-01"


def test_creep_on_this_board_is_seen_although_the_first_session_was_on_another() -> None:
    elsewhere = msgspec.structs.replace(HERE, boards=("another",))
    made = arm("arm", [x * 1.06 for x in (0.999, 1.0, 1.001)])
    row = level_of(made, blessed(1.0, 1.0, 1.06, moved=(2,), at_0=elsewhere))
    assert row.change is not None
    assert row.change.drift is not None
    assert row.change.drift.since[:10] == "2026-01-02"


def claim_of(effect: float, claim: Claim, published: Published | None, figure: str | None) -> ClaimRow:
    measured = compared({"arm": [1 + effect] * 3, "control": [1.0] * 3})
    check = Checked(
        key=KEY,
        series=0,
        tp=1,
        arms=("arm", "control"),
        control="control",
        claim=claim,
        figures=(figure,) if figure else (),
    )
    rows = judge(check, measured, Conditions(fingerprint=HERE, stacks={}, published=published))
    row = rows[-1]
    assert isinstance(row, ClaimRow)
    return row


def test_claims_confirm_contradict_or_are_new() -> None:
    folder = Path(__file__).parents[2] / "baselines"
    published = read_published(folder, "mixture-of-experts")
    assert claim_of(0.3, costs, published, "costs-more-than-dense").verdict == "confirms"
    assert claim_of(-0.3, costs, published, "costs-more-than-dense").verdict == "contradicts"
    assert claim_of(0.3, costs, None, None).verdict == "new"
    assert claim_of(0.3, costs, published, "costs-more-than-dense").paper == "up to +54.24 %"
    with pytest.raises(BaselineError, match="no published figure 'nonsense'; known: costs-more-than-dense"):
        claim_of(0.3, costs, published, "nonsense")


def test_a_size_counts_on_the_gpu_it_was_published_for() -> None:
    published = read_published(Path(__file__).parents[2] / "baselines", "torch-compile")
    names = ("saves-on-a100", "saves-on-a6000")

    def verdict(gpu: str, effect: float) -> tuple[str, str | None]:
        key = msgspec.structs.replace(KEY, gpu=gpu)
        measured = compared({"arm": [1 + effect] * 3, "control": [1.0] * 3}, key=key)
        check = Checked(
            key=key, series=0, tp=1, arms=("arm", "control"), control="control", claim=saves, figures=names
        )
        row = judge(check, measured, Conditions(fingerprint=HERE, stacks={}, published=published))[-1]
        assert isinstance(row, ClaimRow)
        return row.verdict, row.paper

    assert verdict("a100_pcie", -0.28) == ("confirms", "-29.90 % (a100_pcie)")
    assert verdict("a100_pcie", -0.10) == ("contradicts", "-29.90 % (a100_pcie)")
    assert verdict("a6000", -0.02) == ("confirms", "-1.96 % (a6000)")
    assert verdict("h200", -0.02) == ("confirms", "-29.90 % (a100_pcie)")


def test_a_leaner_control_changes_the_effect_and_regresses_no_level() -> None:
    slower_effect = claim_of(0.3, saves, None, None)
    assert slower_effect.verdict == "contradicts"
    assert level_of(arm("arm", [1.0] * 3), baseline()).verdict == "ok"


def test_an_arm_without_a_valid_run_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="arm 'arm' has no valid run"):
        level_of(arm("arm", []), baseline())


@pytest.mark.parametrize("value", [-0.02, -0.01, 0.0, 0.01, 0.05])
def test_the_runs_that_are_said_to_tell_are_those_that_take_the_budget_out_of_the_interval(value: float) -> None:
    level = Interval(value, value - 0.06, value + 0.06)
    assert decide(level, 0.03)[0] == "inconclusive"
    needed = runs_to_tell(level, 0.03, runs=3)
    assert needed is not None
    half = 0.06 * (3 / needed) ** 0.5
    assert decide(Interval(value, value - half, value + half), 0.03)[0] != "inconclusive"
