"""The exceptions of llama_cffi.

::

    LlamaCffiError
    ├── LibraryError (ImportError)          no usable libllama, or one that does not fit this build
    ├── UnsupportedError (NotImplementedError)  the library or the model cannot do what was asked
    ├── ClosedError (ValueError)            a closed handle was used
    ├── InUseError (RuntimeError)           an object is attached to another one that needs it
    ├── BusyError (RuntimeError)            another thread is inside the same Context
    ├── QueueFullError (RuntimeError)       too many requests wait already
    ├── QueueTimeoutError (TimeoutError)    a request has waited too long for its turn
    ├── EngineFailedError (RuntimeError)    the thread that computes has ended with an exception
    ├── EngineCrashed (RuntimeError)        the process of an isolated model has ended or hung
    ├── RpcError (ConnectionError)          an RPC server is away, does not answer, or is of another version
    ├── NativeError (RuntimeError)          llama.cpp failed an assertion or threw, and was caught
    ├── AbortedError (RuntimeError)         a decode was stopped by its abort flag or deadline
    ├── ModelFileError (ValueError)         the file is not a model that llama.cpp can load
    │   └── ModelNotFoundError (FileNotFoundError)
    ├── ModelLoadCancelled (RuntimeError)   the progress callback returned False
    ├── HubError (RuntimeError)             a model could not be fetched from the hub or an address
    │   ├── HubNameError (ValueError)       a name that no repository can have
    │   ├── HubNotFoundError (LookupError)  no such repository, revision or file on the hub or in the cache
    │   ├── HubChoiceError (LookupError)    several models match the name
    │   ├── HubConnectionError (ConnectionError)  the hub was not reached, or its answer was not valid
    │   ├── HubChecksumError                a downloaded file has a wrong size or checksum; it was deleted
    │   ├── HubStorageError (OSError)       a file could not be written, for example on a full disk
    │   └── HubCancelled                    the progress callback returned False
    ├── AdapterError (ValueError)           a LoRA adapter or control vector that does not fit the model
    ├── QuantizeError (RuntimeError)        a model was not quantized; no partial file is left
    │   └── QuantizeCancelled               the progress callback returned False
    ├── ContextError (RuntimeError)         a Context could not be created, or is unusable after a failure
    ├── DecodeError (RuntimeError)          llama_decode or llama_encode refused a batch
    │   └── MemoryFullError                 no room for the batch in the context's memory
    ├── BatchError (ValueError)             a batch that does not fit its Context
    ├── TokenError (ValueError)             a token id outside the vocabulary
    ├── TokenizeError (ValueError)          text that cannot be tokenized
    ├── SamplerError (ValueError)           a sampler parameter out of range, or a chain that selects no token
    │   └── GrammarError                    a grammar that does not parse, or was violated
    ├── DraftError (ValueError)             a draft model that does not fit its target
    ├── MediaError (ValueError)             an image or sound that is damaged, too large, or of an unknown kind
    ├── PromptError (ValueError)            a prompt that cannot be used
    │   ├── ContextOverflowError            prompt or output longer than the context allows
    │   │   └── TextTooLongError            a text that is too long to be embedded, ranked or classified
    │   ├── MessageError                    a malformed message of a conversation
    │   └── TemplateError                   a chat template that does not parse, or refuses the messages
    ├── StateError (ValueError)             a saved state that cannot be used
    │   ├── StateFormatError                a file that is not a saved state, or is damaged
    │   ├── StateMismatchError              a state of another model, context or library
    │   └── StateWriteError (OSError)       a state could not be written, for example on a full disk
    ├── SchemaError (ValueError)            a schema, regular expression or grammar that cannot be enforced
    ├── OutputError (ValueError)            a finished text that the requested type refuses
    ├── IncompleteOutput (ValueError)       a text under a constraint was cut before it was complete
    ├── ToolError (ValueError)              a tool whose definition cannot be used
    │   ├── ToolArgumentsError              arguments that do not fit the tool
    │   └── ToolSchemaError (SchemaError)   the schema of a tool's arguments cannot be enforced
    ├── ToolLimitError (RuntimeError)       the model still calls tools after the last round
    └── StaleViewError (RuntimeError)       a view of logits used after the next decode

Each class also derives from the matching builtin exception, so ``except ValueError`` works.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from typing_extensions import Self


class LlamaCffiError(Exception):
    """Base of every exception of this package.

    ``log`` holds the lines that llama.cpp logged during the failing call; they are part of ``str(error)``. Errors
    pickle and copy with all their fields. A field that cannot be pickled, for example an instance of a class that was
    defined inside a function, is None in the other process; so is the cause, as with every Python exception.
    """

    def __init__(self, message: str, *, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.log = tuple(log)

    def __str__(self) -> str:
        return "\n".join([self.message, *["llama.cpp said:"][: len(self.log)], *(f"  {line}" for line in self.log)])

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        fields = {name: value if _can_be_pickled(value) else None for name, value in self._fields().items()}
        return _new_error, (type(self), self.args, fields)

    def __copy__(self) -> Self:
        return cast("Self", _new_error(type(self), self.args, self._fields()))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return cast("Self", _new_error(type(self), self.args, copy.deepcopy(self._fields(), memo)))

    def _fields(self) -> dict[str, Any]:
        # The fields of builtin bases, for example the errno of an OSError, are not in __dict__.
        members = [(name, one) for base in type(self).__mro__ for name, one in vars(base).items() if name[:2] != "__"]
        names = [name for name, one in members if isinstance(one, MemberDescriptorType)]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None} | vars(self)


def _new_error(kind: type[Any], args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    # Without the constructor, whose arguments differ from class to class. __base__ is the base with the C struct.
    builtin: Any = kind
    while builtin.__module__ != "builtins":
        builtin = builtin.__base__
    error = builtin.__new__(kind, *args)
    error.args = args
    error.__setstate__(fields)
    return error


def _can_be_pickled(value: object) -> bool:
    import pickle

    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True


class LibraryError(LlamaCffiError, ImportError):
    """No usable libllama was found, or the libllama that was found does not fit this build."""


class UnsupportedError(LlamaCffiError, NotImplementedError):
    """The library or the model lacks a feature; ``since`` is the first llama.cpp release that has it, or ""."""

    def __init__(self, message: str, *, since: str = "", log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.since = since


class ClosedError(LlamaCffiError, ValueError):
    """A closed object was used."""


class InUseError(LlamaCffiError, RuntimeError):
    """The object is attached to another one that still needs it."""


class BusyError(LlamaCffiError, RuntimeError):
    """Another thread is inside the same Context."""


class QueueFullError(LlamaCffiError, RuntimeError):
    """Too many requests wait already; ``retry_after`` is the estimated time in seconds until there is room."""

    def __init__(self, message: str, *, retry_after: float, log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.retry_after = retry_after


class QueueTimeoutError(LlamaCffiError, TimeoutError):
    """A request has waited for its turn as long as one may (``max_waiting_seconds``); nothing of it was computed."""


class EngineFailedError(LlamaCffiError, RuntimeError):
    """The thread that computes has ended with an unexpected exception, which is the ``__cause__`` of this one."""


class EngineCrashed(LlamaCffiError, RuntimeError):
    """The process of an isolated model ended (``code`` or ``signal`` says how) or hung; ``log`` has its last lines."""

    code: int | None = None
    signal: str | None = None


class RpcError(LlamaCffiError, ConnectionError):
    """An RPC server cannot be reached, does not answer, or has another version of llama.cpp's protocol."""


