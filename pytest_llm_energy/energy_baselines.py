"""What tests are given that meter nothing: the baselines of all GPU models, to be judged beside each other."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_llm_energy.verdicts.baselines import Published
from pytest_llm_energy.verdicts.gains import Optimisation, gains
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import Row


@dataclass(kw_only=True)
class EnergyBaselines:
    """Judges what the baselines of several GPU models say about one; no engine starts, and nothing is metered.

    A verdict follows from the baselines alone, so nothing of it is in a journal: a run that judges journals reads
    the baselines again.
    """

    _folder: Path
    _key: CaseKey
    _published: Published | None
    rows: list[Row] = field(default_factory=list)

    @property
    def gpu(self) -> str:
        """Key of the GPU model under test."""
        return self._key.gpu

    def check_gains(self, optimisation: Optimisation) -> None:
        """Judge whether an optimisation gains more on the faster of this GPU model and each other one.

        The test is skipped where no other GPU model can be compared.

        Args:
            optimisation: what gains.

        Raises:
            BaselineError: the baseline of this GPU model cannot be read, or nothing such is published.
        """
        figure = self._published.figure(optimisation.figure) if self._published else None
        found = gains(self._folder, optimisation, self.gpu, figure)
        if found.why_none:
            pytest.skip(found.why_none)
        self.rows += found.rows(self._key, figure)
