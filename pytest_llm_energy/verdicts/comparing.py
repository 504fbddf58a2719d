"""One journal against another: the levels of the newer, judged by those of the older."""

from collections.abc import Mapping

import msgspec

from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.verdicts.blessing import as_baselines
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.judge import Conditions, judge
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import UNMEASURED, GpuBaselines
from pytest_llm_energy.verdicts.rows import Row


def compare(
    old: Journal, new: Journal, *, budget: float | None = None, gpu_baselines: GpuBaselines = UNMEASURED
) -> Mapping[CaseKey, list[Row]]:
    """Level rows of every case of the newer journal that ran to its end.

    Args:
        old: what is compared with, as if it had been blessed.
        new: what is judged.
        budget: relative increase that passes, None for that of each test, or else the default.
        gpu_baselines: blessed sessions of the GPU model, which tell how levels scatter.

    A case of the newer that failed or was cut has no rows: ``Journal.unfinished`` says what became of it.

    Raises:
        JournalError: they are of different GPU models.
        BaselineError: the older holds nothing to compare with.
        MeasurementError: an arm of the newer has no valid run.
    """
    if old.opened.gpu != new.opened.gpu:
        raise JournalError(
            f"{old.path} is of {old.opened.gpu_name} and {new.path} of {new.opened.gpu_name}: joules of different "
            "GPU models are not compared"
        )
    baselines = as_baselines(old, reason=str(old.path))
    rows: dict[CaseKey, list[Row]] = {}
    unfinished = new.unfinished
    for check in new.in_one_run:
        if check.key in unfinished:
            continue
        measured = new.measured(check)
        alone = tuple(msgspec.structs.replace(arm, against=()) for arm in measured.arms)
        opened = new.opened_for(check.key)
        conditions = Conditions(
            fingerprint=opened.fingerprint,
            stacks=new.stacks,
            baseline=baselines.get(check.key.finding),
            noise=gpu_baselines.noise(method=opened.method, simulated=opened.simulated, of=check.key),
            budget=budget,
            default_budget=DEFAULT_BUDGET,
        )
        levels = msgspec.structs.replace(check, claim=None, figures=())
        rows.setdefault(check.key, []).extend(
            judge(levels, msgspec.structs.replace(measured, arms=alone), conditions)
        )
    return rows
