import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.carbon import TABLE, CarbonIntensity, of_country
from pytest_llm_energy.reporting.summary import CaseOutcome, Summary, markdown, text_lines
from pytest_llm_energy.verdicts.measured import Metered
from pytest_llm_energy.verdicts.rows import LevelRow
from tests.unit.measurements import KEY

ENTRIES = {
    "AUT": {"country_name": "Austria", "carbon_intensity": 110.81, "year": 2023, "wind_TWh": 8.0},
    "AUS": {"country_name": "Australia", "carbon_intensity": 548.7, "year": 2022},
    "DEU": {"country_name": "Germany", "carbon_intensity": 380.95, "year": 2023},
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed CodeCarbon with a table of three countries."""
    table = tmp_path / TABLE
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps(ENTRIES))
    spec = ModuleSpec("codecarbon", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("pytest_llm_energy.reporting.carbon.find_spec", lambda name: spec)
    monkeypatch.setattr("pytest_llm_energy.reporting.carbon.version", lambda name: "3.3.2")
    return tmp_path


@pytest.mark.parametrize("code", ["DEU", "deu"])
def test_a_country_is_looked_up_and_says_where_its_figure_is_from(package: Path, code: str) -> None:
    carbon = of_country(code)
    assert carbon.grams_per_kwh == 380.95
    assert carbon.says == "CO2e: 381 g/kWh (Germany 2023, CodeCarbon 3.3.2's table), pue 1.0"


def test_the_installed_table_has_a_plausible_figure() -> None:
    carbon = of_country("DEU")
    assert 100 < carbon.grams_per_kwh < 800
    assert carbon.source.startswith("Germany 20")


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("Germany", r"did you mean DEU \(Germany\)\? Or state --energy-intensity"),
        ("DE", r"did you mean DEU \(Germany\)\?"),
        ("Austri", r"did you mean AUT \(Austria\), AUS \(Australia\)\?"),
        ("XQ", "write its ISO 3166 code of three letters, such as DEU. Or state --energy-intensity"),
    ],
)
def test_an_unknown_country_names_close_ones(package: Path, code: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"CodeCarbon 3.3.2's table has no country '{code}': {hint}"):
        of_country(code)


def test_without_codecarbon_or_its_table_it_is_said_what_to_do(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / TABLE).write_text("{")
    with pytest.raises(UsageError, match=r"cannot read CodeCarbon's table .*energy_mix.json .*--energy-intensity"):
        of_country("DEU")
    (package / TABLE).unlink()
    with pytest.raises(UsageError, match="cannot read CodeCarbon's table"):
        of_country("DEU")
    monkeypatch.setattr("pytest_llm_energy.reporting.carbon.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"not installed: pip install .*\[codecarbon\]', or state --energy-intensity"
    ):
        of_country("DEU")


def test_grams_are_kilowatt_hours_times_intensity_times_pue() -> None:
    plain = CarbonIntensity(grams_per_kwh=400.0, source="as stated")
    assert plain.grams(3.6e6) == pytest.approx(400.0)
    assert plain.grams(900.0) == pytest.approx(0.1)
    building = CarbonIntensity(grams_per_kwh=400.0, source="as stated", pue=1.25)
    assert building.grams(3.6e6) == pytest.approx(500.0)
    assert building.says == "CO2e: 400 g/kWh (as stated), pue 1.25 (in the grams alone, not in the joules)"


def outcome(unit: str) -> CaseOutcome:
    row = LevelRow(
        key=KEY, arm=unit, unit=unit, joules=0.9, spread=None, runs=3, starts=1, budget=0.03, verdict="incomparable"
    )
    return CaseOutcome(key=KEY, state="judged", rows=[row], metered=Metered(joules=450.0, windows=3))


def test_a_report_shows_grams_beside_joules() -> None:
    carbon = CarbonIntensity(grams_per_kwh=400.0, source="as stated")
    outcomes = {"one": outcome("token"), "two": outcome("call")}
    text = "\n".join(text_lines(Summary(outcomes=outcomes, expected=2, gate="on", carbon=carbon)))
    assert "metered in all: 900 J in 6 windows, 100 mg CO2e\nCO2e: 400 g/kWh (as stated), pue 1.0\n" in text
    cells = [line.split() for line in text.splitlines() if " mJ" in line]
    assert [row[row.index("900") :][:3] for row in cells] == [["900", "mJ", "100"], ["900", "mJ/call", "100/Mcall"]]
    assert "J/token    gCO2e/Mtok" in text
    document = markdown(Summary(outcomes=outcomes, expected=2, gate="on", carbon=carbon))
    assert "metered in all: 900 J in 6 windows, 100 mg CO2e\n\nCO2e: 400 g/kWh (as stated), pue 1.0\n" in document
    assert "gCO2e/Mtok" in document


def test_a_report_without_an_intensity_has_the_joules_alone() -> None:
    text = "\n".join(text_lines(Summary(outcomes={"one": outcome("token")}, expected=1, gate="on")))
    assert "metered in all: 450 J in 3 windows\n" in text
    assert "CO2" not in text
    nothing = CaseOutcome(key=KEY, state="skipped", says="no")
    assert "metered in all: no valid window" in text_lines(
        Summary(outcomes={"one": nothing}, expected=1, gate="on")
    )


@pytest.mark.parametrize(
    ("grams", "written"),
    [
        (0.0, "0 kg"),
        (2.5e-5, "25 ug"),
        (0.0123, "12.3 mg"),
        (1.26, "1.26 g"),
        (412.3, "412 g"),
        (51234.0, "51.2 kg"),
    ],
)
def test_grams_are_readable_at_any_size(grams: float, written: str) -> None:
    assert words.grams(grams) == written


def test_large_energies_are_readable() -> None:
    assert words.joules(12_345_678.0) == "12.35 MJ"
    assert words.joules(999_000.0) == "999 kJ"
