"""Vocab: text to tokens and back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_cffi import Model, ModelOptions, Vocab
from llama_cffi.core.vocab import TokenAttr, VocabType
from llama_cffi.errors import ClosedError, TokenError, TokenizeError

pytest_plugins = ["tests.support.models"]

LoadVocab = Callable[[str], Vocab]

# The tokenizer of the goldens that each vocabulary of llama.cpp's source is.
GOLDENS = {
    "llama-spm": "Xenova/llama-tokenizer",
    "llama-bpe": "Xenova/llama3-tokenizer-new",
    "deepseek-coder": "Xenova/deepseek-coder-1.3b-instruct",
    "bert-bge": "Xenova/bert-base-uncased",
    "gpt-2": "Xenova/gpt2",
    "qwen2": "Xenova/Qwen1.5-0.5B-Chat",
    "falcon": "tiiuae/falcon-7b",
}
N_GOLDENS = 215

PAIRS = [
    "bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm",
    "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder",
]  # fmt: skip
# These undo their own tokenization exactly; the others clean up spaces or change case.
REVERSIBLE = {"command-r", "deepseek-coder", "deepseek-llm", "llama-spm", "phi-3", "qwen2", "qwen35"}


@pytest.fixture(scope="module")
def load(llama_cpp_models: Path) -> Iterator[LoadVocab]:
    """Loads a vocabulary of llama.cpp's source once."""
    models: dict[str, Model] = {}

    def load(name: str) -> Vocab:
        if name not in models:
            path = llama_cpp_models / f"ggml-vocab-{name}.gguf"
            models[name] = Model(path, ModelOptions(vocab_only=True))
        return models[name].vocab

    yield load
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def goldens(assets: Path) -> dict[str, list[tuple[str, list[int]]]]:
    """For each vocabulary, texts and ids. A pair of texts is no text: llama_tokenize takes one."""
    data = json.loads((assets / "tokenizer" / "tokenization_goldens.json").read_text())
    return {
        name: [(case["text"], case["ids"]) for case in data[tokenizer].values() if "text_pair" not in case]
        for name, tokenizer in GOLDENS.items()
    }


def test_there_are_215_goldens(goldens: dict[str, list[tuple[str, list[int]]]]) -> None:
    assert sum(map(len, goldens.values())) == N_GOLDENS


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name: str, load: LoadVocab, goldens: dict[str, list[tuple[str, list[int]]]]) -> None:
    vocab = load(name)
    assert [(text, vocab.tokenize(text).tolist()) for text, _ in goldens[name]] == goldens[name]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_llama_cpp(name: str, load: LoadVocab, llama_cpp_models: Path) -> None:
    base = llama_cpp_models / f"ggml-vocab-{name}.gguf"
    texts = base.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = base.with_suffix(".gguf.out").read_text().splitlines()
    if len(texts) == len(lines) + 1 and not texts[-1]:
        texts.pop()
    expected = [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]
    vocab = load(name)
    assert [(text, vocab.tokenize(text, add_special=False).tolist()) for text in texts] == expected
    if name in REVERSIBLE:
        assert [vocab.detokenize(tokens).decode() for _, tokens in expected] == texts


def test_every_pair_of_the_source_is_listed(llama_cpp_models: Path) -> None:
    found = {path.name.removeprefix("ggml-vocab-").partition(".")[0] for path in llama_cpp_models.glob("*.inp")}
    assert found == set(PAIRS)


# -- tokenize


def test_tokens_are_int32(model: Model) -> None:
    tokens = model.vocab.tokenize("tana")
    assert tokens.dtype == np.int32
    assert tokens.ndim == 1
    assert tokens.flags.c_contiguous


def test_add_special_puts_bos(model: Model) -> None:
    vocab = model.vocab
    plain = vocab.tokenize("tana", add_special=False).tolist()
    assert vocab.add_bos
    assert vocab.tokenize("tana").tolist() == [vocab.bos, *plain]
    assert vocab.tokenize("").tolist() == [vocab.bos]
    assert vocab.tokenize("", add_special=False).tolist() == []


