"""What a case is called: by messages with its test's name as it is, by tables with spaces, or by its parameters."""

from pytest_llm_energy.verdicts.measured import CaseKey


def spelt(name: str) -> str:
    """A name as all its spellings are alike."""
    return name.replace("_", " ").strip()


def names_of(key: CaseKey) -> list[str]:
    """Every name that means a case, spelt alike: whole or by its parameters, with and without its GPU model."""
    parameters = key.case.partition("[")[2].removesuffix("]")
    cases = [case for case in (key.case, parameters) if case]
    return [spelt(f"{key.finding} {case}{on}") for on in (f" on {key.gpu}", "") for case in cases]
