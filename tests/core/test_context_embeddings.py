"""Context: embeddings of tokens and sequences, and what would end in an assertion of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi.errors import BatchError, ClosedError, ContextError, StaleViewError, UnsupportedError
from tests.support.random_encoder import LABELS, TINY_ENCODER, bert_forward, bert_scores, read_tensors, t5_encode

if TYPE_CHECKING:
    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models", "tests.support.encoders"]

TEXT = "The quick brown fox jumps over the lazy dog."
BERT_TOLERANCE = 3e-3  # its GELU is a table of half precision
TOKENS = [1, 300, 301, 305, 320, 411, 333, 260]


@pytest.fixture(scope="module")
def bert(bert_path: Path) -> Iterator[Model]:
    with Model(bert_path) as model:
        yield model


@pytest.fixture(scope="module")
def classifier(classifier_path: Path) -> Iterator[Model]:
    with Model(classifier_path) as model:
        yield model


@pytest.fixture(scope="module")
def t5(t5_path: Path) -> Iterator[Model]:
    with Model(t5_path) as model:
        yield model


def batch_of(*sequences: list[int] | NDArray[np.int32]) -> Batch:
    batch = Batch(sum(map(len, sequences)))
    for seq_id, tokens in enumerate(sequences):
        batch.extend(tokens, 0, seq_id)
    batch.output[:] = 1
    return batch


# -- what comes out


def test_a_bert_computes_what_its_paper_says(bert: Model, make_context: MakeContext) -> None:
    tokens = bert.vocab.tokenize(TEXT)
    hidden = bert_forward(read_tensors(bert.path), TINY_ENCODER, tokens.tolist())
    exact = {"embeddings": True, "flash_attn": "disabled"}
    context = make_context(bert, pooling="none", **exact)
    context.encode(batch_of(tokens))
    rows = context.outputs.embeddings_batch()
    assert (rows.dtype.name, rows.shape) == ("float32", hidden.shape)
    np.testing.assert_allclose(rows, hidden, atol=BERT_TOLERANCE)
    np.testing.assert_array_equal(context.outputs.embeddings(2), rows[2])
    np.testing.assert_array_equal(context.outputs.embeddings(), rows[-1])
    for pooling, expected in (("mean", hidden.mean(0)), ("cls", hidden[0]), ("last", hidden[-1])):
        pooled = make_context(bert, pooling=pooling, **exact)
        pooled.encode(batch_of(tokens[:3], tokens))
        np.testing.assert_allclose(pooled.outputs.embeddings_seq(1), expected, atol=BERT_TOLERANCE)


def test_a_classifier_head_gives_scores(classifier: Model, make_context: MakeContext) -> None:
    tokens = classifier.vocab.tokenize(TEXT)
    tensors = read_tensors(classifier.path)
    context = make_context(classifier, embeddings=True, flash_attn="disabled")
    assert (context.pooling, context.n_embd_seq) == ("rank", len(LABELS))
    context.encode(batch_of(tokens))
    expected = bert_scores(tensors, bert_forward(tensors, TINY_ENCODER, tokens.tolist()))
    np.testing.assert_allclose(context.outputs.embeddings_seq(0), expected, atol=BERT_TOLERANCE)


def test_the_encoder_of_an_encoder_decoder(t5: Model, make_context: MakeContext) -> None:
    tokens = t5.vocab.tokenize("tana nelu soki")
    hidden = t5_encode(read_tensors(t5.path), TINY_ENCODER, tokens.tolist())
    context = make_context(t5, embeddings=True)
    context.encode(batch_of(tokens[:5], tokens))
    np.testing.assert_allclose(context.outputs.embeddings_batch()[5:], hidden, atol=1e-5)


def test_a_decoder_pools_what_it_gives_for_each_token(stories: Model, make_context: MakeContext) -> None:
    each = make_context(stories, embeddings=True, pooling="none")
    each.decode(batch_of(TOKENS, TOKENS[:3]))
    rows = each.outputs.embeddings_batch()
    # With embeddings on every row is an output, and has logits too.
    assert each.outputs.logits(0).shape == (512,)
    for pooling in ("mean", "cls", "last"):
        context = make_context(stories, embeddings=True, pooling=pooling)
        context.decode(batch_of(TOKENS, TOKENS[:3]))
        for seq_id, own in enumerate((rows[: len(TOKENS)], rows[len(TOKENS) :])):
            expected = {"mean": own.mean(0), "cls": own[0], "last": own[-1]}[pooling]
            np.testing.assert_allclose(context.outputs.embeddings_seq(seq_id), expected, rtol=1e-4, atol=1e-4)


def test_attention_can_look_ahead(stories: Model, make_context: MakeContext) -> None:
    def first_row(context: Context) -> NDArray[np.float32]:
        context.memory.clear()
        context.decode(batch_of(TOKENS))
        return context.outputs.embeddings(0)

    causal = make_context(stories, embeddings=True, pooling="none")
    free = make_context(stories, embeddings=True, pooling="none", attention="non-causal")
    assert (causal.causal_attn, free.causal_attn) == (True, False)
    before = first_row(causal)
    assert not np.allclose(before, first_row(free), atol=1e-3)
    causal.set_causal_attn(False)
    np.testing.assert_allclose(first_row(causal), first_row(free), atol=1e-5)
    causal.set_causal_attn(True)
    np.testing.assert_allclose(first_row(causal), before, atol=1e-5)


def test_embeddings_can_be_switched(context: Context) -> None:
    assert not context.embeddings_enabled
    with pytest.raises(UnsupportedError, match="embeddings=True"):
        context.outputs.embeddings(0)
    context.set_embeddings(True)
    with pytest.raises(BatchError, match="no embedding"):
        context.outputs.embeddings(0)
    context.decode(batch_of(TOKENS))
    assert context.outputs.embeddings(0).shape == (64,)
    context.set_embeddings(False)
    with pytest.raises(UnsupportedError):
        context.outputs.embeddings_batch()


# -- views


def test_a_view_is_good_until_the_next_decode(stories: Model, make_context: MakeContext) -> None:
    each = make_context(stories, embeddings=True, pooling="none")
    pooled = make_context(stories, embeddings=True, pooling="mean")
    for context in (each, pooled):
        context.decode(batch_of(TOKENS))
    views = [each.outputs.embeddings_view(1), pooled.outputs.embeddings_seq_view(0)]
    np.testing.assert_array_equal(views[0].array, each.outputs.embeddings(1))
    np.testing.assert_array_equal(views[1].array, pooled.outputs.embeddings_seq(0))
    for context, view in zip((each, pooled), views, strict=True):
        context.memory.clear()
        context.decode(batch_of(TOKENS))
        with pytest.raises(StaleViewError):
            view.array  # noqa: B018
    fresh = each.outputs.embeddings_view(1)
    each.close()
    with pytest.raises(ClosedError):
        fresh.array  # noqa: B018
    with pytest.raises(ClosedError):
        each.outputs.embeddings(0)


def test_after_a_failed_batch_there_are_no_rows(stories: Model, make_context: MakeContext) -> None:
    context = make_context(stories, embeddings=True, pooling="none")
    context.decode(batch_of(TOKENS[:2]))
    with pytest.raises(BatchError):
        context.decode(batch_of(TOKENS))  # these positions are taken
    with pytest.raises(BatchError, match="failed"):
        context.outputs.embeddings_batch()


# -- what llama.cpp would not survive


@pytest.mark.parametrize(
    "options", [{"pooling": "mean"}, {"pooling": "cls"}, {"pooling": "none", "attention": "non-causal"}]
)
def test_what_must_be_seen_at_once_must_fit_a_micro_batch(
    stories: Model, make_context: MakeContext, options: dict[str, object]
) -> None:
    context = make_context(stories, embeddings=True, n_ubatch=8, **options)
    context.decode(batch_of(TOKENS))
    with pytest.raises(BatchError, match="n_ubatch is 8"):
        context.decode(batch_of([*TOKENS, 5]))
    with pytest.raises(ContextError, match="kv_unified"):
        make_context(stories, embeddings=True, kv_unified=False, **options)
    make_context(stories, embeddings=True, kv_unified=False, n_seq_max=1, **options)


def test_no_more_sequences_than_tokens(stories: Model, make_context: MakeContext) -> None:
    with pytest.raises(ValueError, match="n_seq_max=4 must be at most"):
        make_context(stories, embeddings=True, pooling="mean", n_ubatch=3)
    context = make_context(stories, pooling="mean", n_ubatch=3)
    with pytest.raises(ContextError, match="n_seq_max=4 must be at most n_ubatch=3"):
        context.set_embeddings(True)


def test_the_last_token_may_come_in_another_micro_batch(stories: Model, make_context: MakeContext) -> None:
    rows = []
    for n_ubatch in (3, 64):
        context = make_context(stories, embeddings=True, pooling="last", n_ubatch=n_ubatch, n_seq_max=1)
        context.decode(batch_of(TOKENS))
        rows.append(context.outputs.embeddings_seq(0))
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-2, atol=1e-2)


def test_positions_of_an_encoder(bert: Model, make_context: MakeContext) -> None:
    context = make_context(bert, embeddings=True, n_ubatch=256, n_batch=256)
    for position in (-1, 128):
        batch = batch_of([101, 102])
        batch.pos[1] = position
        with pytest.raises(BatchError, match=f"position {position} is outside 0 to 127"):
            context.encode(batch)
    context.encode(batch_of([101] * 128))
    with pytest.raises(BatchError, match="n_ubatch"):
        context.encode(batch_of([101] * 257))
    with pytest.raises(UnsupportedError, match="encode"):
        context.decode(batch_of([101]))
    with pytest.raises(UnsupportedError, match="memory"):
        context.memory  # noqa: B018


def test_the_wrong_question(stories: Model, make_context: MakeContext) -> None:
    pooled = make_context(stories, embeddings=True, pooling="last")
    pooled.decode(batch_of(TOKENS))
    with pytest.raises(UnsupportedError, match="embeddings_seq"):
        pooled.outputs.embeddings(0)
    with pytest.raises(BatchError, match="sequence 1"):
        pooled.outputs.embeddings_seq(1)
    for seq_id in (-1, 4):
        with pytest.raises(ValueError, match="seq_id"):
            pooled.outputs.embeddings_seq(seq_id)
    each = make_context(stories, embeddings=True)
    each.decode(batch_of(TOKENS))
    with pytest.raises(UnsupportedError, match="does not pool"):
        each.outputs.embeddings_seq(0)
    for row in (len(TOKENS), -len(TOKENS) - 1):
        with pytest.raises(BatchError, match="no embedding"):
            each.outputs.embeddings(row)


def test_rank_pooling_needs_a_classifier_head(bert: Model, make_context: MakeContext) -> None:
    with pytest.raises(UnsupportedError, match="no classifier head"):
        make_context(bert, embeddings=True, pooling="rank")
    context = make_context(bert, pooling="rank")
    with pytest.raises(UnsupportedError, match="no classifier head"):
        context.set_embeddings(True)


@pytest.mark.parametrize("options", [{"pooling": "median"}, {"attention": "none"}])
def test_unknown_words(model: Model, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Context(model, ContextOptions(**options))  # type: ignore[arg-type]


# -- what a model says of itself


def test_what_models_say(bert: Model, classifier: Model, t5: Model, stories: Model) -> None:
    models = (bert, classifier, t5, stories)
    assert [model.pooling for model in models] == ["mean", "rank", None, None]
    assert [model.causal_attn for model in models] == [False, False, True, True]
    assert [model.has_encoder for model in models] == [False, False, True, False]
    assert [model.has_classifier for model in models] == [False, True, False, False]
    assert [model.n_cls_out for model in models] == [1, 3, 1, 1]
    assert [model.n_embd_out for model in models] == [64] * 4
    assert [classifier.cls_label(i) for i in range(3)] == list(LABELS)
    assert bert.cls_label(0) is None
    for i in (-1, 3):
        with pytest.raises(IndexError, match="label"):
            classifier.cls_label(i)
