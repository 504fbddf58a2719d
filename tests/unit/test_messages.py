"""What a failed test says: to be understood by someone who did not build it, on one screen."""

import math

import msgspec
import pytest

from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.layout import WIDTH, clipped
from pytest_llm_energy.reporting.messages import failure
from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.phases import Phases
from pytest_llm_energy.verdicts.rows import Change, ClaimRow, LevelRow
from pytest_llm_energy.verdicts.statistics import Interval

SCREEN_LINES = 24
BLESSING = "llm-energy bless JOURNAL --allow-raise --reason ..."
KEY = CaseKey(gpu="h200", finding="batching", case="energy_per_token_falls_as_the_batch_grows[16]")


def regressed(
    joules: Interval,
    seconds: Interval,
    watts: Interval,
    *,
    key: CaseKey = KEY,
    arm: str = "batched",
    reference: str = "baseline, 2 sessions on this board since 2026-01-01 (first measurement)",
    other_board: bool = False,
    stack: tuple[str, ...] = (),
    phases: Phases | None = None,
) -> LevelRow:
    change = Change(
        joules=joules,
        cause=Cause.of(joules, seconds, watts),
        reference_joules=0.4,
        reference=reference,
        other_board=other_board,
        stack=stack,
        phases=phases,
    )
    level = 0.4 * (1 + joules.value)
    return LevelRow(
        key=key,
        arm=arm,
        unit="token",
        joules=level,
        spread=0.002,
        runs=3,
        starts=1,
        budget=0.03,
        verdict="regressed",
        change=change,
    )


FASTER_BUT_HUNGRIER = regressed(
    Interval(0.12, 0.101, 0.139),
    Interval(-0.2, -0.212, -0.188),
    Interval(0.4, 0.379, 0.421),
    stack=("python: 3.11 -> 3.12", "torch: 2.10.0 -> 2.11.0", "vllm: 0.20.2 -> 0.25.1"),
    phases=Phases(prefill=Interval(0.003, -0.021, 0.028), decode=Interval(0.181, 0.165, 0.197), lengths=4),
)

SLOWER_AT_THE_SAME_POWER = regressed(
    Interval(0.062, 0.045, 0.079),
    Interval(0.06, 0.043, 0.077),
    Interval(0.002, -0.014, 0.019),
    stack=("driver: 570.86.15 -> 580.159.04",),
)

UNKNOWN = regressed(Interval(0.06, 0.034, 0.086), Interval(0.03, -0.03, 0.09), Interval(0.03, -0.04, 0.1))

BEGIN = "batching energy_per_token_falls_as_the_batch_grows[16] on h200: arm 'batched' regressed"


def test_what_is_faster_but_hungrier_says_so() -> None:
    expected = f"""\
{BEGIN}
  what:     448 mJ per token, where the reference has 400 mJ
            (baseline, 2 sessions on this board since 2026-01-01 (first measurement))
  how much: +12.0 % energy per token, where +3.0 % is allowed
  how sure: between +10.1 % and +13.9 %, each bound wrong at most 1 % of the time; 3 runs of 1 engine start
  why:      faster but hungrier: power rises more than time per token falls
            (energy = power x time per token: time -20.0 % [-21.2, -18.8], power +40.0 % [+37.9, +42.1])
  where:    in decode: decode +18.1 % [+16.5, +19.7], prefill +0.3 % [-2.1, +2.8], from 4 output lengths
  changed:  vllm: 0.20.2 -> 0.25.1, torch: 2.10.0 -> 2.11.0, python: 3.11 -> 3.12
  to do:    find the change that did it; if it is meant: {BLESSING}"""
    assert failure([FASTER_BUT_HUNGRIER]) == expected


def test_what_was_blessed_on_other_boards_is_to_be_measured_beside_the_old_stack() -> None:
    reference = "baseline, 2 sessions on other boards since 2026-01-01 (first measurement)"
    cause = Interval(0.2, 0.1, 0.3), Interval(0.2, 0.1, 0.3), Interval(0.0, -0.1, 0.1)
    row = regressed(*cause, reference=reference, other_board=True, stack=("vllm: 0.20.2 -> 0.25.1",))
    told = " ".join(failure([row]).split())
    assert "measure both stacks on this one (--energy-against)" in told
    assert "if the old one takes less here too, find the change" in told
    assert "it is the board or its host: llm-energy bless JOURNAL --add-board --reason ..." in told
    assert BLESSING not in told


