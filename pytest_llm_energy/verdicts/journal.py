"""The append-only record of everything measured, as JSON lines.

Every process appends to a segment of its own, so that a crash loses nothing that was written; the controller
joins the segments into the journal when the run ends. Judging needs the journal alone.
"""

import gzip
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import get_args

import msgspec

from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, Run, counting

SCHEMA = 2
"""2 added ``began`` and ``ended``; journals of 1 are read, and cannot be resumed."""


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="opened"):
    """A process began to measure on devices: under which conditions.

    Attributes:
        against: the other stack that arms are measured on in turn, in words.
        session: id of the suite run, the same in all its processes; empty in journals of schema 1.
        opening: id of this record, unique among journals; empty in journals of schema 1.
    """

    schema: int
    when: str
    version: str
    gpu: str
    gpu_name: str
    method: str
    source: str
    fingerprint: Fingerprint
    simulated: bool = False
    against: str | None = None
    session: str = ""
    opening: str = ""


class Began(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="began"):
    """A case began; what was recorded of it before, by a run that was cut, counts no more."""

    key: CaseKey
    opening: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="ended"):
    """The body of a case ran to its end: nothing of it is missing.

    Attributes:
        key: the case.
        seconds: how long it took, without the engine starts, which are recorded as such.
    """

    key: CaseKey
    seconds: float


class Started(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="started"):
    """An engine was started."""

    start: str
    engine: str
    seconds: float
    stack: dict[str, str]


class Ran(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="ran"):
    """An arm was run and metered once, validly or not."""

    key: CaseKey
    series: int
    arm: str
    identity: Identity | None
    run: Run
    side: Side = "present"


class Windowed(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="windowed"):
    """A window of the caller's own work."""

    key: CaseKey
    name: str
    reading: Reading


class Checked(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="checked"):
    """A test asked for a verdict.

    Attributes:
        key: the case.
        series: which of its measurements.
        tp: devices the case runs on.
        arms: names of the arms in order.
        control: the arm that effects are relative to, None for a series.
        claim: what the finding asserts, None for levels alone.
        budget: allowed relative increase that the test itself states, None for none.
        figures: ids of the published figures the claim is about.
    """

    key: CaseKey
    series: int
    tp: int
    arms: tuple[str, ...]
    control: str | None = None
    claim: Claim | None = None
    budget: float | None = None
    figures: tuple[str, ...] = ()


class Troubled(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="troubled"):
    """A case ended in an error."""

    key: CaseKey
    says: str


Record = Opened | Began | Started | Ran | Windowed | Checked | Troubled | Ended


