"""Text of trace files as blocks of whole lines, unpacked and decoded as their content says, in bounded memory."""

import bz2
import codecs
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pytest_llm_energy.errors import TraceError, UsageError

BLOCK_BYTES = 4 * 2**20
"""Read at once: of 1 to 32 MiB, what was read fastest, and in little memory."""

LONGEST_LINE_BYTES = 256 * 2**20
"""A longer line is not read: one with the details of a benchmark of 20,000 requests takes 200 MiB."""

TOO_LONG = f"line of more than {LONGEST_LINE_BYTES // 2**20} MiB"

HEAD_BYTES = 4096

INSTALL = "pip install 'pytest-llm-energy[traces]'"

Read = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole lines, the last of which may lack its end; ``line`` is the number of the first, from 1."""

    data: bytes
    line: int


@dataclass(frozen=True, kw_only=True)
class LongLine:
    """A line too long to be read; ``quoted`` says whether it has a quote."""

    line: int
    quoted: bool


def blocks(
    read: Read, *, block: int = BLOCK_BYTES, longest: int = LONGEST_LINE_BYTES
) -> Iterator[Block | LongLine]:
    """Cut what ``read`` gives at ends of lines."""
    line, begun, length, skipping, quoted = 1, list[bytes](), 0, False, False
    while chunk := read(block):
        if skipping:
            end = chunk.find(b"\n")
            quoted = quoted or b'"' in (chunk if end < 0 else chunk[:end])
            if end < 0:
                continue
            yield LongLine(line=line, quoted=quoted)
            chunk, line, skipping = chunk[end + 1 :], line + 1, False
        cut = chunk.rfind(b"\n") + 1
        if cut:
            data = b"".join([*begun, chunk[:cut]])
            begun, length = [], 0
            yield Block(data=data, line=line)
            line += data.count(b"\n")
            chunk = chunk[cut:]
        if chunk:
            begun.append(chunk)
            length += len(chunk)
        if length > longest:
            quoted = any(b'"' in piece for piece in begun)
            begun, length, skipping = [], 0, True
    if skipping:
        yield LongLine(line=line, quoted=quoted)
    elif begun:
        yield Block(data=b"".join(begun), line=line)


@contextmanager
def opened(path: Path) -> Iterator[Read | None]:
    """Give what reads a file's text as UTF-8, whatever packs it; None for Parquet.

    Raises:
        TraceError: the file cannot be read, is damaged, or holds no text.
    """
    try:
        with path.open("rb") as raw:
            stream = cast(BinaryIO, raw)
            head = raw.peek(HEAD_BYTES)[:HEAD_BYTES]
            if opener := _opener(head):
                unpacked = io.BufferedReader(cast(io.RawIOBase, opener(stream)), BLOCK_BYTES)
                stream, head = cast(BinaryIO, unpacked), unpacked.peek(HEAD_BYTES)[:HEAD_BYTES]
                if _opener(head) or head.startswith(b"PAR1"):
                    what = "Parquet" if head.startswith(b"PAR1") else "a packed file"
                    raise TraceError(f"{path} packs {what}: unpack it once")
            yield None if head.startswith(b"PAR1") else _text(path, stream, head)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise TraceError(f"{path} is cut off or damaged: {error}; copy it anew") from error
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise TraceError(f"{path} is cut off or damaged: {error}; copy it anew") from error
        raise


def _text(path: Path, stream: BinaryIO, head: bytes) -> Read:
    if not head:
        raise TraceError(f"{path} is empty")
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
        return stream.read
    for encoding, marks in _WIDE.items():
        if head.startswith(marks):
            text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
            return lambda size: text.read(size).encode(errors="replace")
    if b"\0" in head.partition(b"\n")[0]:
        raise TraceError(f"{path} is binary: no CSV, JSON lines or Parquet, nor UTF-16 with a byte-order mark")
    return stream.read


def _opener(head: bytes) -> Callable[[BinaryIO], object] | None:
    return next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)


def _zstd(stream: BinaryIO) -> object:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise UsageError(f"reading what zstd packed needs more packages: {INSTALL}") from error
    return zstd.ZstdFile(stream)


_PACKED: dict[bytes, Callable[[BinaryIO], object]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}

_WIDE = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""Byte-order marks; UTF-32's little-endian one begins with UTF-16's."""
