"""The append-only record of everything measured, as JSON lines.

Every process appends to a segment of its own, so that a crash loses nothing that was written; the controller
joins the segments into the journal when the run ends. Judging needs the journal alone.
"""

import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import get_args

import msgspec

from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, counting
from pytest_llm_energy.verdicts.records import (
    SCHEMA,
    Began,
    Checked,
    Ended,
    Opened,
    Ran,
    Record,
    Started,
    Troubled,
    Windowed,
)
from pytest_llm_energy.verdicts.segments import segments_folder


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
        self._going_on: dict[CaseKey, list[Record]] = {}
        self._opened: dict[CaseKey, Opened] = {}
        self._began: set[CaseKey] = set()
        self._windowed: dict[CaseKey, list[Reading]] = {}
        self._runs: dict[tuple[CaseKey, int], dict[str, list[Ran]]] = {}
        for record in self.records:
            self._read(record)
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
        """Cases that were measured: with a check, with windows alone, with an error, or cut."""
        return {check.key for check in self.checks} | self.troubles.keys() | self._windowed.keys() | self.cut

    @property
    def cut(self) -> set[CaseKey]:
        """Cases that measured and neither ended nor failed: the run was killed in them. Schema 1 does not tell."""
        measured = {key for key, _ in self._runs} | self._windowed.keys()
        return measured & self._began - self.seconds.keys() - self.troubles.keys()

    @property
    def unfinished(self) -> dict[CaseKey, str]:
        """Cases that were measured and must not be judged by what there is of them, with what became of each."""
        says = "the run was cut while this case was measured: go on with --energy-resume, or measure it anew"
        failed = {key: f"when it was measured: {trouble}" for key, trouble in self.troubles.items()}
        return dict.fromkeys(sorted(self.cut), says) | failed

    @cached_property
    def finished(self) -> set[CaseKey]:
        """Cases that ran to their end and checked what they measured: nothing of them is left to be measured."""
        measured = {key for key, _ in self._runs}
        checked = {check.key for check in self.checks}
        return {key for key in self.seconds if key not in self.troubles and (key in checked or key not in measured)}

    def ran(self, key: CaseKey | None = None) -> Iterator[Ran]:
        """Every run that may count, valid or not: of a case, or of all."""
        for (of, _), arms in self._runs.items():
            if key in (None, of):
                yield from chain.from_iterable(arms.values())

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

    @property
    def counted(self) -> Iterator[Ran]:
        """Valid runs, of several in a round the last; also of cases that were cut or failed before any check."""
        for arms in self._runs.values():
            for records in arms.values():
                last = {(r.side, r.run.round): r for r in records if r.run.reading.valid}
                yield from last.values()

    @property
    def measurements(self) -> list[Checked]:
        """The first check of each measurement, however often it was checked, and of all its runs."""
        first: dict[tuple[CaseKey, int], Checked] = {}
        for check in self.checks:
            first.setdefault((check.key, check.series), msgspec.structs.replace(check, rounds=None))
        return list(first.values())

    @property
    def in_one_run(self) -> list[Checked]:
        """The same; of what later runs metered on, the first one's rounds alone: those of one session."""
        found = []
        for check in self.measurements:
            before = check.before
            while before is not None and before.before is not None:
                before = before.before
            found.append(msgspec.structs.replace(check, rounds=before.rounds if before else None))
        return found

    def measured(self, check: Checked) -> Measured:
        """What a check was about, with its valid runs as far as it was judged by them."""
        ran = self._runs.get((check.key, check.series), {})
        last = math.inf if check.rounds is None else check.rounds
        arms = []
        for name in check.arms:
            records = [record for record in ran.get(name, []) if record.run.round < last]
            runs = {s: counting(r.run for r in records if r.side == s) for s in get_args(Side)}
            identity = records[0].identity if records else None
            arms.append(Arm(name=name, identity=identity, runs=runs["present"], against=runs["against"]))
        return Measured(key=check.key, series=check.series, arms=tuple(arms), control=check.control)

    @property
    def stacks(self) -> dict[str, Mapping[str, str]]:
        """What served each engine start: versions, environment, arguments, by name."""
        return {name: start.stack for name, start in self.starts.items()}

    def _begin(self, began: Began) -> None:
        """Count what follows of a case in place of what came before."""
        key = began.key
        opened = next((o for o in self.openings if o.opening == began.opening), None)
        if opened is None:
            raise JournalError(
                f"{self.path}: {key} began under {began.opening!r}, and no record 'opened' before it is called so"
            )
        if began.further:
            self._going_on[key] = []
            return
        self._going_on.pop(key, None)
        self._opened[key] = opened
        self._began.add(key)
        self.checks = [check for check in self.checks if check.key != key]
        self._runs = {of: arms for of, arms in self._runs.items() if of[0] != key}
        for held in (self.troubles, self.seconds, self._windowed):
            held.pop(key, None)

    def _read(self, record: Record) -> None:
        match record:
            case Opened():
                self.openings.append(record)
            case Began():
                self._begin(record)
            case Started():
                self.starts[record.start] = record
            case Ended():
                self._end(record)
            case Ran() | Checked() if record.key in self._going_on:
                self._going_on[record.key].append(record)
            case Ran():
                arms = self._runs.setdefault((record.key, record.series), {})
                arms.setdefault(record.arm, []).append(record)
            case Checked():
                self.checks.append(record)
            case Troubled():
                if self._going_on.pop(record.key, None) is None:
                    self.troubles[record.key] = record.says
            case Windowed():
                self._windowed.setdefault(record.key, []).append(record.reading)
        if self.openings and not isinstance(record, Opened | Began | Started):
            # Schema 1 does not say under which opening a case was measured: take the last before it.
            self._opened.setdefault(record.key, self.openings[-1])

    def _end(self, ended: Ended) -> None:
        """Let what was metered on of a case count: its runs beside those before, its checks in their place."""
        further = self._going_on.pop(ended.key, None)
        before = 0.0 if further is None else self.seconds.get(ended.key, 0.0)
        if further:
            self.checks = [check for check in self.checks if check.key != ended.key]
        for record in further or ():
            self._read(record)
        self.seconds[ended.key] = before + ended.seconds

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