def test_what_is_slower_at_the_same_power_says_so() -> None:
    expected = f"""\
{BEGIN}
  what:     424.8 mJ per token, where the reference has 400 mJ
            (baseline, 2 sessions on this board since 2026-01-01 (first measurement))
  how much: +6.2 % energy per token, where +3.0 % is allowed
  how sure: between +4.5 % and +7.9 %, each bound wrong at most 1 % of the time; 3 runs of 1 engine start
  why:      slower at the same power
            (energy = power x time per token: time +6.0 % [+4.3, +7.7], power +0.2 % [-1.4, +1.9])
  changed:  driver: 570.86.15 -> 580.159.04
  to do:    find the change that did it; if it is meant: {BLESSING}"""
    assert failure([SLOWER_AT_THE_SAME_POWER]) == expected


@pytest.mark.parametrize(
    ("at_equal_speed", "says"),
    [
        (Interval(0.05, 0.04, 0.06), "+5.0 % [+4.0, +6.0]: it takes more as fast as the other stack, too"),
        (
            Interval(-0.05, -0.06, -0.04),
            "-5.0 % [-6.0, -4.0]: it takes less as fast as the other stack, too",
        ),
        (Interval(0.0, -0.01, 0.01), "+0.0 % [-1.0, +1.0]: as fast as the other stack, no difference is shown"),
    ],
)
def test_what_waits_for_its_host_says_what_it_would_take_at_equal_speed(
    at_equal_speed: Interval, says: str
) -> None:
    whole = Interval(0.12, 0.04, 0.2)
    row = regressed(whole, Interval(0.1, -0.1, 0.3), Interval(0.02, -0.2, 0.2))
    assert row.change is not None
    assert "at equal speed" not in failure([row])
    cause = Cause.of(whole, row.change.cause.seconds, row.change.cause.watts, at_equal_speed=at_equal_speed)
    change = msgspec.structs.replace(row.change, cause=cause)
    assert f"at equal speed {says}\n" in failure([msgspec.structs.replace(row, change=change)])


def test_what_has_no_known_cause_says_so_and_what_to_do_then() -> None:
    expected = f"""\
{BEGIN}
  what:     424 mJ per token, where the reference has 400 mJ
            (baseline, 2 sessions on this board since 2026-01-01 (first measurement))
  how much: +6.0 % energy per token, where +3.0 % is allowed
  how sure: between +3.4 % and +8.6 %, each bound wrong at most 1 % of the time; 3 runs of 1 engine start
  why:      not known: time and power scatter too much to say which of them moved
            (energy = power x time per token: time +3.0 % [-3.0, +9.0], power +3.0 % [-4.0, +10.0])
  changed:  nothing that is recorded: neither packages, nor settings, nor the driver
  to do:    measure again over fresh engine starts (--energy-runs 6 --energy-starts 3); if it stays, look for what
            is not recorded (cooling, other load), or bless it: {BLESSING}"""
    assert failure([UNKNOWN]) == expected


def test_of_a_server_nothing_is_advised_that_it_refuses() -> None:
    told = " ".join(failure([msgspec.structs.replace(UNKNOWN, server=True)]).split())
    assert "to do: measure again once the server has been started anew; if it stays, look for" in told
    assert "--energy-starts" not in told
    assert UNKNOWN.change is not None
    elsewhere = msgspec.structs.replace(UNKNOWN.change, other_board=True)
    told = " ".join(failure([msgspec.structs.replace(UNKNOWN, server=True, change=elsewhere)]).split())
    assert "measure both stacks on this one (--energy-against-endpoint)" in told


LONG = "a-very_long.name/with:everything " * 40
MANY = tuple(
    f"{kind} {LONG}{number}: {LONG} -> {LONG}" for kind in ("vllm", "env", "driver") for number in range(20)
)


@pytest.mark.parametrize("stack", [MANY, ()], ids=["everything changed", "nothing changed"])
@pytest.mark.parametrize("arm", [LONG, LONG.replace(" ", "_")], ids=["words", "one word"])
def test_a_regression_fits_one_screen_whatever_it_is_called(arm: str, stack: tuple[str, ...]) -> None:
    row = regressed(
        Interval(12345.678, 1234.5, math.inf),
        Interval(-0.99999, -0.999999, -0.99998),
        Interval(1.5e6, 1.4e6, 1.6e6),
        key=CaseKey(gpu="rtx_pro_6000_blackwell_max_q", finding="speculative-decoding", case=f"pays[{arm}]"),
        arm=arm,
        reference=f"baseline, 12 sessions on other boards since 2026-01-01 ({LONG})",
        stack=stack,
        phases=Phases(prefill=Interval(123.4, 12.3, 1234.5), decode=Interval(-0.5, -123.4, 123.4), lengths=12),
    )
    lines = failure([row]).splitlines()
    assert len(lines) <= SCREEN_LINES
    assert max(map(len, lines)) <= WIDTH
    labels = [line[:12].strip() for line in lines if line[:12].strip().endswith(":") and line.startswith("  ")]
    assert labels == ["what:", "how much:", "how sure:", "why:", "where:", "changed:", "to do:"]
    assert "regressed" in "".join(lines[:3])


