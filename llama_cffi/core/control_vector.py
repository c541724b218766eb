"""Control vectors: one direction for each layer, added to the output of the layer."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import binding, ffi, guard, log
from llama_cffi._util.arguments import check_path
from llama_cffi._util.files import replacement
from llama_cffi._util.scalars import as_float
from llama_cffi._util.shown import shown
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.errors import AdapterError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from llama_cffi.core.model import Model

_NAME = re.compile(r"direction\.([1-9]\d{0,4})")
_ALIGNMENT = 32
_STRING, _INT32, _F32 = 8, 5, 0
"""Of ``enum gguf_type`` the first two, of ``enum ggml_type`` the last."""


class ControlVector:
    """A direction for each layer of a model, float32 of shape ``(n_layer, n_embd)``.

    Row ``i`` is added to the output of layer ``i``; row 0 must be zero, because llama.cpp does not change the first
    layer. It is a value: ``0.8 * happy - 0.3 * formal`` is another one. ``model_hint`` names the architecture that it
    was made for.

    Raises :class:`AdapterError` for another shape, a first row that is not zero, and numbers that are not finite.
    """

    __slots__ = ("data", "model_hint")

    def __init__(self, data: ArrayLike, *, model_hint: str = "") -> None:
        try:
            array = np.array(data, dtype=np.float32, order="C")
        except OverflowError:
            raise AdapterError("a control vector must consist of finite numbers") from None
        if array.ndim != 2 or array.shape[0] < 2 or not array.shape[1]:
            raise AdapterError(
                f"a control vector must have the shape (n_layer, n_embd) with 2 layers or more, not {array.shape}"
            )
        if not np.isfinite(array).all():
            raise AdapterError("a control vector must consist of finite numbers")
        if array[0].any():
            raise AdapterError("row 0 of a control vector must be zero: llama.cpp adds nothing after the first layer")
        array.flags.writeable = False
        self.data: NDArray[np.float32] = array
        self.model_hint = model_hint

    @property
    def n_layer(self) -> int:
        """Number of rows; further layers of a model are not changed."""
        return int(self.data.shape[0])

    @property
    def n_embd(self) -> int:
        """Width of the model that it fits."""
        return int(self.data.shape[1])

    @property
    def fingerprint(self) -> str:
        """A hash of the numbers."""
        return hashlib.blake2b(self.data.tobytes(), digest_size=16).hexdigest()

    def check(self, model: Model, layers: range | None = None) -> None:
        """Raise :class:`AdapterError` unless the vector fits a model, and ``ValueError`` for layers that do not
        exist."""
        if not hasattr(model, "n_embd"):  # not isinstance: a Model's module is above this one
            raise TypeError(f"model must be a Model, got {shown(model)}")
        _rows_for(self, model.n_layer, model.n_embd)
        _layer_bounds(layers, model.n_layer)

    def __mul__(self, scale: float) -> ControlVector:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused, not warned of
            factor = as_float(scale)
            if factor is None:
                return NotImplemented
            scaled = self.data * np.float32(factor)
        return ControlVector(scaled, model_hint=self.model_hint)

    __rmul__ = __mul__

    def __neg__(self) -> ControlVector:
        return self * -1.0

    def __add__(self, other: ControlVector) -> ControlVector:
        """The sum; the shorter one counts as zero where it has no rows. :class:`AdapterError` for another width."""
        if not isinstance(other, ControlVector):
            return NotImplemented
        if self.n_embd != other.n_embd:
            raise AdapterError(f"control vectors of the widths {self.n_embd} and {other.n_embd} cannot be added")
        total = np.zeros((max(self.n_layer, other.n_layer), self.n_embd), dtype=np.float32)
        with np.errstate(over="ignore"):
            for one in (self, other):
                total[: one.n_layer] += one.data
        return ControlVector(total, model_hint=self.model_hint or other.model_hint)

    def __sub__(self, other: ControlVector) -> ControlVector:
        return self + -other if isinstance(other, ControlVector) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ControlVector) and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]  # equal by content, and content is large

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: an array that was pickled can be written.
        return _make, (type(self), self.data, self.model_hint)

    def __repr__(self) -> str:
        hint = f" for {self.model_hint}" if self.model_hint else ""
        return f"<ControlVector n_layer={self.n_layer} n_embd={self.n_embd}{hint}>"

    # -- files

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> ControlVector:
        """Read a file with tensors ``direction.1``, ``direction.2`` and so on, as llama.cpp's generator writes it.

        Raises :class:`ModelNotFoundError` and :class:`ModelFileError` for a path that is not a GGUF file, and
        :class:`AdapterError` for one without directions, or with directions of several widths.
        """
        file = GGUFFile(path)
        rows: dict[int, NDArray[np.float32]] = {}
        with open(file.path, "rb") as stream:
            for tensor in file.tensors:
                name = _NAME.fullmatch(tensor.name)
                if name is None:
                    continue
                if tensor.type != "f32" or len(tensor.shape) != 1:
                    raise AdapterError(
                        f"{path}: {tensor.name} is {tensor.type} of shape {tensor.shape}, not one f32 row"
                    )
                stream.seek(tensor.offset)
                rows[int(name[1])] = np.frombuffer(stream.read(tensor.nbytes), dtype="<f4")
        widths = {len(row) for row in rows.values()}
        if len(widths) != 1:
            reason = f"has directions of the widths {sorted(widths)}" if widths else "holds no directions"
            raise AdapterError(f"{path} {reason}")
        data = np.zeros((max(rows) + 1, widths.pop()), dtype=np.float32)
        for layer, row in rows.items():
            data[layer] = row
        hint = file.metadata.get("controlvector.model_hint")
        return cls(data, model_hint=hint if isinstance(hint, str) else "")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that :meth:`from_gguf` and llama.cpp's tools read; an incomplete file is never visible.

        Raises ``OSError``.
        """
        about: dict[str, str | int] = {
            "general.architecture": "controlvector",
            "controlvector.model_hint": self.model_hint,
            "controlvector.layer_count": self.n_layer - 1,
        }
        names = [f"direction.{layer}" for layer in range(1, self.n_layer)]
        with replacement(check_path("path", path)) as part:
            part.unlink()  # made anew, it gets the rights of a new file
            with open(part, "wb") as stream:
                stream.write(_header(about, names, self.n_embd))
                for row in self.data[1:]:
                    stream.write(_padded(row.astype("<f4").tobytes()))


