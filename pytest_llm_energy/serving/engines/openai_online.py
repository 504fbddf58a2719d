"""A server that runs already, given requests one by one: as many are in flight as the scenario's batch holds.

Runs inside a worker. Standard library only.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from ..endpoint import Usage
from ..online import LoopThread, Online
from ..worker import Say
from . import openai as offline


class Engine(offline.Engine):
    """One model of a server, its requests arriving over HTTP.

    The server's own limit of requests at once is not known, so no more are in flight than the batch holds.
    """

    def __init__(self, request: dict[str, Any], say: Say) -> None:
        """Find out what the server is, as for static batches."""
        super().__init__(request, say)
        self._loop = LoopThread()

    def prepare(self, work: dict[str, Any]) -> None:
        """Take the requests that arrive from now on; no two prompts begin alike."""
        super().prepare(work)
        self._sampling = offline.sampling(work["decoding"], self._seed)
        self._work = work

    def serve(self) -> float:
        """Let requests arrive; returns when as many are in flight as the batch holds.

        Returns:
            Seconds from the end of one request to that of the next.

        Raises:
            RefusedError: they do not arrive fast enough for that.
        """
        self._usages: list[Usage] = []
        self._fresh: list[str] = []
        self._requests = Online(
            self._generate,
            batch_size=self._work["batch_size"],
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            request_rate=self._work["online"]["request_rate"],
            waiting=0,
            counts=False,
        )
        return self._loop.run(self._requests.fill())

    def stop(self, started: float, ended: float) -> dict[str, Any]:
        """Let no more arrive; what was served between two moments.

        Raises:
            RefusedError: too few requests were in flight, or the server did other work than was asked for.
        """
        served = self._loop.run(self._requests.stop(started, ended))
        self._require_inputs(self._usages)
        return served

    async def _generate(self, number: int, length: int) -> AsyncIterator[int]:
        """One request; 1 for each piece of its stream."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[int] = asyncio.Queue()

        def tell(tokens: int = 1) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, tokens)

        def complete() -> Usage:
            try:
                return self._endpoint.complete(request, tell)
            finally:
                tell(0)

        self._fresh = self._fresh or list(self._prompts.batch())
        request = self._request(self._fresh.pop(), json.dumps(self._asked(length, self._sampling)))
        reading = loop.run_in_executor(self._threads, complete)
        while piece := await pieces.get():
            yield piece
        usage = await reading
        self._require_outputs([usage], length)
        self._usages.append(usage)
