"""A server that runs already, driven over OpenAI's API: a static batch is as many requests posted at once.

Runs inside a worker. Standard library only. The server's model, weights, precision, parallelism and caches are its
own: nothing here starts, changes or ends it.
"""

import json
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ..endpoint import Endpoint, EndpointError, RejectedError, Usage
from ..fresh_prompts import TOLERANCE, TextPrompts, TokenPrompts
from ..worker import RefusedError, Say

PROMPT = Path(__file__).parent.parent / "prompt.txt"

PLAIN_IDS = range(256, 512)
"""Ids that every vocabulary has and none keeps for control, for a server that does not tokenize."""

PROBE_TOKENS = 2

MOST_CACHED = 0.1
"""Share of the input tokens from a prefix cache above which a run is not what was asked for."""

VERSIONS = {
    "/version": ("version",),  # vLLM
    "/server_info": ("version", "dtype", "tp_size"),  # SGLang
    "/get_server_info": ("version", "dtype", "tp_size"),  # SGLang before 0.5
    "/info": ("version", "model_dtype"),  # TGI
    "/props": ("build_info",),  # llama.cpp
    "/api/version": ("version",),  # Ollama
}
"""Where servers say what they are, and what of it tells two of them apart."""


class Engine:
    """One model of a server, given static batches over HTTP."""

    packages = ()

    def __init__(self, request: dict[str, Any], say: Say) -> None:
        """Find out what the server is, and how it takes prompts.

        Args:
            request: ``endpoint``, the URL; the scenario (``identity``), whose model is one that the server lists.
            say: reports a stage that takes long.

        Raises:
            RefusedError: the server is not there, does not have the model, or cannot count tokens.
        """
        identity = request["identity"]
        self._endpoint = Endpoint(request["endpoint"])
        self._model: str = identity["model"]
        self._seed = int(identity["seed"])
        models, header = self._endpoint.models()
        listed = {model["id"]: model for model in models}
        if self._model not in listed:
            raise RefusedError(f"{self._endpoint.url} serves {', '.join(listed) or 'nothing'}, not {self._model}")
        self._extras: dict[str, Any] = {}
        self._prompts = self._agree()
        self.stack = self._identify(listed[self._model], header)
        say(f"{self._model} at {self._endpoint.url}, prompts as {self._prompts.kind}")
        self._options = ""
        self._output_tokens = 0
        self._input_tokens = 0
        self._threads = ThreadPoolExecutor(1)

    def prepare(self, work: dict[str, Any]) -> None:
        """Take the batch that the following runs serve; its prompts begin anew for every batch."""
        self._input_tokens, self._output_tokens = work["input_tokens"], work["output_tokens"]
        self._prompts.prepare(work["batch_size"], self._input_tokens, self._seed)
        self._options = json.dumps(self._asked(self._output_tokens, sampling(work["decoding"], self._seed)))
        self._threads.shutdown(wait=False)
        self._threads = ThreadPoolExecutor(work["batch_size"])

    def run(self, batches: int) -> dict[str, Any]:
        """Serve ``batches`` batches, one after another; each ends when its last request has."""
        usages: list[Usage] = []
        started = time.monotonic()
        for _ in range(batches):
            requests = [self._request(prompt, self._options) for prompt in self._prompts.batch()]
            posted = [self._threads.submit(self._endpoint.complete, request) for request in requests]
            done, _ = wait(posted, return_when=FIRST_EXCEPTION)
            usages += [each.result() for each in done]
        ended = time.monotonic()
        self._require_outputs(usages)
        self._require_inputs(usages)
        return {
            "started": started,
            "ended": ended,
            "requests": len(usages),
            "input_tokens": sum(usage.prompt_tokens for usage in usages),
            "output_tokens": sum(usage.completion_tokens for usage in usages),
        }

    def _agree(self) -> TokenPrompts | TextPrompts:
        """How the server takes prompts, as told by probes of two tokens; sets the fields it takes beside them.

        Raises:
            EndpointError: it takes none.
        """
        text = PROMPT.read_text()
        ids = TokenPrompts(self._endpoint.tokenize(self._model, text) or PLAIN_IDS)
        words = TextPrompts(text, self._counted)
        ids.prepare(1, PROBE_TOKENS, self._seed)
        refused: EndpointError | None = None
        for prompts, probe in ((ids, ids.batch()[0]), (words, '"a b"')):
            for extras in ({"ignore_eos": True, "min_tokens": PROBE_TOKENS}, {}):
                self._extras = extras
                asked = json.dumps(self._asked(PROBE_TOKENS, {"temperature": 0}))
                try:
                    usage = self._endpoint.complete(self._request(probe, asked))
                except RejectedError as error:
                    refused = error
                    continue
                # A server that took the ids for text would count their digits.
                if prompts is words or usage.prompt_tokens <= PROBE_TOKENS + 1:
                    return prompts
        raise refused or RefusedError(f"{self._endpoint.url} takes prompts neither as token ids nor as text")

    def _counted(self, prompt: str) -> int:
        """Tokens of a prompt, as the server counts them."""
        asked = json.dumps(self._asked(1, {"temperature": 0}))
        return self._endpoint.complete(self._request(prompt, asked)).prompt_tokens

    def _asked(self, output_tokens: int, sampling: dict[str, Any]) -> dict[str, Any]:
        extras = {name: output_tokens if name == "min_tokens" else value for name, value in self._extras.items()}
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": self._model, "max_tokens": output_tokens, **stream, **sampling, **extras}

    def _request(self, prompt: str, options: str) -> bytes:
        return f'{{"prompt":{prompt},{options[1:]}'.encode()

    def _require_outputs(self, usages: list[Usage], asked: int | None = None) -> None:
        """Raise where the server produced fewer or more tokens than were asked for: by default, the batch's."""
        url, asked = self._endpoint.url, asked or self._output_tokens
        if other := [u.completion_tokens for u in usages if u.completion_tokens != asked]:
            ignores = "ignores ignore_eos" if self._extras else "does not take ignore_eos"
            raise RefusedError(
                f"{url} ended {len(other)} of {len(usages)} requests after {min(other)} to {max(other)} output "
                f"tokens, and {asked} were asked for: it stops at the end-of-sequence token and "
                f"{ignores}. Start it so that it ignores that token, or use a server that can"
            )

    def _require_inputs(self, usages: list[Usage]) -> None:
        """Raise where the server saw other prompts than were sent, or had worked them off before."""
        url = self._endpoint.url
        inputs = sum(usage.prompt_tokens for usage in usages)
        expected = len(usages) * self._input_tokens
        if abs(inputs - expected) > TOLERANCE * expected:
            raise RefusedError(
                f"{url} counted {inputs} input tokens in {len(usages)} requests, where {expected} were sent as "
                f"{self._prompts.kind}: does it put a template or special tokens around prompts?"
            )
        if (cached := sum(usage.cached_tokens for usage in usages)) > MOST_CACHED * inputs:
            raise RefusedError(
                f"{url} took {cached} of {inputs} input tokens from a prefix cache, though no two prompts begin "
                "alike: start it without one"
            )

    def _identify(self, model: dict[str, Any], header: str) -> dict[str, str]:
        """What tells this server from another."""
        known: dict[str, Any] = {"endpoint": self._endpoint.url, "server": header, "model": model["id"]}
        known |= {name: model.get(name) for name in ("owned_by", "root", "max_model_len")}
        for path, fields in VERSIONS.items():
            about = self._endpoint.about(path)
            known |= {field: about[field] for field in fields if field in about}
        return {name: str(value) for name, value in known.items() if value not in (None, "")}


def sampling(decoding: dict[str, Any], seed: int) -> dict[str, Any]:
    """The fields of a request that say how its tokens are chosen.

    Raises:
        RefusedError: the API has none for this strategy.
    """
    match decoding["strategy"]:
        case "greedy":
            return {"temperature": 0, "seed": seed}
        case "sample":
            return {"temperature": decoding["temperature"], "top_p": decoding["top_p"], "seed": seed}
        case other:
            raise RefusedError(f"OpenAI's API has no decoding strategy {other!r}: 'greedy' and 'sample'")
