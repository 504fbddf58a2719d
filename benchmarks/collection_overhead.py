"""What the plugin adds to pytest's start: collecting an empty test, and collecting the energy tests.

    python benchmarks/collection_overhead.py [--rounds 15]

Each round runs bare pytest, pytest with this plugin and pytest with pytest-benchmark's, one after another in a
process of its own, so that the machine's drift hits all of them; printed are medians and ratios to bare pytest.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).parents[1]
OURS = ["-p", "pytest_llm_energy.plugin"]
COMMON = ["--collect-only", "-q", "-p", "no:cacheprovider"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "test_empty.py"
        empty.write_text("def test_nothing():\n    pass\n")
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        cases = {
            "bare pytest, one test": ([], empty),
            "with pytest-llm-energy": (OURS, empty),
            "with pytest-benchmark": (["-p", "pytest_benchmark.plugin"], empty),
            "pytest-llm-energy, the energy tests": (OURS, ROOT / "energy_tests"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds + 1):
            print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
            for name, (options, path) in cases.items():
                took = _collect(options, path)
                if number:  # the first round fills caches
                    seconds[name].append(took)
    print(file=sys.stderr)
    bare = seconds["bare pytest, one test"]
    rows = [
        [
            name,
            f"{statistics.median(taken) * 1000:.0f} ms",
            f"{statistics.median(t / b for t, b in zip(taken, bare, strict=True)):.2f}",
        ]
        for name, taken in seconds.items()
    ]
    print(tabulate(rows, ["collecting", "median", "ratio to bare"], disable_numparse=True))


def _collect(options: list[str], path: Path) -> float:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", *COMMON, *options, "--rootdir", str(path.parent), str(path)]
    if path.is_dir():
        command = [sys.executable, "-m", "pytest", *COMMON, *options, str(path)]
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
