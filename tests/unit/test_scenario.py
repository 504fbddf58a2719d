import msgspec
import pytest

from pytest_llm_energy import MODELS, Arms, Beam, FeedForward, Online, Sample, Scenario, Series, Speculation
from pytest_llm_energy.errors import ScenarioError
from pytest_llm_energy.serving.models import Model
from pytest_llm_energy.serving.scenario import differences, distinct_names

PLAIN = Scenario(model="tiny-llama", input_tokens=8, output_tokens=4)


def test_equal_scenarios_are_the_same_work() -> None:
    again = Scenario(model=MODELS["tiny-llama"], input_tokens=8, output_tokens=4)
    assert again == PLAIN
    assert hash(PLAIN) == hash(again)
    assert PLAIN.identity() == again.identity()


def test_work_does_not_change_the_engine_and_switches_do() -> None:
    assert PLAIN.replace(batch_size=8, decoding=Beam(2)).engine_key == PLAIN.engine_key
    assert PLAIN.replace(torch_compile=True).engine_key != PLAIN.engine_key
    assert PLAIN.replace(dtype="float32").engine_key != PLAIN.engine_key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "lama"}, "unknown model 'lama'.*Known: .*Llama-3.1-8B"),
        ({"engine": "vlm"}, "unknown engine 'vlm'; known: transformers"),
        ({"weights": "random"}, "known: dummy, normal, hub, packaged"),
        ({"dtype": "int3"}, "known: bfloat16"),
        ({"batch_size": 0}, "batch_size must be a positive integer, not 0"),
        ({"input_tokens": 1.5}, "input_tokens must be a positive integer"),
        ({"input_tokens": 2048}, "exceed the context of tiny-llama, 2048 tokens"),
        ({"weights": "packaged"}, "no package carries tiny-llama's weights"),
        ({"weights": "hub"}, "tiny-llama is not on the hub"),
        ({"tensor_parallel_size": 2}, "one device"),
        ({"enforce_eager": True}, "enforce_eager is vLLM's"),
        ({"speculation": Speculation(draft="tiny-llama")}, "without speculation: use engine='vllm'"),
        ({"online": Online()}, "serves static batches only: use engine='vllm'"),
        ({"engine": "vllm", "online": Online(), "decoding": Beam()}, "no beam search online"),
        ({"engine": "vllm", "torch_compile": True}, "compiles by itself"),
        ({"engine": "vllm", "model": "SmolLM2-135M", "weights": "packaged"}, "serves 'dummy', 'normal' and 'hub'"),
        (
            {"engine": "vllm", "speculation": Speculation(draft="Llama-3.2-1B")},
            "vocabularies differ: Llama-3.2-1B has",
        ),
        ({"feed_forward": FeedForward()}, "is of vLLM's kernels, not of engine 'transformers'"),
        ({"engine": "vllm", "feed_forward": FeedForward()}, "have no prefill: input_tokens must be 1"),
        (
            {"engine": "vllm", "input_tokens": 1, "online": Online(), "feed_forward": FeedForward()},
            "feed-forward layers alone have no online",
        ),
        (
            {"engine": "vllm", "input_tokens": 1, "feed_forward": FeedForward(routing=True)},
            "tiny-llama has no experts to route to",
        ),
        ({"batchsize": 2}, "unknown field of a scenario 'batchsize'; known: model, input_tokens"),
    ],
)
def test_a_scenario_that_makes_no_sense_says_what_would(change: dict[str, object], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        PLAIN.replace(**change)


@pytest.mark.parametrize("decoding", ["Beam(1)", "Sample(temperature=0)", "Sample(top_p=1.1)"])
def test_decoding_parameters_are_checked(decoding: str) -> None:
    with pytest.raises(ScenarioError):
        eval(decoding, {"Beam": Beam, "Sample": Sample})


def test_a_changed_preset_is_part_of_the_identity() -> None:
    deeper = Model(
        name="tiny-llama",
        model_type="llama",
        config={**MODELS["tiny-llama"].config, "num_hidden_layers": 5},
    )
    assert PLAIN.identity()["model"] == "tiny-llama"
    assert PLAIN.replace(model=deeper).identity()["model"]["config"]["num_hidden_layers"] == 5


def test_arms_name_their_case_after_what_was_set() -> None:
    arms = Arms(compiled=PLAIN.replace(torch_compile=True), eager=PLAIN)
    assert str(arms) == "compiled-eager"
    assert str(arms.at(batch_size=8)) == "8"
    assert arms.at(batch_size=8)["eager"].batch_size == 8
    assert arms.control == "eager"
    assert arms.at(batch_size=8) == arms.at(batch_size=8)


def test_the_order_of_arms_is_part_of_them() -> None:
    other = PLAIN.replace(dtype="float32")
    assert Arms(a=PLAIN, b=other) != Arms(b=other, a=PLAIN)


def test_a_compiled_engine_is_one_of_its_shapes() -> None:
    compiled = PLAIN.replace(torch_compile=True)
    assert compiled.engine_key != compiled.replace(batch_size=8).engine_key


def test_arms_must_serve_requests_of_equal_length() -> None:
    with pytest.raises(ScenarioError, match="equal lengths"):
        Arms(long=PLAIN.replace(output_tokens=8), short=PLAIN)


def test_a_series_runs_over_one_field() -> None:
    series = Series.over(PLAIN, input_tokens=(1, 2, 4))
    assert [scenario.input_tokens for scenario in series] == [1, 2, 4]
    with pytest.raises(ScenarioError, match="exactly one field"):
        Series.over(PLAIN, input_tokens=(1, 2), output_tokens=(1, 2))


def test_differences_name_field_and_values() -> None:
    found = differences(PLAIN.identity(), PLAIN.replace(dtype="float32").identity())
    assert found == ["dtype: bfloat16 -> float32"]


@pytest.mark.parametrize("length", [0.9, 5.1])
def test_an_acceptance_length_beyond_the_lookahead_is_refused(length: float) -> None:
    with pytest.raises(ScenarioError, match=r"allows an acceptance length in \[1, 5\]"):
        Speculation(draft="tiny-llama", lookahead=4, acceptance_length=length)


def test_fields_that_came_later_leave_older_identities_as_they_were() -> None:
    assert {"enforce_eager", "speculation", "online", "feed_forward"}.isdisjoint(PLAIN.identity())
    speculative = PLAIN.replace(engine="vllm", speculation=Speculation(draft="tiny-llama"))
    assert speculative.identity()["speculation"] == {
        "draft": "tiny-llama",
        "lookahead": 4,
        "acceptance_length": None,
    }


def test_a_vllm_start_serves_all_batches_and_lengths_up_to_its_limits() -> None:
    served = PLAIN.replace(engine="vllm")
    assert served.engine_key == served.replace(batch_size=128, input_tokens=500, output_tokens=100).engine_key
    assert served.engine_key != served.replace(batch_size=257).engine_key
    assert served.engine_key != served.replace(enforce_eager=True).engine_key
    online = served.replace(online=Online(), batch_size=8)
    assert online.limits.batch_size == 8
    assert online.engine_key != online.replace(batch_size=16).engine_key
    assert online.engine_key == online.replace(input_tokens=900, online=Online(request_rate=3.0)).engine_key
    layers = served.replace(input_tokens=1, feed_forward=FeedForward())
    assert layers.engine_key != served.engine_key
    assert layers.engine_key == layers.replace(batch_size=1024).engine_key
    mixture = layers.replace(model="tiny-olmoe")
    assert mixture.engine_key == mixture.replace(feed_forward=FeedForward(routing=True)).engine_key
    large = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=9000, output_tokens=200)
    assert msgspec.to_builtins(large.limits) == {
        "context_tokens": 16384,
        "batch_size": 256,
        "cache_tokens": 5 * 2**14,
        "usual_cache_tokens": 5 * 2**14,
    }
    assert served.replace(batch_size=256, input_tokens=900).limits.cache_tokens == 15 * 2**14


