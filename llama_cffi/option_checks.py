"""The checks of options that need no model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from llama_cffi._util import arguments as args
from llama_cffi._util.scalars import check_int
from llama_cffi._util.shown import shown
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.projector import Projector
from llama_cffi.core.model_options import ModelOptions, check_device_memory, check_gpu_layers
from llama_cffi.core.rpc import check_endpoint
from llama_cffi.engine.request import MAX_PRIORITY

_SWITCHES = (
    *("echo", "heal", "truncate", "parallel_tool_calls", "add_generation_prompt", "offline", "require_gpu"),
    "post_sampling_logprobs",
    "model_sampling",
    "reuse",
    "reproducible",
    "isolate",
    "replay",
)
_TEXTS = ("prefix", "suffix", "name", "repository", "reply_format", "grammar", "grammar_root", "revision")
_TEMPLATE_ARGUMENTS = ("self", "messages", "tools", "documents", "add_generation_prompt")
_NUMBERS = ("max_tokens", "logprobs", "prompt_logprobs", "max_rounds", "top_n", "slot", "stride")


def _check_template(name: str, value: Any) -> Any:
    return args.check_path(name, value) if isinstance(value, os.PathLike) else args.check_text(name, value)


def _check_mmproj(name: str, value: Any) -> Any:
    return value if isinstance(value, Projector) else args.check_path(name, value)


def _check_voice(name: str, value: Any) -> Any:
    return value if isinstance(value, Audio) else args.check_path(name, value)


def _check_language(name: str, value: Any) -> str:
    if not args.check_text(name, value).strip() or "\0" in value:
        raise ValueError(f"{name} must be the code or the name of a language, got {shown(value)}")
    return value.strip().lower()  # type: ignore[no-any-return]


def _check_max_frames(name: str, value: Any) -> int:
    return check_int(name, value, 1)


def _check_tool_choice(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        function = args.check_mapping(f"the function of {name}", value.get("function"))
        args.check_text(f"the name of {name}", function.get("name"))
        return value
    return args.check_text(name, value)


def _check_tools(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a list of tools, not an array")
    # A generator can be read once.
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else value


def _check_variables(name: str, value: Any) -> dict[str, Any]:
    taken = [key for key in _TEMPLATE_ARGUMENTS if key in args.check_mapping(name, value)]
    if taken:
        raise ValueError(f"{name} cannot hold {taken[0]!r}, which is always passed to the template")
    return args.check_names(name, value)


def _check_speculative(name: str, value: Any) -> Any:
    return bool(value) if isinstance(value, np.bool_) else value


def _check_priority(name: str, value: Any) -> int:
    return check_int(name, value, -MAX_PRIORITY, MAX_PRIORITY)


def _check_n_ctx(name: str, value: Any) -> Any:
    return value if isinstance(value, str) and value == "auto" else args.whole_number(name, value)


def _check_rpc(name: str, value: Any) -> tuple[str, ...]:
    return tuple(check_endpoint(name, one) for one in args.check_sequence(name, value, 'servers as "host:port"'))


CHECKS: Mapping[str, args.Check] = {
    **dict.fromkeys(_SWITCHES, args.check_flag),
    **dict.fromkeys(_TEXTS, args.check_str),
    **dict.fromkeys(_NUMBERS, args.whole_number),
    **dict.fromkeys(("progress", "download_progress"), args.check_callable),
    "adapters": args.check_mapping,
    "chat_template": _check_template,
    "logit_bias": args.check_mapping,
    "host_bytes": args.whole_number,
    "mmproj": _check_mmproj,
    "voice": _check_voice,
    "language": _check_language,
    "max_frames": _check_max_frames,
    "image_max_tokens": args.whole_number,
    "image_min_tokens": args.whole_number,
    "media_bytes": args.whole_number,
    "n_cells": args.whole_number,
    "max_compile_seconds": args.positive_number,
    "n_ctx": _check_n_ctx,
    "n_gpu_layers": check_gpu_layers,
    "max_device_memory": check_device_memory,
    "on_event": args.check_callable,
    "pooling": args.check_text,
    "priority": _check_priority,
    "speculative": _check_speculative,
    "tool_choice": _check_tool_choice,
    "tools": _check_tools,
    "chat_template_kwargs": _check_variables,
    "context_options": args.instance_of(ContextOptions, "ContextOptions"),
    "model_options": args.instance_of(ModelOptions, "ModelOptions"),
    "reasoning_budget": args.count,
    "rpc": _check_rpc,
    "files": args.check_texts_by_name,
    "normalize": args.one_of(True, False, "l1", "l2"),
    "when_full": args.one_of("raise", "wait"),
    "on_incomplete": args.one_of("raise", "return"),
    "on_unsupported": args.one_of("error", "annotate"),
    "on_error": args.one_of("raise", "report"),
    "order": args.one_of("psm", "spm"),
    "overflow": args.one_of("error", "stop", "shift"),
}
"""The check of each option; ranges that depend on a model are checked when the model is known."""


OTHER_NAMES: Mapping[str, str] = {
    "chat_format": "chat_template",
    "functions": "tools",
    "guided_json": "schema",
    "guided_regex": "schema=Regex(...)",
    "ignore_eos": "logit_bias with -inf for each of model.vocab.eog_tokens",
    "json_schema": "schema",
    "clip_model_path": "mmproj",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "model_path": "the first argument",
    "n_predict": "max_tokens",
    "response_format": "schema",
    "response_model": "schema",
    "stop_sequences": "stop",
    "stream": "a method whose name begins with stream",
    "system": "a message with the role system",
    "temp": "temperature",
    "timeout": "max_seconds",
    "top_logprobs": "logprobs",
}
"""Names of options in other libraries, and their names here."""


def check_options(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are not None, after all checks that need no model.

    Raises ``TypeError`` for a name that the TypedDict ``kind`` does not have, and ``TypeError`` or ``ValueError``,
    which names the option, for a value that is not allowed.
    """
    args.check_names("options", options)
    unknown = options.keys() - kind.__annotations__.keys()
    if unknown:
        from difflib import get_close_matches

        renamed = [OTHER_NAMES[one] for one in sorted(unknown) if one in OTHER_NAMES]
        near = renamed or [
            name for one in sorted(unknown) for name in get_close_matches(one, kind.__annotations__, n=1)
        ]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TypeError(f"unknown option{'s' * (len(unknown) > 1)}: {', '.join(sorted(unknown))}{hint}")
    given = {name: value for name, value in options.items() if value is not None}
    return {name: CHECKS[name](name, value) if name in CHECKS else value for name, value in given.items()}


__all__ = ["CHECKS", "OTHER_NAMES", "check_options"]
