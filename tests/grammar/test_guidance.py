"""What the engine behind constraints does when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llguidance
import pytest

from llama_cffi import Model, ModelOptions, Vocab
from llama_cffi.errors import GrammarError, SchemaError
from llama_cffi.grammar.guidance import GuidanceConstraint, GuidanceMatcher, GuidanceTokenizer

pytest_plugins = ["tests.support.models"]


class PanicException(BaseException):
    """As the engine raises it: of this name, and no Exception."""


class Panicking:
    """Stands for a matcher of the engine, and panics at whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        def panic(*arguments: object) -> None:
            raise PanicException("assertion failed: index < len\n<backtrace>\n0: <unknown>")

        return panic


@pytest.fixture(scope="module")
def vocab(llama_cpp_models: Path) -> Iterator[Vocab]:
    with Model(llama_cpp_models / "ggml-vocab-gpt-2.gguf", ModelOptions(vocab_only=True)) as model:
        yield model.vocab


def ask(matcher: GuidanceMatcher, question: str) -> object:
    if question == "accept":
        return matcher.accept(5)
    found = getattr(matcher, question)
    return found() if callable(found) else found


@pytest.mark.parametrize("question", ["accept", "mask", "complete", "ended"])
def test_a_panic_while_generating_is_an_exception(vocab: Vocab, question: str) -> None:
    failed: list[str] = []
    native: Any = Panicking()
    matcher = GuidanceMatcher(native, GuidanceTokenizer.of(vocab), lambda: failed.append(question))
    with pytest.raises(GrammarError, match=r"cannot go on: assertion failed: index < len$"):
        ask(matcher, question)
    assert failed == [question]


def test_an_interrupt_is_no_panic(vocab: Vocab) -> None:
    class Interrupted:
        def try_consume_tokens(self, tokens: list[int]) -> None:
            raise KeyboardInterrupt

    native: Any = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        GuidanceMatcher(native, GuidanceTokenizer.of(vocab)).accept(5)


def test_a_panic_over_a_vocabulary_or_a_grammar_is_an_exception(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*arguments: object, **options: object) -> None:
        raise PanicException("byte 300 of 256")

    with monkeypatch.context() as patch:
        patch.setattr(llguidance, "LLTokenizer", panic)
        with pytest.raises(SchemaError, match="cannot use this vocabulary: byte 300 of 256"):
            GuidanceTokenizer(vocab)
    GuidanceTokenizer.of(vocab)
    monkeypatch.setattr(llguidance, "LLMatcher", panic)
    with pytest.raises(SchemaError, match="the grammar engine refuses the schema: byte 300 of 256"):
        GuidanceConstraint(vocab, 'start: "never seen before"')


def test_what_failed_is_compiled_anew(vocab: Vocab) -> None:
    constraint = GuidanceConstraint(vocab, 'start: "abc"')
    tokenizer = GuidanceTokenizer.of(vocab)
    before = tokenizer.compile(constraint.grammar)
    matcher = constraint.start()
    matcher._native = Panicking()  # type: ignore[assignment]
    with pytest.raises(GrammarError):
        matcher.mask()
    assert tokenizer.compile(constraint.grammar) is not before
    assert constraint.start().accept(vocab.tokenize("abc", add_special=False).tolist()[0])


def test_a_long_chain_of_rules_does_not_end_the_process(vocab: Vocab) -> None:
    chain = "".join(f'r{i}: "x" r{i + 1} | "y"\n' for i in range(4_000))
    matcher = GuidanceConstraint(vocab, f'start: r0\n{chain}r4000: "z"').start()
    assert matcher.mask().any()
    matcher.close()


@pytest.mark.parametrize("separator", ["|", "\n", "\\n"])
def test_a_grammar_of_too_many_parts_is_refused(vocab: Vocab, separator: str) -> None:
    with pytest.raises(SchemaError, match="100001 rules and alternatives; at most 100000"):
        GuidanceConstraint(vocab, separator * 100_001)
    with pytest.raises(SchemaError, match="4000001 bytes; at most 4000000"):
        GuidanceConstraint(vocab, "x" * 4_000_001)


def test_what_the_vocabulary_raises_comes_out_of_the_engine(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = GuidanceTokenizer.of(vocab)
    for error in (KeyError("x"), KeyboardInterrupt(), MemoryError()):

        def fail(text: object, error: BaseException = error) -> list[int]:
            raise error

        monkeypatch.setattr(tokenizer.source, "_tokens", fail)
        with pytest.raises(type(error)):
            tokenizer.tokenize("text")
        monkeypatch.undo()
    assert b"".join(vocab.piece(token) for token in tokenizer.tokenize("text")) == b"text"
