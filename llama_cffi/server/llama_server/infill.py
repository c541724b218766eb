"""POST /infill: what belongs between two texts, as editors ask for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llama_cffi.prompt.infill import InfillBudget, InfillFormat
from llama_cffi.server.llama_server.completion import answer
from llama_cffi.server.llama_server.request import read_native
from llama_cffi.server.problem import wrong
from llama_cffi.server.response import Answer
from llama_cffi.server.values import items, typed

if TYPE_CHECKING:
    from llama_cffi.llama import Llama
    from llama_cffi.server.exchange import Call

INFILL_NAMES = frozenset({"input_prefix", "input_suffix", "input_extra", "prompt"})

_MAX_EXTRA = 1024
_PRIORITY = -1
"""Sooner than others: a person who types waits for it."""


async def infill(call: Call) -> Answer:
    """Fill a gap."""
    llama = call.service.llm.llama
    layout = InfillFormat(llama.model.vocab)
    asked = read_native(call, INFILL_NAMES, whole_lines=True)
    asked.options.setdefault("priority", _PRIORITY)
    parts = {}
    for name in ("input_prefix", "input_suffix"):
        if name not in call.body:
            raise wrong(name, "is missing")
        parts[name] = typed(name, call.body[name], str)
    lead = typed("prompt", call.body.get("prompt", ""), str)
    extra = _read_extra(call.body.get("input_extra", []))
    has_names = llama.model.vocab.fim_sep is not None

    def work() -> list[int]:
        return layout.tokens(
            parts["input_prefix"],
            parts["input_suffix"],
            files=extra,
            # These names are what llama-server writes, too.
            name="filename" if has_names else "",
            repository="myproject",
            order="spm" if call.service.settings.spm_infill else "psm",
            lead=lead,
            budget=_budget(llama),
        )

    return await answer(call, asked.about([await asyncio.to_thread(work)]))


def _read_extra(value: Any) -> list[tuple[str, str]]:
    found = []
    for i, one in enumerate(items("input_extra", value, _MAX_EXTRA)):
        place = f"input_extra[{i}]"
        chunk = typed(place, one, dict)
        name = typed(f"{place}.filename", "tmp" if chunk.get("filename") is None else chunk["filename"], str)
        found.append((name, typed(f"{place}.text", chunk.get("text"), str)))
    return found


def _budget(llama: Llama) -> InfillBudget:
    n_ctx = llama.n_ctx
    window = min(llama.context.n_batch, n_ctx // 2)
    return InfillBudget(window, files=n_ctx - window - min(256, n_ctx // 8))


__all__ = ["INFILL_NAMES", "infill"]
