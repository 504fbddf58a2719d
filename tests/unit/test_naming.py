"""What a case may be called."""

from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.naming import names_of, spelt


def test_a_case_has_the_names_of_messages_and_of_tables() -> None:
    key = CaseKey(gpu="h200", finding="batching", case="energy_falls[16]")
    for name in (
        "batching energy_falls[16] on h200",
        "batching energy falls[16]",
        "batching 16",
        "batching 16 on h200",
    ):
        assert spelt(name) in names_of(key)
    assert spelt("batching energy_falls[1]") not in names_of(key)


def test_a_case_without_parameters_is_called_by_its_test_alone() -> None:
    assert names_of(CaseKey(gpu="cpu", finding="sums", case="adds_up")) == ["sums adds up on cpu", "sums adds up"]
