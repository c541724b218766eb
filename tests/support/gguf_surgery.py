"""GGUF files taken apart, changed at random in one place or a few, and put together again so that offsets fit."""

from __future__ import annotations

import copy
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import gguf

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
FORMATS = {
    UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?",
    UINT64: "<Q", INT64: "<q", FLOAT64: "<d",
}  # fmt: skip
FLOATS = (FLOAT32, FLOAT64)
N_TYPES = 48
"""More than ggml knows."""

ODD_INTS = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 256, 1000, 4096,
            65_535, 100_000, 2**24, 2**31 - 1, 2**31, 2**32 - 1]  # fmt: skip
ODD_FLOATS = [math.nan, math.inf, -math.inf, -1.0, 0.0, -0.0, 1e30, 1e-30, -1e-5, 3e38, 0.5, 2.0, 1e-45]

KEYS = sorted(
    {
        value
        for group in vars(gguf.Keys).values()
        if isinstance(group, type)
        for name, value in vars(group).items()
        if isinstance(value, str) and "{arch}" in value and not name.startswith("_")
    }
)
"""Of hyperparameters, with a place for the name of the architecture."""

NAMES = sorted({f"{name}.{end}" for name in gguf.TENSOR_NAMES.values() for end in ("weight", "bias", "scale")})
"""Of tensors, with a place for the number of the layer."""

Value = tuple[int, bytes]
"""Kind and bytes."""


@dataclass
class Tensor:
    """An entry of the list, and its bytes."""

    name: bytes
    shape: list[int]
    kind: int
    data: bytes

    @property
    def nbytes(self) -> int:
        """What ggml takes a tensor of this shape and type to have; 0 for a type that it does not know."""
        try:
            block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(self.kind)]
        except (ValueError, KeyError):
            return 0
        return int(max(0, math.prod(self.shape)) // block * size)

    def fill(self, rng: random.Random) -> None:
        """Make the bytes as many as they must be."""
        n = min(self.nbytes, 64 << 20)
        self.data = (self.data * (n // len(self.data) + 1))[:n] if self.data else rng.randbytes(n)


@dataclass
class Parts:
    """A GGUF file."""

    values: list[tuple[bytes, Value]]
    tensors: list[Tensor]
    spoiled: Callable[[bytearray, int], None] | None = None
    """What is done to the bytes at last; it is given where the list of tensors begins."""
    told: list[str] = field(default_factory=list)
    """What was changed."""

    @property
    def architecture(self) -> str:
        """``general.architecture`` as it is."""
        data = dict(self.values).get(b"general.architecture", (STRING, bytes(8)))[1]
        return data[8:].decode("utf-8", "replace")

    def bytes(self) -> bytes:
        """The file."""
        out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.values)))
        for key, (kind, data) in self.values:
            out += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + data
        start, offset = len(out), 0
        for tensor in self.tensors:
            out += struct.pack("<Q", len(tensor.name)) + tensor.name + struct.pack("<I", len(tensor.shape))
            out += struct.pack(f"<{len(tensor.shape)}Q", *(size % 2**64 for size in tensor.shape))
            out += struct.pack("<IQ", tensor.kind % 2**32, offset)
            offset += len(tensor.data) + -len(tensor.data) % 32
        if self.spoiled is not None:
            self.spoiled(out, start)
        out += bytes(-len(out) % 32)
        for tensor in self.tensors:
            out += tensor.data + bytes(-len(tensor.data) % 32)
        return bytes(out)


def parse(data: bytes) -> Parts:
    """Take a sound file apart."""
    at = 24
    n_tensors, n_values = struct.unpack_from("<QQ", data, 8)

    def text() -> bytes:
        nonlocal at
        (length,) = struct.unpack_from("<Q", data, at)
        at += 8 + length
        return data[at - length : at]

    def skip(kind: int) -> None:
        nonlocal at
        if kind == STRING:
            text()
        elif kind == ARRAY:
            item, count = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(count):
                skip(item)
        else:
            at += struct.calcsize(FORMATS[kind])

    values = []
    for _ in range(n_values):
        key = text()
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        start = at
        skip(kind)
        values.append((key, (kind, data[start:at])))
    tensors, offsets = [], []
    for _ in range(n_tensors):
        name = text()
        (n_dims,) = struct.unpack_from("<I", data, at)
        shape = list(struct.unpack_from(f"<{n_dims}Q", data, at + 4))
        at += 4 + 8 * n_dims
        kind, offset = struct.unpack_from("<IQ", data, at)
        at += 12
        tensors.append(Tensor(name, shape, kind, b""))
        offsets.append(offset)
    alignment = dict(values).get(b"general.alignment")
    step = struct.unpack("<I", alignment[1])[0] if alignment else 32
    start = at + -at % step
    for tensor, offset in zip(tensors, offsets, strict=True):
        tensor.data = data[start + offset : start + offset + tensor.nbytes]
    return Parts(values, tensors)


