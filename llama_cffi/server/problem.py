"""What went wrong, as an HTTP status and a body: one table from exceptions, one form of body for each dialect."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from llama_cffi import errors as err

Dialect = Literal["openai", "anthropic", "native"]
"""Whose API a path belongs to: OpenAI's has texts as error codes, llama-server's own has the status, and Anthropic's
has none."""

_log = logging.getLogger("llama_cffi.server")

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "timeout_error",
}
"""The type of an error by its status; all other ones are ``invalid_request_error``."""


class Problem(Exception):
    """An answer other than success. ``code`` is a word for programs, ``param`` the field that it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.type = type or _TYPES.get(status, "invalid_request_error")
        self.nearest: Any = None
        """The value that llama-server takes instead of a wrong one; None where it takes none."""
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def status_in(self, dialect: Dialect) -> int:
        """Return the status of the answer."""
        return _ANTHROPIC_OVERLOADED if dialect == "anthropic" and self.status == 503 else self.status

    def body(self, dialect: Dialect, request_id: str = "") -> dict[str, Any]:
        """Return the body of the answer."""
        if dialect == "anthropic":
            said = {"type": _anthropic_type(self.status), "message": self.message}
            return {"type": "error", "error": said, "request_id": request_id or None}
        code: int | str | None = self.status if dialect == "native" else self.code
        error = {"message": self.message, "type": self.type, "param": self.param, "code": code}
        return {"error": {**error, **self.extra}}


_ANTHROPIC_OVERLOADED = 529
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic_type(status: int) -> str:
    return _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def wrong(param: str, message: str, *, code: str = "invalid_value") -> Problem:
    """Return the problem of a field whose value cannot be used."""
    return Problem(400, f"{param}: {message}", code=code, param=param)


def unsupported(param: str, message: str) -> Problem:
    """Return the problem of a field that would change the answer, and is not supported."""
    return Problem(400, f"{param}: {message}", code="unsupported_parameter", param=param)


_TABLE: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (err.ContextOverflowError, 400, "context_length_exceeded", "exceed_context_size_error"),
    (err.MessageError, 400, "invalid_messages", None),
    (err.TemplateError, 400, "invalid_template_input", None),
    (err.PromptError, 400, "invalid_prompt", None),
    (err.GrammarError, 400, "invalid_grammar", None),
    (err.SchemaError, 400, "invalid_schema", None),
    (err.SamplerError, 400, "invalid_value", None),
    (err.ToolError, 400, "invalid_tool", None),
    (err.TokenError, 400, "invalid_token", None),
    (err.TokenizeError, 400, "invalid_text", None),
    (err.UnsupportedError, 400, "unsupported_parameter", None),
    (err.AdapterError, 400, "invalid_adapter", None),
    (err.QueueFullError, 429, "queue_full", None),
    (err.EngineFailedError, 503, "engine_failed", None),
    (err.ClosedError, 503, "shutting_down", None),
)
"""Exceptions of the package, the special before the general: status, code, and the type where it is a special one.
What is not here is a bug or a failure of the machine, and nothing of it is told but the number of the request."""


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Return what an exception is to the client."""
    if isinstance(error, Problem):
        return error
    for kind, status, code, type_ in _TABLE:
        if isinstance(error, kind):
            return Problem(status, _text(error), code=code, type=type_, headers=_retry(error), extra=_extra(error))
    plain = isinstance(error, (TypeError, ValueError)) and not isinstance(error, err.LlamaCffiError)
    if plain and _is_of_options(error):  # options are refused by name, before anything is computed
        return Problem(400, str(error), code="invalid_value")
    _log.error("request %s failed", request_id, exc_info=error)
    return Problem(500, f"the server failed; its log has more under {request_id}", code="internal_error")


_CHECKING = (
    *("llama_cffi._util.", "llama_cffi.option", "llama_cffi.spec", "llama_cffi.prepare."),
    *("llama_cffi.engine.request", "llama_cffi.engine.sampling_params"),
)
"""Where options are checked."""


def _is_of_options(error: BaseException) -> bool:
    """Whether a check of arguments raised it, and not a mistake somewhere else."""
    trace = error.__traceback__
    name = ""
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return name.startswith(_CHECKING)


def _text(error: BaseException) -> str:
    message = error.message if isinstance(error, err.LlamaCffiError) else str(error)
    if isinstance(error, err.ContextOverflowError):
        # The words that clients look for.
        message = f"{message} (the request exceeds the maximum context length)"
    return message


def _retry(error: BaseException) -> dict[str, str]:
    if not isinstance(error, err.QueueFullError):
        return {}
    seconds = min(60.0, max(1.0, error.retry_after))
    return {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _extra(error: BaseException) -> dict[str, Any]:
    if isinstance(error, err.TextTooLongError):
        return {"n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
    return {}


__all__ = ["Dialect", "Problem", "problem_of", "unsupported", "wrong"]
