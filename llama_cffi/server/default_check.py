"""Whether what requests get by default could be theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_cffi.server.openai.chat_request import CHAT_FIELDS
from llama_cffi.server.openai.completions import TEXT_FIELDS
from llama_cffi.server.openai.embeddings import EMBEDDING_FIELDS
from llama_cffi.server.problem import Problem
from llama_cffi.server.values import Facts


def check_defaults(defaults: Mapping[str, Any], n_ctx: int, slots: int, max_n: int) -> tuple[str, str] | None:
    """Return the first field whose value no request could have, and what is wrong with it."""
    facts = Facts(n_ctx, slots, max_n)
    for name, value in defaults.items():
        known = [field for field in (*TEXT_FIELDS, *CHAT_FIELDS, *EMBEDDING_FIELDS) if name in field.names]
        try:
            for field in known[:1]:
                field.read(name, value, facts)
        except Problem as problem:
            return name, problem.message
    return None


__all__ = ["check_defaults"]
