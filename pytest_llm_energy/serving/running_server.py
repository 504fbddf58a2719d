"""A server that runs already: which scenarios it can serve, and as what.

What a request can say (lengths, batch size, greedy or sampled, seed) is the scenario's; what the server was started
with is the server's, and a scenario that is about it is not for this server.
"""

from collections.abc import Sequence
from functools import cached_property

import msgspec

from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.serving.endpoint import Endpoint, EndpointError
from pytest_llm_energy.serving.models import Model
from pytest_llm_energy.serving.scenario import SERVER, Scenario
from pytest_llm_energy.serving.ways import Beam

OFF = ("torch_compile", "enforce_eager", "speculation", "feed_forward")
"""Switches that a scenario leaves off, or is about."""

OWN = ("engine", "model", "weights", "dtype", "tensor_parallel_size")
"""What a server has one of, whatever a scenario names; scenarios that differ in it are not for one server."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a server lists.

    Attributes:
        id: what requests call it.
        context_tokens: longest context, None where the server does not say.
    """

    id: str
    context_tokens: int | None = None

    @property
    def model(self) -> Model:
        """The model of the scenarios that are served by it."""
        config = {} if self.context_tokens is None else {"max_position_embeddings": self.context_tokens}
        return Model(name=self.id, model_type="served", config=config)


class RunningServer:
    """A server by its URL; asked when something is to be served."""

    def __init__(self, url: str, *, model: str | None = None) -> None:
        """Take where it is.

        Args:
            url: of its API, such as ``http://localhost:8000/v1``.
            model: which of its models serves, None to go by the scenario.
        """
        self.url = url
        self._stated = model

    @cached_property
    def models(self) -> tuple[ServedModel, ...]:
        """The models it lists, without adapters of others.

        Raises:
            EngineError: no server is there, or none of this API.
        """
        try:
            listed, _ = Endpoint(self.url).models()
        except EndpointError as error:
            raise EngineError(str(error)) from error
        return tuple(
            ServedModel(id=each["id"], context_tokens=each.get("max_model_len"))
            for each in listed
            if not each.get("parent") or each["id"] == self._stated
        )

    def describe(self) -> str:
        """Who serves, for reports.

        Raises:
            EngineError: it does not answer.
        """
        ids = [self._stated] if self._stated else [model.id for model in self.models]
        return f"served by {self.url}: {', '.join(ids)}, whatever model a scenario names"

    def serve(self, scenario: Scenario) -> Scenario:
        """The scenario as this server serves it: engine ``openai``, and the server's own model.

        Raises:
            EngineError: the server does not answer, or it is not plain which of its models is meant.
            ScenarioError: the server's model has too short a context.
        """
        return Scenario(
            engine=SERVER,
            model=self._model_for(scenario).model,
            input_tokens=scenario.input_tokens,
            output_tokens=scenario.output_tokens,
            batch_size=scenario.batch_size,
            decoding=scenario.decoding,
            seed=scenario.seed,
            online=scenario.online,
        )

    def _model_for(self, scenario: Scenario) -> ServedModel:
        known = {model.id: model for model in self.models}
        ids = ", ".join(known) or "no model"
        if self._stated is not None:
            if self._stated not in known:
                raise EngineError(f"{self.url} serves {ids}, not {self._stated!r}: correct --energy-endpoint-model")
            return known[self._stated]
        if len(known) == 1:
            return next(iter(known.values()))
        names = {scenario.preset.name.casefold(), (scenario.preset.hub_id or "").casefold()}
        named = [model for name, model in known.items() if {name.casefold(), _base(name)} & names]
        if len(named) == 1:
            return named[0]
        raise EngineError(f"{self.url} serves {ids}: say which one with --energy-endpoint-model")


def why_not(scenarios: Sequence[Scenario], *, devices: int) -> str | None:
    """Why a server that runs already cannot serve these scenarios of a case, with the field; None where it can.

    Args:
        scenarios: those of one case.
        devices: how many the server runs on.
    """
    for name in OWN:
        values = list(dict.fromkeys(str(getattr(scenario, name)) for scenario in scenarios))
        if len(values) > 1:
            return f"the case is about {name} ({' against '.join(values)}), and one endpoint has one: the server's"
    for scenario in scenarios:
        stated = [name for name in OFF if getattr(scenario, name)]
        if scenario.tensor_parallel_size not in (1, devices):
            stated.append("tensor_parallel_size")
        if stated:
            return f"{stated[0]} is fixed by how a server was started: --energy-endpoint takes it as it is"
        if isinstance(scenario.decoding, Beam):
            return "decoding by beam search cannot be asked of --energy-endpoint: OpenAI's API has none"
    return None


def _base(name: str) -> str:
    """``Llama-3.1-8B`` of ``meta-llama/Llama-3.1-8B``, to compare."""
    return name.rpartition("/")[2].casefold()
