"""How many requests a device takes, against what is known of models and boards."""

import pytest

from pytest_llm_energy import MODELS, Beam, FeedForward, Model, Scenario, Speculation
from pytest_llm_energy.serving.memory import (
    MOST_REQUESTS,
    cache_bytes_per_token,
    largest_batch,
    most_requests,
    parameters,
    what_fits,
)

LLAMA = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=512, output_tokens=64)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Llama-3.1-8B", 8.03), ("Llama-3.2-1B", 1.24), ("OLMo-1B", 1.18), ("OLMoE-1B-7B", 6.92), ("OLMo-7B", 6.89)],
)
def test_parameters_are_those_that_the_models_are_named_for(name: str, billions: float) -> None:
    assert parameters(MODELS[name]) / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_token_of_llama_takes_128_kib_of_cache() -> None:
    assert cache_bytes_per_token(MODELS["Llama-3.1-8B"], "bfloat16") == 2**17


def test_the_largest_batch_fits_and_twice_as_many_do_not() -> None:
    weights = 2 * parameters(MODELS["Llama-3.1-8B"])
    for lengths in ((512, 64), (2048, 128), (4096, 512)):
        scenario = LLAMA.replace(input_tokens=lengths[0], output_tokens=lengths[1])
        found = largest_batch(scenario, 80)
        room = 0.8 * 80 * 2**30 - weights
        assert found * sum(lengths) * 2**17 <= room < 2 * found * sum(lengths) * 2**17


def test_longer_requests_smaller_devices_and_held_activations_make_batches_smaller() -> None:
    longer = LLAMA.replace(input_tokens=4096)
    assert largest_batch(longer, 80) < largest_batch(LLAMA, 80) < largest_batch(LLAMA, 300)
    assert largest_batch(longer.replace(engine="transformers"), 80) < largest_batch(longer, 80)


def test_there_is_no_batch_beside_weights_that_fill_a_device_and_none_beyond_the_papers() -> None:
    assert largest_batch(LLAMA, 16) == 0
    assert largest_batch(LLAMA.replace(input_tokens=8, output_tokens=8), 1000) == MOST_REQUESTS


def test_more_devices_hold_more_and_beams_and_drafts_leave_less() -> None:
    alone = most_requests(LLAMA, 80)
    assert most_requests(LLAMA.replace(tensor_parallel_size=2), 80) > 2 * alone
    assert most_requests(LLAMA.replace(decoding=Beam(width=4)), 80) == alone // 4
    drafted = LLAMA.replace(speculation=Speculation(draft="Llama-3.2-1B"))
    weights = 2 * parameters(MODELS["Llama-3.2-1B"])
    assert most_requests(drafted, 80) < alone - weights / (2**17 * 576)


def test_what_fits_is_said_of_a_batch_that_does_not() -> None:
    assert what_fits(LLAMA.replace(batch_size=1), 80) is None
    said = what_fits(LLAMA.replace(batch_size=1024, tensor_parallel_size=2), 24)
    assert said is not None
    assert said.startswith("a batch of 1024 does not fit: by weights, keys and values 2 devices of 24 GiB hold ")
    assert "hold 0 requests" in str(what_fits(LLAMA, 16))


def test_nothing_is_reckoned_of_a_model_of_another_shape() -> None:
    odd = Scenario(
        model=Model(name="odd", model_type="odd", config={"d_model": 8}), input_tokens=1, output_tokens=1
    )
    assert what_fits(odd, 16) is None


def test_nothing_is_reckoned_of_layers_that_hold_no_keys_and_values() -> None:
    crowd = LLAMA.replace(input_tokens=1, batch_size=10**6)
    assert what_fits(crowd, 16) is not None
    assert what_fits(crowd.replace(feed_forward=FeedForward()), 16) is None