class Segment:
    """One process's part of a journal; each record is in the file when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            JournalError: it cannot be created.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise JournalError(
                f"cannot write the journal at {path}: {error.strerror or error}; name another place with "
                "--energy-journal"
            ) from error

    def write(self, record: Record) -> None:
        """Append a record.

        Raises:
            JournalError: the disk is full or gone; what was written before is intact.
        """
        line = msgspec.json.encode(record) + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(None, "no room for the whole record")
        except OSError as error:
            os.ftruncate(self._file.fileno(), size)
            raise JournalError(
                f"cannot append to the journal {self._path}: {error.strerror or error}; the records before this "
                "one are intact"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def segments_folder(journal: Path) -> Path:
    """Where the segments of a journal lie until they are joined."""
    return journal.with_name(journal.name + ".segments")


def has_segments(journal: Path) -> bool:
    """Whether a run that was killed, or still runs, left segments of a journal."""
    return any(segments_folder(journal).glob("*.jsonl"))


def join_segments(journal: Path) -> None:
    """Make the journal of its segments, in one step, and remove them; without any, nothing is made.

    Raises:
        JournalError: the journal cannot be written; the segments stay.
    """
    folder = segments_folder(journal)
    segments = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    try:
        if segments:
            joining = folder / "joining"
            with joining.open("wb") as whole:
                for segment in segments:
                    data = segment.read_bytes()
                    whole.write(data[: data.rfind(b"\n") + 1])  # without a line that a crash cut off
            joining.replace(journal)
        if folder.is_dir():
            shutil.rmtree(folder)
    except OSError as error:
        raise JournalError(
            f"cannot join {folder} into {journal}: {error.strerror or error}; the segments are kept, and "
            f"--energy-replay={journal} reads them"
        ) from error


class Journal:
    """What a journal holds, ready to be judged.

    Attributes:
        path: the file it was read from.
        records: every record, in order.
        openings: conditions, in the order in which processes began to measure.
        starts: engine starts by id.
        checks: every check, in order.
        troubles: cases that ended in an error, with the message.
        seconds: how long each case took whose body ran to its end, without engine starts.
        torn: lines cut off by a crash, which were left out.
    """

    def __init__(self, path: Path, records: Iterable[Record], *, torn: int) -> None:
        self.path = path
        self.torn = torn
        self.records = tuple(records)
        self.openings: list[Opened] = []
        self.starts: dict[str, Started] = {}
        self.checks: list[Checked] = []
        self.troubles: dict[CaseKey, str] = {}
        self.seconds: dict[CaseKey, float] = {}
        self._opened: dict[CaseKey, Opened] = {}
        self._windowed: dict[CaseKey, list[Reading]] = {}
        self._runs: dict[tuple[CaseKey, int], dict[str, list[Ran]]] = {}
        for record in self.records:
            match record:
                case Opened():
                    self.openings.append(record)
                case Began():
                    self._begin(record)
                case Ended():
                    self.seconds[record.key] = record.seconds
                case Started():
                    self.starts[record.start] = record
                case Ran():
                    arms = self._runs.setdefault((record.key, record.series), {})
                    arms.setdefault(record.arm, []).append(record)
                case Checked():
                    self.checks.append(record)
                case Troubled():
                    self.troubles[record.key] = record.says
                case Windowed():
                    self._windowed.setdefault(record.key, []).append(record.reading)
            if self.openings and not isinstance(record, Opened | Began | Started):
                # Schema 1 does not say under which opening a case was measured: take the last before it.
                self._opened.setdefault(record.key, self.openings[-1])
        if not self.openings:
            raise JournalError(f"{path} does not say under which conditions it was measured: no record 'opened'")
        if any((o.gpu, o.method) != (self.opened.gpu, self.opened.method) for o in self.openings):
            raise JournalError(f"{path} mixes GPU models or meters; a journal is of one GPU model and meter")

    @property
    def opened(self) -> Opened:
        """Conditions of the first process that measured."""
        return self.openings[0]

    def opened_for(self, key: CaseKey) -> Opened:
        """Conditions a case was measured under: of the first process of its suite run on the same devices."""
        own = self._opened.get(key, self.opened)
        return next(o for o in self.openings if (o.session, o.fingerprint) == (own.session, own.fingerprint))

    @property
    def cases(self) -> set[CaseKey]:
        """Cases that were measured: with a check, with windows alone, or with an error."""
        return {check.key for check in self.checks} | self.troubles.keys() | self._windowed.keys()

    @cached_property
    def finished(self) -> set[CaseKey]:
        """Cases that ran to their end and checked what they measured: nothing of them is left to be measured."""
        measured = {key for key, _ in self._runs}
        checked = {check.key for check in self.checks}
        return {key for key in self.seconds if key not in self.troubles and (key in checked or key not in measured)}

    def checks_of(self, key: CaseKey) -> list[Checked]:
        """The checks of one case, in order."""
        return [check for check in self.checks if check.key == key]

    def readings_of(self, key: CaseKey) -> list[Reading]:
        """Every reading of one case, valid or not."""
        of_case = (arms for (of, _), arms in self._runs.items() if of == key)
        ran = [record.run.reading for arms in of_case for records in arms.values() for record in records]
        return ran + self._windowed.get(key, [])

    def starts_of(self, key: CaseKey) -> dict[str, float]:
        """Seconds of the engine starts that served one case, by id."""
        of_case = (arms for (of, _), arms in self._runs.items() if of == key)
        served = {record.run.start for arms in of_case for records in arms.values() for record in records}
        return {start: self.starts[start].seconds for start in sorted(served & self.starts.keys())}

    def measured(self, check: Checked) -> Measured:
        """What a check was about, with its valid runs."""
        ran = self._runs.get((check.key, check.series), {})
        arms = []
        for name in check.arms:
            records = ran.get(name, [])
            runs = {s: counting(r.run for r in records if r.side == s) for s in get_args(Side)}
            identity = records[0].identity if records else None
            arms.append(Arm(name=name, identity=identity, runs=runs["present"], against=runs["against"]))
        return Measured(key=check.key, series=check.series, arms=tuple(arms), control=check.control)

    def stack(self, measured: Measured, *, side: Side = "present") -> dict[str, str]:
        """What served on one side, over the starts of a measurement: versions, environment, arguments."""
        starts = {run.start for arm in measured.arms for run in (arm.runs if side == "present" else arm.against)}
        return {k: v for s in sorted(starts & self.starts.keys()) for k, v in self.starts[s].stack.items()}

    def _begin(self, began: Began) -> None:
        """Count what follows of a case in place of what came before."""
        key = began.key
        opened = next((o for o in self.openings if o.opening == began.opening), None)
        if opened is None:
            raise JournalError(
                f"{self.path}: {key} began under {began.opening!r}, and no record 'opened' before it is called so"
            )
        self._opened[key] = opened
        self.checks = [check for check in self.checks if check.key != key]
        self._runs = {of: arms for of, arms in self._runs.items() if of[0] != key}
        for held in (self.troubles, self.seconds, self._windowed):
            held.pop(key, None)

    def why_invalid(self, check: Checked, arm: str) -> str:
        """Sentences of the invalid readings of an arm."""
        records = self._runs.get((check.key, check.series), {}).get(arm, [])
        says = {reason.says for record in records for reason in record.run.reading.invalid}
        return "; ".join(sorted(says)) or "it was never run"


def read_journal(path: Path) -> Journal:
    """Read a journal (also gzipped, ``.gz``), or the segments of one whose run was killed.

    Raises:
        JournalError: it is missing, corrupt, or of a newer version; names the line.
    """
    files = [path]
    if not path.exists():
        files = sorted(segments_folder(path).glob("*.jsonl"))
        if not files:
            raise JournalError(f"no journal at {path}")
    records: list[Record] = []
    torn = 0
    for file in files:
        for number, line, whole in _lines(file):
            try:
                records.append(_decode(line))
            except JournalError as error:
                raise JournalError(f"{file}, line {number}: {error}") from error
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if whole:
                    raise JournalError(f"{file}, line {number} is corrupt: {error}") from error
                torn += 1
    return Journal(path, records, torn=torn)


class _Tagged(msgspec.Struct):
    record: str
    schema: int = SCHEMA


def _decode(line: bytes) -> Record:
    tagged = msgspec.json.decode(line, type=_Tagged)
    if tagged.schema > SCHEMA:
        raise JournalError(f"schema {tagged.schema}; this version reads up to {SCHEMA}: upgrade pytest-llm-energy")
    record: Record = msgspec.json.decode(line, type=Record)
    return record


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Number, text and wholeness of each line; only the last can be cut off."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix == ".gz":
        data = _unzipped(path, data)
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line, number < len(lines)


def _unzipped(path: Path, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise JournalError(f"{path} is no whole gzip file: {error}") from error
