"""A server that speaks OpenAI's API: what it says of itself, and completions that it streams.

Standard library only: the engine that drives it runs inside a worker, in whatever interpreter that is.
"""

import contextlib
import http.client
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .worker import RefusedError

KEYS = ("LLM_ENERGY_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key, the first that is set; it is sent to the server and kept nowhere."""

TELLING_SECONDS = 30.0
"""Longest wait for what a server says of itself; completions may take as long as the engine's deadline."""

SHOWN_CHARACTERS = 500


NO_CHOICE = re.compile(rb'"choices": ?\[\]')
"""What tells the event of the usage block from those that hold a piece of the completion."""


class EndpointError(RefusedError):
    """The server is not there, or did not do what it was asked; says which server, and what it said."""


class RejectedError(EndpointError):
    """The server does not take the request as it stands."""


class Usage(NamedTuple):
    """Tokens of one request, as the server counts them.

    Attributes:
        prompt_tokens: of the prompt.
        completion_tokens: generated.
        cached_tokens: of the prompt, those taken from a prefix cache; 0 where the server does not say.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Endpoint:
    """The API under one URL, such as ``http://localhost:8000/v1``."""

    def __init__(self, url: str) -> None:
        """Take the URL; nothing is asked yet."""
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = parts.path
        self._root = parts.path.removesuffix("/v1")

    def models(self) -> tuple[list[dict[str, Any]], str]:
        """What ``/models`` lists, and the ``server`` header it came with.

        Raises:
            EndpointError: no server is there, or none of this API.
        """
        with self._answer("GET", f"{self._path}/models", timeout=TELLING_SECONDS) as response:
            listed = _parsed(response.read())
            header = response.headers.get("server", "")
        models = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(models, list) or not all(isinstance(m, dict) and "id" in m for m in models):
            raise EndpointError(f"{self.url}/models lists no models: is it the URL of an OpenAI-compatible API?")
        return models, header

    def about(self, path: str) -> dict[str, Any]:
        """What a path beside the API says, as JSON; nothing where there is no such path."""
        return self._beside("GET", path, None)

    def tokenize(self, model: str, text: str) -> list[int]:
        """Token ids of a text; none where the server does not tokenize."""
        # vLLM and SGLang take ``prompt``, llama.cpp ``content``.
        asked = {"model": model, "prompt": text, "content": text, "add_special_tokens": False}
        ids = self._beside("POST", "/tokenize", json.dumps(asked).encode()).get("tokens")
        return ids if isinstance(ids, list) and all(type(each) is int for each in ids) else []

    def complete(self, request: bytes, piece: Callable[[], None] | None = None) -> Usage:
        """Post a request for a streamed completion, and read the stream to its end.

        Args:
            request: the body.
            piece: told of each piece of the completion as it comes.

        Raises:
            RejectedError: the server does not take the request as it stands.
            EndpointError: it failed, cut the stream off, or did not count.
        """
        usage: dict[str, Any] | None = None
        ended = False
        with self._answer("POST", f"{self._path}/completions", request) as response:
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    ended = True
                    break
                if piece is not None and not NO_CHOICE.search(data):
                    piece()
                if b'"usage"' in data or b'"error"' in data:  # most lines hold neither, and need no parsing
                    event = _parsed(data)
                    if event.get("error"):
                        raise EndpointError(f"{self.url} failed in mid-stream: {_message(data)}")
                    usage = event.get("usage") or usage
        if not ended:
            raise EndpointError(f"{self.url} cut a stream off before its end: did the server die? See its log")
        if not usage or None in (usage.get("prompt_tokens"), usage.get("completion_tokens")):
            raise EndpointError(
                f"{self.url} streams without a usage block, so its tokens cannot be counted: "
                "use a server, or a version of it, that answers stream_options={'include_usage': true}"
            )
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Usage(usage["prompt_tokens"], usage["completion_tokens"], cached)

    def _beside(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        try:
            with self._answer(method, f"{self._root}{path}", body, timeout=TELLING_SECONDS) as response:
                return _parsed(response.read())
        except EndpointError:
            return {}

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None = None, *, timeout: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to one request, whose status is good; a connection of its own, closed afterwards."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise EndpointError(
                    f"no server answers at {self.url} ({error}): start it, or correct --energy-endpoint"
                ) from error
            connection.request(method, path, body, _headers())
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise self._refusal(f"{method} {path}", response.status, response.read())
            yield response
        except TimeoutError as error:
            raise EndpointError(f"{self.url} took {method} {path} and did not answer for {timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            says = f"{type(error).__name__} {error}".strip()
            raise EndpointError(
                f"{self.url} broke off during {method} {path} ({says}): did the server die? See its log"
            ) from error
        finally:
            connection.close()

    def _refusal(self, asked: str, status: int, body: bytes) -> EndpointError:
        says = f"{self.url} answered {asked} with status {status}: {_message(body)}"
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            return EndpointError(f"{says}; set {KEYS[0]} to its key")
        if status in (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.UNPROCESSABLE_ENTITY):
            return RejectedError(says)
        return EndpointError(says)


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    for name in KEYS:
        if key := os.environ.get(name, "").strip():  # secrets that were read from files end in a newline
            if not (key.isascii() and key.isprintable()):
                raise EndpointError(f"{name} holds characters that no request can bear: a key is printable ASCII")
            return headers | {"Authorization": f"Bearer {key}"}
    return headers


def _parsed(data: bytes) -> dict[str, Any]:
    """A JSON object; an empty one where the data are none."""
    try:
        parsed = json.loads(data)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _message(body: bytes) -> str:
    """What the server says went wrong, from the shapes that servers say it in."""
    fields = _parsed(body)
    error = fields.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    says = inner or fields.get("message") or fields.get("detail") or body.decode(errors="replace").strip()
    return str(says)[:SHOWN_CHARACTERS] or "no message"
