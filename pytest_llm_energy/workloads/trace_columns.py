"""Which columns of a trace hold token counts: formats told apart by the names of their columns."""

from collections.abc import Sequence
from typing import NamedTuple

from pytest_llm_energy.errors import TraceError


class Columns(NamedTuple):
    """Names of the columns with input and output tokens, and of the format that has them."""

    input: str
    output: str
    format: str = "named columns"


FORMATS = (
    Columns("ContextTokens", "GeneratedTokens", "Azure LLM inference trace"),
    Columns("Request tokens", "Response tokens", "BurstGPT"),
    Columns("input_length", "output_length", "Mooncake"),
    Columns("num_prefill_tokens", "num_decode_tokens", "Vidur"),
)
"""Sources: Azure/AzurePublicDataset, HPMLL/BurstGPT, kvcache-ai/Mooncake, microsoft/vidur."""

QWEN = Columns("input_length", "output_length", "Qwen-Bailian")
"""Source: alibaba-edu/qwen-bailian-usagetraces-anon."""

VLLM_BENCHMARK = Columns("input_lens", "output_lens", "vLLM benchmark")
"""Arrays over the requests of ``vllm bench serve --save-result --save-detailed``."""

VLLM_LOG = (
    "these are log lines of vLLM, which hold no token counts of a request: 'Received request' has its parameters "
    "only, and 'Generated response' its text and, where nothing truncated them, the output's tokens but not the "
    "input's; take what 'vllm bench serve --save-result --save-detailed' saves, or log each response's usage"
)

VLLM_SUMMARY = "this result of 'vllm bench serve' has no single requests: run it with --save-detailed"


def columns_of(file: object, present: Sequence[str], wanted: Columns | None) -> Columns:
    """The columns to read, of those that a file has.

    Raises:
        TraceError: they are not there, are there twice, or more than one pair might be meant.
    """
    names = ", ".join(repr(name[:80]) for name in present[:40]) or "none"
    if wanted is None:
        known = [columns for columns in (*FORMATS, VLLM_BENCHMARK) if set(columns[:2]) <= set(present)]
        if not known:
            hint = VLLM_SUMMARY if {"total_input_tokens", "request_throughput"} <= set(present) else _expected()
            raise TraceError(f"{file} has no columns with token counts that are known; it has {names}. {hint}")
        if len(known) > 1:
            pairs = " and ".join(f"{columns.input!r}, {columns.output!r}" for columns in known)
            raise TraceError(f"{file} has {pairs}: name two with --input-column and --output-column")
        wanted = QWEN if known[0][:2] == QWEN[:2] and "chat_id" in present else known[0]
    for name in (wanted.input, wanted.output):
        if name not in present:
            raise TraceError(f"{file} has no column {name!r}; it has {names}")
        if list(present).count(name) > 1:
            raise TraceError(f"{file} has more than one column {name!r}; it has {names}")
    return wanted


def _expected() -> str:
    known = "; ".join(f"{c.input!r}, {c.output!r} ({c.format})" for c in (*FORMATS, QWEN, VLLM_BENCHMARK))
    return f"Name them with --input-column and --output-column. Known are {known}"
