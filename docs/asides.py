"""Statements of the paper that no test asked for in a session, judged from the runs that it took."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import msgspec

from docs import journals
from docs.recorded import H200, Effect, checks, effects, field, per_device, published
from pytest_llm_energy import decode_costs_more, decode_dominates, differs, same_rate
from pytest_llm_energy.reporting import words
from pytest_llm_energy.verdicts.baselines import Figure
from pytest_llm_energy.verdicts.claims import Claim, DecodeAbovePrefill, Differs, FlatBelow, SameRate, Slope
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured
from pytest_llm_energy.verdicts.phases import series_of
from pytest_llm_energy.verdicts.quantities import JOULES, SECONDS, WATTS, Quantity
from pytest_llm_energy.verdicts.rows import ClaimVerdict

Pair = tuple[Effect, Effect]


@dataclass(frozen=True, kw_only=True)
class Aside:
    """One statement, as one session has it.

    Attributes:
        figure: what was published.
        case: which runs.
        session: what tables call it.
        measured: what they say, in words.
        verdict: whether that is what was published, by its direction.
    """

    figure: Figure
    case: str
    session: str
    measured: str
    verdict: ClaimVerdict


def asides(finding: str) -> list[Aside]:
    """What the sessions on H200s say of a finding beside the claims of its test."""
    return [aside for figure in published(finding).figures for aside in _of(finding, figure)]


def _of(finding: str, figure: Figure) -> Iterator[Aside]:
    judge = JUDGED.get(figure.id)
    return judge(finding, figure) if judge else iter(())


def _of_devices(finding: str, figure: Figure, *, of: Quantity) -> Iterator[Aside]:
    """Whether time, or power of a device, falls with so many devices."""
    degrees = figure.where["tp"].split(", ")
    for effect in _unasked(finding, figure, of=of):
        degree = str(field(effect.arm, "tensor_parallel_size"))
        if degree not in degrees:
            continue
        interval = per_device(effect).interval if of is WATTS else effect.interval
        yield Aside(
            figure=figure,
            case=f"{degree} GPUs, batch {field(effect.arm, 'batch_size')}",
            session=journals.session(effect.journal),
            measured=words.change(interval),
            verdict=_decided(holds=interval.high < 0, fails=interval.low > 0),
        )


def _of_batches(
    finding: str, figure: Figure, *, pairs: Callable[[list[Effect]], Iterable[Pair]]
) -> Iterator[Aside]:
    """Whether the effect at the smaller batch of each pair of a session lies below that at the larger."""
    sessions: dict[str, dict[int, Effect]] = {}
    for effect in _unasked(finding, figure):
        by_size = sessions.setdefault(journals.session(effect.journal), {})
        by_size[field(effect.arm, "batch_size")] = effect
    for session, of in sessions.items():
        for small, large in pairs([of[size] for size in sorted(of)]):
            one, other = small.interval, large.interval
            yield Aside(
                figure=figure,
                case=f"batch {field(small.arm, 'batch_size')} against {field(large.arm, 'batch_size')}",
                session=session,
                measured=f"{words.change(one)} against {words.change(other)}",
                verdict=_decided(holds=one.high < other.low, fails=one.low > other.high),
            )


def _of_prefills(finding: str, figure: Figure, *, claim: SameRate | Differs) -> Iterator[Aside]:
    """Whether a request is prefilled alike in the largest batch and the smallest: as a rate, or in all."""
    floor = published("prefill-floor").figure("flat-below-128-tokens").value or 0.0
    for name, key, arms in _series(finding, figure):
        prefills = [arm for arm in arms if field(arm, "output_tokens") == 1 and field(arm, "input_tokens") > floor]
        lengths, sizes = (sorted({field(arm, of) for arm in prefills}) for of in ("input_tokens", "batch_size"))
        if len(sizes) < 2:
            continue
        smallest, largest = sizes[0], sizes[-1]
        case = f"batch {largest} against {smallest}"
        control = None
        if isinstance(claim, Differs):
            case = f"prefill of {lengths[-1]} tokens, {case}"
            of_longest = {field(a, "batch_size"): a for a in prefills if field(a, "input_tokens") == lengths[-1]}
            prefills, control = [of_longest[largest], of_longest[smallest]], of_longest[smallest].name
        measured = Measured(key=key, series=0, arms=tuple(prefills), control=control)
        yield from _stated(figure, name, case, claim, measured)


def _of_decode(finding: str, figure: Figure, *, claim: DecodeAbovePrefill) -> Iterator[Aside]:
    """Whether decode takes more than prefill, where one prompt was prefilled alone and decoded from."""
    for name, key, arms in _series(finding, figure):
        for prefill in (arm for arm in arms if field(arm, "output_tokens") == 1):
            alike = series_of(prefill, arms)
            if len(alike) > 1:
                measured = Measured(key=key, series=0, arms=tuple(alike.values()))
                size, lengths = field(prefill, "batch_size"), (field(prefill, "input_tokens"), max(alike))
                case = f"batch {size}, {lengths[0]}+{lengths[1]} tokens"
                yield from _stated(figure, name, case, claim, measured)


def _series(finding: str, figure: Figure) -> Iterator[tuple[str, CaseKey, list[Arm]]]:
    """The series over lengths of each session in which no test asks for this, named by what they serve.

    They are of one engine start, though of several cases, which were not interleaved: what changed from one to the
    next within the session is not in an interval between them.
    """
    asked = {name for name, check, _ in checks(finding, H200) if figure.id in check.figures}
    for name in (name for name in H200 if name not in asked):
        arms: dict[str, Arm] = {}
        for _, check, measured in (*checks("prefill-floor", [name]), *checks("decode-linear", [name])):
            if isinstance(check.claim, Slope | FlatBelow):
                key = check.key
                for arm in measured.arms:
                    size, lengths = (
                        field(arm, "batch_size"),
                        (field(arm, "input_tokens"), field(arm, "output_tokens")),
                    )
                    title = f"{size}x({lengths[0]}+{lengths[1]})"
                    arms.setdefault(title, msgspec.structs.replace(arm, name=title))
        if arms:
            yield name, key, list(arms.values())


def _stated(figure: Figure, name: str, case: str, claim: Claim, measured: Measured) -> Iterator[Aside]:
    for statement in claim.statements(measured, noise=journals.noise(name, measured.key)):
        yield Aside(
            figure=figure,
            case=case,
            session=journals.session(name),
            measured=words.change(statement.interval),
            verdict=_decided(holds=statement.outcome == "holds", fails=statement.outcome == "fails"),
        )


def _unasked(finding: str, figure: Figure, *, of: Quantity = JOULES) -> Iterator[Effect]:
    """Effects of the sessions in which no test asks for this."""
    asked = {name for name, check, _ in checks(finding, H200) if figure.id in check.figures}
    return (effect for effect in effects(finding, of=of) if effect.journal not in asked)


def _outermost(of: list[Effect]) -> Iterable[Pair]:
    return [(of[0], of[-1])] if len(of) > 1 else []


def _decided(*, holds: bool, fails: bool) -> ClaimVerdict:
    return "confirms" if holds else "contradicts" if fails else "inconclusive"


JUDGED: Mapping[str, Callable[[str, Figure], Iterator[Aside]]] = {
    "latency-falls-at-tp2": partial(_of_devices, of=SECONDS),
    "latency-falls-at-tp4": partial(_of_devices, of=SECONDS),
    "power-per-device-falls": partial(_of_devices, of=WATTS),
    "same-rate-for-every-batch-size": partial(_of_prefills, claim=same_rate("input_tokens", across="batch_size")),
    "intercepts-in-proportion-to-batch": partial(_of_prefills, claim=differs(at_most=0.25)),
    "decode-costs-more-per-token-than-prefill": partial(_of_decode, claim=decode_costs_more),
    "decode-dominates": partial(_of_decode, claim=decode_dominates),
    "saves-more-at-small-batch": partial(_of_batches, pairs=_outermost),
    "overhead-grows-with-batch": partial(_of_batches, pairs=pairwise),
}
"""By the id of the published figure."""
