"""Every exception of the package is something to a client, and tells no more than it may."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from llama_cffi import errors
from llama_cffi.errors import LlamaCffiError

pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

SECRET = "/home/me/secret.gguf"

EXPECTED = {
    "AbortedError": 503, "AdapterError": 400, "BatchError": 500, "BusyError": 503, "ClosedError": 503,
    "ContextError": 500, "ContextOverflowError": 400, "DecodeError": 500, "DraftError": 500, "EngineCrashed": 503,
    "EngineFailedError": 503, "GrammarError": 400, "HubCancelled": 502, "HubChecksumError": 502,
    "HubChoiceError": 400, "HubConnectionError": 502, "HubError": 502, "HubNameError": 400, "HubNotFoundError": 404,
    "HubStorageError": 500, "InUseError": 409, "IncompleteOutput": 422, "LibraryError": 500, "LlamaCffiError": 500,
    "MediaError": 400, "MemoryFullError": 503, "MessageError": 400, "ModelFileError": 500, "ModelLoadCancelled": 500,
    "ModelNotFoundError": 500, "NativeError": 500, "OutputError": 422, "PromptError": 400, "QuantizeCancelled": 500,
    "QuantizeError": 500, "QueueFullError": 429, "QueueTimeoutError": 503, "RpcError": 500, "SamplerError": 400,
    "SchemaError": 400, "StaleViewError": 500, "StateError": 400, "StateFormatError": 400, "StateMismatchError": 400,
    "StateWriteError": 500, "TemplateError": 400, "TextTooLongError": 400, "TokenError": 400, "TokenizeError": 400,
    "ToolArgumentsError": 422, "ToolError": 400, "ToolLimitError": 422, "ToolSchemaError": 400,
    "UnsupportedError": 400,
}  # fmt: skip


def made(kind: type[LlamaCffiError]) -> LlamaCffiError:
    """An error of a class, with some value for each argument that it needs."""
    needed = [
        one.name
        for one in inspect.signature(kind).parameters.values()
        if one.kind is one.KEYWORD_ONLY and one.default is one.empty
    ]
    values: dict[str, Any] = dict.fromkeys(needed, 1)
    values |= {name: () for name in ("matches", "messages") if name in needed}
    return kind(SECRET, **values)


def test_every_exception_has_its_status() -> None:
    from llama_cffi.server.problem import problem_of

    found = {name: problem_of(made(getattr(errors, name)), "req-1").status for name in errors.__all__}
    assert found == EXPECTED


@pytest.mark.parametrize("name", errors.__all__)
def test_what_a_client_is_told(name: str) -> None:
    from llama_cffi.server.problem import problem_of

    problem = problem_of(made(getattr(errors, name)), "req-1")
    body = problem.body("openai")["error"]
    assert body["code"]
    assert body["type"]
    assert problem.body("native")["error"]["code"] == problem.status
    hidden = problem.status == 500
    assert (SECRET in body["message"], "req-1" in body["message"]) == (not hidden, hidden)
    assert ("Retry-After" in problem.headers) == (name in ("QueueFullError", "QueueTimeoutError", "MemoryFullError"))


def test_a_class_of_somebody_elses_is_what_its_base_is() -> None:
    from llama_cffi.server.problem import problem_of

    class Own(errors.SchemaError):
        """Not in the table."""

    assert problem_of(Own("x"), "req-1").code == "invalid_schema"


def test_what_is_a_bug_is_not_told() -> None:
    from llama_cffi.server.problem import problem_of

    for error in (RuntimeError(SECRET), ValueError(SECRET), KeyError(SECRET)):
        problem = problem_of(error, "req-1")
        assert (problem.status, problem.code) == (500, "internal_error")
        assert SECRET not in problem.message
