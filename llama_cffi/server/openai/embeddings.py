"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from llama_cffi.core.prompt import Prompt
from llama_cffi.errors import TokenError
from llama_cffi.prompt.media_parts import MARKER
from llama_cffi.server.exchange import Call
from llama_cffi.server.fields import Field, read_fields
from llama_cffi.server.llama_server.prompts import make_embeddable
from llama_cffi.server.llama_server.prompts import read_prompts as read_native
from llama_cffi.server.openai.completions import read_prompts
from llama_cffi.server.problem import Problem, wrong
from llama_cffi.server.response import Answer, json_answer
from llama_cffi.server.values import flag, integer, items, one_of, text
from llama_cffi.server.vectors import embed, normalized

EMBEDDING_FIELDS: tuple[Field, ...] = (
    Field.of("encoding_format", one_of("float", "base64")),
    Field.of("dimensions", integer(1)),
    Field.of("embd_normalize", integer(-1, 2)),
    Field.of("truncate", flag),
    Field.of("model", text(256)),
)


def _objects(call: Call, given: Any, limit: int) -> list[str | Prompt]:
    """The inputs of a list with objects: a text or an image as Jina's API has it, or llama-server's own form."""
    llama, found = call.service.llm.llama, list[str | Prompt]()
    for i, one in enumerate([given] if isinstance(given, dict) else items("input", given, limit)):
        place = f"input[{i}]"
        if isinstance(one, dict) and isinstance(one.get("text"), str):
            one = one["text"]
        if isinstance(one, str):
            found.append(one)
            continue
        if isinstance(one, dict) and "image" in one:
            one = {"prompt_string": MARKER, "multimodal_data": [one["image"]]}
        (parts,) = read_native(place, one, 1, media=call.media is not None)
        found.append(make_embeddable(llama, parts))
    return found


async def embeddings(call: Call) -> Answer:
    """Make vectors of texts."""
    llm = call.service.llm
    asked = read_fields(call, EMBEDDING_FIELDS, frozenset({"input"}))
    call.service.check_model(asked.take("model"))
    given, limit = call.body.get("input"), call.service.settings.max_inputs
    inputs: list[Any]
    if isinstance(given, dict) or (isinstance(given, list) and any(isinstance(one, dict) for one in given)):
        inputs = await asyncio.to_thread(_objects, call, given, limit)
    else:
        inputs = [*read_prompts(given, limit, "input")]
    vocab, width = llm.llama.model.vocab, llm.llama.model.n_embd_out
    dimensions = asked.take("dimensions")
    if dimensions is not None and dimensions > width:
        raise wrong("dimensions", f"must be at most {width}, got {dimensions}")
    norm = asked.take("embd_normalize", 2)
    try:
        texts: list[Any] = [
            one if isinstance(one, (str, Prompt)) else Prompt(vocab.check_tokens(one).tolist()) for one in inputs
        ]
    except TokenError as error:
        hint = "clients of LangChain send texts with check_embedding_ctx_length=False"
        raise Problem(400, f"input: {error.message}; {hint}", code="invalid_token", param="input") from None
    found = await embed(call, texts, truncate=bool(asked.take("truncate")))
    if found.pooling == "none":
        raise Problem(400, "this model has a vector for each token, and none for a text", code="unsupported_parameter")
    array = normalized(found.array[:, :dimensions], norm)
    plain = asked.take("encoding_format", "float") == "float"
    rows = array.tolist() if plain else [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in array]
    n = sum(found.n_tokens)
    return json_answer(
        {
            "object": "list",
            "model": call.model,
            "data": [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)],
            "usage": {"prompt_tokens": n, "total_tokens": n},
        }
    )


__all__ = ["embeddings"]
