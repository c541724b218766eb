"""GGUF files, well-formed and hostile, written here byte by byte."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_cffi._native import helpers
from llama_cffi.core.gguf import GGUFFile, TensorInfo
from llama_cffi.errors import ModelFileError, ModelNotFoundError

ROOT = Path(__file__).resolve().parents[2]

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "b",
    U64: "Q",
    I64: "q",
    F64: "d",
}
GGML_F32, GGML_Q8_0 = 0, 8


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def scalar(kind: int, value: object) -> bytes:
    if kind == STRING:
        assert isinstance(value, (str, bytes))
        return string(value)
    return struct.pack("<" + FORMATS[kind], value)


def pair(key: str, kind: int, value: object) -> bytes:
    return string(key) + struct.pack("<i", kind) + scalar(kind, value)


def array(key: str, kind: int, values: Sequence[object], count: int | None = None) -> bytes:
    head = string(key) + struct.pack("<iiQ", ARRAY, kind, len(values) if count is None else count)
    return head + b"".join(scalar(kind, value) for value in values)


def tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}qiQ", len(shape), *shape, kind, offset)


def gguf(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    head = b"GGUF" + struct.pack(
        "<Iqq",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(pairs) if n_pairs is None else n_pairs,
    )
    body = head + b"".join(pairs) + b"".join(tensors)
    return body + b"\0" * (-len(body) % alignment) + data


EVERY_TYPE = [
    pair("general.architecture", STRING, "llama"),
    pair("u8", U8, 200),
    pair("i8", I8, -100),
    pair("u16", U16, 60000),
    pair("i16", I16, -30000),
    pair("u32", U32, 4_000_000_000),
    pair("i32", I32, -2_000_000_000),
    pair("u64", U64, 2**64 - 1),
    pair("i64", I64, -(2**63)),
    pair("f32", F32, 0.5),
    pair("f64", F64, math.pi),
    pair("yes", BOOL, 1),
    pair("no", BOOL, 0),
    pair("text", STRING, "žluťoučký kůň \N{OCTOPUS}"),
    array("empty", I32, []),
    array("bytes", U8, [0, 1, 255]),
    array("numbers", I32, [-1, 0, 7]),
    array("floats", F32, [0.25, -0.5]),
    array("doubles", F64, [math.e]),
    array("longs", U64, [2**63]),
    array("flags", BOOL, [1, 0, 1]),
    array("words", STRING, ["a", "", "tři"]),
]
WELL_FORMED = gguf(
    EVERY_TYPE,
    [tensor("token_embd.weight", (64, 3), GGML_Q8_0, 0), tensor("norm", (5,), GGML_F32, 224)],
    bytes(224 + 20),
)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def test_every_value_type(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path, WELL_FORMED))
    assert file.metadata == {
        "general.architecture": "llama",
        "u8": 200,
        "i8": -100,
        "u16": 60000,
        "i16": -30000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": math.pi,
        "yes": True,
        "no": False,
        "text": "žluťoučký kůň \N{OCTOPUS}",
        "empty": [],
        "bytes": [0, 1, 255],
        "numbers": [-1, 0, 7],
        "floats": [0.25, -0.5],
        "doubles": [math.e],
        "longs": [2**63],
        "flags": [True, False, True],
        "words": ["a", "", "tři"],
    }
    assert type(file.metadata["yes"]) is bool
    assert all(type(flag) is bool for flag in file.metadata["flags"])  # type: ignore[union-attr]
    assert file.architecture == "llama"
    assert (file.version, file.alignment, file.file_size) == (3, 32, len(WELL_FORMED))


def test_tensors(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path, WELL_FORMED))
    start = len(WELL_FORMED) - 244
    assert file.data_offset == start
    assert file.tensors == [
        TensorInfo("token_embd.weight", (64, 3), "q8_0", start, 6 * 34),
        TensorInfo("norm", (5,), "f32", start + 224, 20),
    ]
    assert file.n_params == 64 * 3 + 5
    assert file.nbytes == 6 * 34 + 20


def test_real_model(assets: Path) -> None:
    file = GGUFFile(assets / "models" / "stories260K.gguf")
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert len(tokens) == 512
    assert file.architecture == "llama"
    assert file.metadata["llama.embedding_length"] == 64
    assert {tensor.name for tensor in file.tensors} >= {"token_embd.weight", "blk.0.attn_q.weight"}
    assert file.tensors[-1].offset + file.tensors[-1].nbytes <= file.file_size


def test_file_without_architecture(assets: Path) -> None:
    assert GGUFFile(assets / "models" / "dummy.gguf").architecture is None


def test_split_file(assets: Path) -> None:
    file = GGUFFile(assets / "models" / "dummy-00001-of-00002.gguf")
    assert file.metadata["split.count"] == 2


def test_invalid_utf8_is_replaced(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path, gguf([pair("k", STRING, b"a\xffb")])))
    assert file.metadata["k"] == "a\N{REPLACEMENT CHARACTER}b"


def test_own_alignment(tmp_path: Path) -> None:
    data = gguf([pair("general.alignment", U32, 64)], [tensor("t", (4,), GGML_F32, 0)], bytes(16), alignment=64)
    file = GGUFFile(write(tmp_path, data))
    assert file.alignment == 64
    assert file.data_offset % 64 == 0


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file") as caught:
        GGUFFile(tmp_path / "none.gguf")
    assert isinstance(caught.value, FileNotFoundError)


def test_file_used_as_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        GGUFFile(write(tmp_path, WELL_FORMED) / "inner.gguf")


def test_name_with_nul() -> None:
    with pytest.raises(ModelFileError, match="null byte"):
        GGUFFile("a\0b.gguf")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a directory"):
        GGUFFile(tmp_path)


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, WELL_FORMED)
    path.chmod(0)
    with pytest.raises(ModelFileError, match="Permission denied"):
        GGUFFile(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GG", "not a GGUF file"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file: it begins with b'PK"),
        (b"GGUF", "damaged"),
        (gguf(version=1), "GGUFv1 is no longer supported"),
        (gguf(version=0), "bad GGUF version"),
        (gguf(version=4), "only supports up to version 3"),
        (gguf(version=0x03000000), "endianness"),
        (gguf(n_pairs=2**62), "number of key value pairs"),
        (gguf(n_pairs=-1), "number of key value pairs"),
        (gguf(n_pairs=2**40), "failed to read key-value pairs"),
        (gguf(n_tensors=2**62), "number of tensors"),
        (gguf(n_tensors=-1), "number of tensors"),
        (gguf(n_tensors=2**40), "failed to read tensor info"),
        (gguf([string("k") + struct.pack("<i", 99)]), "invalid GGUF type 99"),
        (gguf([pair("k", U8, 1), pair("k", U8, 2)]), "duplicate key"),
        (gguf([pair("", U8, 1)]), "is empty"),
        (gguf([array("k", ARRAY, [])]), "invalid GGUF type"),
        (gguf([array("k", U8, [], count=2**63)]), "failed to read key-value pairs"),
        (gguf([array("k", U8, [], count=2**29)]), "failed to read key-value pairs"),
        (gguf([array("k", STRING, [], count=2**29)]), "failed to read key-value pairs"),
        (gguf([struct.pack("<Q", 2**63) + b"k"]), "exceeds maximum"),
        (gguf([struct.pack("<Q", 2**29) + b"k"]), "exceeds remaining file size"),
        (gguf([pair("general.alignment", U32, 0)]), "not a power of 2"),
        (gguf([pair("general.alignment", U32, 48)]), "not a power of 2"),
        (gguf([pair("general.alignment", U8, 32)]), "must be of type u32"),
        (gguf([], [tensor("t" * 64, (4,), GGML_F32, 0)], bytes(16)), "too long"),
        (gguf([], [tensor("t", (1,) * 5, GGML_F32, 0)], bytes(16)), "invalid number of dimensions"),
        (gguf([], [tensor("t", (-4,), GGML_F32, 0)], bytes(16)), "< 0"),
        (gguf([], [tensor("t", (2**40, 2**40), GGML_F32, 0)], bytes(16)), "overflow"),
        (gguf([], [tensor("t", (2**62,), GGML_F32, 0)], bytes(16)), "size in bytes"),
        (gguf([], [tensor("t", (4,), 999, 0)], bytes(16)), "invalid ggml type 999"),
        (gguf([], [tensor("t", (4,), 4, 0)], bytes(16)), "block size"),
        (gguf([], [tensor("t", (33,), GGML_Q8_0, 0)], bytes(64)), "not a multiple of block size"),
        (gguf([], [tensor("t", (4,), GGML_F32, 64)], bytes(128)), "has offset 64, expected 0"),
        (gguf([], [tensor("t", (4,), GGML_F32, 0)] * 2, bytes(64)), "duplicate tensor name"),
        (gguf([], [tensor("t", (8,), GGML_F32, 0)], bytes(31)), "truncated: tensor t ends"),
        (gguf([], [tensor("t", (2**40,), GGML_F32, 0)], bytes(31)), "truncated: tensor t ends"),
    ],
)
def test_damaged_file(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        GGUFFile(write(tmp_path, data))
    assert message in str(caught.value)
    assert "model.gguf" in str(caught.value)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    for length in range(len(WELL_FORMED)):
        with pytest.raises(ModelFileError):
            GGUFFile(write(tmp_path, WELL_FORMED[:length]))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


def survive(path: Path) -> None:
    try:
        file = GGUFFile(path)
    except ModelFileError:
        return
    # What was read must be consistent whatever the bytes said.
    assert all(tensor.offset + tensor.nbytes <= file.file_size for tensor in file.tensors)
    assert all(isinstance(key, str) for key in file.metadata)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(WELL_FORMED) - 245), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_never_crash(scratch: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(WELL_FORMED)
    for position, value in changes:
        data[position] = value
    survive(write(scratch, bytes(data)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    position=st.integers(4, len(WELL_FORMED) - 8),
    value=st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
)
def test_huge_numbers_anywhere_never_crash(scratch: Path, position: int, value: int) -> None:
    data = WELL_FORMED[:position] + struct.pack("<Q", value) + WELL_FORMED[position + 8 :]
    survive(write(scratch, data))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=200))
def test_random_bytes_after_the_magic_never_crash(scratch: Path, tail: bytes) -> None:
    survive(write(scratch, b"GGUF" + tail))


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and a limit on address space")
@pytest.mark.skipif(helpers.KIND == "python", reason="only C++ can catch std::bad_alloc")
def test_running_out_of_memory_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, gguf([string("k") + struct.pack("<iQ", STRING, 2**30)]))
    os.truncate(path, 2**31)
    code = f"""
        import resource
        from llama_cffi.core.gguf import GGUFFile
        from llama_cffi.errors import ModelFileError
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            GGUFFile({str(path)!r})
        except ModelFileError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "bad_alloc" in result.stdout


def test_reading_leaves_nothing_open(tmp_path: Path) -> None:
    path = write(tmp_path, WELL_FORMED)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        GGUFFile(path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before
