"""Llama.embed, similarity, rerank and classify, beside llama-server's answers over the same library."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import ContextOptions, ControlVector, Embeddings, Llama, Model
from llama_cffi.errors import (
    AbortedError,
    ClosedError,
    ContextError,
    PromptError,
    TextTooLongError,
    TokenizeError,
    UnsupportedError,
)
from tests.support.llama_server import find_server, running_server
from tests.support.lora import random_pairs, write_lora, write_merged
from tests.support.random_encoder import LABELS, TINY_ENCODER, read_tensors, t5_encode, write_random_bert

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models", "tests.support.encoders"]

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "x",
    "Ein längerer Satz über Flüsse, Berge und das Wetter von morgen 🌧 with words that no vocabulary has: qwxzzyk.",
    "  spaces   and\ttabs\nand lines  ",
    "What [CLS] and [SEP] say stays text",
] + [f"sentence number {i} " * (i % 7 + 1) for i in range(40)]

# Flash attention adds up in half precision, in an order that depends on what else is in the batch.
EXACT = ContextOptions(flash_attn="disabled")
SERVER_OPTIONS = ("-t", 1, "-fa", "off")

needs_server = pytest.mark.skipif(
    find_server() is None, reason="no llama-server (python scripts/build_libllama.py --tool llama-server)"
)


@pytest.fixture(scope="module")
def bert(bert_path: Path) -> Iterator[Llama]:
    with Llama(bert_path, n_threads=1, context_options=EXACT) as llm:
        yield llm


@pytest.fixture(scope="module")
def classifier(classifier_path: Path) -> Iterator[Llama]:
    with Llama(classifier_path, n_threads=1, context_options=EXACT) as llm:
        yield llm


@pytest.fixture(scope="module")
def stories_llm(stories: Model) -> Iterator[Llama]:
    with Llama(stories, n_threads=1, context_options=EXACT) as llm:
        yield llm


# -- beside llama-server


@needs_server
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_embeddings_of_llama_server(bert: Llama, bert_path: Path, tmp_path: Path, pooling: Any) -> None:
    program, log = find_server(), tmp_path / "log"
    assert program is not None
    # Of its texts it does read control tokens.
    texts = [text for text in TEXTS if "[CLS]" not in text]
    with running_server(program, bert_path, "--embedding", "--pooling", pooling, *SERVER_OPTIONS, log=log) as server:
        answer = server.post("/v1/embeddings", {"input": texts})
    ours = bert.embed(texts, pooling=pooling)
    np.testing.assert_allclose(ours.array, [one["embedding"] for one in answer["data"]], atol=1e-4)
    assert sum(ours.n_tokens) == answer["usage"]["prompt_tokens"]


@needs_server
def test_a_decoder_pooled_as_llama_server_does(stories_llm: Llama, tmp_path: Path) -> None:
    program, log = find_server(), tmp_path / "log"
    assert program is not None
    texts = ["Once upon a time", "Lily had a big red ball. " * 4]
    with running_server(
        program, stories_llm.model.path, "--embedding", "--pooling", "last", *SERVER_OPTIONS, log=log
    ) as server:
        answer = server.post("/v1/embeddings", {"input": texts})
    ours = stories_llm.embed(texts, pooling="last")
    np.testing.assert_allclose(ours.array, [one["embedding"] for one in answer["data"]], atol=1e-3)


@needs_server
@pytest.mark.parametrize("template", [None, "[CLS] Query: {query} [SEP] Text: {document}!"])
def test_the_ranking_of_llama_server(bert_vocab: Path, tmp_path: Path, template: str | None) -> None:
    metadata = {"tokenizer.chat_template.rerank": template} if template is not None else {}
    path = tmp_path / "rank.gguf"
    write_random_bert(path, bert_vocab, pooling="rank", n_classes=1, metadata=metadata)
    program = find_server()
    assert program is not None
    query, documents = "what jumps over dogs", [text for text in TEXTS if "[CLS]" not in text]
    with running_server(program, path, "--rerank", *SERVER_OPTIONS, log=tmp_path / "log") as server:
        answer = server.post("/rerank", {"query": query, "documents": documents})
    with Llama(path, n_threads=1, context_options=EXACT) as llm:
        ranked = llm.rerank(query, documents)
        top = llm.rerank(query, documents, top_n=3)
    theirs = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert sorted(theirs) == sorted(one.index for one in ranked)
    for one in ranked:
        assert one.score == pytest.approx(theirs[one.index], abs=1e-4)
        assert one.document == documents[one.index]
    scores = [one.score for one in ranked]
    assert scores == sorted(scores, reverse=True)
    assert [one.index for one in top] == [one.index for one in ranked[:3]]


# -- what comes out


def test_a_list_is_what_its_texts_are_alone(bert: Llama) -> None:
    for pooling in ("mean", "cls", "last"):
        together = bert.embed(TEXTS, pooling=pooling)
        alone = [bert.embed(text, pooling=pooling) for text in TEXTS]
        assert together.array.shape == (len(TEXTS), 64)
        assert (together.array.dtype.name, together.pooling) == ("float32", pooling)
        assert {one.array.shape for one in alone} == {(64,)}
        np.testing.assert_allclose(together.array, np.stack([one.array for one in alone]), atol=1e-4)
        assert together.n_tokens == tuple(one.n_tokens[0] for one in alone)
        assert together.n_tokens[0] == len(bert.tokenize(TEXTS[0]))


def test_flash_attention_changes_little(bert: Llama, bert_path: Path) -> None:
    with Llama(bert_path, n_threads=1) as llm:
        cosines = (llm.embed(TEXTS).array * bert.embed(TEXTS).array).sum(-1)
    assert cosines.min() > 0.9999


def test_vectors_of_tokens(bert: Llama) -> None:
    texts = TEXTS[:6]
    whole = bert.embed(texts, normalize=False)
    each = bert.embed(texts, pooling="none", normalize=False)
    assert each.array.shape == (sum(each.n_tokens), 64)
    assert (len(each), each.n_tokens) == (6, whole.n_tokens)
    for i, rows in enumerate(each):
        assert rows.shape == (each.n_tokens[i], 64)
        np.testing.assert_allclose(rows.mean(0), whole[i], atol=1e-4)
    np.testing.assert_array_equal(each[-1], each[5])
    single = bert.embed(texts[2], pooling="none", normalize=False)
    np.testing.assert_allclose(single.array, each[2], atol=1e-3)
    for i in (6, -7):
        with pytest.raises(IndexError):
            each[i]


def test_progress(bert: Llama, classifier: Llama) -> None:
    actions: list[Callable[[Callable[[float], object]], object]] = [
        lambda progress: bert.embed(TEXTS, progress=progress),
        lambda progress: bert.embed(TEXTS, pooling="none", progress=progress),
        lambda progress: classifier.rerank("what", TEXTS, progress=progress),
    ]

    def stop(part: float) -> None:
        raise KeyError(part)

    for action in actions:
        parts: list[float] = []
        action(parts.append)
        assert len(parts) > 1
        assert parts == sorted(set(parts))
        assert (parts[0] > 0, parts[-1]) == (True, 1.0)
        with pytest.raises(KeyError):
            action(stop)
    np.testing.assert_allclose(bert.embed(TEXTS[0]).array, bert.embed(TEXTS[:1])[0], atol=1e-6)


def test_numpy_takes_it_for_an_array(bert: Llama) -> None:
    embedded = bert.embed(TEXTS[:3])
    np.testing.assert_array_equal(np.asarray(embedded), embedded.array)
    assert np.asarray(embedded, dtype=np.float64).dtype == np.float64
    copy = np.array(embedded)
    copy[:] = 0
    assert embedded.array.any()
    np.testing.assert_allclose(np.dot(embedded, embedded[0])[0], 1, rtol=1e-5)
    assert [row.shape for row in embedded] == [(64,)] * 3
    alone = bert.embed("one")
    np.testing.assert_array_equal(alone[0], alone.array)


def test_the_length_of_vectors(bert: Llama) -> None:
    raw = bert.embed(TEXTS[:4], normalize=False).array
    for normalize, order in ((True, 2), ("l2", 2), ("l1", 1)):
        array = bert.embed(TEXTS[:4], normalize=normalize).array  # type: ignore[arg-type]
        np.testing.assert_allclose(array, raw / np.linalg.norm(raw, ord=order, axis=1, keepdims=True), rtol=1e-5)
    with pytest.raises(ValueError, match="normalize"):
        bert.embed("a", normalize="max")  # type: ignore[arg-type]


def test_a_prefix_goes_before_every_text(bert: Llama) -> None:
    given = bert.embed(["cats", "dogs"], prefix="query: ")
    np.testing.assert_allclose(given.array, bert.embed(["query: cats", "query: dogs"]).array, atol=1e-6)


def test_control_tokens_in_a_text_stay_text(bert: Llama) -> None:
    assert bert.embed("[SEP]").n_tokens[0] > 3


def test_similarity(bert: Llama) -> None:
    a, b = TEXTS[:2], TEXTS[2:5]
    vectors = {text: bert.embed(text).array for text in TEXTS[:5]}
    expected = np.array([[vectors[one] @ vectors[other] for other in b] for one in a])
    np.testing.assert_allclose(bert.similarity(a, b), expected, atol=1e-5)
    np.testing.assert_allclose(bert.similarity(a, b[1]), expected[:, 1], atol=1e-5)
    np.testing.assert_allclose(bert.similarity(a[1], b), expected[1], atol=1e-5)
    assert bert.similarity(a[0], b[0]) == pytest.approx(expected[0, 0], abs=1e-5)
    assert bert.similarity("same", "same") == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="whole texts"):
        bert.similarity("a", "b", pooling="none")


def test_the_encoder_of_an_encoder_decoder(t5_path: Path) -> None:
    with Llama(t5_path, n_threads=1) as llm:
        texts = ["tana nelu soki", "ra", "so be it " * 9]
        array = llm.embed(texts, normalize=False).array
        tensors = read_tensors(t5_path)
        for row, text in zip(array, texts, strict=True):
            hidden = t5_encode(tensors, TINY_ENCODER, llm.tokenize(text).tolist())
            np.testing.assert_allclose(row, hidden.mean(0), atol=1e-5)
        assert len(llm.generate("x", max_tokens=2).tokens) == 2


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_decoder_pools_the_vectors_of_its_tokens(stories_llm: Llama, pooling: Any) -> None:
    texts = ["Once upon a time", "Lily had a big red ball. " * 4, "One day"] * 30
    each = stories_llm.embed(texts, pooling="none", normalize=False)
    pooled = stories_llm.embed(texts, pooling=pooling, normalize=False)
    for rows, vector in zip(each, pooled, strict=True):
        expected = {"mean": rows.mean(0), "last": rows[-1], "cls": rows[0]}[pooling]
        np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-3)


def test_the_last_token_of_a_text_longer_than_a_batch(stories: Model, make_llama: MakeLlama) -> None:
    text = "Lily had a big red ball. " * 12
    whole, pieces = (
        make_llama(stories, context_options=EXACT, n_batch=n_batch, n_ubatch=n_batch // 2) for n_batch in (512, 16)
    )
    for pooling in ("last", "none"):
        expected = whole.embed([text, "Lily"], pooling=pooling).array
        np.testing.assert_allclose(pieces.embed([text, "Lily"], pooling=pooling).array, expected, atol=1e-2)
    with pytest.raises(TextTooLongError, match="the most with this model and context are 8"):
        pieces.embed(text, pooling="mean")


def test_labels(classifier: Llama, tmp_path: Path, bert_vocab: Path) -> None:
    one, other = classifier.classify(TEXTS[:2])
    for labels in (one, other):
        assert sorted(label.name for label in labels) == sorted(LABELS)
        assert [label.score for label in labels] == sorted((label.score for label in labels), reverse=True)
        assert all(label.name == LABELS[label.index] for label in labels)
    alone = classifier.classify(TEXTS[0])
    assert [label.name for label in alone] == [label.name for label in one]
    # The first score is what ranks.
    path = write_random_bert(tmp_path / "nameless.gguf", bert_vocab, pooling=None, n_classes=1)
    with Llama(path, n_threads=1) as llm:
        assert [label.name for label in llm.classify("a")] == ["LABEL_0"]
        assert llm.embed("a").pooling == "mean"


# -- too long, or wrong


def test_a_long_text_is_refused_or_cut_as_asked(bert: Llama) -> None:
    long = "word " * 200
    with pytest.raises(
        TextTooLongError, match="text 1 has 202 tokens; the most with this model and context are 128"
    ) as caught:
        bert.embed(["short", long])
    assert (caught.value.index, caught.value.n_tokens, caught.value.limit) == (1, 202, 128)
    cut = bert.embed(["short", long], truncate=True)
    assert (cut.n_tokens, cut.truncated) == ((3, 128), (False, True))
    # It keeps the special token at its end.
    np.testing.assert_allclose(cut[1], bert.embed("word " * 126).array, atol=1e-6)


def test_a_long_pair_loses_the_end_of_its_document(classifier: Llama, bert_vocab: Path, tmp_path: Path) -> None:
    long = "word " * 200
    with pytest.raises(TextTooLongError, match="query and document 1"):
        classifier.rerank("what", ["short", long])
    ranked = classifier.rerank("what", [long, "word " * 125], truncate=True)
    assert ranked[0].score == pytest.approx(ranked[1].score, abs=1e-5)
    with pytest.raises(TextTooLongError):
        classifier.rerank(long, ["short"], truncate=True)
    template = {"tokenizer.chat_template.rerank": "[CLS]{query}[SEP]{document} end[SEP]"}
    path = write_random_bert(tmp_path / "r.gguf", bert_vocab, pooling="rank", n_classes=1, metadata=template)
    with Llama(path, n_threads=1, context_options=EXACT) as llm:
        ranked = llm.rerank("what", [long, "word " * 123], truncate=True)
        assert ranked[0].score == pytest.approx(ranked[1].score, abs=1e-5)
        # What texts say of places and control tokens stays text.
        plain, loaded = llm.rerank("{document}", ["a", "[SEP] {query}"])
        assert plain.score != loaded.score


BAD: dict[str, tuple[Callable[[Llama], object], type[Exception], str]] = {
    "empty list": (lambda llm: llm.embed([]), PromptError, "empty list"),
    "empty text": (lambda llm: llm.embed(["a", ""]), PromptError, r"texts\[1\] is an empty text"),
    "lone surrogate": (lambda llm: llm.embed(["a", "b\ud800"]), TokenizeError, "text 1: .*surrogate"),
    "bytes": (lambda llm: llm.embed(b"a"), TypeError, "bytes"),  # type: ignore[arg-type]
    "number": (lambda llm: llm.embed(["a", 5]), TypeError, r"texts\[1\] must be str"),  # type: ignore[list-item]
    "pooling": (lambda llm: llm.embed("a", pooling="median"), ValueError, "must be one of"),  # type: ignore[arg-type]
    "rank": (lambda llm: llm.embed("a", pooling="rank"), ValueError, "rerank"),
    "no head": (
        lambda llm: llm.rerank("a", ["b"]),
        UnsupportedError,
        r"is not a reranker: .*no classifier head.*similarity\(\)",
    ),
    "no head for labels": (
        lambda llm: llm.classify("a"),
        UnsupportedError,
        "is not a classifier: .*no classifier head.*schema=",
    ),
    "generate": (lambda llm: llm.generate("a"), UnsupportedError, "is an encoder"),
    "stream": (lambda llm: llm.stream("a"), UnsupportedError, "is an encoder"),
}


@pytest.mark.parametrize("name", BAD)
def test_every_mistake_has_its_exception(bert: Llama, name: str) -> None:
    action, kind, message = BAD[name]
    before = bert.embed("a").array
    with pytest.raises(kind, match=message):
        action(bert)
    np.testing.assert_array_equal(bert.embed("a").array, before)


def test_mistakes_in_ranking(classifier: Llama) -> None:
    with pytest.raises(UnsupportedError, match="ranks and classifies"):
        classifier.embed("a")
    assert classifier.embed("a", pooling="cls").array.shape == (64,)
    with pytest.raises(PromptError, match="documents is an empty list"):
        classifier.rerank("a", [])
    with pytest.raises(PromptError, match="query is an empty text"):
        classifier.rerank("", ["a"])
    with pytest.raises(TokenizeError, match="the text holds a lone surrogate"):
        classifier.rerank("\ud800", ["a"])
    with pytest.raises(TokenizeError, match="document 1"):
        classifier.rerank("a", ["b", "\udfff"])
    with pytest.raises(TypeError, match="list of texts"):
        classifier.rerank("a", "b")
    with pytest.raises(ValueError, match="top_n"):
        classifier.rerank("a", ["b"], top_n=0)


def test_a_nul_is_a_character(bert: Llama) -> None:
    assert np.isfinite(bert.embed("a\0b").array).all()
    assert bert.similarity("a\0b", "a") < 0.999


# -- lifetime and threads


def test_a_closed_llama_embeds_nothing(stories: Model, bert_path: Path) -> None:
    llm = Llama(stories, n_threads=1)
    contexts = [llm._runtime.embedders.get(pooling).context for pooling in ("mean", "last")]
    llm.embed("Lily")
    llm.close()
    llm.close()
    assert all(context.closed for context in contexts)
    assert not stories.closed
    with pytest.raises(ClosedError, match="Llama is closed"):
        llm.embed("Lily")
    own = Llama(bert_path, n_threads=1)
    own.embed("Lily")
    own.close()
    assert own.model.closed
    with pytest.raises(ClosedError):
        own.embed("Lily")


def test_threads_embed_and_generate_at_once(stories_llm: Llama) -> None:
    texts = ["Once upon a time", "Lily had a ball"] * 20
    expected = stories_llm.embed(texts).array
    story = stories_llm.generate("One day", max_tokens=20, temperature=0).text
    results: list[NDArray[np.float32] | str] = []

    def embed() -> None:
        results.append(stories_llm.embed(texts).array)

    def generate() -> None:
        results.append(stories_llm.generate("One day", max_tokens=20, temperature=0).text)

    threads = [threading.Thread(target=target) for target in (embed, generate, embed, generate)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        if isinstance(result, str):
            assert result == story
        else:
            np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_close_ends_an_embedding_of_another_thread(bert_path: Path, n_threads: int) -> None:
    llm = Llama(bert_path, n_threads=n_threads)
    llm.embed("a")
    ended: list[BaseException | Embeddings] = []

    def embed() -> None:
        try:
            ended.append(llm.embed(["word " * 100] * 5000))
        except (AbortedError, ClosedError) as error:
            ended.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    time.sleep(0.3)
    llm.close()
    thread.join(10)
    assert isinstance(ended[0], (AbortedError, ClosedError))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_signal_stops_a_long_list(bert_path: Path, n_threads: int) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    with Llama(bert_path, n_threads=n_threads, context_options=EXACT) as llm:
        before = llm.embed("a").array
        old = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            start = time.monotonic()
            with pytest.raises(Stopped):
                llm.embed(["word " * 100] * 5000)
            assert time.monotonic() - start < 1.5
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        np.testing.assert_array_equal(llm.embed("a").array, before)
        # Nobody is stopped by what was meant for others.
        np.testing.assert_allclose(llm.embed(["a"] * 300).array, np.tile(before, (300, 1)), atol=1e-5)


# -- several contexts side by side


def n_contexts(llm: Llama) -> int:
    return len(llm._runtime.embedders.get("mean")._workers)


@pytest.mark.usefixtures("all_processors")
def test_contexts_side_by_side_give_what_one_gives(bert: Llama, bert_path: Path) -> None:
    texts = [f"{text} {i}" for i in range(4) for text in TEXTS]
    expected = bert.embed(texts)
    with Llama(bert_path, n_threads=3, context_options=EXACT) as llm:
        assert llm.embed(texts[0]).array.shape == (64,)
        assert n_contexts(llm) == 1
        for _ in range(2):
            found = llm.embed(texts)
            assert found.n_tokens == expected.n_tokens
            np.testing.assert_allclose(found.array, expected.array, atol=1e-5)
        assert (n_contexts(bert), n_contexts(llm)) == (1, 3)
        rows = llm.embed(texts, pooling="none")
        np.testing.assert_allclose(rows, bert.embed(texts, pooling="none"), atol=2e-4)


@pytest.mark.usefixtures("all_processors")
def test_a_text_too_long_for_the_contexts_beside_is_computed_by_the_first(
    bert_path: Path, bert: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_cffi.engine.embedder.N_ASIDE", 40)
    monkeypatch.setattr("llama_cffi.engine.embedder.N_ENCODED", 40)
    monkeypatch.setattr("llama_cffi.engine.embedder.N_LEAST", 10)
    texts = ["word " * n for n in (100, 3, 60, 5, 7, 38, 9, 30)]
    with Llama(bert_path, n_threads=2, context_options=EXACT) as llm:
        np.testing.assert_allclose(llm.embed(texts).array, bert.embed(texts).array, atol=1e-5)
        assert [lane.context.n_ubatch for lane in llm._runtime.embedders.get("mean")._workers] == [512, 40]


@pytest.mark.usefixtures("all_processors")
def test_no_memory_for_another_context_is_no_reason_to_fail(
    bert_path: Path, bert: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["word " * 60] * 9
    with Llama(bert_path, n_threads=2, context_options=EXACT) as llm:
        llm.embed("a")

        def fail(*args: object, **options: object) -> None:
            raise ContextError("no memory")

        monkeypatch.setattr("llama_cffi.engine.embedder.SideContext", fail)
        np.testing.assert_allclose(llm.embed(texts).array, bert.embed(texts).array, atol=1e-5)
        assert n_contexts(llm) == 1


# -- what changes the weights


@pytest.mark.usefixtures("all_processors")
def test_an_adapter_of_an_encoder_is_what_merging_it_gives(bert_path: Path, bert: Llama, tmp_path: Path) -> None:
    pairs = random_pairs(bert_path, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"))
    assert pairs
    lora = write_lora(tmp_path / "lora.gguf", pairs, architecture="bert")
    merged = write_merged(tmp_path / "merged.gguf", bert_path, [(pairs, 0.5)])
    with Llama(bert_path, n_threads=2, context_options=EXACT) as llm:
        adapter = llm.load_adapter(lora)
        plain = llm.embed(TEXTS).array
        llm.set_adapters({adapter: 0.5})
        changed = llm.embed(TEXTS).array
        with Llama(merged, n_threads=1, context_options=EXACT) as other:
            np.testing.assert_allclose(changed, other.embed(TEXTS).array, atol=1e-4)
        assert np.abs(changed - plain).max() > 0.01
        llm.set_adapters({})
        np.testing.assert_array_equal(llm.embed(TEXTS).array, plain)
        adapter.close()


def test_adapters_and_control_vectors_reach_the_embeddings_of_a_decoder(
    make_llama: MakeLlama, model: Model, model_path: Path, tmp_path: Path
) -> None:
    llm = make_llama(context_options=EXACT)
    text = "Once upon a time"
    plain = llm.embed(text).array
    pairs = random_pairs(model_path)
    adapter = llm.load_adapter(write_lora(tmp_path / "lora.gguf", pairs))
    llm.set_adapters({adapter: 1.0})
    with Llama(write_merged(tmp_path / "merged.gguf", model_path, [(pairs, 1.0)]), n_threads=1, n_ctx=512,
               n_seq_max=4, context_options=EXACT) as merged:  # fmt: skip
        np.testing.assert_allclose(llm.embed(text).array, merged.embed(text).array, atol=2e-3)
    assert np.abs(llm.embed(text).array - plain).max() > 0.02
    llm.set_adapters({})
    adapter.close()
    directions = np.random.default_rng(0).standard_normal((model.n_layer, model.n_embd)).astype(np.float32)
    directions[0] = 0
    llm.set_control_vector(ControlVector(directions))
    moved = llm.embed(text).array
    assert np.abs(moved - plain).max() > 0.02
    llm.set_control_vector(None)
    np.testing.assert_array_equal(llm.embed(text).array, plain)
