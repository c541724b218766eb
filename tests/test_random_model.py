"""The random models that other tests and the benchmarks stand on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llama_cffi import ContextOptions, Llama
from llama_cffi.engine.draft_model import DraftModel
from tests.support.random_model import BOS, MIN_VOCAB, SHAPE_15M, SHAPE_160M, Shape, synthetic_vocab, write_random_model

pytest_plugins = ["tests.support.steady_clock"]

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


@pytest.mark.usefixtures("steady_clock")
def test_a_draft_model_is_the_first_layers_of_its_target(tmp_path: Path) -> None:
    """The fainter the other layers are, the more of its guesses are right; without them all are."""
    shape = Shape(n_layer=8, n_vocab=2000)
    draft = write_random_model(tmp_path / "draft.gguf", replace(shape, n_layer=2), weights="f32", seed=1)
    options = ContextOptions(type_k="f32", type_v="f32", flash_attn="disabled")
    rates = []
    for factor in (0.0, 0.1, 1.0):
        target = write_random_model(tmp_path / "target.gguf", shape, weights="f32", seed=1, faint=(2, factor))
        source = DraftModel(model=draft, p_min=0.0)
        with Llama(target, draft=source, n_ctx=1024, n_threads=1, context_options=options) as llm:
            prompts = [[300 + i, 310 + i, 320 + i] for i in range(6)]
            done = [llm.generate(prompt, max_tokens=48, temperature=0.0).speculation for prompt in prompts]
        rates.append(sum(one.accepted_tokens for one in done if one) / sum(one.drafted_tokens for one in done if one))
    assert rates[0] == 1.0
    assert rates[1] == pytest.approx(0.8, abs=0.1)
    assert rates[2] < 0.5


def test_with_successors_a_text_repeats_its_prompt(tmp_path: Path) -> None:
    prompt = [300, 310, 320]
    shape = Shape(n_layer=12, n_vocab=4000)
    for successors in (True, False):
        path = write_random_model(tmp_path / "model.gguf", shape, successors=successors)
        with Llama(path, n_ctx=256, n_threads=1) as llm:
            first = llm.generate(prompt, max_tokens=60, temperature=0.0, logprobs=2)
            again = llm.generate([*prompt, *first.tokens, prompt[-1]], max_tokens=60, temperature=0.0).tokens
        assert (again == first.tokens) is successors
        assert first.logprobs is not None
        gaps = [one.top[0][1] - one.top[1][1] for one in first.logprobs]
        assert (min(gaps) > 1.0) is successors
        assert not successors or len(set(first.tokens)) > 20, "no loop of a few tokens"
