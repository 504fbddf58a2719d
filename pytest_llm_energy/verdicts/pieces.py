"""Suites measured in pieces: gone on with after a cut, or split over hosts."""

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, combinations
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.serving.scenario import differences
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.records import Began, Checked, Opened, Ran, Record, Started
from pytest_llm_energy.verdicts.segments import segments_folder

CARRIED = "0-resumed.jsonl"
"""Segment of what an earlier journal holds; its name sorts before those of processes, as its records are older."""


def differing(one: Opened, other: Opened) -> list[str]:
    """What keeps two measurements from being one suite's, as ``fact: one -> other``; boards may differ."""
    facts = [
        {
            **opened.fingerprint.identity,
            "GPU model": opened.gpu,
            "meter": opened.method,
            "simulated": opened.simulated,
            "--energy-against": opened.against,
            **{f"--energy-argument {name}": value for name, value in opened.arguments.items()},
        }
        for opened in (one, other)
    ]
    return differences(*facts)


def carry(resumed: Journal, journal: Path, *, without: Collection[CaseKey] = ()) -> None:
    """Begin a journal with what an earlier one holds of its finished cases, unless that is done already.

    What a cut case or one with an error left is not carried: it is measured anew. The earlier journal stays as it
    is.

    Args:
        resumed: the earlier one.
        journal: the one that begins.
        without: cases that journals of other shards begin with.

    Raises:
        JournalError: it cannot be written.
    """
    place = segments_folder(journal) / CARRIED
    if place.exists():
        return
    lines = (msgspec.json.encode(record) + b"\n" for record in _finished(resumed, without))
    writing = place.with_suffix(f".writing-{os.getpid()}")  # xdist workers begin one journal together
    try:
        writing.write_bytes(b"".join(lines))
        writing.replace(place)
    except OSError as error:
        raise JournalError(f"cannot write the journal at {place}: {error.strerror or error}") from error


def read_journals(paths: Sequence[Path]) -> Journal:
    """Read journals as one, such as those of a suite's shards.

    Raises:
        JournalError: one cannot be read, they were measured under different conditions, or two hold the same case
            or engine start.
    """
    journals = [read_journal(path) for path in paths]
    for one, other in combinations(journals, 2):
        together = f"{one.path} and {other.path} cannot be judged together"
        if differs := differing(one.opened, other.opened):
            raise JournalError(f"{together}: {'; '.join(differs)}")
        if cases := one.cases & other.cases:
            raise JournalError(f"{together}: both hold {min(cases)}")
        # Shards that go on with one journal both hold its starts; those of schema 1 are called alike by chance.
        starts = one.starts.keys() & other.starts.keys()
        if unlike := [start for start in sorted(starts) if one.starts[start] != other.starts[start]]:
            raise JournalError(
                f"{together}: both hold an engine start {unlike[0]!r}; journals of schema 1 are judged one by one"
            )
    if len(journals) == 1:
        return journals[0]
    records = chain.from_iterable(journal.records for journal in journals)
    return Journal(paths[0], records, torn=sum(journal.torn for journal in journals))


def _finished(journal: Journal, without: Collection[CaseKey]) -> Iterator[Record]:
    """Conditions and engine starts, and the records that count of the finished cases but for some."""
    finished = journal.finished - set(without)
    # A case that was being metered on when a run was cut has runs, and may have checks, that do not count.
    counting = set(map(id, chain(journal.checks, journal.ran())))
    began = {
        record.key: number
        for number, record in enumerate(journal.records)
        if isinstance(record, Began) and not record.further
    }
    for number, record in enumerate(journal.records):
        if isinstance(record, Opened | Started) or (
            record.key in finished
            and number >= began.get(record.key, 0)
            and (id(record) in counting or not isinstance(record, Checked | Ran))
        ):
            yield record
