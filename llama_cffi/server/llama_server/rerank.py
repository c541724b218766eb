"""POST /rerank in the forms of Jina, Cohere and Text Embeddings Inference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llama_cffi.server.fields import Field, read_fields
from llama_cffi.server.problem import wrong
from llama_cffi.server.response import Answer, json_answer
from llama_cffi.server.values import flag, integer, items, text, typed

if TYPE_CHECKING:
    from llama_cffi.reply.vectors import Ranked
    from llama_cffi.server.exchange import Call

MAX_DOCUMENTS = 1000

RERANK_FIELDS: tuple[Field, ...] = (
    Field.of("query", text(16 << 20)),
    Field.of("top_n", integer(1)),
    *(Field.of(name, flag) for name in ("return_documents", "return_text", "raw_scores", "normalize", "truncate")),
    Field.of("model", text(256)),
)


async def rerank(call: Call) -> Answer:
    """Order documents by how well they fit a query. ``texts`` instead of ``documents`` asks for a bare list."""
    llm = call.service.llm
    asked = read_fields(call, RERANK_FIELDS, frozenset({"documents", "texts"}))
    call.service.check_model(asked.take("model"))
    query = asked.take("query")
    if query is None:
        raise wrong("query", "is missing")
    bare = "texts" in call.body and "documents" not in call.body
    name = "texts" if bare else "documents"
    documents = _documents(name, call.body.get(name, []))
    ranked = await llm.rerank(query, documents, truncate=bool(asked.take("truncate")))
    n = sum(one.n_tokens for one in ranked)
    shown = ranked[: asked.take("top_n", len(ranked))]
    raw, between = asked.take("raw_scores"), bool(asked.take("normalize"))
    scores = [_logistic(one.score) if between or raw is False else one.score for one in shown]
    with_text = bool(asked.take("return_text") if bare else asked.take("return_documents"))
    if bare:
        return json_answer([_bare(one, score, with_text) for one, score in zip(shown, scores, strict=True)])
    return json_answer(
        {
            "model": call.model,
            "object": "list",
            "usage": {"prompt_tokens": n, "total_tokens": n},
            "results": [_result(one, score, with_text) for one, score in zip(shown, scores, strict=True)],
        }
    )


def _documents(name: str, value: Any) -> list[str]:
    found = []
    for i, one in enumerate(items(name, value, MAX_DOCUMENTS)):
        place = f"{name}[{i}]"
        if isinstance(one, dict):
            place, one = f"{place}.text", one.get("text")
        if not typed(place, one, str):
            raise wrong(place, "is empty")
        found.append(one)
    if not found:
        raise wrong(name, "must be a list of texts, which is not empty")
    return found


def _result(one: Ranked, score: float, with_text: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"index": one.index, "relevance_score": score}
    return {**found, "document": {"text": one.document}} if with_text else found


def _bare(one: Ranked, score: float, with_text: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"index": one.index, "score": score}
    return {**found, "text": one.document} if with_text else found


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))


__all__ = ["MAX_DOCUMENTS", "RERANK_FIELDS", "rerank"]
