"""Against results that nobody here computed: a published text, and a second implementation of the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, Llama, Model
from tests.support.llama2c import Llama2c

if TYPE_CHECKING:
    from tests.support.models import MakeContext, MakeLlama

pytest_plugins = ["tests.support.models"]

N = 256

# llama.cpp's fused attention casts an F32 memory to F16, so only the unfused one can be compared closely.
EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled"}


@pytest.fixture(scope="module")
def golden(assets: Path) -> str:
    return (assets / "llama2c" / "golden_greedy.txt").read_text()


@pytest.fixture(scope="module")
def reference(assets: Path) -> Llama2c:
    return Llama2c(assets / "llama2c" / "stories260K.bin")


@pytest.fixture
def llm(make_llama: MakeLlama, stories: Model) -> Llama:
    return make_llama(stories)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    row = logits.astype(np.float64)
    row -= row.max()
    result: NDArray[np.float64] = row - np.log(np.exp(row).sum())
    return result


def test_greedy_text_is_the_authors(llm: Llama, golden: str) -> None:
    completion = llm.generate("", max_tokens=256, temperature=0)
    assert completion.text == " " + golden
    assert completion.finish_reason == "length"
    assert completion.usage.completion_tokens == 256


def test_streamed_greedy_text_is_the_authors(llm: Llama, golden: str) -> None:
    assert "".join(chunk.text for chunk in llm.stream("", max_tokens=256, temperature=0)) == " " + golden


def test_the_reference_itself_writes_the_authors_text(llm: Llama, reference: Llama2c, golden: str) -> None:
    """Otherwise an error common to both would go unseen: the numpy pass alone must choose the same tokens."""
    tokens = llm.tokenize(golden).tolist()
    assert tokens[0] == llm.model.vocab.bos
    chosen = reference.log_probs(tokens[:-1]).argmax(axis=1)
    assert chosen.tolist() == tokens[1:]


@pytest.fixture(scope="module")
def texts(reference: Llama2c) -> dict[str, list[int]]:
    """Token sequences to compare on: likely ones would hide errors that unlikely ones show."""
    rng = np.random.default_rng(2026)
    return {
        "ascending": list(range(1, 1 + N)),
        "random": [1, *rng.integers(3, reference.n_vocab, N - 1).tolist()],
    }


@pytest.fixture(scope="module")
def expected(texts: dict[str, list[int]], reference: Llama2c) -> dict[str, NDArray[np.float64]]:
    """The reference's log-probabilities of each text, float64 of shape (N, n_vocab)."""
    return {name: reference.log_probs(tokens) for name, tokens in texts.items()}


@pytest.mark.parametrize("kind", ["ascending", "random"])
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (EXACT, 1e-3),
        ({"type_k": "f32", "type_v": "f32", "flash_attn": "enabled"}, 0.05),
        ({"type_k": "f16", "type_v": "f16"}, 0.05),
        ({"type_k": "bf16", "type_v": "bf16"}, 0.5),
    ],
    ids=["f32", "f32-fused", "f16", "bf16"],
)
def test_log_probs_of_one_batch(
    kind: str,
    options: dict[str, str],
    tolerance: float,
    texts: dict[str, list[int]],
    expected: dict[str, NDArray[np.float64]],
    make_context: MakeContext,
    stories: Model,
) -> None:
    context = make_context(stories, **options, n_batch=N, n_ubatch=N)
    batch = Batch(N)
    for pos, token in enumerate(texts[kind]):
        batch.add(token, pos, output=True)
    context.decode(batch)
    compare([context.outputs.logits(i) for i in range(N)], expected[kind], tolerance)


def test_log_probs_token_by_token(
    texts: dict[str, list[int]], expected: dict[str, NDArray[np.float64]], make_context: MakeContext, stories: Model
) -> None:
    context = make_context(stories, **EXACT)
    compare([step(context, token, pos) for pos, token in enumerate(texts["random"])], expected["random"])


def test_log_probs_of_interleaved_sequences(
    texts: dict[str, list[int]], expected: dict[str, NDArray[np.float64]], make_context: MakeContext, stories: Model
) -> None:
    """Two texts in one memory, chunks of unequal length in the same batches."""
    context = make_context(stories, **EXACT, n_ctx=2 * N, n_batch=48, n_ubatch=32)
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in texts}
    done = dict.fromkeys(texts, 0)
    batch = Batch(48)
    while min(done.values()) < N:
        batch.clear()
        owners = []
        for seq_id, (name, size) in enumerate(zip(texts, (31, 17), strict=True)):
            for pos in range(done[name], min(done[name] + size, N)):
                batch.add(texts[name][pos], pos, seq_id, output=True)
                owners.append(name)
                done[name] += 1
        context.decode(batch)
        for row, name in enumerate(owners):
            rows[name].append(context.outputs.logits(row))
    for name in texts:
        compare(rows[name], expected[name])


def step(context: Context, token: int, pos: int) -> NDArray[np.float32]:
    batch = Batch(1)
    batch.add(token, pos, output=True)
    context.decode(batch)
    return context.outputs.logits()


def compare(rows: list[NDArray[np.float32]], expected: NDArray[np.float64], tolerance: float = 1e-3) -> None:
    ours = np.stack([log_softmax(row) for row in rows])
    assert ours.shape == expected.shape == (N, 512)
    assert np.abs(ours - expected).max() < tolerance
