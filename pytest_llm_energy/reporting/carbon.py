"""Grams of CO2e of the joules in a report, from the carbon intensity of a country's electricity or a stated one.

Countries' intensities are those of CodeCarbon's packaged table (yearly means, from Our World in Data), read without
importing CodeCarbon, which is slow.
"""

import difflib
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.reporting import words

JOULES_PER_KWH = 3.6e6

TABLE = Path("data", "private_infra", "global_energy_mix.json")
"""Place of the table within CodeCarbon's package, as of its version 3."""

MOST_SUGGESTIONS = 4


@dataclass(frozen=True, kw_only=True)
class CarbonIntensity:
    """What a joule at the device costs in CO2e.

    Attributes:
        grams_per_kwh: carbon intensity of the electricity.
        source: where that figure is from, in words.
        pue: power usage effectiveness: energy of the building per energy of the devices. Only grams include it;
            joules in reports, baselines and verdicts are the devices'.
    """

    grams_per_kwh: float
    source: str
    pue: float = 1.0

    def grams(self, joules: float) -> float:
        """Grams of CO2e of joules metered at the devices."""
        return joules / JOULES_PER_KWH * self.grams_per_kwh * self.pue

    @property
    def says(self) -> str:
        """The line of reports: ``CO2e: 381 g/kWh (Germany 2023, CodeCarbon 3.3.2's table), pue 1.0``."""
        alone = " (in the grams alone, not in the joules)" if self.pue != 1 else ""
        return f"CO2e: {words.significant(self.grams_per_kwh)} g/kWh ({self.source}), pue {self.pue}{alone}"


class _Mix(msgspec.Struct, frozen=True):
    """An entry of CodeCarbon's table; ``carbon_intensity`` is in g/kWh."""

    country_name: str
    carbon_intensity: float
    year: int


def carbon_intensity(
    country: str | None, grams_per_kwh: float | None, *, pue: float, options: str
) -> CarbonIntensity | None:
    """What was said about grams: a country, or an intensity; None where neither was.

    Args:
        country: ISO 3166 code.
        grams_per_kwh: intensity.
        pue: power usage effectiveness.
        options: what the two are called where they were given.

    Raises:
        UsageError: both were, or the country is not known.
    """
    if country and grams_per_kwh is not None:
        raise UsageError(f"{options} both say what a kWh costs in CO2e: give one of them")
    if country:
        return of_country(country, pue=pue)
    if grams_per_kwh is not None:
        return CarbonIntensity(grams_per_kwh=grams_per_kwh, source="as stated", pue=pue)
    return None


def of_country(code: str, *, pue: float = 1.0) -> CarbonIntensity:
    """The mean intensity of a country's electricity, in the newest year of CodeCarbon's table.

    Args:
        code: ISO 3166 code of three letters, such as ``DEU``.
        pue: power usage effectiveness.

    Raises:
        UsageError: CodeCarbon is not installed or has no such table, or the table has no such country.
    """
    table = _table(code)
    mix = table.get(code.upper())
    name = f"CodeCarbon {version('codecarbon')}"
    if mix is None:
        close = ", ".join(f"{key} ({table[key].country_name})" for key in _close(code, table))
        hint = f"did you mean {close}?" if close else "write its ISO 3166 code of three letters, such as DEU."
        raise UsageError(f"{name}'s table has no country {code!r}: {hint} Or state --energy-intensity")
    return CarbonIntensity(
        grams_per_kwh=mix.carbon_intensity, source=f"{mix.country_name} {mix.year}, {name}'s table", pue=pue
    )


def _table(code: str) -> dict[str, _Mix]:
    package = find_spec("codecarbon")
    if package is None or package.origin is None:
        raise UsageError(
            f"the carbon intensity of {code} is in CodeCarbon's table, and CodeCarbon is not installed: "
            "pip install 'pytest-llm-energy[codecarbon]', or state --energy-intensity in g/kWh"
        )
    path = Path(package.origin).parent / TABLE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Mix])
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"cannot read CodeCarbon's table {path} ({error}): install another version of CodeCarbon, or state "
            "--energy-intensity in g/kWh"
        ) from error


def _close(text: str, table: dict[str, _Mix]) -> list[str]:
    """Codes that the text may have meant: by the country's name first, then by the code."""
    codes = {mix.country_name.casefold(): code for code, mix in table.items()}
    named = [name for name in codes if name.startswith(text.casefold())]
    named += difflib.get_close_matches(text.casefold(), codes, n=MOST_SUGGESTIONS, cutoff=0.7)
    found = [codes[name] for name in named]
    found += difflib.get_close_matches(text.upper(), table, n=MOST_SUGGESTIONS, cutoff=0.6)
    return list(dict.fromkeys(found))[:MOST_SUGGESTIONS]