def test_control_tokens_are_text_unless_asked_for(load: LoadVocab) -> None:
    vocab = load("llama-bpe")
    plain = vocab.tokenize("<|eot_id|>", add_special=False)
    special = vocab.tokenize("<|eot_id|>", add_special=False, parse_special=True)
    assert special.tolist() == [vocab.eot]
    assert vocab.eot not in plain
    assert vocab.detokenize(plain) == vocab.detokenize(special) == b"<|eot_id|>"
    assert vocab.detokenize(special, unparse_special=False) == b""


def test_bytes_are_text(model: Model) -> None:
    assert model.vocab.tokenize("tänä".encode()).tolist() == model.vocab.tokenize("tänä").tolist()


def test_nul_bytes_are_kept(model: Model) -> None:
    vocab = model.vocab
    tokens = vocab.tokenize("a\0b", add_special=False)
    assert b"".join(vocab.piece(token) for token in tokens.tolist()) == b" a\0b"


def test_bytes_that_are_no_utf8_come_back(model: Model) -> None:
    vocab = model.vocab
    data = b"a\xff\xfeb\xc3"
    tokens = vocab.tokenize(data, add_special=False)
    assert b"".join(vocab.piece(token) for token in tokens.tolist()) == b" " + data


@pytest.mark.parametrize("text", ["\ud800", "ab\udfffcd"])
def test_lone_surrogates(model: Model, text: str) -> None:
    with pytest.raises(TokenizeError, match=r"lone surrogate .* at index [02]"):
        model.vocab.tokenize(text)


def test_text_must_be_text(model: Model) -> None:
    with pytest.raises(TypeError, match="not int"):
        model.vocab.tokenize(5)  # type: ignore[arg-type]


def test_a_long_text(model: Model) -> None:
    text = "tana nese " * 20_000
    tokens = model.vocab.tokenize(text, add_special=False)
    assert model.vocab.detokenize(tokens).decode().lstrip() == text


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_any_text_comes_back(model: Model, text: str) -> None:
    vocab = model.vocab
    tokens = vocab.tokenize(text, add_special=False).tolist()
    pieces = b"".join(vocab.piece(token) for token in tokens)
    # SPM writes a space before the text; the detokenizer takes it away again.
    assert pieces == (b" " + text.encode() if text else b"")
    assert vocab.detokenize(tokens) == text.encode()


def test_threads_tokenize_at_once(model: Model) -> None:
    vocab = model.vocab
    texts = [f"tana {i} nese" * 50 for i in range(40)]
    expected = [vocab.tokenize(text).tolist() for text in texts]
    results: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        results[number] = [vocab.tokenize(text).tolist() for text in texts]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), expected)


# -- detokenize, pieces


def test_detokenize_takes_lists_and_arrays(model: Model) -> None:
    vocab = model.vocab
    tokens = vocab.tokenize("tana")
    expected = vocab.detokenize(tokens)
    assert vocab.detokenize(tokens.tolist()) == expected
    assert vocab.detokenize(tuple(tokens.tolist())) == expected
    for dtype in (np.int64, np.uint16):
        assert vocab.detokenize(tokens.astype(dtype)) == expected
    assert vocab.detokenize([]) == b""


def test_remove_special(model: Model) -> None:
    vocab = model.vocab
    tokens = vocab.tokenize("tana")
    assert vocab.detokenize(tokens) == b"<s> tana"
    assert vocab.detokenize(tokens, remove_special=True) == b" tana"
    assert vocab.detokenize(tokens, unparse_special=False) == b" tana"


