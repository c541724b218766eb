"""GET /props: what the server is and what it takes by default."""

from __future__ import annotations

from llama_cffi.prompt.media_parts import MARKER
from llama_cffi.server.exchange import Call
from llama_cffi.server.llama_server.parameters import parameters
from llama_cffi.server.openai.speech import DEFAULT_VOICE
from llama_cffi.server.problem import Problem
from llama_cffi.server.response import Answer, json_answer


async def props(call: Call) -> Answer:
    """Return what clients of llama-server ask for first."""
    llm, card, settings = call.service.llm, call.service.card, call.service.settings
    model, vocab = llm.llama.model, llm.llama.model.vocab
    stats, projector = call.service.stats, llm.llama.projector
    given = {"max_tokens": settings.default_max_tokens}
    return json_answer(
        {
            "default_generation_settings": {
                "params": {**parameters(given, defaults=llm.llama.default_sampling), **settings.defaults},
                "n_ctx": card.n_ctx,
            },
            "total_slots": card.slots,
            "model_alias": call.service.id,
            "model_path": card.path,
            "model_ftype": model.desc,
            "modalities": {
                "vision": projector is not None and projector.vision,
                "audio": projector is not None and projector.audio,
                "video": False,
            },
            "speech": None
            if projector is None or projector.speech is None
            else {
                "sample_rate": projector.speech_rate,
                "voices": list(dict.fromkeys((*settings.voices, DEFAULT_VOICE))),
                "imitates_voices": projector.voices,
            },
            "media_marker": "" if projector is None else MARKER,
            "endpoint_slots": settings.slots,
            "endpoint_props": False,
            "endpoint_metrics": settings.metrics,
            "ui": settings.ui,
            "ui_settings": {},
            "chat_template": settings.chat_template or model.chat_template() or "",
            "chat_template_caps": {},
            "suppress_tokens": list(vocab.known_suppress_tokens),
            "bos_token": "" if vocab.bos is None else vocab.text(vocab.bos),
            "eos_token": "" if vocab.eos is None else vocab.text(vocab.eos),
            "build_info": card.fingerprint,
            "is_sleeping": False,
            "cors_proxy_enabled": False,
            "role": "model",
            "queue": {"waiting": stats.waiting, "running": stats.running} if stats is not None else None,
        }
    )


async def change_props(call: Call) -> Answer:
    """Say that nothing can be changed."""
    raise Problem(501, "the properties of this server cannot be changed", code="endpoint_disabled")


__all__ = ["change_props", "props"]
