"""The parameters of a text as llama-server reports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter

DRAWN_SEED = 2**32 - 1
"""What stands for a seed that is drawn."""

_SAMPLING = (
    *("temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma"),
    *("xtc_probability", "xtc_threshold", "typical_p", "repeat_last_n", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length"),
    *("dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta"),
    *("adaptive_target", "adaptive_decay"),
)
_FLAGS = ("ignore_eos", "stream", "timings_per_token", "post_sampling_probs")
_CONSTANT: Mapping[str, Any] = {
    "n_keep": 0,
    "n_discard": 0,
    "min_keep": 0,
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "chat_format": "Content-only",
    "reasoning_format": "none",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "speculative.types": "none",
    "backend_sampling": False,
}
"""What these fields are for every text: clients send some of them back."""


def parameters(
    given: Mapping[str, Any], adapters: Sequence[LoraAdapter] = (), defaults: SamplingParams | None = None
) -> dict[str, Any]:
    """Return the parameters of a text that was asked for with these options; those not given have their defaults.

    ``adapters`` are those of the server, in the order of their ids. ``defaults`` are those of the model.
    """
    defaults = defaults if defaults is not None else SamplingParams()
    n_predict = given.get("max_tokens")
    n_predict = -1 if n_predict is None else n_predict
    seed = given.get("seed")
    found = {"seed": DRAWN_SEED if seed is None else seed}
    found |= {name: given.get(name, getattr(defaults, name)) for name in _SAMPLING}
    found |= {name: bool(given.get(name)) for name in _FLAGS}
    return {
        **found,
        "stop": [one for one in given.get("stop") or () if isinstance(one, str)],
        "max_tokens": n_predict,
        "n_predict": n_predict,
        "logit_bias": [
            {"bias": None if bias == "never" else bias, "token": key}
            for key, bias in (given.get("logit_bias") or {}).items()
        ],
        "n_probs": given.get("logprobs") or 0,
        "grammar": given.get("grammar") or "",
        "samplers": _samplers(given.get("sampler_order", defaults.sampler_order)),
        "lora": _scales(given.get("adapters") or {}, adapters),
        **_CONSTANT,
    }


def _scales(chosen: Mapping[LoraAdapter, float], adapters: Sequence[LoraAdapter]) -> list[dict[str, Any]]:
    return [{"id": i, "scale": chosen[one]} for i, one in enumerate(adapters) if one in chosen]


def _samplers(order: Sequence[str]) -> list[str]:
    return ["typ_p" if name == "typical_p" else name for name in order]


__all__ = ["DRAWN_SEED", "parameters"]