def test_pieces(model: Model) -> None:
    vocab = model.vocab
    assert vocab.bos == 1
    assert vocab.piece(1) == b"<s>"
    assert vocab.piece(1, special=False) == b""
    assert vocab.piece(3 + 0xE2) == b"\xe2"
    assert vocab.text(3 + 0xE2) == "<0xE2>"
    space = vocab.tokenize("", add_special=False).tolist() or [3 + 256]
    assert vocab.text(space[0]) == "\u2581"
    assert vocab.piece(space[0]) == b" "


def test_a_long_piece(load: LoadVocab) -> None:
    """Some pieces are longer than the room that is tried first."""
    vocab = load("gpt-2")
    longest = max(range(vocab.n_tokens), key=lambda token: len(vocab.text(token)))
    piece = vocab.piece(longest)
    assert len(piece) > 64
    assert vocab.tokenize(piece, add_special=False).tolist() == [longest]


@pytest.mark.parametrize("token", [-1, 512, 2**31 - 1, -(2**31), 2**40])
def test_tokens_outside_the_vocabulary(model: Model, token: int) -> None:
    vocab = model.vocab
    for method in (vocab.piece, vocab.text, vocab.score, vocab.attr, vocab.is_eog, vocab.is_control):
        with pytest.raises(TokenError, match=f"token {token} is outside the vocabulary of 512"):
            method(token)
    with pytest.raises(TokenError, match=f"token {token} at index 1 is outside"):
        vocab.detokenize([5, token])


def test_what_is_no_token_list(model: Model) -> None:
    vocab = model.vocab
    with pytest.raises(TokenError, match="one-dimensional"):
        vocab.check_tokens(np.zeros((2, 2), dtype=np.int32))
    with pytest.raises(TokenError, match="integers, not float64"):
        vocab.check_tokens([1.5])  # type: ignore[list-item]


# -- attributes


def test_attributes(model: Model) -> None:
    vocab = model.vocab
    assert vocab.type is VocabType.SPM
    assert len(vocab) == vocab.n_tokens == 512
    assert vocab.attr(0) & TokenAttr.UNKNOWN
    assert vocab.attr(1) == TokenAttr.CONTROL
    assert vocab.attr(3) == TokenAttr.BYTE
    assert vocab.attr(300) == TokenAttr.NORMAL
    assert vocab.is_control(1)
    assert not vocab.is_control(300)
    assert vocab.is_eog(2)
    assert not vocab.is_eog(1)
    assert vocab.score(300) < vocab.score(299) <= 0


def test_special_tokens(model: Model) -> None:
    vocab = model.vocab
    assert (vocab.bos, vocab.eos) == (1, 2)
    assert vocab.eot is vocab.mask is vocab.fim_pre is vocab.fim_suf is vocab.fim_mid is None
    assert vocab.fim_pad is vocab.fim_rep is vocab.fim_sep is None
    assert vocab.add_bos
    assert not vocab.add_eos
    assert not vocab.add_sep
    assert vocab.suppress_tokens == ()


def test_special_tokens_of_real_vocabularies(load: LoadVocab) -> None:
    bert, llama3 = load("bert-bge"), load("llama-bpe")
    assert bert.type is VocabType.WPM
    assert (bert.bos, bert.sep, bert.mask, bert.pad) == (101, 102, 103, 0)
    assert bert.add_bos
    assert llama3.type is VocabType.BPE
    assert (llama3.text(llama3.bos or 0), llama3.text(llama3.eot or 0)) == ("<|begin_of_text|>", "<|eot_id|>")


def test_closed_with_its_model(model_path: Path) -> None:
    loaded = Model(model_path, ModelOptions(vocab_only=True))
    vocab = loaded.vocab
    loaded.close()
    assert vocab.n_tokens == 512
    for call in (
        lambda: vocab.tokenize("a"),
        lambda: vocab.detokenize([5]),
        lambda: vocab.piece(5),
        lambda: vocab.text(5),
        lambda: vocab.is_eog(5),
        lambda: vocab.bos,
        lambda: vocab.add_bos,
        lambda: vocab.suppress_tokens,
    ):
        with pytest.raises(ClosedError, match="this Model is closed"):
            call()
