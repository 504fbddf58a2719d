"""How far apart boards of a GPU model are expected to be at a level, by what kind of level it is."""

import statistics
from collections.abc import Sequence

from pytest_llm_energy.verdicts.baselines import Session, watts_per_board
from pytest_llm_energy.verdicts.scatter import Spread

BOARDS_BY_WINDOWS = 0.4
"""The variance between boards grows as this power of that between windows, from what windows typically scatter by
on: what waits for the host's processor scatters from window to window, and more from host to host. By this power
levels that scatter much and little are about equally far apart (133 on several of 20 sets of H200s, 2026-11-21 and
22). Those whose windows repeat better than is typical do not differ less: decoding at batch 1 repeats to 0.2 %,
and on some boards took 15 % more than on others."""

WAITING_LOAD, LOADED = 0.4, 0.6
"""What draws less than the first share of the board's power limit waits for the host's processor, as eager decoding
at small batches does, and transformers; what draws more than the second does not."""

WAITING_SHARE = 9.0
"""Variance between boards of what waits in that of what does not. Of 133 levels on several of 20 sets of H200s
(2026-11-21 and 22) the 34 that drew less than half of 700 W differed by 12 %, the other 99 by 4.5 %: boards differ
by what they draw, but hosts by how fast and how busy they are."""


def board_share(windows: Spread, typical_windows: Spread, load: float | None) -> float:
    """Variance between boards of such a level, in that of one that is loaded and scatters as is typical.

    Args:
        windows: between the level's windows.
        typical_windows: the same of most levels.
        load: its power as a share of the power limit; None where that is not known.
    """
    scattering = max(1.0, windows.variance / typical_windows.variance) ** BOARDS_BY_WINDOWS
    waits = min(1.0, max(0.0, (LOADED - load) / (LOADED - WAITING_LOAD))) if load is not None else 0.0
    return float(max(scattering, WAITING_SHARE**waits))


def load_of(sessions: Sequence[Session], case: str, arm: str) -> float | None:
    """Mean power of a level per board, as a share of the power limit; None where no session states that."""
    shares = [
        watts_per_board(session, case, arm) / limit
        for session in sessions
        if isinstance(limit := session.fingerprint.identity.get("power_limit_watts"), int | float) and limit > 0
    ]
    return statistics.fmean(shares) if shares else None
