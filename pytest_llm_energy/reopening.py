"""Cases of a resumed run that are metered on, since their levels beside another stack's are open."""

import statistics
from collections.abc import Callable, Mapping

from pytest_llm_energy.errors import EnergyError, ServedOtherwiseError
from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.serving.scenario import Scenario, differences
from pytest_llm_energy.serving.stack import Side
from pytest_llm_energy.verdicts.baselines import read_baseline, read_published
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import GpuBaselines
from pytest_llm_energy.verdicts.records import Windowed
from pytest_llm_energy.verdicts.rows import Row, open_beside


class Reopening:
    """What an earlier run left open.

    Attributes:
        journal: its journal, None where nothing is metered on.
        cases: those that ran to their end, and have a level beside another stack's that is open.
    """

    def __init__(
        self, journal: Journal | None, options: EnergyConfig, gpu_baselines: Callable[[str], GpuBaselines]
    ) -> None:
        """Judge every case that ran to its end, where time to settle verdicts is given.

        What a baseline judges is not metered on: it would be of one session more than its runs are. Nor is a case
        with windows of its own, which its body would meter again, or of servers, which are one engine start however
        often they are asked.

        Args:
            journal: of the earlier run, None for none.
            options: what the command line says.
            gpu_baselines: all blessed sessions of a GPU model, by its key.
        """
        servers = any(stack.endpoint for stack in options.stacks)
        self.journal = journal if options.settle_seconds and not servers else None
        self.cases: frozenset[CaseKey] = frozenset()
        if self.journal is not None:
            windowed = {record.key for record in self.journal.records if isinstance(record, Windowed)}
            ended = self.journal.finished - windowed
            self.cases = frozenset(key for key in ended if _is_open(self.journal, key, options, gpu_baselines))

    def __contains__(self, key: CaseKey) -> bool:
        """Whether a case is metered on."""
        return key in self.cases

    def leave(self, key: CaseKey) -> None:
        """Let a case be as it is."""
        self.cases -= {key}

    def start_seconds(self, scenario: Scenario) -> float | None:
        """What starts of a scenario's engine took, None where there were none."""
        started = self.journal.starts.values() if self.journal else ()
        taken = [each.seconds for each in started if each.engine == scenario.engine_key]
        return statistics.fmean(taken) if taken else None

    def assert_served_alike(self, key: CaseKey, arm: str, side: Side, stack: Mapping[str, str]) -> None:
        """Runs of other stacks are no further runs of an arm.

        Raises:
            ServedOtherwiseError: what serves an arm of a case that is metered on is not what did.
        """
        if self.journal is None or key not in self:
            return
        before = {ran.run.start for ran in self.journal.ran(key) if (ran.arm, ran.side) == (arm, side)}
        for start in sorted(before & self.journal.starts.keys()):
            if differs := differences(self.journal.starts[start].stack, stack):
                where = "" if side == "present" else " on the other stack"
                raise ServedOtherwiseError(
                    f"{arm}{where} is served otherwise than in {self.journal.path}: {'; '.join(differs)}; measure "
                    "the case anew, without --energy-resume"
                )


def judged(
    journal: Journal, key: CaseKey, options: EnergyConfig, gpu_baselines: Callable[[str], GpuBaselines]
) -> list[Row]:
    """What a journal says of a case, by the baselines and budgets of the command line.

    Raises:
        EnergyError: the case ended in an error when it was measured, or was cut.
        MeasurementError: an arm has no valid run.
        BaselineError: a baseline cannot be read.
    """
    return judge_recorded(
        journal,
        key,
        baseline=read_baseline(options.baselines, key.gpu, key.finding),
        published=read_published(options.baselines, key.finding),
        budget=options.budget,
        default_budget=options.default_budget,
        gpu_baselines=gpu_baselines(key.gpu),
    )


def _is_open(
    journal: Journal, key: CaseKey, options: EnergyConfig, gpu_baselines: Callable[[str], GpuBaselines]
) -> bool:
    try:
        return open_beside(judged(journal, key, options, gpu_baselines))
    except EnergyError:  # said where the case is judged
        return False
