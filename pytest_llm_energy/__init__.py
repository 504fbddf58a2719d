"""Gate LLM-serving upgrades on energy: joules per token, judged by pytest."""

from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.serving.arms import Arms, Series
from pytest_llm_energy.serving.models import MODELS, Model
from pytest_llm_energy.serving.scenario import Scenario
from pytest_llm_energy.serving.ways import Beam, FeedForward, Greedy, Online, Sample, Speculation
from pytest_llm_energy.verdicts.claims import (
    above,
    costs,
    decode_costs_more,
    decode_dominates,
    differs,
    draws_less,
    faster,
    flat_below,
    rises,
    same_rate,
    saves,
    saves_on,
    slope,
    slower,
)

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "Arms",
    "Beam",
    "EnergyError",
    "FeedForward",
    "Greedy",
    "Model",
    "Online",
    "Sample",
    "Scenario",
    "Series",
    "Speculation",
    "above",
    "costs",
    "decode_costs_more",
    "decode_dominates",
    "differs",
    "draws_less",
    "faster",
    "flat_below",
    "rises",
    "same_rate",
    "saves",
    "saves_on",
    "slope",
    "slower",
]