def string(value: bytes) -> Value:
    return STRING, struct.pack("<Q", len(value)) + value


def change(parts: Parts, what: str, rng: random.Random) -> Parts:
    """A copy with one to four random changes of its ``"metadata"`` or ``"tensors"``."""
    new = copy.copy(parts)
    new.values, new.tensors, new.told = list(parts.values), [copy.copy(one) for one in parts.tensors], []
    for tensor in new.tensors:
        tensor.shape = list(tensor.shape)
    changes = _CHANGES[what]
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        rng.choice(changes)(new, rng)
    return new


# -- metadata


def _pick(parts: Parts, rng: random.Random) -> int:
    own = [i for i, (key, _) in enumerate(parts.values) if not key.startswith((b"tokenizer.", b"general."))]
    return rng.choice(own) if own and rng.random() < 0.85 else rng.randrange(len(parts.values))


def _odd_scalar(kind: int, old: bytes, rng: random.Random) -> bytes:
    form = FORMATS[kind]
    if kind in FLOATS:
        number = rng.choice([*ODD_FLOATS, struct.unpack(form, old)[0] * rng.choice([-1, 0.5, 2, 1e6])])
        try:
            return struct.pack(form, number)
        except OverflowError:
            return struct.pack(form, math.inf)
    if kind == BOOL:
        return bytes([rng.choice([0, 1, 1 - (old[0] & 1), 2, 255])])
    before = struct.unpack(form, old)[0]
    number = rng.choice([*ODD_INTS, before + 1, before - 1, before * 2, before // 2, before * 3])
    size = 8 * struct.calcsize(form)
    return int(number % 2**size).to_bytes(size // 8, "little")


def _odd_text(rng: random.Random) -> bytes:
    names = [name.encode() for name in gguf.MODEL_ARCH_NAMES.values()]
    texts: list[bytes] = [b"", b"x", b"\xff\xfe", b"\0", b"a" * 70_000, b"none", b"linear", b"yarn", b"longrope",
                       rng.choice(names), rng.randbytes(rng.randrange(20))]  # fmt: skip
    return rng.choice(texts)


def _random_value(rng: random.Random) -> Value:
    kind = rng.choice([UINT32, UINT32, UINT32, FLOAT32, FLOAT32, BOOL, STRING, INT32, UINT64, ARRAY])
    if kind == STRING:
        return string(_odd_text(rng))
    if kind == ARRAY:
        item, count = rng.choice([UINT32, INT32, FLOAT32, BOOL]), rng.choice([0, 1, 2, 3, 4, 5, 100])
        body = b"".join(_odd_scalar(item, bytes(struct.calcsize(FORMATS[item])), rng) for _ in range(count))
        return ARRAY, struct.pack("<IQ", item, count) + body
    return kind, _odd_scalar(kind, bytes(struct.calcsize(FORMATS[kind])), rng)


def _odd_value(parts: Parts, rng: random.Random) -> None:
    i = _pick(parts, rng)
    key, (kind, data) = parts.values[i]
    if kind == STRING:
        new = string(_odd_text(rng))
    elif kind == ARRAY:
        item, count = struct.unpack_from("<IQ", data)
        body = bytearray(data[12:])
        if item in FORMATS and count:
            size = struct.calcsize(FORMATS[item])
            for _ in range(rng.choice([1, 1, 3])):
                at = size * rng.randrange(count)
                body[at : at + size] = _odd_scalar(item, bytes(body[at : at + size]), rng)
            if rng.random() < 0.3:
                count = rng.randrange(count)
                del body[size * count :]
        elif body:
            body[rng.randrange(len(body))] = rng.randrange(256)
        new = ARRAY, struct.pack("<IQ", item, count) + bytes(body)
    else:
        new = kind, _odd_scalar(kind, data, rng)
    parts.values[i] = key, new
    parts.told.append(f"{key!r} is {new[0]}:{new[1][:24]!r}")


def _other_kind(parts: Parts, rng: random.Random) -> None:
    i = _pick(parts, rng)
    key, new = parts.values[i][0], _random_value(rng)
    parts.values[i] = key, new
    parts.told.append(f"{key!r} becomes {new[0]}:{new[1][:24]!r}")


def _new_key(parts: Parts, rng: random.Random) -> None:
    key, new = rng.choice(KEYS).replace("{arch}", parts.architecture).encode(), _random_value(rng)
    parts.values = [*((name, value) for name, value in parts.values if name != key), (key, new)]
    parts.told.append(f"{key!r} is new: {new[0]}:{new[1][:24]!r}")


def _no_key(parts: Parts, rng: random.Random) -> None:
    if len(parts.values) > 1:
        parts.told.append(f"{parts.values.pop(_pick(parts, rng))[0]!r} is gone")


def _spoil_values(parts: Parts, rng: random.Random) -> None:
    places = [rng.random() for _ in range(rng.choice([1, 2, 8]))]
    values = [rng.randrange(256) for _ in places]

    def spoil(out: bytearray, start: int) -> None:
        for place, value in zip(places, values, strict=True):
            out[8 + int(place**3 * (start - 8))] = value

    parts.spoiled = spoil
    parts.told.append("bytes of the values are others")


# -- tensors


def _kind_of(tensor: Tensor, parts: Parts, rng: random.Random) -> None:
    tensor.kind = rng.randrange(N_TYPES)
    tensor.fill(rng)
    parts.told.append(f"{tensor.name!r} {tensor.shape} has type {tensor.kind}")


def _other_type(parts: Parts, rng: random.Random) -> None:
    _kind_of(rng.choice(parts.tensors), parts, rng)


def _other_shape(parts: Parts, rng: random.Random) -> None:
    tensor = rng.choice(parts.tensors)
    shape = tensor.shape
    i = rng.randrange(len(shape))
    n = math.prod(shape)
    tensor.shape = rng.choice([
        shape[::-1], [*shape, 1], [1, *shape], [n], [n // 2, 2], [*shape[:i], *shape[i + 1 :]] or [1],
        [*shape[:i], shape[i] + 1, *shape[i + 1 :]], [*shape[:i], shape[i] * 2, *shape[i + 1 :]],
        [*shape[:i], max(1, shape[i] // 2), *shape[i + 1 :]], [*shape[:i], rng.choice(ODD_INTS[:26]), *shape[i + 1 :]],
        [*shape[:i], rng.choice([2**31, 2**32, 2**40, 2**62, 2**63 - 1, -1]), *shape[i + 1 :]], [*shape, 2], [],
        [*shape, 1, 1, 1, 1],
    ])  # fmt: skip
    tensor.fill(rng)
    parts.told.append(f"{tensor.name!r} {shape} has the shape {tensor.shape}")


def _other_name(parts: Parts, rng: random.Random) -> None:
    tensor, other = rng.choice(parts.tensors), rng.choice(parts.tensors)
    parts.told.append(f"{tensor.name!r} and {other.name!r} are exchanged")
    tensor.name, other.name = other.name, tensor.name


def _no_tensor(parts: Parts, rng: random.Random) -> None:
    if len(parts.tensors) > 1:
        parts.told.append(f"{parts.tensors.pop(rng.randrange(len(parts.tensors))).name!r} is gone")


def _new_tensor(parts: Parts, rng: random.Random) -> None:
    """A tensor that the architecture may or may not have, mostly of a shape that is there."""
    like = rng.choice(parts.tensors)
    if rng.random() < 0.5 and like.name.endswith(b".weight"):
        name = like.name.removesuffix(b"weight") + rng.choice([b"bias", b"scale", b"input_scale"])
        shape = rng.choice([like.shape[1:] or like.shape, like.shape[:1], [1]])
    else:
        name, shape = rng.choice(NAMES).format(bid=rng.choice([0, 0, 1]), xid=0).encode(), like.shape
    tensor = Tensor(name, list(shape), rng.choice([0, 0, 0, rng.randrange(N_TYPES)]), b"")
    tensor.fill(rng)
    parts.tensors.append(tensor)
    parts.told.append(f"{name!r} {shape} of type {tensor.kind} is new")


def _other_data(parts: Parts, rng: random.Random) -> None:
    tensor = rng.choice(parts.tensors)
    pattern = rng.choice([b"\xff\xff\xff\xff", struct.pack("<f", math.inf), b"\0\0\0\0", rng.randbytes(4)])
    tensor.data = (pattern * (len(tensor.data) // 4 + 1))[: len(tensor.data)]
    parts.told.append(f"{tensor.name!r} is full of {pattern!r}")


def _all_types(parts: Parts, rng: random.Random) -> None:
    for tensor in parts.tensors:
        if rng.random() < 0.3:
            _kind_of(tensor, parts, rng)


def _spoil_entries(parts: Parts, rng: random.Random) -> None:
    places = [rng.random() for _ in range(rng.choice([1, 2, 8]))]
    values = [rng.choice([0, 1, 255, rng.randrange(256)]) for _ in places]

    def spoil(out: bytearray, start: int) -> None:
        for place, value in zip(places, values, strict=True):
            out[start + int(place * (len(out) - start))] = value

    parts.spoiled = spoil
    parts.told.append("bytes of the entries are others")


_CHANGES: dict[str, list[Callable[[Parts, random.Random], None]]] = {
    "metadata": [_odd_value, _odd_value, _odd_value, _odd_value, _other_kind, _new_key, _new_key, _no_key,
                 _spoil_values],
    "tensors": [_other_type, _other_type, _other_type, _other_shape, _other_shape, _other_name, _no_tensor, _new_tensor,
                _new_tensor, _other_data, _all_types, _spoil_entries],
}  # fmt: skip
