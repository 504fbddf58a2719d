"""vLLM, online: requests arrive one by one at the asynchronous engine that vLLM's own server is built on.

Runs inside a worker, as ``vllm`` does.
"""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import vllm

from ..online import LoopThread, Online
from ..worker import RefusedError
from . import vllm as offline
from .vllm import known, metrics

RUNNING = "vllm:num_requests_running"


class Engine(offline.Engine):
    """One model on one or more devices, its batch kept full by arriving requests."""

    def _start(self, options: dict[str, Any]) -> Any:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        # Statistics tell how many requests run; the server's defaults are those of its context.
        arguments = vllm.AsyncEngineArgs(**known(options | {"disable_log_stats": False}))
        self._llm = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
        self._loop = LoopThread()
        self._numbers = itertools.count()
        self._tokenizer = None if options["skip_tokenizer_init"] else self._loop.run(_tokenizer(self._llm))
        return self._llm.vllm_config

    def prepare(self, work: dict[str, Any]) -> None:
        """Take the requests that arrive from now on.

        Raises:
            RefusedError: a full batch does not fit into the cache, or they want what this vLLM has not.
        """
        if work["decoding"]["strategy"] == "beam":
            raise RefusedError("vLLM serves no beam search online")
        self._take(work)
        if (size := work["batch_size"]) != self._most_requests:
            raise RefusedError(f"online, the scenario says what max_num_seqs is: {size}, not {self._most_requests}")
        self._work = work

    def serve(self) -> float:
        """Let requests arrive; returns when the batch is full: seconds from the end of one to that of the next.

        Raises:
            RefusedError: they do not arrive fast enough for that.
        """
        self._requests = Online(
            self._generate,
            batch_size=self._work["batch_size"],
            input_tokens=self._work["input_tokens"],
            output_tokens=self._work["output_tokens"],
            request_rate=self._work["online"]["request_rate"],
            running=lambda: metrics().get(RUNNING),
        )
        cycle = self._loop.run(self._requests.fill())
        self._before = self._accepted()
        return cycle

    def stop(self, started: float, ended: float) -> dict[str, Any]:
        """Let no more arrive; what was served between two moments.

        Raises:
            RefusedError: the batch was not full all the time, or drafts were not accepted as asked.
        """
        drafted = self._accepted()
        served = self._loop.run(self._requests.stop(started, ended))
        return served | {"acceptance_length": self._acceptance_length(self._before, drafted)}

    async def _generate(self, number: int, length: int) -> AsyncIterator[int]:
        """One request; its tokens as they come, as vLLM's server streams them."""
        sampling = self._sampling(
            self._work["decoding"], length, output_kind=vllm.sampling_params.RequestOutputKind.DELTA
        )
        prompt = self._prompts[number % len(self._prompts)]
        # Numbers go on over all loads: an id must not come again while vLLM drops its request.
        async for output in self._llm.generate(prompt, sampling, request_id=str(next(self._numbers))):
            yield len(output.outputs[0].token_ids)


async def _tokenizer(engine: Any) -> Any:
    """The engine's tokenizer, which newer versions have at hand and older ones hand out asynchronously."""
    found = engine.get_tokenizer()
    return await found if hasattr(found, "__await__") else found
