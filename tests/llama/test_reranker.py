"""Llama.rerank and classify with a decoder that ranks, beside llama-server's answers and its own hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import ContextOptions, Llama
from llama_cffi.errors import TextTooLongError
from tests.support.llama_server import find_server, running_server
from tests.support.random_encoder import read_tensors
from tests.support.random_reranker import TEMPLATE, write_random_reranker

pytest_plugins = ["tests.support.models"]

WriteReranker = Callable[[str | None], Path]

QUERY = "What jumps over dogs?"
DOCUMENTS = [
    "The quick brown fox jumps over the lazy dog.",
    "x",
    "Ein längerer Satz über Flüsse, Berge und das Wetter von morgen 🌧",
    "  spaces   and\ttabs\nand lines  ",
    "What {query} and {other} say stays text",
] + [f"sentence number {i} " * (i % 7 + 1) for i in range(20)]
LONG = "word after word " * 200

# In half precision a row differs with the size of its batch.
EXACT = ContextOptions(type_k="f32", type_v="f32", flash_attn="disabled")


@pytest.fixture(scope="module")
def write_reranker(llama_cpp_models: Path, tmp_path_factory: pytest.TempPathFactory) -> WriteReranker:
    """Writes the random reranker with a rerank template, or with none; each once."""
    folder, made = tmp_path_factory.mktemp("reranker"), dict[str | None, Path]()

    def write(template: str | None) -> Path:
        if template not in made:
            path = folder / f"{len(made)}.gguf"
            vocab = llama_cpp_models / "ggml-vocab-phi-3.gguf"
            made[template] = write_random_reranker(path, vocab, template=template, seed=5)  # scores far apart
        return made[template]

    return write


@pytest.fixture(scope="module")
def reranker(write_reranker: WriteReranker) -> Iterator[Llama]:
    with Llama(write_reranker(TEMPLATE), n_ctx=512, n_threads=1, context_options=EXACT) as llm:
        yield llm


@pytest.mark.skipif(
    find_server() is None, reason="no llama-server (python scripts/build_libllama.py --tool llama-server)"
)
@pytest.mark.conformance
@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["template", "no template"])
def test_the_scores_of_llama_server(write_reranker: WriteReranker, tmp_path: Path, template: str | None) -> None:
    path, program = write_reranker(template), find_server()
    assert program is not None
    # It fills a place that the query brings along, too.
    documents = [text for text in DOCUMENTS if "{query}" not in text]
    with running_server(program, path, "--rerank", "-t", 1, "-fa", "off", log=tmp_path / "log") as server:
        answer = server.post("/rerank", {"query": QUERY, "documents": documents})
    theirs = {one["index"]: one["relevance_score"] for one in answer["results"]}
    with Llama(path, n_ctx=512, n_threads=1, context_options=ContextOptions(flash_attn="disabled")) as llm:
        ranked = llm.rerank(QUERY, documents)
    assert {one.index: one.score for one in ranked} == pytest.approx(theirs, abs=1e-4)
    assert max(theirs.values()) - min(theirs.values()) > 0.1


def test_a_list_is_ranked_as_one_by_one(reranker: Llama) -> None:
    ranked = reranker.rerank(QUERY, DOCUMENTS)
    alone = [reranker.rerank(QUERY, [document])[0].score for document in DOCUMENTS]
    assert [one.score for one in ranked] == pytest.approx([alone[one.index] for one in ranked], abs=1e-5)
    assert [one.index for one in ranked] == np.argsort(-np.array(alone), kind="stable").tolist()


def test_a_score_is_the_probability_of_yes(reranker: Llama) -> None:
    """The softmax over the two classes, of what the head makes of the last token."""
    head = read_tensors(Path(reranker.model.path))["cls.output.weight"]
    hidden = reranker.embed(DOCUMENTS, pooling="last", normalize=False).array
    raised = np.exp(hidden @ head.T)
    expected = raised / raised.sum(axis=1, keepdims=True)
    for labels, row in zip(reranker.classify(DOCUMENTS), expected, strict=True):
        scores = {label.name: label.score for label in labels}
        assert scores == pytest.approx(dict(zip(("yes", "no"), map(float, row), strict=True)), abs=1e-5)


def test_the_template_is_tokenized_as_llama_cpp_does(reranker: Llama) -> None:
    for document in DOCUMENTS:
        filled = TEMPLATE.replace("{query}", QUERY).replace("{document}", document.replace("{query}", "{other}"))
        whole = reranker.model.vocab.tokenize(filled, add_special=False, parse_special=True)
        pair = reranker._runtime.formats.pairs.encode(QUERY, document.replace("{query}", "{other}"))
        assert pair.tolist() == whole.tolist()


def test_a_document_in_pieces(reranker: Llama) -> None:
    """Causal attention needs no pair at once: one longer than a batch is computed after itself."""
    documents = [LONG[: 60 * i] for i in range(1, 16)]
    options = ContextOptions(n_ctx=512, n_batch=64, n_ubatch=32, type_k="f32", type_v="f32", flash_attn="disabled")
    with Llama(reranker.model, n_threads=1, context_options=options) as small:
        assert len(small._runtime.formats.pairs.encode(QUERY, documents[-1])) > 128
        pieces = {one.index: one.score for one in small.rerank(QUERY, documents)}
    assert pieces == pytest.approx({one.index: one.score for one in reranker.rerank(QUERY, documents)}, abs=1e-5)


def test_what_is_too_long(reranker: Llama) -> None:
    with pytest.raises(TextTooLongError) as caught:
        reranker.rerank(QUERY, ["short", LONG])
    assert (caught.value.index, caught.value.limit) == (1, 512)
    pair = reranker._runtime.formats.pairs.encode(QUERY, LONG, 512)
    end = reranker._runtime.formats.pairs.encode(QUERY, "x")[-4:]
    assert len(pair) == 512
    assert pair[-4:].tolist() == end.tolist(), "the template's end stays"
    cut = reranker.rerank(QUERY, [LONG, LONG + "another end"], truncate=True)
    assert cut[0].score == pytest.approx(cut[1].score, abs=1e-5)
