"""What is served, as a value: two equal scenarios are the same work."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec

from pytest_llm_energy.serving.models import Model, model_named
from pytest_llm_energy.serving.ways import Beam, Decoding, FeedForward, Greedy, Online, Speculation, require

Identity = dict[str, Any]
"""A scenario as plain JSON, for journals, baselines and workers."""


ENGINES = ("transformers", "vllm", "openai")
"""Engines that ``serving/engines`` drives; ``openai`` is a server that runs already, over its API."""

SERVER = "openai"
"""The engine that nobody starts here: it has no Python and no arguments of ours."""

Weights = Literal["dummy", "normal", "hub", "packaged"]

WEIGHTS: tuple[str, ...] = get_args(Weights)

DTYPES = ("bfloat16", "float16", "float32")

ENGINE_FIELDS = (
    "engine",
    "model",
    "weights",
    "dtype",
    "torch_compile",
    "tensor_parallel_size",
    "seed",
    "enforce_eager",
    "speculation",
)
"""What an engine is started with; the other fields are the work it is given."""

OPTIONAL_FIELDS = ("enforce_eager", "speculation", "online", "feed_forward")
"""Left out of an identity where they have their defaults, so that journals from before them compare."""

SERVER_FIELDS = (
    "weights",
    "dtype",
    "torch_compile",
    "tensor_parallel_size",
    "enforce_eager",
    "speculation",
)
"""What a server that runs already was started with: a scenario of engine ``openai`` leaves them alone."""

SHAPE_FIELDS = ("batch_size", "input_tokens", "output_tokens")


LEAST_CONTEXT_TOKENS = 8192
"""So that requests of most lengths share an engine start."""

LEAST_BATCH_SIZE = 256
"""vLLM's own default on small devices for the most requests served at once."""

CACHE_STEP_TOKENS = 2**14

USUAL_CACHE_TOKENS = 5 * CACHE_STEP_TOKENS
"""128 requests of 512 + 64 tokens: 11 GB for an 8B model with grouped queries, so that both arms of both stacks fit
on a device of 141 GB."""

