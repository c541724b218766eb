"""What the body of a completion in llama-server's own form asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi.server.fields import FIELDS, Field, read_fields, text_options
from llama_cffi.server.llama_server.limits import Limits
from llama_cffi.server.llama_server.prompts import count_prompts
from llama_cffi.server.values import Facts, flag, integer, strings, whole

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.server.exchange import Call


def _seconds(param: str, value: Any, _: Facts) -> float | None:
    milliseconds = whole(param, value, -1, 86_400_000)
    return milliseconds / 1000 if milliseconds > 0 else None


NATIVE_FIELDS: tuple[Field, ...] = (
    *FIELDS,
    Field.of("logprobs n_probs", integer(0, 100)),
    Field.of("return_tokens", flag),
    Field.of("return_progress", flag),
    Field.of("timings_per_token", flag),
    Field.of("response_fields", strings(64, 256)),
    Field.of("t_max_prompt_ms", _seconds),
    Field.of("t_max_predict_ms", _seconds),
    Field.of("n_indent", integer(0, 1 << 16)),
)


@dataclass(frozen=True)
class Form:
    """What answers show beside the text."""

    settings: Mapping[str, Any]
    """The options by which the text is generated, before they became the package's."""
    adapters: tuple[LoraAdapter, ...]
    """Those of the server, in the order of their ids."""
    logprobs: bool
    post_sampling: bool
    """Whether probabilities are shown, those that sampling left."""
    echo_prompt: bool
    return_tokens: bool
    return_progress: bool
    timings_per_token: bool
    fields: tuple[str, ...]
    """The only fields of an answer, paths with slashes; all where there are none."""


@dataclass(frozen=True)
class NativeRequest:
    """Texts that were asked for."""

    prompts: Sequence[Sequence[int]]
    options: dict[str, Any]
    """Options of :meth:`AsyncLlama.stream`."""
    n: int
    stream: bool
    own_limit: bool
    """Whether the time limit is the server's own."""
    limits: Limits
    form: Form


@dataclass(frozen=True)
class Asked:
    """All of a body but its prompts."""

    options: dict[str, Any]
    n: int
    stream: bool
    own_limit: bool
    limits: Limits
    form: Form

    def about(self, prompts: Sequence[Sequence[int]]) -> NativeRequest:
        """Return the request for these prompts."""
        return NativeRequest(prompts, **vars(self))


def read_native(call: Call, used: frozenset[str], *, whole_lines: bool = False) -> Asked:
    """Return what a body asks for beside the fields ``used``; raises :class:`Problem`.

    ``whole_lines`` says that a text that has to end early ends with a line.
    """
    asked = read_fields(call, NATIVE_FIELDS, used | {"stream_options"})
    take = asked.take
    n_indent = take("n_indent", 0)
    limits = Limits(
        prompt_seconds=take("t_max_prompt_ms"),
        predict_seconds=take("t_max_predict_ms"),
        whole_lines=whole_lines or n_indent > 0,
        n_indent=n_indent,
    )
    if not asked.options.get("logprobs"):
        take("logprobs")
    settings, server = dict(asked.options), call.service.settings
    form = Form(
        settings=settings,
        adapters=call.service.adapters,
        logprobs="logprobs" in settings,
        post_sampling="logprobs" in settings and bool(settings.get("post_sampling_probs")),
        echo_prompt=server.echo_prompt or server.compat,
        return_tokens=bool(take("return_tokens")),
        return_progress=bool(take("return_progress")),
        timings_per_token=bool(take("timings_per_token")),
        fields=take("response_fields", ()),
    )
    stream, n, own_limit = bool(take("stream")), take("n", 1), "max_seconds" not in asked.options
    options = text_options(call, asked, n * count_prompts(call.body.get("prompt")))
    settings["max_tokens"] = options.get("max_tokens")
    return Asked(options, n, stream, own_limit, limits, form)


__all__ = ["NATIVE_FIELDS", "Asked", "Form", "NativeRequest", "read_native"]
