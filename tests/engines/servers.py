"""Servers of OpenAI's API to drive: vLLM's own on this host's CPU, and one that fails in the ways it is told to."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pytest_llm_energy.serving.models import TINY_LLAMA

START_SECONDS = 300.0
NOT_FOUND = (404, {"error": {"message": "no such path"}})


def model_folder(folder: Path) -> Path:
    """A tiny model without weights, whose tokenizer makes a token of every byte."""
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(config | TINY_LLAMA.config))
    words = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"<word {number}>" for number in range(len(words), TINY_LLAMA.config["vocab_size"])]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    return folder


@contextlib.contextmanager
def vllm_server(python: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """vLLM's server with a tiny model, in a process group of its own: its URL and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = model_folder(folder / "model")
    options = ["--served-model-name=tiny", "--load-format=dummy", "--enforce-eager", "--host=127.0.0.1"]
    options += [f"--port={port}", "--max-model-len=1024", "--enable-prompt-tokens-details"]
    options += ["--dtype=float32"]  # of bfloat16 vLLM takes AMX, which not every guest that shows it may use
    here = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *options],
            env={**os.environ, **here, "VLLM_HOST_IP": "127.0.0.1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError(f"vLLM's server did not start:\n{log.read_text()[-3000:]}")


class FaultyServer(ThreadingHTTPServer):
    """Serves made-up tokens, and does what ``fault`` says.

    Attributes:
        fault: one of ``status-500``, ``unknown-model``, ``cut``, ``hang``, ``no-usage``, ``few``, ``error-event``,
            ``template``; None for none.
        after: completions that pass before the fault sets in.
        text_only: refuse token ids.
        strict: refuse fields that OpenAI's API does not have.
        key: what requests must bear, None for nothing.
        ids: the models it lists.
        bodies: completion requests that came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault: str | None = None
        self.after = 0
        self.text_only = False
        self.strict = False
        self.key: str | None = None
        self.ids = ["made-up"]
        self.bodies: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultyServer"]:
        """Serve within the block."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self.shutdown()
            thread.join()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"
    server_version = "made-up/1.0"
    sys_version = ""

    def do_GET(self) -> None:
        if self._admitted():
            listed = {"data": [{"id": name, "max_model_len": 1024} for name in self.server.ids]}
            self._say(*((200, listed) if self.path == "/v1/models" else NOT_FOUND))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._admitted():
            return
        if self.path != "/v1/completions":
            self._say(*NOT_FOUND)
            return
        server = self.server
        if server.text_only and not isinstance(body["prompt"], str):
            self._say(422, {"error": "prompt: invalid type: sequence, expected a string"})
        elif server.strict and body.keys() & {"ignore_eos", "min_tokens"}:
            self._say(400, {"detail": "unknown field ignore_eos"})
        else:
            server.bodies.append(body)
            self._complete(body, server.fault if len(server.bodies) > server.after else None)

    def _complete(self, body: dict[str, Any], fault: str | None) -> None:
        if fault == "status-500":
            self._say(500, {"error": {"message": "the engine is dead"}})
            return
        if fault == "unknown-model":
            self._say(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            return
        prompt_tokens = len(body["prompt"].split()) if isinstance(body["prompt"], str) else len(body["prompt"])
        prompt_tokens += 10 if fault == "template" else 0
        tokens = body["max_tokens"] - (1 if fault == "few" else 0)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(tokens):
            self._event({"choices": [{"text": " word"}]})
            if number == 1 and fault == "cut":
                self.close_connection = True
                return
            if number == 1 and fault == "hang":
                self.server.released.wait(60)
        if fault == "error-event":
            self._event({"error": {"message": "out of blocks"}})
        if fault != "no-usage":
            self._event({"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _admitted(self) -> bool:
        if self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}":
            return True
        self._say(401, {"error": {"message": "invalid key"}})
        return False

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _say(self, status: int, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""
