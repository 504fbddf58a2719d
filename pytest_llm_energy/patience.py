"""How long verdicts may be settled, and how often a check may be judged for that."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_llm_energy.options import DEFAULT_SETTLE_SECONDS, EnergyConfig
from pytest_llm_energy.verdicts.further import LOOKS, PATIENT_LOOKS


class Patience:
    """The time that one pytest process has for verdicts that are open.

    Attributes:
        interrupted: whether the user interrupted what was metered beyond the plan: nothing more is metered, and the
            run stops.
    """

    def __init__(
        self, options: EnergyConfig, *, side_by_side: Callable[[], bool], spare_seconds: Callable[[], float]
    ) -> None:
        """Nothing has been settled yet.

        Args:
            options: what the command line says.
            side_by_side: whether levels are gated against another stack's.
            spare_seconds: what a time budget leaves over.
        """
        self.interrupted = False
        self._options = options
        self._side_by_side = side_by_side
        self._spare_seconds = spare_seconds
        self._taken = 0.0

    @property
    def seconds(self) -> float:
        """How long may be metered on, in all."""
        if self._options.settle_seconds is not None:
            return self._options.settle_seconds
        return min(DEFAULT_SETTLE_SECONDS, self._spare_seconds()) if self._side_by_side() else 0.0

    @property
    def looks(self) -> int:
        """How often a check may be judged, with more runs each time."""
        if not self.seconds:
            return 1
        return PATIENT_LOOKS if self.seconds > DEFAULT_SETTLE_SECONDS else LOOKS

    @property
    def confirms(self) -> bool:
        """Whether what would fail is metered once more before it does, where nothing is settled anyway."""
        return self._options.settle_seconds is None and self.looks == 1 and self._options.gate != "off"

    def allows(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return self._taken + seconds <= self.seconds

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the time of the block from what is left."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._taken += time.monotonic() - begun
