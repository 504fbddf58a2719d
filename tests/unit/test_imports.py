"""Which room may know which, and what collecting the suite may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pytest_llm_energy"

MAY_IMPORT = {
    "hardware": {"hardware"},
    "metering": {"metering", "hardware"},
    "serving": {"serving", "hardware"},
    "verdicts": {"verdicts", "serving", "metering", "workloads", "hardware"},
    "reporting": {"reporting", "verdicts", "workloads"},
    "workloads": {"workloads", "hardware"},
    "planning": {"planning", "reporting", "verdicts", "serving", "metering", "workloads", "hardware"},
}
"""Rooms a room may import; ``errors`` is everybody's."""

PURE = ("verdicts", "reporting", "workloads")
HEAVY = {"torch", "transformers", "vllm", "pynvml", "codecarbon", "numpy", "scipy", "pandas", "polars"}


def imports(path: Path) -> set[str]:
    """Modules a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_downwards_only(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "pytest_llm_energy" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
                assert parts[1] in MAY_IMPORT[room], f"{path.name} imports {module}"


@pytest.mark.parametrize("room", [*PURE, "serving", "metering"])
def test_pytest_stays_outside(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert not {"pytest", "_pytest"} & imports(path), path


def test_only_hardware_and_the_nvml_meter_touch_nvml_and_only_engines_touch_torch() -> None:
    for path in PACKAGE.rglob("*.py"):
        roots = {module.split(".")[0] for module in imports(path)}
        place = path.relative_to(PACKAGE).as_posix()
        assert "pynvml" not in roots or place.startswith("hardware/") or place == "metering/nvml.py", place
        assert not {"torch", "transformers", "vllm"} & roots or place.startswith("serving/engines/"), place


def test_a_worker_needs_the_standard_library_alone() -> None:
    standard = sys.stdlib_module_names
    for name in ("worker.py", "checkpoint.py", "endpoint.py", "fresh_prompts.py"):
        roots = {module.split(".")[0] for module in imports(PACKAGE / "serving" / name)}
        assert roots <= standard, name
    for engine in (PACKAGE / "serving" / "engines").glob("*.py"):
        roots = {module.split(".")[0] for module in imports(engine)}
        assert roots <= standard | {"torch", "transformers", "vllm"}, engine.name


@pytest.mark.parametrize("option", ["--energy-gate=on", "--energy-country=DEU"])
def test_collecting_the_suite_imports_nothing_heavy(option: str) -> None:
    code = (
        "import pytest, sys\n"
        "status = pytest.main(['--collect-only', '-qq', '-p', 'no:cacheprovider', '-p', 'no:benchmark', "
        f"'-p', 'no:hypothesispytest', '{option}', 'energy_tests'])\n"
        f"print('heavy:', sorted({HEAVY} & sys.modules.keys()), 'status:', int(status))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "heavy: [] status: 0" in done.stdout
