"""Ways of serving that a scenario may ask for: how tokens are chosen, speculation, arrivals, layers alone."""

import math

import msgspec

from pytest_llm_energy.errors import ScenarioError
from pytest_llm_energy.serving.models import Model, model_named


class Greedy(msgspec.Struct, frozen=True, tag_field="strategy", tag="greedy"):
    """Take the likeliest token."""


class Beam(msgspec.Struct, frozen=True, tag_field="strategy", tag="beam"):
    """Beam search: keep the ``width`` likeliest continuations."""

    width: int = 4

    def __post_init__(self) -> None:
        require(self.width >= 2, f"beam search needs a width of at least 2, not {self.width}")


class Sample(msgspec.Struct, frozen=True, tag_field="strategy", tag="sample"):
    """Sample at a temperature from the likeliest tokens that hold ``top_p`` of the probability."""

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"temperature must be positive, not {self.temperature}")
        require(0 < self.top_p <= 1, f"top_p must lie in (0, 1], not {self.top_p}")


Decoding = Greedy | Beam | Sample


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Draft-model speculation: a small model proposes tokens, the model verifies them.

    Attributes:
        draft: the small model: a preset, its name, or one of your own, of the same vocabulary.
        lookahead: tokens proposed per verification (the paper's gamma).
        acceptance_length: mean tokens emitted per verification that the engine shall make up, from 1 (none
            accepted) to ``lookahead + 1``; None to let the models decide: with random weights next to nothing.
    """

    draft: Model | str
    lookahead: int = 4
    acceptance_length: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.draft, str):
            msgspec.structs.force_setattr(self, "draft", model_named(self.draft))
        require(self.lookahead >= 1, f"lookahead must be at least 1, not {self.lookahead}")
        length = self.acceptance_length
        require(
            length is None or 1 <= length <= self.lookahead + 1,
            f"lookahead {self.lookahead} allows an acceptance length in [1, {self.lookahead + 1}], not {length}",
        )

    @property
    def preset(self) -> Model:
        """The draft model as a value."""
        assert isinstance(self.draft, Model)
        return self.draft


class Online(msgspec.Struct, frozen=True, kw_only=True):
    """Online serving: requests arrive one by one, and take the places in the batch of those that finish.

    Attributes:
        request_rate: arrivals per second, evenly spaced, which must keep the batch full; None for as many as are
            served.
    """

    request_rate: float | None = None

    def __post_init__(self) -> None:
        rate = self.request_rate
        fits = rate is None or (type(rate) in (int, float) and 0 < rate < math.inf)
        require(fits, f"request_rate must be a positive number, not {rate!r}")


class FeedForward(msgspec.Struct, frozen=True, kw_only=True):
    """The feed-forward layers of a model's decode steps alone, one after another, as vLLM's kernels compute them.

    Attributes:
        routing: whether the router of a mixture chooses the experts of each token; else they were chosen before.
    """

    routing: bool = False


def require(holds: bool, message: str) -> None:
    """Refuse a field that makes no sense.

    Raises:
        ScenarioError: it does not hold.
    """
    if not holds:
        raise ScenarioError(message)
