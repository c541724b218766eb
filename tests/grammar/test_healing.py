"""Token healing: the text begins with what was taken off, written with any tokens that can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi import Llama, Model, ModelOptions
from llama_cffi.errors import GrammarError, SamplerError
from llama_cffi.grammar.healing import Healing, tokens_to_heal
from llama_cffi.grammar.piece_index import PieceIndex

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]


class Words:
    """A vocabulary of few words; token 0 is a control token."""

    pieces = (b"", b"h", b"ht", b"http", b":", b"://", b"/", b" the", b"\xe6", b"\x97\xa5", b"://www", b" ")
    n_tokens = len(pieces)

    def piece(self, token: int, *, special: bool) -> bytes:
        return self.pieces[token]


INDEX = PieceIndex(Words())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([0, 7, 3, 4], (1, ":")),
        ([0, 7, 10], (0, "")),
        ([0, 7, 4, 6], (2, ":/")),
        ([0, 11], (1, " ")),
        ([11], (0, "")),
        ([4, 0], (0, "")),
        ([0, 4, 0, 7, 7], (0, "")),
        ([0, 7, 8], (0, "")),
        ([1, 1, 1], (1, "h")),
    ],
)
def test_what_is_taken_off(tokens: list[int], expected: tuple[int, str]) -> None:
    assert tokens_to_heal(tokens, INDEX) == expected


@given(st.integers(0, 2**32 - 1), st.sampled_from(["http://www", "h", ":/", " the/", "http:日"]))
def test_every_path_writes_the_text(seed: int, text: str) -> None:
    matcher = Healing(INDEX, text).start()
    rng = np.random.default_rng(seed)
    written = b""
    while not matcher.complete:
        bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
        allowed = set(np.flatnonzero(bits).tolist())
        for token in set(range(Words.n_tokens)) - allowed:
            assert not matcher.accept(token)
        token = int(rng.choice(sorted(allowed)))
        assert matcher.accept(token)
        written += Words.pieces[token]
        assert not matcher.ended
    assert written.startswith(text.encode())
    assert all(matcher.accept(token) for token in range(Words.n_tokens)), "anything follows"
    matcher.close()


def test_what_the_vocabulary_cannot_write() -> None:
    with pytest.raises(GrammarError, match="no tokens for"):
        Healing(INDEX, "http:x")


@pytest.mark.parametrize("prompt", ["Once upon a ti", "Lily and Be", "The do", "Once upon a time, there was a lit"])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 3}, {"temperature": 0, "speculative": "lookup"}])
def test_prompt_and_text_fit_together(
    stories: Model, make_llama: MakeLlama, prompt: str, options: dict[str, Any]
) -> None:
    llm = make_llama(stories)
    healed = llm.generate(prompt, heal=True, max_tokens=30, **options)
    tokens = llm.tokenize(prompt).tolist()
    n, tail = tokens_to_heal(tokens, PieceIndex(stories.vocab))
    assert healed.usage.prompt_tokens == len(tokens) - n
    written = llm.detokenize([*tokens[: len(tokens) - n], *healed.tokens], remove_special=True)
    assert written.strip() == (prompt + healed.text).strip()
    assert prompt.endswith(tail)
    chunks = list(llm.stream(prompt, heal=True, max_tokens=30, **options))
    if "seed" in options or options["temperature"] == 0:
        assert "".join(chunk.text for chunk in chunks) == healed.text


def test_a_longer_token_takes_the_place(stories: Model, make_llama: MakeLlama) -> None:
    """The prompt ends inside a word that the vocabulary has whole."""
    llm = make_llama(stories)
    whole = llm.tokenize("Once upon a time").tolist()
    plain, healed = (llm.generate("Once upon a ti", heal=on, temperature=0, max_tokens=8) for on in (False, True))
    assert healed.text.startswith("me")
    cut = llm.tokenize("Once upon a ti").tolist()
    kept = cut[: healed.usage.prompt_tokens]
    assert [*kept, *healed.tokens][: len(whole)] == whole
    assert plain.usage.prompt_tokens == len(cut)


def test_stops_and_echo_leave_the_healed_text_alone(stories: Model, make_llama: MakeLlama) -> None:
    llm = make_llama(stories)
    done = llm.generate("Once upon a ti", heal=True, echo=True, temperature=0, max_tokens=20, stop="ti")
    assert done.text.startswith("Once upon a time")


def test_too_short_to_write_it_again(stories: Model, make_llama: MakeLlama) -> None:
    done = make_llama(stories).generate("Once upon a ti", heal=True, max_tokens=1, logit_bias={" ": 100.0, "t": 100.0})
    assert done.text == ""


def test_a_vocabulary_of_bytes(llama_cpp_models: Any) -> None:
    with Model(llama_cpp_models / "ggml-vocab-qwen2.gguf", ModelOptions(vocab_only=True)) as model:
        index = PieceIndex(model.vocab)
        tokens = model.vocab.tokenize('The link is <a href="http:').tolist()
        n, text = tokens_to_heal(tokens, index)
    assert text == "http:" or (n == 1 and text.endswith(":"))


def test_with_a_grammar(llm: Llama) -> None:
    with pytest.raises(SamplerError, match="heal="):
        llm.generate("tana", heal=True, grammar='root ::= "a"')
