import math
import re

import pytest

from docs.journals import ROOT
from pytest_llm_energy.verdicts.equal_host import PROCESSES


def test_what_is_known_of_engine_starts_is_what_the_committed_journals_say() -> None:
    text = (ROOT / "docs" / "h200.md").read_text()
    found = re.search(r"one takes longer or shorter than the other by ([\d.]+)%", text)
    assert found is not None
    of_pairs = float(found.group(1)) / 100
    assert PROCESSES.sd == pytest.approx(of_pairs / math.sqrt(2), rel=0.02)
