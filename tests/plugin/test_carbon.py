"""Grams of CO2e in reports: options, ini settings, what they say when they make no sense."""

import pytest

from tests.plugin.conftest import Project

# 64 output tokens; batched: 0.4 J in batches of 4, 8 and 16; alone: 2 J, three times; three runs each.
METERED = "metered in all: 3.302 kJ in 18 windows"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_replay_with_an_intensity_shows_grams(project: Project, workers: str) -> None:
    result = project.replay(
        project.journal("now.jsonl"), "--energy-intensity=360", "--energy-pue=1.5", f"-n{workers}"
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"{METERED}, 495 mg CO2e",
            "CO2e: 360 g/kWh (as stated), pue 1.5 (in the grams alone, not in the joules)",
            "finding *J/token *gCO2e/Mtok *spread*",
            "batching *4 *batched *400 mJ *60 *ok",
            "*alone *2 J *300 *ok",
        ]
    )


def test_a_report_in_markdown_has_them_too(project: Project) -> None:
    project.replay(project.journal("now.jsonl"), "--energy-country=DEU", "--energy-report=energy.md")
    text = (project.path / "energy.md").read_text()
    assert f"{METERED}, " in text
    assert " g/kWh (Germany 20" in text
    assert "| gCO2e/Mtok |" in text.replace("  ", " ").replace("  ", " ")


def test_the_energy_in_all_is_said_without_an_intensity(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl"))
    assert METERED in result.outlines
    result.stdout.no_fnmatch_line("*CO2*")


def test_invalid_windows_are_not_in_the_energy_in_all(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", invalid=True))
    assert "metered in all: no valid window" in result.outlines


def test_the_ini_file_sets_the_intensity_and_the_command_line_is_above_it(project: Project) -> None:
    journal = project.journal("now.jsonl")
    project.pytester.makeini("[pytest]\nenergy_country = DEU\nenergy_pue = 1.2\n")
    project.replay(journal).stdout.fnmatch_lines(["CO2e: * g/kWh (Germany 20*), pue 1.2 (*"])
    result = project.replay(journal, "--energy-intensity=50", "--energy-pue=1")
    assert "CO2e: 50 g/kWh (as stated), pue 1.0" in result.outlines
    project.pytester.makeini("[pytest]\nenergy_intensity = 42.5\n")
    assert "CO2e: 42.5 g/kWh (as stated), pue 1.0" in project.replay(journal).outlines


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--energy-country=DEU", "--energy-intensity=381"), "*energy-country and energy-intensity both*give one*"),
        (("--energy-country=Germany",), "*no country 'Germany': did you mean DEU (Germany)[?]*"),
        (("--energy-intensity=much",), "*'much' is no carbon intensity: write grams of CO2e per kWh, such as 381"),
        (("--energy-intensity=-1",), "*'-1' is no carbon intensity*"),
        (
            ("--energy-pue=0.9", "--energy-country=DEU"),
            "*'0.9' is no power usage effectiveness: write 1.0 or more*",
        ),
        (("--energy-pue=1.1",), "*--energy-pue enters grams*: give --energy-country or --energy-intensity too"),
    ],
)
def test_options_that_make_no_sense_are_refused(project: Project, options: tuple[str, ...], says: str) -> None:
    result = project.replay(project.journal("now.jsonl"), *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


def test_so_are_ini_settings(project: Project) -> None:
    project.pytester.makeini("[pytest]\nenergy_pue = 0.5\n")
    result = project.replay(project.journal("now.jsonl"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ini setting energy_pue: '0.5' is no power usage effectiveness*"])


def test_windows_of_a_live_run_are_counted(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_sums="""
def work(n):
    return sum(i * i for i in range(n))

def test_window(energy_meter):
    with energy_meter.window() as window:
        work(3_000_000)
    assert window.joules > 0

def test_half(energy_meter):
    energy_meter.check(energy_meter.compare(half=lambda: work(100_000), whole=lambda: work(200_000)))
"""
    )
    result = pytester.runpytest_subprocess("--energy-window=0.3", "--energy-runs=2", "--energy-intensity=400")
    (line,) = [line for line in result.outlines if line.startswith("metered in all: ")]
    assert line.endswith("g CO2e")
    (journal,) = (pytester.path / ".llm-energy").iterdir()
    again = pytester.runpytest_subprocess(f"--energy-replay={journal}", "--energy-intensity=400")
    assert line in again.outlines
