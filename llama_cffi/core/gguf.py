"""The metadata and tensors of a GGUF file, without loading its weights."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from llama_cffi._native import atomic, binding, ffi, guard, lib
from llama_cffi._native.atomic import Cell
from llama_cffi._native.gate import SharedGate
from llama_cffi._native.handle import Handle
from llama_cffi.core.model_paths import ModelGiven
from llama_cffi.core.opening import opened_header
from llama_cffi.core.source import MAGIC, Source
from llama_cffi.core.strings import to_text
from llama_cffi.errors import ModelFileError, ModelNotFoundError, NativeError

MetadataValue = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a GGUF file.

    ``shape`` counts elements, innermost dimension first, as ggml does; ``type`` is ggml's name of the data
    type (``f32``, ``q8_0``, ...); ``offset`` is in bytes from the start of the file; ``nbytes`` is the stored
    size.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int

    @property
    def n_elements(self) -> int:
        """The number of elements of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count


class GGUFFile:
    """Metadata and tensor list of one GGUF file, read completely when the object is created.

    ``metadata`` maps keys to numbers, strings and lists of them, in file order; invalid UTF-8 in a string becomes
    replacement characters, and a string ends at its first NUL byte, as for C readers. ``tensors`` lists the tensors in
    file order. The file does not stay open. ``path`` may also be what :class:`Model` takes in place of one: bytes, a
    binary file object, an :class:`ArchiveMember`, or an address (``https://...``), of which only the header is read.

    Raises ModelNotFoundError if there is no such file, and ModelFileError with the reason if it is not a
    readable, complete GGUF file. Wraps ``gguf_init_from_file`` with ``no_alloc``.
    """

    path: Path
    version: int
    alignment: int
    data_offset: int
    file_size: int
    metadata: dict[str, MetadataValue]
    tensors: list[TensorInfo]

    def __init__(self, path: ModelGiven) -> None:
        with opened_header(path) as found:
            if not isinstance(found, (str, os.PathLike)) or not isinstance(os.fspath(found), str):
                raise TypeError(f"path must be a str or os.PathLike, not {type(path).__name__}")
            self.path = Path(found)
            self._open()
            if isinstance(found, Source) and not isinstance(path, Source):
                self.path = Path(found.name)

    def _open(self) -> None:
        self.file_size = check_gguf_file(self.path)
        # An older libllama tells the shapes only to a caller that takes the tensors too.
        tensors = ffi.new("struct ggml_context **") if not binding.has("gguf_get_tensor_ne") else ffi.NULL
        gate = SharedGate()
        handle = Handle("GGUFFile", partial(_free, tensors), gate=gate)
        with gate:
            try:
                self._read(handle, tensors)
            finally:
                handle.release()
        for tensor in self.tensors:
            end = tensor.offset + tensor.nbytes
            if end > self.file_size:
                raise ModelFileError(
                    f"{self.path} is truncated: tensor {tensor.name} ends at byte {end}, "
                    f"but the file has {self.file_size}"
                )

    def _read(self, handle: Handle, tensors: Any) -> None:
        mark = guard.mark()
        try:
            ptr = guard.call_ptr("gguf_init_from_file", os.fsencode(self.path), True, tensors, cell=handle.cell)
        except NativeError as error:
            raise ModelFileError(f"cannot read {self.path}: {error.message}", log=error.log) from error
        if ptr == ffi.NULL:
            raise ModelFileError(f"{self.path} is a damaged GGUF file", log=guard.lines_since(mark))
        self.version = lib.gguf_get_version(ptr)
        self.alignment = lib.gguf_get_alignment(ptr)
        self.data_offset = lib.gguf_get_data_offset(ptr)
        self.metadata = {to_text(lib.gguf_get_key(ptr, i)): _read_value(ptr, i) for i in range(lib.gguf_get_n_kv(ptr))}
        self.tensors = [_read_tensor(ptr, i, tensors, self.data_offset) for i in range(lib.gguf_get_n_tensors(ptr))]

    @property
    def architecture(self) -> str | None:
        """``general.architecture``, or None if the file does not have it (it is then not a model)."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None

    @property
    def n_params(self) -> int:
        """The number of elements of all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Size of all tensors together, without padding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def __repr__(self) -> str:
        return f"<GGUFFile {self.path.name!r}: {self.architecture}, {len(self.tensors)} tensors>"