def test_a_vllm_start_has_room_for_every_beam_of_a_batch() -> None:
    served = PLAIN.replace(engine="vllm", batch_size=128)
    wide = served.replace(decoding=Beam(4))
    assert (served.limits.batch_size, wide.limits.batch_size) == (256, 512)
    assert wide.replace(batch_size=64).engine_key == served.engine_key != wide.engine_key


def test_scenarios_of_one_case_share_a_start_that_all_of_them_fit() -> None:
    served = PLAIN.replace(engine="vllm")
    grid = [served.replace(batch_size=n, input_tokens=i) for n, i in ((1024, 8), (256, 900), (1, 8))]
    assert len({each.engine_key for each in grid}) == 3
    series = Series.of(grid)
    assert len({each.engine_key for each in series}) == 1
    assert series[0].limits.batch_size == 1024
    assert series[0].limits.cache_tokens == grid[1].limits.cache_tokens
    assert [each.identity() for each in series] == [each.identity() for each in grid]
    eager = served.replace(enforce_eager=True, batch_size=512)
    arms = Arms(large=grid[0], eager=eager, small=served.replace(input_tokens=8))
    assert arms["large"].engine_key == arms["small"].engine_key != arms["eager"].engine_key
    assert arms["eager"] == eager
    assert arms.at(batch_size=2)["small"] == served.replace(batch_size=2)


def test_online_and_on_other_engines_every_size_is_as_it_was() -> None:
    online = [PLAIN.replace(engine="vllm", online=Online(), batch_size=n) for n in (1, 300)]
    plain = [PLAIN.replace(batch_size=n) for n in (1, 300)]
    assert list(Series.of([*online, *plain])) == [*online, *plain]


def test_scenarios_are_named_by_what_they_differ_in() -> None:
    assert distinct_names([PLAIN]) == ["tiny-llama 1x(8+4)"]
    assert distinct_names([PLAIN, PLAIN.replace(batch_size=8)]) == ["batch_size=1", "batch_size=8"]
    served = PLAIN.replace(engine="vllm")
    assert distinct_names([served, served.replace(enforce_eager=True)]) == [
        "enforce_eager=False",
        "enforce_eager=True",
    ]
    with pytest.raises(ScenarioError, match="two equal scenarios"):
        distinct_names([PLAIN, PLAIN])
    with pytest.raises(ScenarioError, match="needs a scenario"):
        distinct_names([])
