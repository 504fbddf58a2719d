"""Figures in the documents come from the committed journals."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.render", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
