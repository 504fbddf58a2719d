"""Running the energy cases that tell most in a given time, and saying what each costs."""

from collections.abc import Sequence

import pytest

from pytest_llm_energy import markers
from pytest_llm_energy.fixtures import CASE, measures
from pytest_llm_energy.planning.choosing import Candidate, Starting, choose
from pytest_llm_energy.planning.durations import Durations
from pytest_llm_energy.planning.ordering import engine_order
from pytest_llm_energy.reporting.selection import (
    Selection,
    kept_table,
    left_out_table,
    selection_lines,
    too_little,
)
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.verdicts.measured import CaseKey


class TimeBudget:
    """States what cases cost, and deselects those for which a time budget has no room.

    Registered with ``--energy-time-budget``, and to state costs with ``--collect-only -v``.
    """

    def __init__(self, session: EnergySession, budget_seconds: float | None) -> None:
        """Read how long cases take.

        Args:
            session: what this process holds.
            budget_seconds: how long the cases may take; None to leave none out.

        Raises:
            JournalError: the journal of ``--energy-costs`` cannot be read.
        """
        self._session = session
        self._budget_seconds = budget_seconds
        self._durations = Durations(session)
        self._selections: list[Selection] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Choose of what -m, -k and the shard left; tests of other things, and of baselines alone, are untouched.

        When tests are only collected, cases for other GPU models are chosen too, for a host of each.

        Raises:
            pytest.UsageError: not even the cheapest case fits.
        """
        elsewhere = bool(config.option.collectonly)
        of_gpus: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            if CASE in item.stash and measures(item):
                of_gpus.setdefault(item.stash[CASE].gpu, []).append(place)
        for gpu in of_gpus if elsewhere or not of_gpus else [self._session.spec.key]:
            places = of_gpus.get(gpu, [])
            of_gpu = self._in_order([items[n] for n in places])
            if of_gpu:
                self._selections.append(self._select(of_gpu))
            for place, item in zip(places, of_gpu, strict=True):
                items[place] = item
        for selection in self._selections:
            # The controller of xdist would lose what a worker raises; there it says so at the end.
            if selection.fits_nothing and not hasattr(config, "workerinput"):
                raise pytest.UsageError(too_little(selection))
        left_out = {cost.key for selection in self._selections for cost in selection.left_out}
        dropped = [item for item in items if CASE in item.stash and item.stash[CASE] in left_out]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]
        if not elsewhere and self._selections:
            self._session.selection = self._selections[0]

    def pytest_report_collectionfinish(self, config: pytest.Config) -> list[str]:
        """Say what was chosen before it is measured."""
        if self._budget_seconds is None or config.option.collectonly or config.option.verbose < -1:
            return []
        return [line for each in self._selections if not each.fits_nothing for line in selection_lines(each)]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """State the cost of every case, where tests are only collected."""
        if not config.option.collectonly or config.option.verbose < -1:
            return
        for selection in self._selections:
            if config.option.verbose >= 0:
                terminalreporter.section(f"energy: cost of the cases on {selection.gpu}")
                terminalreporter.write_line(kept_table(selection, style="simple"))
                if selection.left_out:
                    terminalreporter.write_line("\nleft out:")
                    terminalreporter.write_line(left_out_table(selection, style="simple"))
                terminalreporter.write_line("")
            for line in selection_lines(selection):
                terminalreporter.write_line(line)

    def _in_order(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """The cases of a GPU model in an order with few engine starts, which need not be that of all cases."""
        measured = (self._runs(item) and not self._is_known(item.stash[CASE]) for item in items)
        engines = [markers.engine_places(i) if runs else () for i, runs in zip(items, measured, strict=True)]
        return [items[position] for position in engine_order(engines)]

    def _runs(self, item: pytest.Item) -> bool:
        """Whether a case is not skipped here, or is for another GPU model and planned for a host of that."""
        return item.stash[CASE].gpu != self._session.spec.key or not item.get_closest_marker("skip")

    def _select(self, items: Sequence[pytest.Item]) -> Selection:
        """Choose among the cases of a GPU model; those that are skipped here stay, and take no time."""
        able = [item for item in items if self._runs(item)]
        cases = [self._candidate(item) for item in able]
        stacks = [(place, item) for item in able for place in markers.engine_places(item)]
        starting = Starting(
            seconds={place: self._durations.engines(item).get(place[1], 0.0) for place, item in stacks},
            counts={place: self._durations.starts(item).get(place[1], 0) for place, item in stacks},
            times=self._session.options.starts,
        )
        # Metering on where verdicts are open takes what is asked for it, or else what the cases leave over.
        reserved = self._session.options.settle_seconds or 0.0
        room = float("inf") if self._budget_seconds is None else self._budget_seconds - reserved
        choice = choose(cases, starting, room)
        chosen = set(choice.chosen)
        measured = [number for number in choice.chosen if not cases[number].recorded]
        costs = dict(zip(choice.chosen, choice.in_order(), strict=True))
        return Selection(
            gpu=items[0].stash[CASE].gpu,
            budget_seconds=self._budget_seconds,
            kept=tuple(costs[number] for number in measured),
            left_out=tuple(choice.added(number) for number in range(len(cases)) if number not in chosen),
            free=len(items) - len(cases) + len(chosen) - len(measured),
            reserved_seconds=reserved,
        )

    def _is_known(self, key: CaseKey) -> bool:
        """Whether a case has been measured; metering on where it is open takes what is reserved for that."""
        return self._session.recorded(key) is not None or key in self._session.reopening

    def _candidate(self, item: pytest.Item) -> Candidate:
        key = item.stash[CASE]
        callspec = getattr(item, "callspec", None)
        position = tuple(callspec.indices.values()) if callspec else ()
        if self._is_known(key):
            return Candidate(key=key, position=position, recorded=True)
        serving = self._durations.serving(item)
        return Candidate(
            key=key,
            engines=frozenset(markers.engine_places(item)),
            seconds=serving.seconds,
            metered_seconds=serving.metered_seconds,
            position=position,
        )
