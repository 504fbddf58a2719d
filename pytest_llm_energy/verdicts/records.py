"""What a journal is made of: one record a line."""

from typing import Any

import msgspec

from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.metering.meter import Reading
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.claims import Claim
from pytest_llm_energy.verdicts.measured import CaseKey, Run

SCHEMA = 2
"""2 added ``began`` and ``ended``; journals of 1 are read, and cannot be resumed."""


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="opened"):
    """A process began to measure on devices: under which conditions.

    Attributes:
        against: the other stack that arms are measured on in turn, in words.
        arguments: of engines, on top of those that scenarios ask for, as ``engine.name``; of a server, its URL.
        session: id of the suite run, the same in all its processes; empty in journals of schema 1.
        opening: id of this record, unique among journals; empty in journals of schema 1.
        left_out: cases that were selected, and left out by the time budget of the run.
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
    arguments: dict[str, Any] = {}
    session: str = ""
    opening: str = ""
    left_out: tuple[CaseKey, ...] = ()


class Began(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="began"):
    """A case began; what was recorded of it before, by a run that was cut, counts no more.

    Attributes:
        key: the case.
        opening: the record of the conditions it is measured under.
        further: whether what was recorded stands, of a case that had ended, and it is metered on: what follows
            counts together with that, once the case ends again.
    """

    key: CaseKey
    opening: str
    further: bool = False


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


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier run judged a measurement by, that is metered on.

    Attributes:
        rounds: how many rounds of runs.
        looks: how often it may have been judged by them.
        before: the same of the run before that, which it metered on; None for the first.
    """

    rounds: int
    looks: int
    before: "Looked | None" = None


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
        looks: how often it may be judged, with more runs each time; the chance of an error is shared among them.
        levels: whether the levels are judged too; of several checks of one measurement, the first judges them.
        rounds: how many rounds of runs it was judged by, as a later check of them may have had more; None for all.
        before: what an earlier run judged it by, where it was metered on; an arm without further runs is judged as
            it was then.
    """

    key: CaseKey
    series: int
    tp: int
    arms: tuple[str, ...]
    control: str | None = None
    claim: Claim | None = None
    budget: float | None = None
    figures: tuple[str, ...] = ()
    looks: int = 1
    levels: bool = True
    rounds: int | None = None
    before: Looked | None = None


class Troubled(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="troubled"):
    """A case ended in an error."""

    key: CaseKey
    says: str


Record = Opened | Began | Started | Ran | Windowed | Checked | Troubled | Ended
