"""Prompts of one length that no prefix cache of a server has seen.

A client cannot turn a server's prefix cache off. So every request begins with tokens that no request before it
began with; what follows them is prepared once. Prompts are made as JSON, ready to be put into a request.
Standard library only: this runs inside a worker.
"""

import json
import random
from collections.abc import Callable, Sequence

from .worker import RefusedError

PREFIX_TOKENS = 4
"""With an alphabet of 100 ids, a hundred million prefixes. vLLM keeps whole blocks of 16 tokens or more."""

DIGITS = 8
TOLERANCE = 0.02
"""Relative deviation from the length asked for that prompts of text may have."""

MOST_COUNTS = 20
FIRST_CHARACTERS = 200


class Prefixes:
    """Numbers written in an alphabet, the digit that changes fastest first; two in a row share none."""

    def __init__(self, alphabet: Sequence[str]) -> None:
        """Begin at a number of chance, so that a later run does not repeat an earlier one's."""
        self._alphabet = alphabet
        self._number = random.SystemRandom().randrange(2**62)

    def next(self, length: int) -> list[str]:
        """The next prefix."""
        self._number += 1
        rest, digits = self._number, []
        for _ in range(length):
            rest, digit = divmod(rest, len(self._alphabet))
            digits.append(self._alphabet[digit])
        return digits


class TokenPrompts:
    """Prompts as token ids, of exactly the length asked for."""

    kind = "token ids"

    def __init__(self, ids: Sequence[int]) -> None:
        """Take the ids of a text, or any that the vocabulary has."""
        self._ids = ids
        self._prefixes = Prefixes([str(each) for each in sorted(set(ids))])
        self._length = 0
        self._tails: list[str] = []

    def prepare(self, batch_size: int, input_tokens: int, seed: int) -> None:
        """Take what the next batches consist of."""
        chance = random.Random(seed)
        self._length = min(PREFIX_TOKENS, input_tokens)
        self._tails = []
        for _ in range(batch_size):
            offset = chance.randrange(len(self._ids))
            tail = (self._ids[(offset + number) % len(self._ids)] for number in range(self._length, input_tokens))
            self._tails.append("".join(f",{each}" for each in tail))

    def batch(self) -> list[str]:
        """The prompts of a batch, each of which is new."""
        return [f"[{','.join(self._prefixes.next(self._length))}{tail}]" for tail in self._tails]


class TextPrompts:
    """Prompts as text, for servers that take no token ids; the server itself counts their tokens."""

    kind = "text"

    def __init__(self, text: str, count: Callable[[str], int]) -> None:
        """Take a text to cut prompts from, and how to have the tokens of a prompt (as JSON) counted."""
        self._text = " ".join(text.split()) + " "
        self._count = count
        self._prefixes = Prefixes("0123456789")
        self._digits = 1
        self._tail = ""
        self._batch_size = 0

    def prepare(self, batch_size: int, input_tokens: int, seed: int) -> None:
        """Cut the text so that a prompt has the length asked for.

        Raises:
            RefusedError: the server cuts no text to that length.
        """
        self._batch_size = batch_size
        self._digits = max(1, min(DIGITS, input_tokens // 4))
        offset = random.Random(seed).randrange(len(self._text))
        body = (self._text[offset:] + self._text) * (1 + 16 * input_tokens // len(self._text))
        best = 0
        found: dict[int, int] = {}
        low, high, characters = -1, len(body), min(4 * input_tokens, FIRST_CHARACTERS)
        while characters not in found and len(found) < MOST_COUNTS:
            self._tail = json.dumps(body[:characters])[1:]
            tokens = found[characters] = self._count(self._one())
            best = min(found, key=lambda tried: abs(found[tried] - input_tokens))
            if tokens == input_tokens:
                break
            low, high = (characters, high) if tokens < input_tokens else (low, characters)
            guess = characters * input_tokens // max(1, tokens) if len(found) < 6 else (low + high) // 2
            characters = max(low + 1, min(high - 1, guess))
        if abs(found[best] - input_tokens) > TOLERANCE * input_tokens:
            raise RefusedError(
                f"the server takes prompts as text only, and the nearest to {input_tokens} input tokens that it "
                f"counts is {found[best]}: ask for more input tokens, or use a server that takes token ids"
            )
        self._tail = json.dumps(body[:best])[1:]

    def batch(self) -> list[str]:
        """The prompts of a batch, each of which is new."""
        return [self._one() for _ in range(self._batch_size)]

    def _one(self) -> str:
        return f'"{" ".join(self._prefixes.next(self._digits))} {self._tail}'
