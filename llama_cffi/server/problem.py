"""What went wrong, as an HTTP status and a body: one table from exceptions, one form of body for each dialect."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
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
    502: "upstream_error",
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
            # There is no place for the field but the text.
            named = self.param is None or self.param in self.message
            message = self.message if named else f"{self.param}: {self.message}"
            said = {"type": _anthropic_type(self.status), "message": message}
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


@dataclass(frozen=True)
class Row:
    """What an exception of the package is to a client."""

    status: int
    code: str
    type: str | None = None
    """The type of the error where it is not the one of the status."""
    told: bool = True
    """Whether the client is told what the exception says, and not only the number of its request."""


_BUG = Row(500, "internal_error", told=False)
_CUT = Row(422, "invalid_output", "invalid_output_error")

TABLE: Mapping[type[err.LlamaCffiError], Row] = {
    # What the request says.
    err.ContextOverflowError: Row(400, "context_length_exceeded", "exceed_context_size_error"),
    err.MediaError: Row(400, "invalid_media"),
    err.MessageError: Row(400, "invalid_messages"),
    err.TemplateError: Row(400, "invalid_template_input"),
    err.PromptError: Row(400, "invalid_prompt"),
    err.GrammarError: Row(400, "invalid_grammar"),
    err.SchemaError: Row(400, "invalid_schema"),
    err.ToolSchemaError: Row(400, "invalid_schema"),
    err.SamplerError: Row(400, "invalid_value"),
    err.ToolError: Row(400, "invalid_tool"),
    err.TokenError: Row(400, "invalid_token"),
    err.TokenizeError: Row(400, "invalid_text"),
    err.AdapterError: Row(400, "invalid_adapter"),
    err.StateError: Row(400, "invalid_state"),
    err.UnsupportedError: Row(400, "unsupported_parameter"),
    err.HubNameError: Row(400, "invalid_model_name"),
    err.HubChoiceError: Row(400, "ambiguous_model_name"),
    err.HubNotFoundError: Row(404, "model_not_found"),
    err.InUseError: Row(409, "in_use"),
    # What the model made of it: asking again may help, and asking the same way again need not.
    err.OutputError: _CUT,
    err.IncompleteOutput: _CUT,
    err.ToolArgumentsError: _CUT,
    err.ToolLimitError: _CUT,
    # What another time will do.
    err.QueueFullError: Row(429, "queue_full"),
    err.QueueTimeoutError: Row(503, "queue_timeout"),
    err.EngineFailedError: Row(503, "engine_failed"),
    err.EngineCrashed: Row(503, "engine_crashed"),
    err.ClosedError: Row(503, "shutting_down"),
    err.BusyError: Row(503, "busy"),
    err.MemoryFullError: Row(503, "memory_full"),
    err.AbortedError: Row(503, "aborted"),
    err.HubError: Row(502, "hub_failed"),
    # A bug, or a failure of the machine.
    err.LlamaCffiError: _BUG,
    err.LibraryError: _BUG,
    err.NativeError: _BUG,
    err.RpcError: _BUG,
    err.ModelFileError: _BUG,
    err.ModelLoadCancelled: _BUG,
    err.HubStorageError: _BUG,
    err.QuantizeError: _BUG,
    err.ContextError: _BUG,
    err.DecodeError: _BUG,
    err.BatchError: _BUG,
    err.DraftError: _BUG,
    err.StateWriteError: _BUG,
    err.StaleViewError: _BUG,
}
"""Every exception of the package; a class that is not here is what its first base here is."""


def row_of(kind: type[err.LlamaCffiError]) -> Row:
    """Return what a class of exceptions is to a client."""
    return next(TABLE[base] for base in kind.__mro__ if base in TABLE)


def problem_of(error: BaseException, request_id: str) -> Problem:
    """Return what an exception is to the client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, err.LlamaCffiError):
        row = row_of(type(error))
        if row.told:
            headers, extra = _retry(error), _extra(error)
            return Problem(row.status, _text(error), code=row.code, type=row.type, headers=headers, extra=extra)
    elif isinstance(error, (TypeError, ValueError)) and _is_of_options(error):
        # Options are refused by name, before anything is computed.
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


def _text(error: err.LlamaCffiError) -> str:
    message = error.message
    if isinstance(error, err.ContextOverflowError):
        # The words that clients look for.
        message = f"{message} (the request exceeds the maximum context length)"
    return message


def _retry(error: err.LlamaCffiError) -> dict[str, str]:
    if not isinstance(error, (err.QueueFullError, err.QueueTimeoutError, err.MemoryFullError)):
        return {}
    seconds = min(60.0, max(1.0, getattr(error, "retry_after", 1.0)))
    return {"Retry-After": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _extra(error: BaseException) -> dict[str, Any]:
    if isinstance(error, err.TextTooLongError):
        return {"n_prompt_tokens": error.n_tokens, "n_ctx": error.limit}
    return {}


__all__ = ["TABLE", "Dialect", "Problem", "Row", "problem_of", "row_of", "unsupported", "wrong"]