def _free(tensors: Any, cell: Cell) -> None:
    guard.free("gguf_free", cell)
    if tensors:
        # No signal handler runs between the two lines: they call nothing.
        found = [tensors[0]] if tensors[0] else []
        tensors[0] = ffi.NULL
        atomic.free(lib.ggml_free, found)


def check_gguf_file(path: Path) -> int:
    """Return the size in bytes of a file that begins like GGUF.

    Raises ModelNotFoundError, or ModelFileError for a directory, an empty file, a file that cannot be read
    and one that is something else than GGUF: cases in which llama.cpp names no reason.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path!s}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise ModelFileError(f"{path} is a directory, not a GGUF file")
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(f"{path} is not a regular file")
    if status.st_size == 0:
        raise ModelFileError(f"{path} is empty")
    try:
        with open(path, "rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    if magic != MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    return status.st_size


@cache
def _readers() -> dict[int, tuple[str, Callable[[Any, int], Any]]]:
    """C type and scalar getter of each GGUF value type."""
    return {
        lib.GGUF_TYPE_UINT8: ("uint8_t", lib.gguf_get_val_u8),
        lib.GGUF_TYPE_INT8: ("int8_t", lib.gguf_get_val_i8),
        lib.GGUF_TYPE_UINT16: ("uint16_t", lib.gguf_get_val_u16),
        lib.GGUF_TYPE_INT16: ("int16_t", lib.gguf_get_val_i16),
        lib.GGUF_TYPE_UINT32: ("uint32_t", lib.gguf_get_val_u32),
        lib.GGUF_TYPE_INT32: ("int32_t", lib.gguf_get_val_i32),
        lib.GGUF_TYPE_UINT64: ("uint64_t", lib.gguf_get_val_u64),
        lib.GGUF_TYPE_INT64: ("int64_t", lib.gguf_get_val_i64),
        lib.GGUF_TYPE_FLOAT32: ("float", lib.gguf_get_val_f32),
        lib.GGUF_TYPE_FLOAT64: ("double", lib.gguf_get_val_f64),
        lib.GGUF_TYPE_BOOL: ("int8_t", lib.gguf_get_val_bool),
    }


def _read_value(ptr: Any, key: int) -> MetadataValue:
    kind = lib.gguf_get_kv_type(ptr, key)
    if kind == lib.GGUF_TYPE_STRING:
        return to_text(lib.gguf_get_val_str(ptr, key))
    if kind != lib.GGUF_TYPE_ARRAY:
        value: MetadataValue = _readers()[kind][1](ptr, key)
        return value
    count = lib.gguf_get_arr_n(ptr, key)
    kind = lib.gguf_get_arr_type(ptr, key)
    if kind == lib.GGUF_TYPE_STRING:
        get = lib.gguf_get_arr_str
        return [to_text(get(ptr, key, i)) for i in range(count)]
    if count == 0:
        return []
    numbers: list[Any] = ffi.unpack(ffi.cast(f"{_readers()[kind][0]} *", lib.gguf_get_arr_data(ptr, key)), count)
    return [number != 0 for number in numbers] if kind == lib.GGUF_TYPE_BOOL else numbers


def _read_tensor(ptr: Any, index: int, tensors: Any, data_offset: int) -> TensorInfo:
    name = lib.gguf_get_tensor_name(ptr, index)
    sizes = lib.ggml_get_tensor(tensors[0], name).ne if tensors else lib.gguf_get_tensor_ne(ptr, index)
    shape = list(sizes[0 : lib.GGML_MAX_DIMS])
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return TensorInfo(
        name=to_text(name),
        shape=tuple(shape),
        type=to_text(lib.ggml_type_name(lib.gguf_get_tensor_type(ptr, index))),
        offset=data_offset + lib.gguf_get_tensor_offset(ptr, index),
        nbytes=lib.gguf_get_tensor_size(ptr, index),
    )


__all__ = ["GGUFFile", "MetadataValue", "TensorInfo", "check_gguf_file"]
