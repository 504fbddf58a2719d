"""Floating-point operations (FLOPs) of requests, by model and by length of input and output.

Two operations a multiply-accumulate, matrix products only, as torch's own counter has it: projections, experts that
are active, scores and values of attention, and logits of the last token of each forward pass. Attention of a
prefill is counted as the full square of its input: with the half above the diagonal, which a causal kernel leaves
out.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import EngineError, ScenarioError
from pytest_llm_energy.serving.models import Model

COUNTER = Path(__file__).parent / "engines" / "flops.py"

DEADLINE_SECONDS = 600.0
"""Torch and transformers are imported from a cold disk, at worst; counting itself takes seconds."""

LACKING = (
    ". It needs torch and transformers: pip install 'pytest-llm-energy[transformers]' there, or name a Python that "
    "has them: "
)


class RequestFlops(msgspec.Struct, frozen=True, kw_only=True):
    """Floating-point operations of one request.

    Attributes:
        prefill: of the forward pass over its input, which gives the first output token.
        decode: of the steps that give the other ones, each of which attends to all tokens before it.
    """

    prefill: int
    decode: int

    @property
    def total(self) -> int:
        """Of prefill and decode together."""
        return self.prefill + self.decode


class _Counted(msgspec.Struct, frozen=True):
    prefill: dict[int, int]
    decode: dict[int, int]


def request_flops(
    model: Model,
    lengths: Iterable[tuple[int, int]],
    *,
    python: Sequence[str] = (sys.executable,),
    named_by: str = "python=COMMAND",
    deadline_seconds: float = DEADLINE_SECONDS,
) -> dict[tuple[int, int], RequestFlops]:
    """Count the operations of requests, in a short-lived process that holds no weights and touches no device.

    Args:
        model: its configuration decides.
        lengths: input and output tokens of each request.
        python: command prefix that runs a Python which has torch and transformers.
        named_by: how who reads an error names another.
        deadline_seconds: after which the process is ended.

    Raises:
        ScenarioError: a length is below one.
        EngineError: that Python cannot count them, or a decode step's operations do not grow evenly with its
            context.
    """
    wanted = list(dict.fromkeys(lengths))
    if bad := [pair for pair in wanted if min(pair) < 1]:
        raise ScenarioError(f"a request has one token or more of input and of output, not {bad[0]}")
    if not wanted:
        return {}
    contexts = [n for i, o in wanted if o > 1 for n in (i + 1, i + o - 1)]
    question = {
        "model": msgspec.to_builtins(model),
        "inputs": sorted({i for i, _ in wanted}),
        "contexts": _samples(min(contexts), max(contexts)) if contexts else [],
    }
    counted = _ask(model, question, python, named_by, deadline_seconds)
    try:
        return {
            (i, o): RequestFlops(prefill=counted.prefill[i], decode=decode_flops(counted.decode, i, o))
            for i, o in wanted
        }
    except ValueError as error:
        raise EngineError(f"FLOPs of {model} cannot be summed: {error}") from error


def decode_flops(steps: Mapping[int, int], input_tokens: int, output_tokens: int) -> int:
    """Operations of the decode steps of a request, summed exactly from those of a few steps.

    A step's projections are always the same, and its attention grows by as much with every token it attends to, so
    that a step with a context of n tokens, its own included, takes a + b n. The output's first token is the
    prefill's; the steps for the others have contexts of I + 1 to I + O - 1 tokens.

    Args:
        steps: operations of a step, by its context in tokens: of the shortest, the longest and some between.
        input_tokens: I.
        output_tokens: O.

    Raises:
        ValueError: the steps do not lie on a line, as where attention looks back through a window only.
    """
    count = output_tokens - 1
    if not count:
        return 0
    low, high = min(steps), max(steps)
    slope, rest = divmod(steps[high] - steps[low], high - low) if high > low else (0, 0)
    if rest or any(found != steps[low] + slope * (n - low) for n, found in steps.items()):
        raise ValueError(f"decode steps with contexts of {sorted(steps)} tokens do not lie on a line")
    contexts = count * input_tokens + count * (count + 1) // 2
    return count * (steps[low] - slope * low) + slope * contexts


def _samples(low: int, high: int) -> list[int]:
    """Contexts to count: both ends, and three between, by which a line is told from a curve."""
    return sorted({low + (high - low) * quarter // 4 for quarter in range(5)})


def _ask(
    model: Model, question: Mapping[str, object], python: Sequence[str], named_by: str, deadline_seconds: float
) -> _Counted:
    """Have the operations counted by a process that sees no GPU: one that is leased must meet no stranger."""
    name = shlex.join(python)
    command = [*python, "-c", COUNTER.read_text(), msgspec.json.encode(question).decode()]
    with tempfile.TemporaryDirectory() as empty:  # so that nothing in the caller's folder is imported by mistake
        try:
            done = subprocess.run(
                command,
                cwd=empty,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=deadline_seconds,
                check=False,
            )
        except OSError as error:
            raise EngineError(f"cannot start {name}, to count the FLOPs of {model}: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"{name} did not count the FLOPs of {model} in {deadline_seconds:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        lacking = LACKING + named_by if last.startswith(("ModuleNotFoundError", "ImportError")) else ""
        raise EngineError(f"{name} cannot count the FLOPs of {model}: {last}{lacking}")
    try:
        return msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=_Counted)
    except (IndexError, msgspec.DecodeError) as error:
        raise EngineError(f"{name} answered no count of FLOPs: {done.stdout[-200:]!r}") from error
