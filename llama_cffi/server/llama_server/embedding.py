"""POST /embedding and /embeddings: llama-server's own form."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llama_cffi.core.prompt import Prompt
from llama_cffi.server.fields import Field, read_fields
from llama_cffi.server.llama_server.prompts import make_embeddable, read_prompts
from llama_cffi.server.problem import wrong
from llama_cffi.server.response import Answer, json_answer
from llama_cffi.server.values import flag, integer, one_of, text
from llama_cffi.server.vectors import embed, normalized

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call

NATIVE_EMBEDDING_FIELDS: tuple[Field, ...] = (
    Field.of("embd_normalize", integer(-1, 2)),
    Field.of("encoding_format", one_of("float")),
    Field.of("truncate", flag),
    Field.of("model", text(256)),
)


async def embedding(call: Call) -> Answer:
    """Make vectors of texts: one of each, or one of each token with a model that pools nothing."""
    llama = call.service.llm.llama
    asked = read_fields(call, NATIVE_EMBEDDING_FIELDS, frozenset({"content", "input"}))
    call.service.check_model(asked.take("model"))
    name = "input" if "input" in call.body else "content"
    if name not in call.body:
        raise wrong("input", "or content is needed")

    def work() -> list[Prompt]:
        limit, media = call.service.settings.max_inputs, call.media is not None
        return [make_embeddable(llama, one) for one in read_prompts(name, call.body[name], limit, media=media)]

    found = await embed(call, await asyncio.to_thread(work), truncate=bool(asked.take("truncate")))
    norm = -1 if found.pooling == "none" else asked.take("embd_normalize", 2)
    return json_answer(
        [
            {"index": i, "embedding": normalized(one.reshape(-1, one.shape[-1]), norm).tolist()}
            for i, one in enumerate(found)
        ]
    )


__all__ = ["NATIVE_EMBEDDING_FIELDS", "embedding"]
