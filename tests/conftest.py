"""What every test here starts from: a machine that is not a CI's, whichever machine runs them."""

import pytest
from hypothesis import settings

# A machine that is busy takes longer; nothing here is about how long.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the names by which CI systems are told away: a test that is about one sets them."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "CI"):
        monkeypatch.delenv(name, raising=False)