CACHE_BLOCK_TOKENS = 16
"""What vLLM allots to a request is rounded up to whole blocks of so many tokens."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine of vLLM's is started for.

    Attributes:
        context_tokens: longest request.
        batch_size: most requests at once; a beam is one of its own.
        cache_tokens: tokens whose keys and values are held at once.
        usual_cache_tokens: how many are held where fewer are needed.
    """

    context_tokens: int
    batch_size: int
    cache_tokens: int
    usual_cache_tokens: int = USUAL_CACHE_TOKENS

    def __or__(self, other: "Limits") -> "Limits":
        """Those of an engine that serves both."""
        return Limits(**{name: max(getattr(self, name), getattr(other, name)) for name in self.__struct_fields__})


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of requests on an engine: static, or kept full by requests that arrive online.

    Attributes:
        model: a preset, its name, or a model of your own.
        input_tokens: prompt length of every request.
        output_tokens: tokens generated for every request, end-of-sequence ignored.
        batch_size: requests served together; online, as many as are served at once.
        engine: one of ENGINES.
        weights: one of WEIGHTS. ``dummy``: random, made by the engine in memory as it likes (vLLM's are uniform and
            tiny); ``normal``: normal(0, 0.02) by ``seed``, norms one, written once to a local checkpoint that
            every engine and stack loads; ``hub``: Hugging Face's; ``packaged``: from an installed Python package.
        dtype: one of DTYPES.
        decoding: how the next token is chosen.
        torch_compile: compile the model's forward pass with ``torch.compile``.
        tensor_parallel_size: devices the model is split over.
        seed: seed of weights, prompts and sampling.
        enforce_eager: vLLM without compilation and CUDA graphs.
        speculation: draft-model speculation, on vLLM.
        online: requests arrive online, on vLLM or a server; None for static batches, one served after another.
        feed_forward: of the model the feed-forward layers alone, on vLLM's kernels: as many steps as output tokens,
            a token of each request at a time; None for the whole model.
        at_least: what its engine is started for beside it: ``sharing`` says. It is not part of what is served.

    Raises:
        ScenarioError: on construction, when a field makes no sense; lists what would.
    """

    model: Model | str
    input_tokens: int
    output_tokens: int
    batch_size: int = 1
    engine: str = "transformers"
    weights: Weights = "dummy"
    dtype: str = "bfloat16"
    decoding: Decoding = Greedy()
    torch_compile: bool = False
    tensor_parallel_size: int = 1
    seed: int = 0
    enforce_eager: bool = False
    speculation: Speculation | None = None
    online: Online | None = None
    feed_forward: FeedForward | None = None
    at_least: Limits | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, str):
            msgspec.structs.force_setattr(self, "model", model_named(self.model))
        _known("engine", self.engine, ENGINES)
        _known("weights", self.weights, WEIGHTS)
        _known("dtype", self.dtype, DTYPES)
        for field in ("input_tokens", "output_tokens", "batch_size", "tensor_parallel_size"):
            value = getattr(self, field)
            require(type(value) is int and value >= 1, f"{field} must be a positive integer, not {value!r}")
        model = self.preset
        require(self.weights != "packaged" or model.package is not None, f"no package carries {model}'s weights")
        require(self.weights != "hub" or model.hub_id is not None, f"{model} is not on the hub")
        context = model.config.get("max_position_embeddings")
        tokens = self.input_tokens + self.output_tokens
        require(
            context is None or tokens <= context,
            f"{self.input_tokens} input and {self.output_tokens} output tokens exceed the context of {model}, "
            f"{context} tokens",
        )
        self._require_engine_can()
        if self.feed_forward is not None:
            self._require_kernels_can(self.feed_forward)

    def _require_engine_can(self) -> None:
        if self.engine == "transformers":
            require(
                self.tensor_parallel_size == 1,
                "engine 'transformers' runs on one device: tensor_parallel_size must be 1",
            )
            require(not self.enforce_eager, "enforce_eager is vLLM's: engine 'transformers' has torch_compile")
            require(self.speculation is None, "engine 'transformers' serves without speculation: use engine='vllm'")
            require(self.online is None, "engine 'transformers' serves static batches only: use engine='vllm'")
            return
        if self.engine == SERVER:
            stated = [name for name in SERVER_FIELDS if getattr(self, name) != _DEFAULTS[name]]
            require(not stated, f"engine 'openai' is a server that runs already: {stated} is its own")
            require(not isinstance(self.decoding, Beam), "engine 'openai': the API has no beam search")
            return
        require(not self.torch_compile, "engine 'vllm' compiles by itself: enforce_eager=True turns that off")
        require(self.weights != "packaged", "engine 'vllm' serves 'dummy', 'normal' and 'hub' weights")
        require(
            self.online is None or not isinstance(self.decoding, Beam), "engine 'vllm' serves no beam search online"
        )
        if self.speculation is not None:
            draft, model = self.speculation.preset, self.preset
            sizes = [each.config.get("vocab_size") for each in (draft, model)]
            require(sizes[0] == sizes[1], f"vocabularies differ: {draft} has {sizes[0]} tokens, {model} {sizes[1]}")

    def _require_kernels_can(self, layers: FeedForward) -> None:
        require(self.engine == "vllm", f"feed_forward is of vLLM's kernels, not of engine {self.engine!r}")
        others = ("weights", "decoding", "tensor_parallel_size", "enforce_eager", "speculation", "online")
        stated = [name for name in others if getattr(self, name) != _DEFAULTS[name]]
        require(not stated, f"feed-forward layers alone have no {', '.join(stated)}")
        require(self.input_tokens == 1, "feed-forward layers alone have no prefill: input_tokens must be 1")
        mixture = "num_experts_per_tok" in self.preset.config
        require(mixture or not layers.routing, f"{self.preset} has no experts to route to")

    @property
    def preset(self) -> Model:
        """The model as a value, also where the scenario was made from its name."""
        assert isinstance(self.model, Model)
        return self.model

    def replace(self, **changes: Any) -> "Scenario":
        """The same scenario with some fields changed.

        Raises:
            ScenarioError: there is no such field; lists the fields.
        """
        for name in changes:
            _known("field of a scenario", name, self.__struct_fields__)
        return msgspec.structs.replace(self, **changes)

    def identity(self) -> Identity:
        """Every field as plain JSON; the model by name and by what differs from its preset."""
        fields: Identity = msgspec.to_builtins(self)
        fields["model"] = self.preset.name if self.engine == SERVER else _named(self.preset)
        if self.speculation is not None:
            fields["speculation"]["draft"] = _named(self.speculation.preset)
        del fields["at_least"]
        absent = {name for name in OPTIONAL_FIELDS if not fields[name]}
        for name in absent.union(SERVER_FIELDS if self.engine == SERVER else ()):
            del fields[name]
        return fields

    @property
    def limits(self) -> Limits:
        """What the engine that serves this is started for, in steps that scenarios share."""
        context = max(LEAST_CONTEXT_TOKENS, _power_of_two(self.input_tokens + self.output_tokens))
        most = self.preset.config.get("max_position_embeddings", context)
        own = Limits(
            context_tokens=min(context, most),
            # Online the engine's limit is what makes the batch; offline the requests that are handed over are.
            batch_size=self.batch_size
            if self.online
            else max(LEAST_BATCH_SIZE, _power_of_two(self.batch_size * self._width)),
            cache_tokens=max(USUAL_CACHE_TOKENS, self._needed_cache_tokens),
        )
        return own | self.at_least if self.at_least else own

    @property
    def _needed_cache_tokens(self) -> int:
        """Tokens whose keys and values are held at once, rounded up."""
        lookahead = self.speculation.lookahead if self.speculation else 0
        request = self.input_tokens + self.output_tokens + lookahead + CACHE_BLOCK_TOKENS
        needed = self.batch_size * self._width * request
        return -(-needed // CACHE_STEP_TOKENS) * CACHE_STEP_TOKENS

    @property
    def _width(self) -> int:
        """Continuations of a request that are kept at once."""
        return self.decoding.width if isinstance(self.decoding, Beam) else 1

    @property
    def engine_key(self) -> str:
        """Equal for scenarios that one engine start can serve."""
        key = self._engine_but_for_limits
        if self.engine == "vllm" and self.feed_forward is None:
            key |= msgspec.to_builtins(self.limits)
        return _encoded(key)

    @property
    def fits_others(self) -> bool:
        """Whether its engine may be larger than it needs: vLLM's, but not online, where its size is the batch."""
        return self.engine == "vllm" and self.online is None and self.feed_forward is None

    @property
    def _engine_but_for_limits(self) -> dict[str, Any]:
        identity = self.identity()
        # What is compiled is compiled for shapes; an engine that has seen others runs other kernels.
        fields = [*ENGINE_FIELDS, *(SHAPE_FIELDS if self.torch_compile else ())]
        key = {name: identity[name] for name in fields if name in identity}
        kinds = [name for name in ("online", "feed_forward") if getattr(self, name) is not None]
        return key | dict.fromkeys(kinds, True)

    def __str__(self) -> str:
        kind = " online" if self.online else " feed-forward" if self.feed_forward else ""
        return f"{self.preset.name} {self.batch_size}x({self.input_tokens}+{self.output_tokens}){kind}"


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Scenario)}


