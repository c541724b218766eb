"""The random models that other tests and the benchmarks stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import Llama
from tests.support.random_model import BOS, MIN_VOCAB, SHAPE_15M, SHAPE_160M, Shape, synthetic_vocab, write_random_model

SHAPE = Shape(n_layer=1, n_embd=32, n_head=2, n_head_kv=1, n_ff=64, n_vocab=600)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = write_random_model(tmp_path / "a.gguf", SHAPE, seed=3).read_bytes()
    assert write_random_model(tmp_path / "b.gguf", SHAPE, seed=3).read_bytes() == first
    assert write_random_model(tmp_path / "c.gguf", SHAPE, seed=4).read_bytes() != first


@pytest.mark.parametrize("weights", ["f32", "f16", "q8_0"])
def test_llama_cpp_sees_the_shape(tmp_path: Path, weights: str) -> None:
    path = write_random_model(tmp_path / "model.gguf", SHAPE, weights=weights)  # type: ignore[arg-type]
    with Llama(path, n_ctx=128, n_threads=1) as llm:
        model = llm.model
        assert (model.n_layer, model.n_embd, model.n_head, model.n_head_kv) == (1, 32, 2, 1)
        assert (model.vocab.n_tokens, model.vocab.bos) == (600, BOS)
        assert model.n_params == SHAPE.n_params


def test_a_text_does_not_end_by_itself_and_comes_back_as_its_tokens(tmp_path: Path) -> None:
    with Llama(write_random_model(tmp_path / "model.gguf", SHAPE), n_ctx=128, n_threads=1) as llm:
        for temperature in (0.0, 0.8):
            assert len(llm.generate("", max_tokens=100, temperature=temperature, seed=1).tokens) == 100
        text = "tana nelu 42 Grüße"
        assert llm.detokenize(llm.tokenize(text), remove_special=True).strip() == text
        assert len(llm.tokenize("tana", add_special=False)) < len("tana")


def test_every_long_piece_is_found(tmp_path: Path) -> None:
    with Llama(write_random_model(tmp_path / "model.gguf", SHAPE), n_ctx=128, n_threads=1) as llm:
        for token in range(MIN_VOCAB + 94, SHAPE.n_vocab):
            word = llm.model.vocab.piece(token).decode()
            if word.startswith(" "):
                assert llm.tokenize(word[1:], add_special=False).tolist() == [token]


def test_a_vocabulary_can_be_taken_over(tmp_path: Path) -> None:
    source = write_random_model(tmp_path / "source.gguf", SHAPE)
    path = write_random_model(tmp_path / "model.gguf", Shape(n_vocab=999), vocab=source, metadata={"general.url": "x"})
    with Llama(path, n_ctx=128, n_threads=1) as llm:
        assert llm.model.vocab.n_tokens == SHAPE.n_vocab
        assert llm.model.metadata["general.url"] == "x"


def test_the_benchmark_shapes_have_their_names() -> None:
    assert round(SHAPE_15M.n_params / 1e6) == 15
    assert round(SHAPE_160M.n_params / 1e6) == 160
    assert len({text for text, _, _ in synthetic_vocab(SHAPE_160M.n_vocab)}) == 128_256


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(n_vocab=100), "n_vocab"),
        (Shape(n_embd=60, n_head=5, n_ff=64), "blocks of 32"),
        (Shape(n_embd=64, n_head=6), "heads"),
    ],
)
def test_impossible_shapes(tmp_path: Path, shape: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_random_model(tmp_path / "model.gguf", shape)
    assert not list(tmp_path.iterdir())
