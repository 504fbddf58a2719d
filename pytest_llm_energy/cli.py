"""The command ``llm-energy``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_llm_energy import __version__
from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.journal import read_journal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 when it did what was asked, 2 when it could not."""
    parser = argparse.ArgumentParser(prog="llm-energy", description="Energy of LLM serving, judged.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    blessing = commands.add_parser("bless", help="make the levels of a journal the baseline")
    blessing.add_argument("journal", type=Path, help="journal of the run to bless")
    blessing.add_argument("--reason", required=True, help="why these levels are right; kept in the baseline")
    blessing.add_argument("--baselines", type=Path, default=Path("baselines"), metavar="DIR")
    blessing.add_argument("--in-ci", action="store_true", help="bless although CI is set")
    blessing.set_defaults(run=_bless)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except EnergyError as error:
        print(f"llm-energy: {error}", file=sys.stderr)
        return 2
    return 0


def _bless(arguments: argparse.Namespace) -> None:
    if os.environ.get("CI", "").lower() in ("1", "true") and not arguments.in_ci:
        raise EnergyError("CI is set: a baseline is blessed by a person, or with --in-ci")
    journal = read_journal(arguments.journal)
    for done in bless(journal, arguments.baselines, reason=arguments.reason):
        what = "created" if done.created else f"session {done.sessions} added"
        print(f"{done.path}: {done.case}: {what}")


if __name__ == "__main__":
    sys.exit(main())
