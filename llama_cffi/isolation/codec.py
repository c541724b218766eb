"""Pickles between the two processes, in which what each of them has of its own is only named."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from llama_cffi.core.control_vector import ControlVector
from llama_cffi.core.model import Model
from llama_cffi.core.sampler import PythonSampler
from llama_cffi.core.vocab import Vocab
from llama_cffi.engine.media_content import MediaContent
from llama_cffi.errors import LlamaCffiError, UnsupportedError
from llama_cffi.grammar.piece_index import PieceIndex

Name = tuple[Any, ...]


def named(*name: Any) -> Any:
    """Stand in a pickle for what has this name in the other process, whose codec finds it."""
    raise pickle.UnpicklingError(f"{name} can only be read by a Codec")


class Named:
    """Base of what stands in this process for an object of the other one."""

    wire_name: Name


class Codec:
    """Writes and reads values.

    ``find`` returns the object of a name; ``name`` returns the name of an object that the other process has, too, None
    for any other. Arrays and buffers are parts of their own, which are not copied into the pickle.
    """

    def __init__(self, find: Callable[..., Any], name: Callable[[object], Name | None] | None = None) -> None:
        self.name = name
        self.find = find

    def dumps(self, value: object) -> list[Any]:
        """Return the parts of a value; :class:`UnsupportedError` for what exists in this process only."""
        buffers: list[pickle.PickleBuffer] = []
        file = io.BytesIO()
        try:
            _Pickler(file, self, buffers).dump(value)
        except LlamaCffiError:
            raise
        except Exception as error:
            raise UnsupportedError(f"isolate=True: {error}") from error
        return [file.getbuffer(), *(buffer.raw() for buffer in buffers)]

    def loads(self, parts: Sequence[Any]) -> Any:
        """Return the value of parts; :class:`UnsupportedError` for what does not exist in this process."""
        try:
            return _Unpickler(io.BytesIO(parts[0]), self, parts[1:]).load()
        except (AttributeError, ImportError, pickle.UnpicklingError) as error:
            raise UnsupportedError(
                f"isolate=True: the process of the model cannot import what was given: {error}"
            ) from error


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, codec: Codec, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, buffer_callback=buffers.append)
        self._codec = codec

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, Named):
            return named, thing.wire_name
        name = None if self._codec.name is None else self._codec.name(thing)
        if name is not None:
            return named, name
        if isinstance(thing, Vocab):
            return named, ("vocab",)
        if isinstance(thing, PieceIndex):
            return named, ("pieces",)
        if isinstance(thing, PythonSampler):
            raise UnsupportedError(
                "isolate=True: a sampler written in Python needs the model in its own process: use isolate=False"
            )
        if isinstance(thing, Model):
            # As a reference it would be loaded a second time, without a word.
            raise UnsupportedError("isolate=True: a Model cannot leave this process; give its path")
        if isinstance(thing, MediaContent):
            return named, ("media", *thing.state)
        if isinstance(thing, ControlVector):
            # The same one in the other process, each time: setting another one costs.
            return named, ("vector", thing.fingerprint, thing.data, thing.model_hint)
        if type(thing).__module__.startswith("llama_cffi.grammar.") and hasattr(thing, "recipe"):
            return thing.recipe()
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, codec: Codec, buffers: Sequence[Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._codec = codec

    def find_class(self, module: str, name: str) -> Any:
        return self._codec.find if name == "named" and module == __name__ else super().find_class(module, name)


__all__ = ["Codec", "Name", "Named", "named"]
