"""A server that runs already, over OpenAI's API: vLLM's own on this host's CPU, and one that fails on demand."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_llm_energy import Beam, Online, Sample, Scenario
from pytest_llm_energy.errors import EngineError, ScenarioError
from pytest_llm_energy.hardware.server import ServerProcesses
from pytest_llm_energy.serving.endpoint import Endpoint, EndpointError
from pytest_llm_energy.serving.engines.openai import Engine
from pytest_llm_energy.serving.fresh_prompts import TextPrompts
from pytest_llm_energy.serving.pool import EnginePool
from pytest_llm_energy.serving.running_server import RunningServer
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.verdicts.journal import read_journal
from tests.engines.servers import FaultyServer, vllm_server

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"

TINY = Scenario(model="tiny-llama", input_tokens=8, output_tokens=6)
GREEDY = {"strategy": "greedy"}

needs_vllm = pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: make .venv-vllm/.installed")

FAST = ("--energy-window=0.2", "--energy-runs=2", "-p", "no:cacheprovider", "--energy-journal=run.jsonl")


def ignore(stage: str) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    with vllm_server(PYTHON, tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    with FaultyServer().running() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[EnginePool]:
    made = EnginePool(name="test", deadline=60, on_start=lambda engine, scenario: None)
    yield made
    made.close()


@needs_vllm
def test_static_batches_are_served_and_counted_by_a_server_that_outlives_them(
    vllm: tuple[str, int], pool: EnginePool
) -> None:
    url, pid = vllm
    scenarios = [
        TINY,
        TINY.replace(batch_size=5, input_tokens=300),
        TINY.replace(decoding=Sample(temperature=0.7, top_p=0.9), batch_size=3),
        TINY.replace(input_tokens=1, output_tokens=1),
    ]
    for scenario in map(RunningServer(url).serve, scenarios):
        served = pool.engine(scenario, (), ignore, stack=Stack(endpoint=url)).run(scenario, 2, ignore)
        requests = 2 * scenario.batch_size
        assert (served.requests, served.input_tokens) == (requests, requests * scenario.input_tokens)
        assert served.output_tokens == requests * scenario.output_tokens
        assert served.ended > served.started
    engine = pool.engine(scenario, (), ignore, stack=Stack(endpoint=url))
    pool.retain(())
    assert engine.alive
    assert pool.engine(scenario, (), ignore, stack=Stack(endpoint=url)) is engine
    assert engine.stack["endpoint"] == url
    assert engine.stack["model"] == "tiny"
    assert engine.stack["owned_by"] == "vllm"
    assert engine.stack["version"][0].isdigit()
    pool.close()
    assert psutil.pid_exists(pid)


@needs_vllm
def test_requests_in_flight_are_kept_at_the_batch_and_counted_between_two_moments(
    vllm: tuple[str, int], pool: EnginePool
) -> None:
    url, _ = vllm
    stack = Stack(endpoint=url)
    asked = TINY.replace(engine="vllm", online=Online(), batch_size=3, output_tokens=16)
    online = RunningServer(url).serve(asked)
    engine = pool.engine(online, (), ignore, stack=stack)
    engine.serve(online, ignore)
    started = time.monotonic()
    time.sleep(1.0)
    served = engine.stop(started, time.monotonic(), ignore)
    assert served.output_tokens > 0
    assert served.output_tokens == pytest.approx(16 * served.requests, abs=3 * 16)
    assert served.input_tokens == pytest.approx(online.input_tokens * served.requests, abs=3 * online.input_tokens)
    slow = online.replace(online=Online(request_rate=2.0), output_tokens=2)
    with pytest.raises(EngineError, match=r"at 2 requests/s no more than [12] of 3 requests were in flight"):
        engine.serve(slow, ignore)


@needs_vllm
def test_no_prompt_is_served_from_the_prefix_cache_though_the_server_has_one(vllm: tuple[str, int]) -> None:
    endpoint = Endpoint(vllm[0])
    engine = Engine({"endpoint": endpoint.url, "identity": {"model": "tiny", "seed": 0}}, ignore)
    engine.prepare({"input_tokens": 600, "output_tokens": 1, "batch_size": 2, "decoding": GREEDY})
    (first, other), (second, _) = engine._prompts.batch(), engine._prompts.batch()

    def cached(prompt: str) -> int:
        return endpoint.complete(engine._request(prompt, engine._options)).cached_tokens

    assert [cached(first), cached(first) >= 128, cached(other), cached(second)] == [0, True, 0, 0]
    assert engine.run(3)["requests"] == 6


@needs_vllm
def test_prompts_of_text_are_cut_to_length_by_the_servers_own_count(vllm: tuple[str, int]) -> None:
    engine = Engine({"endpoint": vllm[0], "identity": {"model": "tiny", "seed": 0}}, ignore)
    prompts = TextPrompts("Word after word, and none too long.", engine._counted)
    for length in (8, 33, 700):
        prompts.prepare(2, length, 0)
        one, two = prompts.batch()
        assert one[:2] != two[:2]
        assert [engine._counted(one), engine._counted(two)] == [length, length]


@needs_vllm
def test_the_processes_of_a_server_are_told_from_all_others(vllm: tuple[str, int]) -> None:
    url, pid = vllm
    processes = ServerProcesses(url)
    assert processes.problem is None
    assert processes.listeners == {pid}
    family = {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    assert len(family) >= 2
    assert processes.pids() == family
    assert os.getpid() not in family


SUITE = """
import pytest
from pytest_llm_energy import Arms, Beam, Scenario, saves