class Served(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run served.

    Attributes:
        started: monotonic seconds at which the work began.
        ended: monotonic seconds at which its outputs were complete.
        requests: requests, or calls of a callable, served.
        input_tokens: prompt tokens over all requests.
        output_tokens: tokens generated over all requests, counted from the engine's output ids.
        acceptance_length: mean tokens per verification of a draft; None without speculation.
    """

    started: float
    ended: float
    requests: int
    input_tokens: int = 0
    output_tokens: int = 0
    acceptance_length: float | None = None


def sharing(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """Scenarios of one case; those of one kind of vLLM engine on one start, which all of their sizes fit.

    Online the size of a batch is the engine's: each has a start of its own.
    """
    alone = [scenario.replace(at_least=None) for scenario in scenarios]
    kinds = [_encoded(each._engine_but_for_limits) for each in alone]
    together: dict[str, Limits] = {}
    for kind, each in zip(kinds, alone, strict=True):
        together[kind] = together.get(kind, each.limits) | each.limits
    return [
        each if each.limits == together[kind] or not each.fits_others else each.replace(at_least=together[kind])
        for kind, each in zip(kinds, alone, strict=True)
    ]


def distinct_names(scenarios: Sequence[Scenario]) -> list[str]:
    """Names by the fields in which scenarios differ: ``batch_size=8``.

    Raises:
        ScenarioError: there is none, or two are equal.
    """
    require(bool(scenarios), "measure() needs a scenario")
    identities = [scenario.identity() for scenario in scenarios]
    known = dict.fromkeys(name for identity in identities for name in identity)  # some leave fields out
    fields = [name for name in known if any(i.get(name) != identities[0].get(name) for i in identities)]
    names = []
    for scenario, identity in zip(scenarios, identities, strict=True):
        values = (f"{name}={identity.get(name, getattr(scenario, name))}" for name in fields)
        names.append(", ".join(values) or str(scenario))
    require(len(set(names)) == len(names), "measure() was given two equal scenarios")
    return names


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two identities differ in, as ``field: one -> other``, by field name."""
    names = sorted(one.keys() | other.keys())
    return [f"{n}: {_plain(one.get(n))} -> {_plain(other.get(n))}" for n in names if one.get(n) != other.get(n)]


def _preset_names() -> Mapping[str, Model]:
    from pytest_llm_energy.serving.models import MODELS

    return MODELS


def _named(model: Model) -> Any:
    """A model in an identity: by name, or whole where it differs from the preset of that name."""
    known = model_named(model.name) if model.name in _preset_names() else None
    return model.name if model == known else msgspec.to_builtins(model)


def _encoded(key: dict[str, Any]) -> str:
    return msgspec.json.encode(key, order="sorted").decode()


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _known(what: str, value: object, known: tuple[str, ...]) -> None:
    require(value in known, f"unknown {what} {value!r}; known: {', '.join(known)}")
