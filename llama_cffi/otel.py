"""OpenTelemetry spans of requests, with the extra ``otel``: ``Llama(..., on_event=otel.spans())``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi.errors import UnsupportedError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from llama_cffi.engine.telemetry import OnEvent, RequestEvent


def spans(provider: TracerProvider | None = None, *, model: str = "", operation: str = "text_completion") -> OnEvent:
    """Return a function for ``on_event=`` that creates a span of each request when it has ended.

    The attributes follow the semantic conventions for generative AI; ``model`` and ``operation`` are the values of
    ``gen_ai.request.model`` (the name of a file is enough) and ``gen_ai.operation.name``. Each span has children for
    the time in the queue, of the prompt and of the text. Prompts and texts are not recorded. Nothing is done while a
    request runs: the spans get their times afterwards.

    Raises :class:`UnsupportedError` without the package ``opentelemetry-api``.
    """
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise UnsupportedError("spans need OpenTelemetry: pip install 'llama-cffi[otel]'") from error

    tracer = trace.get_tracer("llama_cffi", tracer_provider=provider)
    name = Path(model).name

    def on_event(event: RequestEvent) -> None:
        if event.kind != "ended":
            return
        # From the clock of the engine to the time of day.
        offset = time.time_ns() - time.perf_counter_ns()
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "llama_cffi",
            "gen_ai.usage.input_tokens": event.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": event.cached_tokens,
            "gen_ai.usage.output_tokens": event.completion_tokens,
        }
        if name:
            attributes["gen_ai.request.model"] = name
        if event.finish_reason is not None:
            attributes["gen_ai.response.finish_reasons"] = (event.finish_reason,)
        if event.first_token:
            attributes["gen_ai.server.time_to_first_token"] = event.first_token - event.submitted
        if event.error is not None:
            attributes["error.type"] = type(event.error).__name__
        whole = tracer.start_span(
            f"{operation} {name}".strip(),
            kind=trace.SpanKind.INTERNAL,
            start_time=_nanoseconds(event.submitted, offset),
            attributes=attributes,
        )
        if event.error is not None:
            whole.record_exception(event.error)
            whole.set_status(trace.StatusCode.ERROR, str(event.error))
        context = trace.set_span_in_context(whole)
        for part, start, end in (
            ("queue", event.submitted, event.started or event.ended),
            ("prefill", event.started, event.first_token or event.ended),
            ("decode", event.first_token, event.ended),
        ):
            if start:
                child = tracer.start_span(part, context=context, start_time=_nanoseconds(start, offset))
                child.end(_nanoseconds(end, offset))
        whole.end(_nanoseconds(event.ended, offset))

    return on_event


def _nanoseconds(seconds: float, offset: int) -> int:
    return int(seconds * 1e9) + offset


__all__ = ["spans"]