PLAIN = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=64, output_tokens=4)

CASES = [
    Arms(batched=PLAIN.replace(batch_size=8), alone=PLAIN).named("batched"),
    Arms(eager=PLAIN.replace(enforce_eager=True), graphs=PLAIN).named("eager"),
    Arms(half=PLAIN.replace(dtype="float16"), brain=PLAIN).named("half"),
    Arms(small=PLAIN.replace(model="Llama-3.2-1B"), large=PLAIN).named("small"),
    Arms(long=PLAIN.replace(input_tokens=4000), other=PLAIN.replace(input_tokens=4000, batch_size=2)).named("long"),
]

@pytest.mark.parametrize("arms", CASES, ids=str)
def test_case(energy_meter, arms):
    energy_meter.check(energy_meter.compare(arms), saves)

def test_made_in_the_body(energy_meter):
    energy_meter.compare(Arms(beam=PLAIN.replace(decoding=Beam(4)), greedy=PLAIN))
"""


@needs_vllm
def test_a_suite_is_judged_on_the_endpoint_and_what_it_cannot_be_asked_is_skipped_by_name(
    vllm: tuple[str, int], pytester: pytest.Pytester
) -> None:
    url, pid = vllm
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(f"--energy-endpoint={url}", "-rs", *FAST, "--energy-runs=5")
    result.assert_outcomes(passed=1, skipped=5)
    result.stdout.fnmatch_lines_random(
        [
            f"metered by: *; the server is pid {pid} and its job; served by {url}: tiny, whatever model*",
            "SKIPPED*enforce_eager is fixed by how a server was started*",
            "SKIPPED*the case is about dtype (float16 against bfloat16)*",
            "SKIPPED*the case is about model (Llama-3.2-1B against Llama-3.1-8B)*",
            "SKIPPED*4000 input and 4 output tokens exceed the context of tiny, 1024 tokens",
            "SKIPPED*decoding by beam search cannot be asked*",
            "energy: judged 1 of 6 (1 new, 5 skipped)",
        ]
    )
    journal = read_journal(pytester.path / "run.jsonl")
    (started,) = journal.starts.values()
    assert started.stack["endpoint"] == url
    measured = journal.measured(journal.checks[0])
    assert [arm.name for arm in measured.arms] == ["batched", "alone"]
    for arm in measured.arms:
        assert arm.identity is not None
        assert (arm.identity["engine"], arm.identity["model"]) == ("openai", "tiny")
        assert "dtype" not in arm.identity
    assert measured["batched"].joules_per_token < measured["alone"].joules_per_token
    again = pytester.runpytest_subprocess("--energy-replay=run.jsonl")
    again.assert_outcomes(passed=1, skipped=5)


def test_two_servers_are_measured_in_turn_each_by_its_own_model(
    faulty: FaultyServer, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(SUITE)
    with FaultyServer().running() as other:
        other.ids = ["made-up-before"]
        urls = (f"--energy-endpoint={faulty.url}", f"--energy-against-endpoint={other.url}")
        result = pytester.runpytest_subprocess(*urls, "-k", "batched", "--energy-gate=off", *FAST)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            f"against {other.url}",
            f"which differs in: *endpoint: {other.url} -> {faulty.url}*",
            "*batched *J *% [[]*, *[]]*shown",
        ]
    )
    assert {body["model"] for body in other.bodies} == {"made-up-before"}
    assert {body["model"] for body in faulty.bodies} == {"made-up"}
    journal = read_journal(pytester.path / "run.jsonl")
    (check,) = journal.checks
    for arm in journal.measured(check).arms:
        assert [run.round for run in arm.runs] == [run.round for run in arm.against] == [0, 1]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("status-500", "answered POST /v1/completions with status 500: the engine is dead"),
        ("unknown-model", "with status 404: The model `made-up` does not exist"),
        ("cut", "(broke off during|cut a stream off before its end).*did the server die"),
        ("error-event", "failed in mid-stream: out of blocks"),
        ("no-usage", "streams without a usage block, so its tokens cannot be counted"),
        ("few", "ended 2 of 2 requests after 5 to 5 output tokens, and 6 were asked for: it stops at the end-of"),
        ("template", "counted 36 input tokens in 2 requests, where 16 were sent as token ids"),
    ],
)
def test_a_fault_in_a_run_is_an_error_that_names_server_and_cause(
    faulty: FaultyServer, pool: EnginePool, fault: str, says: str
) -> None:
    scenario = RunningServer(faulty.url).serve(TINY.replace(batch_size=2))
    engine = pool.engine(scenario, (), ignore, stack=Stack(endpoint=faulty.url))
    assert engine.run(scenario, 2, ignore).output_tokens == 24
    faulty.fault = fault
    with pytest.raises(EngineError, match=f"(?s){faulty.url}.*{says}"):
        engine.run(scenario, 1, ignore)
    faulty.fault = None
    assert engine.run(scenario, 1, ignore).requests == 2


def test_a_server_that_hangs_is_given_up_at_the_deadline(faulty: FaultyServer) -> None:
    pool = EnginePool(name="test", deadline=2, on_start=lambda engine, scenario: None)
    scenario = RunningServer(faulty.url).serve(TINY)
    engine = pool.engine(scenario, (), ignore, stack=Stack(endpoint=faulty.url))
    faulty.fault = "hang"
    with pytest.raises(
        EngineError, match=rf"at {faulty.url} did not finish 'run' within 2 s \(--energy-deadline\)"
    ):
        engine.run(scenario, 1, ignore)
    assert not engine.alive
    pool.close()


@pytest.mark.parametrize("fault", ["no-usage", "status-500"])
def test_a_server_that_cannot_serve_is_refused_at_load(faulty: FaultyServer, pool: EnginePool, fault: str) -> None:
    faulty.fault = fault
    scenario = RunningServer(faulty.url).serve(TINY)
    with pytest.raises(EngineError, match=f"could not load: {faulty.url}"):
        pool.engine(scenario, (), ignore, stack=Stack(endpoint=faulty.url))


def test_a_server_that_is_down_is_named() -> None:
    with pytest.raises(EngineError, match=r"no server answers at http://127.0.0.1:9/v1 .*start it"):
        RunningServer("http://127.0.0.1:9/v1").serve(TINY)


def test_a_server_that_refuses_unknown_fields_is_asked_without_them(faulty: FaultyServer, pool: EnginePool) -> None:
    faulty.strict = True
    scenario = RunningServer(faulty.url).serve(TINY.replace(decoding=Sample(temperature=0.5, top_p=0.9)))
    engine = pool.engine(scenario, (), ignore, stack=Stack(endpoint=faulty.url))
    assert engine.run(scenario, 1, ignore).output_tokens == 6
    asked = faulty.bodies[-1]
    assert (asked["max_tokens"], asked["temperature"], asked["top_p"], asked["seed"]) == (6, 0.5, 0.9, 0)
    assert asked["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in asked
    faulty.fault = "few"
    with pytest.raises(EngineError, match="does not take ignore_eos"):
        engine.run(scenario, 1, ignore)


def test_a_server_of_text_alone_is_sent_text_of_the_length_it_counts(
    faulty: FaultyServer, pool: EnginePool
) -> None:
    faulty.text_only = True
    scenario = RunningServer(faulty.url).serve(TINY.replace(input_tokens=60, batch_size=3))
    served = pool.engine(scenario, (), ignore, stack=Stack(endpoint=faulty.url)).run(scenario, 2, ignore)
    assert served.input_tokens == 6 * 60
    prompts = [body["prompt"] for body in faulty.bodies[-6:]]
    assert len({prompt[:8] for prompt in prompts}) == 6
    faulty.fault = "template"
    with pytest.raises(EngineError, match=r"text only, and the nearest to 8 input tokens that it counts is 1[12]"):
        pool.engine(scenario, (), ignore, stack=Stack(endpoint=faulty.url)).prepare(
            scenario.replace(input_tokens=8), ignore
        )


def test_the_key_is_sent_and_written_nowhere(
    faulty: FaultyServer, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.key = "sesame-opens"
    monkeypatch.delenv("LLM_ENERGY_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pytester.makepyfile(SUITE)
    options = (f"--energy-endpoint={faulty.url}", "-k", "batched", *FAST)
    refused = pytester.runpytest_subprocess(*options)
    refused.assert_outcomes(errors=1)
    refused.stdout.fnmatch_lines(["*status 401: invalid key; set LLM_ENERGY_API_KEY to its key*"])
    monkeypatch.setenv("LLM_ENERGY_API_KEY", faulty.key)
    faulty.after, faulty.fault = 30, "status-500"
    failed = pytester.runpytest_subprocess(*options[:-1], "--energy-journal=failed.jsonl")
    failed.assert_outcomes(errors=1)
    failed.stdout.fnmatch_lines([f"*{faulty.url} answered * with status 500: the engine is dead*"])
    text = (pytester.path / "failed.jsonl").read_text()
    assert '"record":"troubled"' in text
    assert '"record":"checked"' not in text
    for output in (text, failed.stdout.str(), failed.stderr.str()):
        assert faulty.key not in output


def test_of_several_models_the_one_that_is_meant_serves(faulty: FaultyServer) -> None:
    faulty.ids = ["other", "org/Tiny-Llama"]
    assert RunningServer(faulty.url).serve(TINY).preset.name == "org/Tiny-Llama"
    assert RunningServer(faulty.url, model="other").serve(TINY).preset.name == "other"
    with pytest.raises(
        EngineError, match="serves other, org/Tiny-Llama: say which one with --energy-endpoint-model"
    ):
        RunningServer(faulty.url).serve(TINY.replace(model="tiny-olmo"))
    with pytest.raises(EngineError, match="not 'third': correct --energy-endpoint-model"):
        RunningServer(faulty.url, model="third").serve(TINY)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "float16"}, r"a server that runs already: \['dtype'\] is its own"),
        ({"decoding": Beam(4)}, "the API has no beam search"),
    ],
)
def test_a_scenario_of_this_engine_leaves_to_the_server_what_is_the_servers(
    change: dict[str, object], says: str
) -> None:
    with pytest.raises(ScenarioError, match=says):
        TINY.replace(engine="openai", **change)


def test_a_key_may_end_in_a_newline_and_one_that_cannot_be_sent_is_not_shown(
    faulty: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.key = "sesame-opens"
    monkeypatch.setenv("LLM_ENERGY_API_KEY", "sesame-opens\n")
    assert Endpoint(faulty.url).models()[0]
    monkeypatch.setenv("LLM_ENERGY_API_KEY", "sesame\nopens")
    with pytest.raises(EndpointError, match="LLM_ENERGY_API_KEY holds characters") as caught:
        Endpoint(faulty.url).models()
    assert "sesame" not in str(caught.value)
