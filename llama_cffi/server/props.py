"""GET /props: what the server is and what it takes by default."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from llama_cffi.engine.sampling_params import SamplingParams
from llama_cffi.server.exchange import Call
from llama_cffi.server.problem import Problem
from llama_cffi.server.response import Answer, json_answer

_SHOWN = (int, float, str, tuple)


async def props(call: Call) -> Answer:
    """Return what clients of llama-server ask for first."""
    llm, card = call.service.llm, call.service.card
    model, vocab = llm.llama.model, llm.llama.model.vocab
    defaults = SamplingParams()
    params: dict[str, Any] = {
        one.name: value for one in fields(defaults) if isinstance(value := getattr(defaults, one.name), _SHOWN)
    }
    params["samplers"] = params.pop("sampler_order")
    params |= call.service.settings.defaults
    stats = llm.stats()
    return json_answer(
        {
            "default_generation_settings": {"params": params, "n_ctx": card.n_ctx},
            "total_slots": card.slots,
            "model_alias": call.service.id,
            "model_path": card.path,
            "model_ftype": model.desc,
            "modalities": {"vision": False, "audio": False, "video": False},
            "endpoint_slots": False,
            "endpoint_props": False,
            "endpoint_metrics": call.service.settings.metrics,
            "chat_template": call.service.settings.chat_template or model.chat_template() or "",
            "bos_token": "" if vocab.bos is None else vocab.text(vocab.bos),
            "eos_token": "" if vocab.eos is None else vocab.text(vocab.eos),
            "build_info": card.fingerprint,
            "is_sleeping": False,
            "cors_proxy_enabled": False,
            "role": "model",
            "queue": {"waiting": stats.waiting, "running": stats.running},
        }
    )


async def change_props(call: Call) -> Answer:
    """Say that nothing can be changed."""
    raise Problem(501, "the properties of this server cannot be changed", code="endpoint_disabled")


__all__ = ["change_props", "props"]