class NativeError(LlamaCffiError, RuntimeError):
    """llama.cpp failed an assertion or threw an exception, which the guard caught."""


class AbortedError(LlamaCffiError, RuntimeError):
    """A decode was stopped by its abort flag or its deadline."""


class ModelFileError(LlamaCffiError, ValueError):
    """The file is not a model that llama.cpp can load."""


class ModelNotFoundError(ModelFileError, FileNotFoundError):
    """The model file does not exist."""


class ModelLoadCancelled(LlamaCffiError, RuntimeError):
    """The progress callback returned False."""


class HubError(LlamaCffiError, RuntimeError):
    """A model could not be fetched by its name from the hub, or from an address; the next download goes on."""


class HubNameError(HubError, ValueError):
    """The name does not have the form owner/repo, owner/repo:Q4_K_M or owner/repo/file.gguf."""


class HubNotFoundError(HubError, LookupError):
    """The repository, revision or file does not exist on the hub, or, offline, in the cache."""


class HubChoiceError(HubError, LookupError):
    """Several models match the name; ``matches`` has a name for each that matches it alone."""

    def __init__(self, message: str, *, matches: Sequence[str], log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.matches = tuple(matches)


class HubConnectionError(HubError, ConnectionError):
    """The hub could not be reached, closed the connection early, or sent an invalid answer."""


class HubChecksumError(HubError):
    """A downloaded file does not have the SHA-256 or the size that the hub announced; it was deleted."""


class HubStorageError(HubError, OSError):
    """A file could not be written, for example on a full disk."""


class HubCancelled(HubError):
    """The progress callback returned False."""


class AdapterError(LlamaCffiError, ValueError):
    """A file that is not a LoRA adapter or control vector, or one that belongs to another model."""


class QuantizeError(LlamaCffiError, RuntimeError):
    """A model was not quantized; no partial file is left, and an existing target file is unchanged."""


class QuantizeCancelled(QuantizeError):
    """The progress callback returned False."""


class ContextError(LlamaCffiError, RuntimeError):
    """A Context could not be created, or an earlier failure left it unusable."""


class DecodeError(LlamaCffiError, RuntimeError):
    """llama.cpp refused a batch; ``code`` is its return value."""

    def __init__(self, message: str, *, code: int = 0, log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.code = code


class MemoryFullError(DecodeError):
    """The context's memory has no room for the batch; no part of it was kept."""


class BatchError(LlamaCffiError, ValueError):
    """A batch that does not fit its Context."""


class TokenError(LlamaCffiError, ValueError):
    """A token id outside the vocabulary."""


class TokenizeError(LlamaCffiError, ValueError):
    """A text that cannot be tokenized, or a vocabulary that cannot tokenize."""


class SamplerError(LlamaCffiError, ValueError):
    """A sampler parameter out of range, or a chain that selects no token."""


class GrammarError(SamplerError):
    """A grammar that does not parse, or a token that it forbids."""


class DraftError(LlamaCffiError, ValueError):
    """A draft model whose vocabulary differs from that of its target model."""


class MediaError(LlamaCffiError, ValueError):
    """An image or a sound that cannot be used: of an unknown format, cut, damaged, too large, or refused by libmtmd."""


class PromptError(LlamaCffiError, ValueError):
    """A prompt that cannot be used, for example an empty one."""


class ContextOverflowError(PromptError):
    """The prompt or the output needs more positions than the context has."""


class TextTooLongError(ContextOverflowError):
    """A text has too many tokens: ``n_tokens``, with ``limit`` allowed; ``index`` is its index in the list."""

    def __init__(self, message: str, *, index: int, n_tokens: int, limit: int) -> None:
        super().__init__(message)
        self.index, self.n_tokens, self.limit = index, n_tokens, limit


class MessageError(PromptError):
    """A message of a conversation is malformed; the error text has its index."""


class TemplateError(PromptError):
    """A chat template does not parse, takes too long, or refuses the messages."""


class StateError(LlamaCffiError, ValueError):
    """A saved state that cannot be used here."""


class StateFormatError(StateError):
    """The file or the bytes are not a saved state, end too early, or are damaged."""


class StateMismatchError(StateError):
    """A state of another model, of a context with other memory, or of another llama.cpp."""


class StateWriteError(StateError, OSError):
    """A state could not be written, for example on a full disk; an existing file at the path is unchanged."""


class SchemaError(LlamaCffiError, ValueError):
    """A ``schema=`` that cannot be enforced; raised before anything is generated.

    ``pointer`` is the JSON pointer of the place ("" for the whole schema), ``keyword`` the keyword there, or "".
    """

    def __init__(self, message: str, *, pointer: str = "", keyword: str = "", log: Sequence[str] = ()) -> None:
        place = (
            f"schema at {pointer or 'its top'}: {keyword!r} " if keyword else f"schema at {pointer}: " * bool(pointer)
        )
        super().__init__(place + message, log=log)
        self.pointer, self.keyword = pointer, keyword


class OutputError(LlamaCffiError, ValueError):
    """A finished ``text`` that is not a valid instance of the requested type, whose exception is the ``__cause__``."""

    def __init__(self, message: str, *, text: str, log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.text = text


class IncompleteOutput(LlamaCffiError, ValueError):
    """A constrained text was cut, most often by ``max_tokens``; ``partial`` is the value so far, or None."""

    def __init__(self, message: str, *, completion: Any, partial: Any = None, log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.completion, self.partial = completion, partial


class ToolError(LlamaCffiError, ValueError):
    """The definition of a tool cannot be used: its name, its parameters, or the function behind it."""


class ToolSchemaError(ToolError, SchemaError):
    """The schema of a tool's arguments cannot be enforced; ``pointer`` and ``keyword`` as in :class:`SchemaError`."""

    def __init__(self, message: str, *, pointer: str = "", keyword: str = "", log: Sequence[str] = ()) -> None:
        LlamaCffiError.__init__(self, message, log=log)
        self.pointer, self.keyword = pointer, keyword


class ToolArgumentsError(ToolError):
    """The arguments of a call do not fit the tool; the error text, which names them, can be sent to the model."""


class ToolLimitError(LlamaCffiError, RuntimeError):
    """The model still called tools after ``max_rounds`` rounds; ``messages`` is the conversation."""

    def __init__(self, message: str, *, messages: Sequence[Mapping[str, Any]], log: Sequence[str] = ()) -> None:
        super().__init__(message, log=log)
        self.messages = list(messages)


class StaleViewError(LlamaCffiError, RuntimeError):
    """A view into a context's buffers was used after they were written again."""


# fmt: off
__all__ = [
    "AbortedError", "AdapterError", "BatchError", "BusyError", "ClosedError", "ContextError", "ContextOverflowError",
    "DecodeError", "DraftError", "EngineCrashed", "EngineFailedError", "GrammarError", "HubCancelled",
    "HubChecksumError", "HubChoiceError", "HubConnectionError", "HubError", "HubNameError", "HubNotFoundError",
    "HubStorageError", "InUseError", "IncompleteOutput", "LibraryError", "LlamaCffiError", "MediaError",
    "MemoryFullError", "MessageError", "ModelFileError", "ModelLoadCancelled", "ModelNotFoundError", "NativeError",
    "OutputError", "PromptError", "QuantizeCancelled", "QuantizeError", "QueueFullError", "QueueTimeoutError",
    "RpcError", "SamplerError", "SchemaError", "StaleViewError", "StateError", "StateFormatError", "StateMismatchError",
    "StateWriteError", "TemplateError", "TextTooLongError", "TokenError", "TokenizeError", "ToolArgumentsError",
    "ToolError", "ToolLimitError", "ToolSchemaError", "UnsupportedError",
]
