"""Joules, seconds and watts of a level: of the runs just taken, and of those that a baseline holds."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from pytest_llm_energy.verdicts.baselines import Samples, Session, samples_of, watts_of
from pytest_llm_energy.verdicts.boards import load_of
from pytest_llm_energy.verdicts.measured import Arm, Run
from pytest_llm_energy.verdicts.statistics import Sample


@dataclass(frozen=True)
class Quantity:
    """One thing that is known of every run.

    Attributes:
        of_run: its value in a run.
        of_samples: its values in the stored runs of an engine start.
    """

    of_run: Callable[[Run], float]
    of_samples: Callable[[Samples], tuple[float, ...]]

    def by_start(self, runs: Iterable[Run]) -> dict[str, list[float]]:
        """Values of runs by engine start."""
        starts: dict[str, list[float]] = {}
        for run in runs:
            starts.setdefault(run.start, []).append(self.of_run(run))
        return starts

    def now(self, arm: Arm, *, boards: Sequence[str], relative_uncertainty: float) -> Sample:
        """The side that is judged."""
        return Sample(
            starts=tuple(map(tuple, self.by_start(arm.runs).values())),
            relative_uncertainty=relative_uncertainty,
            boards=frozenset(boards),
        )

    def then(
        self,
        sessions: Sequence[Session],
        case: str,
        arm: str,
        *,
        relative_uncertainty: float,
        scatter_of: Sequence[Session] = (),
    ) -> Sample:
        """The side that it is judged by: an arm in blessed sessions.

        Args:
            sessions: the blessed sessions.
            case: name of the case.
            arm: name of the arm.
            relative_uncertainty: of the metering of one run, one standard deviation.
            scatter_of: sessions that tell how much such levels scatter, if not those.
        """
        of_starts = [
            (number, session.fingerprint.boards)
            for number, session in enumerate(sessions)
            for _ in samples_of(session, case, arm)
        ]
        return Sample(
            starts=tuple(self.starts_then(sessions, case, arm)),
            relative_uncertainty=relative_uncertainty,
            session_share=_share(number for number, _ in of_starts),
            boards=frozenset(board for session in sessions for board in session.fingerprint.boards),
            board_share=_share(boards for _, boards in of_starts),
            by_board=self._by_board(scatter_of or sessions, case, arm),
            load=load_of(sessions, case, arm),
        )

    def starts_then(self, sessions: Sequence[Session], case: str, arm: str) -> list[tuple[float, ...]]:
        """Values of an arm in blessed sessions, by engine start."""
        return [self.of_samples(samples) for session in sessions for samples in samples_of(session, case, arm)]

    def _by_board(self, sessions: Sequence[Session], case: str, arm: str) -> tuple[tuple[float, ...], ...]:
        """Means of an arm in the sessions on each set of boards that a baseline has of it."""
        levels: dict[tuple[str, ...], list[float]] = {}
        for session in sessions:
            starts = [map(math.log, self.of_samples(samples)) for samples in samples_of(session, case, arm)]
            level = math.exp(statistics.fmean(map(statistics.fmean, starts)))
            levels.setdefault(session.fingerprint.boards, []).append(level)
        return tuple(map(tuple, levels.values()))


def _share(groups: Iterable[Hashable]) -> float:
    """Sum of squared weights of groups in a mean over their members: 1 for one group, 1/n for n alike."""
    counts = Counter(groups)
    return sum(count**2 for count in counts.values()) / counts.total() ** 2


JOULES = Quantity(lambda run: run.joules_per_unit, lambda samples: samples.joules_per_token)
"""Energy per output token, or per call."""

SECONDS = Quantity(lambda run: run.seconds_per_unit, lambda samples: samples.seconds_per_token)
"""Time per output token, or per call, over the whole batch."""

WATTS = Quantity(lambda run: run.joules_per_unit / run.seconds_per_unit, watts_of)
"""Mean power."""
