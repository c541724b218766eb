"""Samplers that allow only what a GBNF grammar derives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi._native import ffi, guard, helpers, log, stderr
from llama_cffi._native.atomic import Cell
from llama_cffi._util.scalars import is_int
from llama_cffi.core.sampler.base import Sampler
from llama_cffi.core.sampler.gbnf import measure
from llama_cffi.errors import GrammarError, NativeError, TokenError, UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab


@dataclass(frozen=True)
class Grammar(Sampler):
    """Allow only what a GBNF grammar derives. Wraps ``llama_sampler_init_grammar``.

    Raises :class:`GrammarError` with the parser's message when the text does not parse, and with the reason when the
    grammar is too large or too ambiguous to be followed: see :func:`llama_cffi.core.sampler.gbnf.measure`.
    """

    text: str
    root: str = "root"

    def create(self, vocab: Vocab, cell: Cell) -> None:
        _create(cell, "llama_sampler_init_grammar", vocab, self.text, self.root)


@dataclass(frozen=True)
class LazyGrammar(Sampler):
    """Allow everything until a trigger, then only what a GBNF grammar derives.

    A trigger is one of ``tokens``, or text that one of ``patterns`` matches: ECMAScript regular expressions, tried on
    all that was accepted so far. The grammar begins with the token, or where the pattern's first group that matched
    something begins (the whole match when there is no such group).

    Raises :class:`GrammarError` when grammar or pattern does not parse, and without any trigger;
    :class:`TokenError` for a token outside the vocabulary. Needs the compiled helpers (:class:`UnsupportedError`
    without them): text after the trigger that the grammar forbids is a C++ exception.
    Wraps ``llama_sampler_init_grammar_lazy_patterns``.
    """

    text: str
    root: str = "root"
    patterns: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()

    def create(self, vocab: Vocab, cell: Cell) -> None:
        if helpers.KIND == "python":
            raise UnsupportedError("a lazy grammar needs the compiled helpers: its errors would end the process")
        if isinstance(self.patterns, str) or any(not isinstance(one, str) or not one for one in self.patterns):
            raise GrammarError(f"trigger patterns must be non-empty strings, got {self.patterns!r}")
        if not self.patterns and not self.tokens:
            raise GrammarError("a lazy grammar without a trigger would never begin")
        for token in self.tokens:
            if not is_int(token, 0, vocab.n_tokens - 1):
                raise TokenError(f"trigger token {token!r} is outside the vocabulary of {vocab.n_tokens} tokens")
        patterns = [ffi.new("char[]", _utf8("trigger pattern", one)) for one in self.patterns]
        _create(
            cell,
            "llama_sampler_init_grammar_lazy_patterns",
            vocab,
            self.text,
            self.root,
            ffi.new("char *[]", patterns),
            len(patterns),
            ffi.new("llama_token[]", list(self.tokens)),
            len(self.tokens),
        )


def _create(cell: Cell, function: str, vocab: Vocab, text: str, root: str, *triggers: Any) -> None:
    for name, value in (("grammar", text), ("root", root)):
        if not value.strip():
            raise GrammarError(f"the {name} is empty")
    data = _utf8("grammar", text)
    # The parser recurses by the depth of the text, and the search for left recursion by the number of rules.
    stack = measure(data).stack
    mark = log.mark()
    try:
        # The parser prints the place of an error instead of logging it.
        with stderr.captured() as printed:
            ptr = guard.call_ptr_deep(stack, function, vocab.ptr, data, _utf8("root", root), *triggers, cell=cell)
    except NativeError as error:
        raise GrammarError(f"the grammar cannot be used: {error.message}", log=error.log) from error
    if ptr == ffi.NULL:
        reasons = [line for line in printed.text.splitlines() if line.strip()]
        raise GrammarError("the grammar does not parse", log=(*reasons, *log.lines_since(mark)))
    printed.forward()


def _utf8(name: str, text: str) -> bytes:
    if "\0" in text:
        raise GrammarError(f"the {name} holds a NUL character")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the {name} holds a lone surrogate at index {error.start}") from None


__all__ = ["Grammar", "LazyGrammar"]
