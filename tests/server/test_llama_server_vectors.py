"""llama-server's own endpoints for vectors, ranks and gaps, each with a small model that can do it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import ContextOptions, Llama, Model, ModelOptions
from llama_cffi.prompt.infill import InfillBudget, InfillFormat
from llama_cffi.runtime import demo_path
from tests.support.served import Served, events, served

pytest_plugins = ["tests.support.models", "tests.support.encoders"]
pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")

EXACT = ContextOptions(type_k="f32", type_v="f32", flash_attn="disabled")


def error(response: Any) -> tuple[int, Any]:
    found = response.json()["error"]
    return response.status_code, found["param"]


# -- vectors


@pytest.fixture(scope="module")
def stories_server(stories: Model) -> Iterator[Served]:
    with Llama(stories, n_ctx=128, n_threads=1, context_options=EXACT) as llama, served(llama) as made:
        yield made


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("name", ["input", "content"])
def test_vectors(stories_server: Served, path: str, name: str) -> None:
    llama = stories_server.llm.llama
    texts: list[Any] = ["Once upon a time", llama.tokenize("Lily").tolist(), ["Tom", 5]]
    found = stories_server.ask(path, {name: texts}).json()
    assert [one["index"] for one in found] == [0, 1, 2]
    assert all(len(one["embedding"]) == 1 for one in found)
    expected = llama.embed(["Once upon a time", "Lily"]).array
    np.testing.assert_allclose([one["embedding"][0] for one in found[:2]], expected, atol=1e-5)
    raw = stories_server.ask(path, {name: "Lily", "embd_normalize": -1}).json()[0]["embedding"]
    np.testing.assert_allclose(raw, llama.embed(["Lily"], normalize=False).array, rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "input"), ({"input": []}, "input"), ({"input": [""]}, None), ({"input": [[]]}, "input[0]"),
     ({"content": 5}, "content"), ({"input": "a", "encoding_format": "base64"}, "encoding_format"),
     ({"input": "a", "embd_normalize": 3}, "embd_normalize"), ({"input": [10**6]}, "input")],
)  # fmt: skip
def test_what_has_no_vector(stories_server: Served, body: Any, param: str | None) -> None:
    if body == {"input": [""]}:  # BOS alone
        assert stories_server.ask("/embedding", body).status_code == 200
    else:
        assert error(stories_server.ask("/embedding", body)) == (400, param)


# -- ranks

QUERY, DOCUMENTS = "what jumps over dogs", ["The quick brown fox", "x", "spaces and lines"]


@pytest.fixture(scope="module")
def ranker(classifier_path: Path) -> Iterator[Served]:
    """An encoder: a model without an engine."""
    exact = ContextOptions(flash_attn="disabled")
    with Llama(classifier_path, n_threads=1, context_options=exact) as llama, served(llama) as made:
        yield made


def test_an_encoder_is_served(ranker: Served) -> None:
    """It says what it is where a text is asked for, and answers the rest."""
    assert ranker.ask("/completion", {"prompt": "a"}).status_code == 400
    paths = ("/health", "/readyz", "/props", "/metrics", "/v1/models", "/slots")
    assert [ranker.ask(path).status_code for path in paths] == [200, 200, 200, 200, 200, 400]
    assert ranker.ask("/v1/embeddings", {"input": "a"}).status_code == 400  # it ranks


@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
def test_the_form_of_jina_and_cohere(ranker: Served, path: str) -> None:
    expected = ranker.llm.llama.rerank(QUERY, DOCUMENTS)
    found = ranker.ask(path, {"model": "m", "query": QUERY, "documents": DOCUMENTS}).json()
    assert set(found) == {"model", "object", "usage", "results"}
    assert [one["index"] for one in found["results"]] == [one.index for one in expected]
    assert [one["relevance_score"] for one in found["results"]] == pytest.approx([one.score for one in expected])
    assert all(set(one) == {"index", "relevance_score"} for one in found["results"])
    n = sum(one.n_tokens for one in expected)
    assert n > 3
    assert found["usage"] == {"prompt_tokens": n, "total_tokens": n}


def test_the_best_and_their_texts(ranker: Served) -> None:
    documents: list[Any] = [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]]
    body = {"query": QUERY, "documents": documents, "top_n": 2, "return_documents": True, "normalize": True}
    found = ranker.ask("/v1/rerank", body).json()
    best = ranker.llm.llama.rerank(QUERY, DOCUMENTS)[:2]
    assert [one["document"]["text"] for one in found["results"]] == [one.document for one in best]
    assert [one["relevance_score"] for one in found["results"]] == pytest.approx(
        [1 / (1 + np.exp(-one.score)) for one in best]
    )
    assert found["usage"]["prompt_tokens"] == sum(one.n_tokens for one in ranker.llm.llama.rerank(QUERY, DOCUMENTS))


def test_the_form_of_tei(ranker: Served) -> None:
    found = ranker.ask("/rerank", {"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    best = ranker.llm.llama.rerank(QUERY, DOCUMENTS)
    assert [(one["index"], one["text"]) for one in found] == [(one.index, one.document) for one in best]
    assert [one["score"] for one in found] == pytest.approx([one.score for one in best])
    bounded = ranker.ask("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": False}).json()
    assert [one["score"] for one in bounded] == pytest.approx([1 / (1 + np.exp(-one.score)) for one in best])
    assert all(set(one) == {"index", "score"} for one in bounded)


@pytest.mark.parametrize(
    ("body", "param"),
    [({"documents": ["a"]}, "query"), ({"query": 3, "documents": ["a"]}, "query"), ({"query": "q"}, "documents"),
     ({"query": "q", "documents": []}, "documents"), ({"query": "q", "documents": ["a", 3]}, "documents[1]"),
     ({"query": "q", "documents": [{"text": 3}]}, "documents[0].text"), ({"query": "q", "texts": [""]}, "texts[0]"),
     ({"query": "q", "documents": ["a"] * 1001}, "documents"),
     ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
     ({"query": "q", "documents": ["word " * 5000]}, "query")],
)  # fmt: skip
def test_what_is_not_ranked(ranker: Served, body: Any, param: str | None) -> None:
    assert error(ranker.ask("/v1/rerank", body)) == (400, param)


def test_a_model_that_ranks_nothing(stories_server: Served) -> None:
    assert stories_server.ask("/rerank", {"query": "q", "documents": ["a"]}).status_code == 400


# -- gaps


@pytest.fixture(scope="module")
def coder() -> Iterator[Served]:
    """The demo model with some of its tokens taken for those of gaps."""
    tokens = {f"tokenizer.ggml.fim_{name}_token_id": 300 + i for i, name in enumerate(("pre", "suf", "mid"))}
    with (
        Llama(demo_path(), n_ctx=256, n_threads=1, model_options=ModelOptions(kv_overrides=tokens)) as llama,
        served(llama) as made,
    ):
        yield made


PREFIX, SUFFIX = "def add(a, b):\n", "\n\nprint(add(1, 2))\n"
GAP: dict[str, Any] = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "temperature": 0, "n_predict": 6}


def test_a_gap(coder: Served) -> None:
    llama = coder.llm.llama
    tokens = InfillFormat(llama.model.vocab).tokens(PREFIX, SUFFIX, lead="    return ", repository="myproject")
    expected = llama.generate(tokens, temperature=0, max_tokens=6)
    found = coder.ask("/infill", {**GAP, "prompt": "    return "}).json()
    assert (found["content"], found["tokens_evaluated"]) == (expected.text, len(tokens))
    *pieces, last = events(coder.ask("/infill", {**GAP, "prompt": "    return ", "stream": True}))
    assert "".join(one["content"] for one in pieces) == expected.text
    assert last["stop"]


def test_what_an_editor_sends(coder: Served) -> None:
    """llama.vscode: a request without a text first, then one with its limits."""
    extra = [{"filename": "a.py", "text": "A = 1\n", "time": 1}, {"text": "B = 2"}, {"filename": "a.py", "text": "C"}]
    base = {**GAP, "input_extra": extra, "prompt": "", "cache_prompt": True, "samplers": [], "n_predict": 0}
    warm = coder.ask("/infill", {**base, "t_max_prompt_ms": 1000000, "t_max_predict_ms": 1}).json()
    assert (warm["content"], warm["truncated"], warm["tokens_predicted"]) == ("", False, 0)
    typed = {**base, "n_predict": 4, "samplers": ["top_k", "top_p", "infill"], "n_indent": 2, "top_k": 40}
    found = coder.ask("/infill", {**typed, "t_max_prompt_ms": 1000000, "t_max_predict_ms": 1000000}).json()
    assert found["timings"]["cache_n"] == found["tokens_evaluated"] - 1
    assert found["generation_settings"]["samplers"] == ["top_k", "top_p", "infill"]
    assert {"content", "timings", "tokens_cached", "truncated"} <= set(found)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input_prefix": None}, "input_prefix"), ({"input_suffix": None}, "input_suffix"),
     ({"input_prefix": 3}, "input_prefix"), ({"prompt": ["a"]}, "prompt"), ({"input_extra": "a"}, "input_extra"),
     ({"input_extra": ["a"]}, "input_extra[0]"), ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
     ({"input_extra": [{"filename": 3, "text": ""}]}, "input_extra[0].filename")],
)  # fmt: skip
def test_what_is_no_gap(coder: Served, fields: Any, param: str) -> None:
    assert error(coder.ask("/infill", {**GAP, **fields})) == (400, param)


def test_a_model_that_fills_nothing(stories_server: Served) -> None:
    assert stories_server.ask("/infill", GAP).status_code == 400


def test_a_long_gap_is_cut(coder: Served) -> None:
    """It fits the context, whatever the lengths; what is nearest to the gap stays."""
    llama = coder.llm.llama
    body = {**GAP, "input_prefix": "x = 1\n" * 400 + PREFIX, "input_suffix": SUFFIX + "y = 2\n" * 400, "n_predict": 4}
    extra = [{"filename": f"{i}.py", "text": "z = 3\n" * 10} for i in range(20)]
    found = coder.ask("/infill", {**body, "input_extra": extra})
    assert found.status_code == 200, found.text
    assert 128 < found.json()["tokens_evaluated"] <= 256 - 4
    vocab = llama.model.vocab
    budget = InfillBudget(window=64, files=20)
    tokens = InfillFormat(vocab).tokens(
        body["input_prefix"], body["input_suffix"], files=[("a", "old " * 30), ("b", "new")], lead="l", budget=budget
    )
    text = vocab.detokenize(tokens).decode()
    assert "old" not in text
    assert "new" in text
    assert f"{PREFIX}l" in text
    assert len(tokens) <= 64 + 20 + 3
    nothing = InfillFormat(vocab).tokens("", "", files=[("a", "b")], budget=InfillBudget(window=0, files=0))
    assert nothing[-3:] == [vocab.fim_pre, vocab.fim_suf, vocab.fim_mid]
