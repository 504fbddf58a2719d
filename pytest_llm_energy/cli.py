"""The command ``llm-energy``."""

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_llm_energy import __version__
from pytest_llm_energy.commands import bins, doctor, estimate
from pytest_llm_energy.commands.collecting import collect
from pytest_llm_energy.commands.progress import print_lines, say, unheard
from pytest_llm_energy.errors import EnergyError, HardwareError, MeterError, UsageError
from pytest_llm_energy.hardware.catalogue import catalogue
from pytest_llm_energy.hardware.detection import detect
from pytest_llm_energy.hardware.fingerprint import processor
from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.measuring import CPU_PLAN, GPU_PLAN
from pytest_llm_energy.metering.choice import choose_meter
from pytest_llm_energy.metering.examine import examine_device, examine_processor
from pytest_llm_energy.options import percentage
from pytest_llm_energy.outcomes import EXIT_DECIDED_NOTHING
from pytest_llm_energy.reporting import messages, summary, words
from pytest_llm_energy.reporting.tables import blessing_table
from pytest_llm_energy.verdicts.amending import read_baselines, set_absent, set_budget
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET
from pytest_llm_energy.verdicts.comparing import compare
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.measured import Metered
from pytest_llm_energy.verdicts.noise import read_gpu_baselines
from pytest_llm_energy.verdicts.rows import failing, levels_judged
from pytest_llm_energy.verdicts.trimming import named, trim, unused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 when it did what was asked, 2 when it could not, or what ``compare`` decided."""
    parser = argparse.ArgumentParser(prog="llm-energy", description="Energy of LLM serving, judged.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    blessing = commands.add_parser("bless", help="make the levels of a journal the baseline")
    blessing.add_argument("journal", type=Path, help="journal of the run to bless")
    _add_baseline_options(blessing, "why these levels are right")
    blessing.add_argument("--with-arguments", action="store_true", help="bless a run with --energy-argument")
    blessing.add_argument("--allow-raise", action="store_true", help="bless also levels that are above the blessed")
    blessing.add_argument(
        "--add-board", action="store_true", help="levels that differ from other boards' do so for the boards' sake"
    )
    blessing.set_defaults(run=_bless)
    budgeting = commands.add_parser("budget", help="set how much more the levels of a case may take")
    budgeting.add_argument("case", help="as messages or tables write it: 'FINDING CASE', or 'FINDING CASE on GPU'")
    budgeting.add_argument("budget", type=percentage, metavar="PERCENT", help="allowed increase, such as 5%%")
    _add_baseline_options(budgeting, "why this much is right")
    budgeting.set_defaults(run=_budget)
    lacking = commands.add_parser("absent", help="record that a finding does not hold on this GPU model")
    lacking.add_argument(
        "journal",
        type=Path,
        nargs="?",
        help="journal in which the claim is contradicted; none for a claim about the baselines of two GPU models",
    )
    lacking.add_argument(
        "claim", help="as messages or tables write it: 'FINDING CASE: CLAIM', or 'FINDING CASE on GPU: CLAIM'"
    )
    _add_baseline_options(lacking, "why it does not hold there")
    lacking.set_defaults(run=_absent)
    trimming = commands.add_parser("trim", help="take cases and arms out of baselines that no test collects")
    trimming.add_argument("tests", nargs="*", help="files or folders of tests: what they collect is kept")
    trimming.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="take this out instead: 'FINDING CASE on GPU', 'FINDING CASE on GPU: ARM' or '...: CLAIM'",
    )
    _add_baseline_options(trimming, "why nobody wants it; without one, what would go is listed", required=False)
    trimming.set_defaults(run=_trim)
    comparing = commands.add_parser("compare", help="judge the levels of a journal by those of another")
    comparing.add_argument("old", type=Path, help="journal to compare with")
    comparing.add_argument("new", type=Path, help="journal to judge")
    comparing.add_argument("--budget", type=percentage, metavar="PERCENT", help="allowed increase, such as 3%%")
    _add_baselines(comparing, "baselines that tell how levels scatter")
    comparing.set_defaults(run=_compare)
    examining = commands.add_parser("doctor", help="say what this host can meter, and how well")
    examining.set_defaults(run=_doctor)
    bins.add_commands(commands)
    estimate.add_commands(commands)
    parsed = parser.parse_args(arguments)
    with unheard():
        try:
            return int(parsed.run(parsed) or 0)
        except EnergyError as error:
            print(f"llm-energy: {error}", file=sys.stderr)
            return 2


def _bless(arguments: argparse.Namespace) -> None:
    _by_a_person(arguments)
    levels = bless(
        read_journal(arguments.journal),
        arguments.baselines,
        reason=arguments.reason,
        with_arguments=arguments.with_arguments,
        allow_raise=arguments.allow_raise,
        add_board=arguments.add_board,
    )
    print(blessing_table(levels))
    print_lines(sorted({f"  {level.note}" for level in levels if level.note}))
    print_lines(sorted({f"written: {level.path}" for level in levels}))


def _budget(arguments: argparse.Namespace) -> None:
    _by_a_person(arguments)
    path, key, change = set_budget(
        arguments.baselines, arguments.case, arguments.budget, reason=arguments.reason, when=_now()
    )
    old = words.budget(DEFAULT_BUDGET if change.old is None else change.old)
    print(f"{key}: may take {words.budget(change.new)} (was {old}): {change.reason}")
    print(f"written: {path}")


def _absent(arguments: argparse.Namespace) -> None:
    _by_a_person(arguments)
    journal = read_journal(arguments.journal) if arguments.journal else None
    path, row = set_absent(journal, arguments.baselines, arguments.claim, reason=arguments.reason, when=_now())
    print(f"{row.key}: known not to hold: {row.says}; measured {words.measured(row)}: {arguments.reason}")
    print(f"written: {path}")


def _trim(arguments: argparse.Namespace) -> None:
    _by_a_person(arguments)
    if bool(arguments.tests) == bool(arguments.only):
        raise UsageError("say what to keep, files or folders of tests, or what to take out, --only NAME")
    baselines = read_baselines(arguments.baselines)
    if arguments.only:
        parts = list(dict.fromkeys(named(baselines, name) for name in arguments.only))
    else:
        known = [baseline for baseline in baselines if baseline.gpu in catalogue()]
        collected = collect(arguments.tests, {baseline.gpu for baseline in known})
        whole = all(Path(test).is_dir() for test in arguments.tests)
        parts = unused(known, collected, only_collected=not whole)
    for part in parts:
        print(f"to remove: {part}")
    if not parts:
        print("nothing to remove: tests collect every case and arm of the baselines")
        return
    for path in trim(arguments.baselines, baselines, parts, reason=arguments.reason, when=_now()):
        print(f"written: {path}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _add_baseline_options(parser: argparse.ArgumentParser, reason: str, *, required: bool = True) -> None:
    """What every command has that changes baselines."""
    parser.add_argument("--reason", required=required, default="", help=f"{reason}; kept in the baseline")
    _add_baselines(parser, "baselines to change")
    parser.add_argument("--in-ci", action="store_true", help="change baselines although CI is set")


def _add_baselines(parser: argparse.ArgumentParser, what: str) -> None:
    says = f"folder of the {what} (default: baselines)"
    parser.add_argument("--baselines", type=Path, default=Path("baselines"), metavar="DIR", help=says)


def _by_a_person(arguments: argparse.Namespace) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true") and not arguments.in_ci:
        raise EnergyError("CI is set: a baseline is changed by a person, or with --in-ci")


def _compare(arguments: argparse.Namespace) -> int:
    """Print the levels; 1 when one regressed or a case has none to judge, 5 when none was decided."""
    old, new = read_journal(arguments.old), read_journal(arguments.new)
    known = read_gpu_baselines(arguments.baselines, new.opened.gpu)
    outcomes = {}
    for key in sorted(old.cases - new.cases):
        says = f"in {arguments.old} alone"
        outcomes[str(key)] = summary.CaseOutcome(key=key, state="skipped", says=says)
    for key, says in new.unfinished.items():
        outcomes[str(key)] = summary.CaseOutcome(key=key, state="errored", says=says)
    for key, rows in compare(old, new, budget=arguments.budget, gpu_baselines=known).items():
        opened = new.opened_for(key)
        outcomes[str(key)] = summary.CaseOutcome(
            key=key,
            state=summary.state_of(rows, measured=True),
            rows=rows,
            source=opened.source,
            noise=known.noise(method=opened.method, simulated=opened.simulated) if levels_judged(rows) else None,
            metered=Metered.of(new.readings_of(key)),
        )
    found = summary.Summary(outcomes=outcomes, expected=len(outcomes), gate="on")
    failed = failing(found.rows, "on")
    for text in [messages.failure(failed), ""] if failed else []:
        print(text)
    print_lines(summary.text_lines(found))
    print_lines(f"ERROR {key}: {says}" for key, says in new.unfinished.items())
    print(summary.last_line(found))
    return 1 if failed or new.unfinished else EXIT_DECIDED_NOTHING if found.decided_nothing else 0


def _doctor(arguments: argparse.Namespace) -> None:
    host = detect()
    print(f"llm-energy {__version__}: {doctor.host_line(host)}")
    for device in host.devices:
        print()
        limit = device.power_limit_watts or host.spec.tdp_watts or 300.0
        name = f"GPU {device.index}: {device.name}, {device.uuid}"
        leases = Leases([device], ending_seconds=ENDING_SECONDS)
        try:
            leases.acquire(1, timeout_seconds=LEASE_SECONDS, say=say, option=None)
            health = examine_device(device, say=say, load_watts=LOADED_SHARE * limit)
        except HardwareError as error:
            print_lines([f"{name}: left out, it is not free: {error}"])
            continue
        except MeterError as error:
            print_lines([f"{name}: cannot be metered: {error}"])
            continue
        finally:
            leases.release()
        print_lines(doctor.device_lines(health, runs=GPU_PLAN.runs, window_seconds=GPU_PLAN.window_seconds))
    if not host.devices:
        print()
        try:
            meter = choose_meter("auto", ())
            health_of_cpu = examine_processor(meter, say=say)
        except MeterError as error:
            print(f"processor: cannot be metered: {error}")
            return
        facts = processor()
        name = f"{facts['processor']}, {facts['cores']} cores"
        print_lines(doctor.processor_lines(health_of_cpu, name=name, runs=CPU_PLAN.runs))


ENDING_SECONDS = 2.0
"""What a process may take to give a device back before the device is left out."""

LEASE_SECONDS = 5.0
"""Longest wait for one device: who asks for an examination watches it, and may ask again."""

LOADED_SHARE = 0.7
"""Of the power limit: what serving a large batch draws on an H200."""


if __name__ == "__main__":
    sys.exit(main())
