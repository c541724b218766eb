"""Vectors of texts, for the endpoints of both APIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi.server.problem import wrong

if TYPE_CHECKING:
    from llama_cffi.core.prompt import Prompt
    from llama_cffi.reply.vectors import Embeddings
    from llama_cffi.server.exchange import Call


async def embed(call: Call, texts: Sequence[str | Prompt], *, truncate: bool) -> Embeddings:
    """Return the vectors of texts or tokens as the model makes them; :class:`Problem` for an empty one."""
    for i, one in enumerate(texts):
        if not len(one):
            raise wrong(f"input[{i}]", "is empty")
    given: Any = list(texts)
    pooling: Any = call.service.settings.pooling
    return await call.service.llm.embed(given, normalize=False, truncate=truncate, pooling=pooling)


def normalized(array: Any, norm: int) -> Any:
    """Divide rows as ``embd_normalize`` of llama-server says: to a largest number, a sum or a length."""
    if norm < 0:
        return array
    if norm == 0:
        lengths = np.abs(array).max(axis=1, keepdims=True) / 32760.0
    else:
        lengths = np.linalg.norm(array, ord=norm, axis=1, keepdims=True)
    return np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 0)


__all__ = ["embed", "normalized"]
