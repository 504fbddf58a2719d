"""How far apart boards are expected to be, by kind of level."""

import msgspec
import pytest

from pytest_llm_energy.verdicts.boards import WAITING_SHARE, load_of
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.verdicts.scatter import Spread
from tests.unit.blessed import session


def test_what_draws_little_of_the_power_limit_is_expected_to_differ_as_hosts_do() -> None:
    quiet = Spread(ASSUMED.window.sd**2, 1000)
    assert ASSUMED.boards_of(quiet, 0.7) == ASSUMED.boards_of(quiet) == ASSUMED.board.spread
    shares = [ASSUMED.boards_of(quiet, load).variance / ASSUMED.board.sd**2 for load in (0.3, 0.4, 0.5, 0.6)]
    assert shares == pytest.approx([WAITING_SHARE, WAITING_SHARE, WAITING_SHARE**0.5, 1.0])


def test_the_load_of_several_boards_is_of_each_and_of_their_limit() -> None:
    alone = session([{"arm": [0.0, 0.0]}])
    lower = session([{"arm": [0.0, 0.0]}], power_limit_watts=500.0)
    assert load_of([alone], "case", "arm") == pytest.approx(600 / 700)
    assert load_of([alone, lower], "case", "arm") == pytest.approx((600 / 700 + 600 / 500) / 2)
    two = msgspec.structs.replace(
        alone, fingerprint=msgspec.structs.replace(alone.fingerprint, boards=("one", "two"))
    )
    assert load_of([two], "case", "arm") == pytest.approx(300 / 700)
    unlimited = msgspec.structs.replace(alone, fingerprint=msgspec.structs.replace(alone.fingerprint, identity={}))
    assert load_of([unlimited], "case", "arm") is None