def test_other_messages_fit_one_screen_too() -> None:
    undecided = LevelRow(
        key=KEY,
        arm="arm",
        unit="token",
        joules=1.0,
        spread=None,
        runs=3,
        starts=1,
        budget=0.03,
        verdict="incomparable",
        reason="scenario-differs",
        note=f"the baseline served something else: {LONG * 3}",
    )
    claim = ClaimRow(
        key=KEY, says=f"{LONG} saves", interval=Interval(0.1, 0.0, 0.2), kind="effect", verdict="contradicts"
    )
    for row in (undecided, claim):
        lines = failure([row]).splitlines()
        assert len(lines) <= SCREEN_LINES
        assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 40])
def test_many_arms_fit_one_screen_and_none_is_left_out(count: int) -> None:
    rows = [msgspec.structs.replace(FASTER_BUT_HUNGRIER, arm=f"arm-{number}") for number in range(count)]
    lines = failure(rows).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= WIDTH
    named = sum("arm 'arm-" in line for line in lines)
    more = lines[-1].split()[0] if lines[-1].endswith(" more, in the table") else "0"
    assert named + int(more) == count
    if count > 3:
        assert "  arm 'arm-3' regressed: +12.0 % [+10.1, +13.9] J/token; faster, more power in decode" in lines


def test_the_change_between_two_stacks_says_which_is_which() -> None:
    assert SLOWER_AT_THE_SAME_POWER.change is not None
    change = msgspec.structs.replace(
        SLOWER_AT_THE_SAME_POWER.change, side_by_side=True, reference="vllm: /old/bin/python"
    )
    text = failure([msgspec.structs.replace(SLOWER_AT_THE_SAME_POWER, change=change)])
    assert "where the other stack, measured in turn, has 400 mJ\n            (vllm: /old/bin/python)" in text
    assert "changed:  driver: 570.86.15 -> 580.159.04 (other stack -> this one)" in text
    assert "bless" not in text


def test_a_contradicted_claim_cannot_be_taken_for_what_was_found() -> None:
    row = ClaimRow(
        key=CaseKey(gpu="h200", finding="batching", case="falls[8]"),
        says="batched costs more than alone",
        interval=Interval(-0.5, -0.51, -0.49),
        kind="effect",
        verdict="contradicts",
        reason="size-differs",
        paper="+29.14 % (h200)",
    )
    name = "batching falls[8] on h200"
    command = f"llm-energy absent JOURNAL '{name}: batched costs more than alone' --reason ..."
    assert failure([row]).splitlines() == [
        f"{name}: contradicts the claim (size-differs): batched costs more than alone",
        "  measured: -50.0 % energy, between -51.0 % and -49.0 %, each bound wrong at most 1 % of the time",
        "  paper:    +29.14 % (h200): the direction is as claimed, the size is not",
        "  to do:    look in the table for the arm whose level changed; if this GPU model is like that, record it:",
        f"            {command}",
    ]
    growth = msgspec.structs.replace(row, kind="exponent", reason=None, paper=None)
    assert "  measured: exponent -0.50, between -0.51 and -0.49, each" in failure([growth])


@pytest.mark.parametrize(
    ("value", "like", "says"),
    [(0.99999, None, "1 J"), (0.9994, None, "999.4 mJ"), (0.95, 1.05, "0.95 J"), (999.96, None, "1 kJ")],
)
def test_joules_are_rounded_before_their_prefix_is_chosen(value: float, like: float | None, says: str) -> None:
    assert words.joules(value, like=like) == says


def test_a_clipped_name_keeps_both_ends() -> None:
    assert clipped("short", 10) == "short"
    assert clipped("0123456789abcdef", 10) == "0123...def"
    assert clipped("two\nlines", 20) == "two lines"


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        (Interval(0.062, 0.051, 0.073), "+6.2 % [+5.1, +7.3]"),
        (Interval(201.742, 193.448, 210.389), "+20174.2 % [+19344.8, +21038.9]"),
        (Interval(0.009, -0.99995, 19460.431), "+0.9 % [?, ?]"),
        (Interval(0.009, -math.inf, math.inf), "+0.9 % [?, ?]"),
    ],
)
def test_bounds_are_shown_where_they_bound_anything(interval: Interval, says: str) -> None:
    assert words.change(interval) == says