def apply_control_vector(ctx: Any, model: Model, vector: ControlVector | None, layers: range | None) -> None:
    """Give a vector to a ``llama_context``, or take the one it has; see :meth:`Context.set_control_vector`."""
    n_layer, n_embd = model.n_layer, model.n_embd
    name = "llama_set_adapter_cvec" if binding.has("llama_set_adapter_cvec") else "llama_apply_adapter_cvec"
    if vector is None:
        guard.call_int(name, ctx, None, 0, n_embd, -1, -1)
        return
    if not isinstance(vector, ControlVector):
        raise TypeError(f"vector must be a ControlVector or None, got {shown(vector)}")
    layers = _layer_bounds(layers, n_layer)
    rows = _rows_for(vector, n_layer, n_embd)
    data = ffi.from_buffer("float[]", rows)
    if guard.call_int(name, ctx, data, rows.size, n_embd, layers.start, layers.stop - 1) != 0:
        raise AdapterError("llama.cpp refuses the control vector", log=guard.lines_since(log.call_mark()))


def _layer_bounds(layers: range | None, n_layer: int) -> range:
    layers = range(1, n_layer) if layers is None else layers
    if not isinstance(layers, range):
        raise TypeError(f"layers must be a range, not {type(layers).__name__}")
    if layers.step != 1 or not 1 <= layers.start < layers.stop <= n_layer:
        raise ValueError(f"layers must be a range inside range(1, {n_layer}), got {layers}")
    return layers


def _make(kind: type[ControlVector], data: NDArray[np.float32], model_hint: str) -> ControlVector:
    return kind(data, model_hint=model_hint)


def _rows_for(vector: ControlVector, n_layer: int, n_embd: int) -> NDArray[np.float32]:
    """What llama.h takes: float32 of shape ``(n_layer - 1, n_embd)``, from layer 1 on.

    All layers, because llama.cpp keeps those of the vector before where a shorter one says nothing.
    Raises :class:`AdapterError` for a vector of another width or with more layers than the model.
    """
    if vector.n_embd != n_embd:
        raise AdapterError(f"a control vector of width {vector.n_embd} does not fit a model of width {n_embd}")
    if vector.n_layer > n_layer:
        raise AdapterError(f"a control vector for {vector.n_layer} layers does not fit a model of {n_layer}")
    rows = np.zeros((n_layer - 1, n_embd), dtype=np.float32)
    rows[: vector.n_layer - 1] = vector.data[1:]
    return rows


def _header(about: Mapping[str, str | int], names: list[str], width: int) -> bytes:
    """Everything before the tensors' data in a GGUF file of version 3."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(names), len(about))]
    for key, value in about.items():
        parts.append(_text(key))
        if isinstance(value, str):
            parts += [struct.pack("<I", _STRING), _text(value)]
        else:
            parts.append(struct.pack("<Ii", _INT32, value))
    size = len(_padded(bytes(4 * width)))
    for i, name in enumerate(names):
        parts += [_text(name), struct.pack("<IQIQ", 1, width, _F32, i * size)]
    return _padded(b"".join(parts))


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


__all__ = ["ControlVector", "apply_control_vector"]
