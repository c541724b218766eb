"""A grammar over a vocabulary of bytes, driven through llguidance alone.

A schema costs milliseconds, and an instance some tens of microseconds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

import llguidance
import numpy as np

MAX_STEPS = 20_000
END = 256


class _Bytes:
    """A vocabulary of bytes and one token that ends."""

    tokens: ClassVar = [*(bytes([byte]) for byte in range(256)), b"</s>"]
    special_token_ids: ClassVar = [END]
    bos_token_id = None
    eos_token_id = END

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


TOKENIZER = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=257, eos_token=[END])
LIMITS = llguidance.LLParserLimits(max_items_in_row=20_000, step_max_items=200_000, verbose_errors=False)


class ByteGrammar:
    """A compiled grammar over bytes."""

    def __init__(self, grammar: str) -> None:
        self._matcher = llguidance.LLMatcher(TOKENIZER, grammar, log_level=0, limits=LIMITS)
        if self._matcher.is_error():
            raise AssertionError(self._matcher.get_error())

    def accepts(self, text: str) -> bool:
        """Whether a whole text is let through."""
        matcher, data = self._matcher.deep_copy(), list(text.encode())
        return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())

    def accepts_some(self, value: Any) -> bool | None:
        """Whether some compact spelling of a value is let through; None when too many begin well.

        A grammar may fix the order of keys and how a number is written. All of these are tried, but none beyond the
        point where the grammar stops it: a list of all spellings grows with the product of their numbers, and whatever
        bounds the list leaves out the one that is meant.
        """
        search = SpellingSearch(self._matcher.deep_copy())
        return True if search.found(value) else None if search.left < 0 else False

    def search(self, kind: type[SpellingSearch]) -> SpellingSearch:
        """A search for spellings of another kind, from the beginning of a text."""
        return kind(self._matcher.deep_copy())

    def walk(self, rng: random.Random, limit: int = 300) -> str | None:
        """A random text; None when it did not end in time."""
        matcher, out = self._matcher.deep_copy(), bytearray()
        for n in range(limit):
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[:257]).tolist()
            if matcher.is_error():
                raise AssertionError(f"{matcher.get_error()} after {bytes(out)!r}")
            assert allowed, f"nothing is allowed after {bytes(out)!r}"
            if END in allowed and (len(allowed) == 1 or rng.random() < 0.5):
                return out.decode()
            letters = [token for token in allowed if token in _LIKELY]
            closing = [token for token in allowed if token in _CLOSING]
            pool = (
                closing
                if n > 25 and closing and rng.random() < 0.9
                else letters
                if letters and rng.random() < 0.9
                else allowed
            )
            token = rng.choice([token for token in pool if token != END] or pool)
            assert matcher.try_consume_tokens([token]) == 1
            out.append(token)
        return None


_LIKELY = set(b'"{}[],:0123456789.-abcx')
_CLOSING = set(b'"}]')


class SpellingSearch:
    """Tries the spellings of a value, depth first: of JSON, or of what a subclass says of commas, keys and scalars."""

    comma = ","

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher
        self.left = MAX_STEPS
        self.written: list[str] = []
        """The parts of the text that was found."""

    def found(self, value: Any, before: str = "", after: str = "", good: Callable[[], bool] | None = None) -> bool:
        """Whether some spelling of the value between two texts is let through, ends there, and is ``good``."""
        end = partial(self.text, after, good or self._matcher.is_accepting)
        return self.text(before, partial(self._value, value, end))

    def text(self, text: str, then: Callable[[], bool]) -> bool:
        """Whether a text goes on to something that ``then`` finds good; else the matcher is where it was."""
        data = list(text.encode())
        self.left -= 1
        n = self._matcher.try_consume_tokens(data) if self.left >= 0 else 0
        self.written.append(text)
        if n == len(data) and then():
            return True
        self.written.pop()
        if n:
            self._matcher.rollback(n)
        return False

    def keys(self, key: str) -> Iterator[str]:
        """How a key may be written, with what follows it."""
        yield f"{json.dumps(key, ensure_ascii=False)}:"

    def scalars(self, value: Any) -> Iterator[str]:
        """How a value that is no container may be written: a number as its bounds may need it (8.20 for 8.2)."""
        if isinstance(value, float):
            whole = [str(int(value))] if value == int(value) else []
            plain = format(Decimal(repr(value)), "f")
            yield from dict.fromkeys([*whole, *(plain + "0" * n for n in range(4)), repr(value)])
        else:
            yield json.dumps(value, ensure_ascii=False)

    def _value(self, value: Any, then: Callable[[], bool]) -> bool:
        if isinstance(value, dict):
            return self.text("{", lambda: self._members(value, "", then))
        if isinstance(value, list):
            return self.text("[", lambda: self._items(value, 0, then))
        return any(self.text(text, then) for text in self.scalars(value))

    def _members(self, value: dict[str, Any], comma: str, then: Callable[[], bool]) -> bool:
        if not value:
            return self.text("}", then)
        for key in value:
            rest = {other: value[other] for other in value if other != key}
            following = partial(self._value, value[key], partial(self._members, rest, self.comma, then))
            if any(self.text(comma + name, following) for name in self.keys(key)):
                return True
        return False

    def _items(self, value: list[Any], i: int, then: Callable[[], bool]) -> bool:
        if i == len(value):
            return self.text("]", then)
        inner = partial(self._value, value[i], partial(self._items, value, i + 1, then))
        return self.text(self.comma, inner) if i else inner()
