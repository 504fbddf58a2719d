"""Statements of the paper that no test asked for in a session, judged from the runs that it took."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from docs import journals
from docs.recorded import H200, Effect, checks, effects, field, per_device, published
from pytest_llm_energy.reporting import words
from pytest_llm_energy.verdicts.baselines import Figure
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
    "saves-more-at-small-batch": partial(_of_batches, pairs=_outermost),
    "overhead-grows-with-batch": partial(_of_batches, pairs=pairwise),
}
"""By the id of the published figure."""
