"""Which types of tensors are refused, compared with what llama.cpp's source says of the operations."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

from llama_cffi import Model, ModelOptions
from llama_cffi.core.gguf_header import TensorEntry
from llama_cffi.core.tensor_check import check_tensors
from llama_cffi.errors import ModelFileError
from tests.support.gguf_surgery import parse

pytest_plugins = ["tests.support.models"]

TYPES = gguf.GGMLQuantizationType
ALONE = ("MUL", "ADD", "DIV", "SCALE", "ROPE", "SSM_CONV", "SSM_SCAN", "RWKV_WKV6")
"""Operations that take weights of type float32 alone."""
PRODUCTS = ("MUL_MAT", "MUL_MAT_ID", "GET_ROWS")
BOTH = {"indexer_compressor_ape", "ssm_a"}
"""Names that stand for tensors of two operations."""
ROWS_ADDED = {"token_types"}
"""Looked up by the source's table, and in fact one row of it is added."""
INTEGERS = {"ffn_gate_tid2eid", "d2t"}


def refused(name: str, kind: int) -> bool:
    try:
        check_tensors(Path("x"), [TensorEntry(name, (64, 64), kind)])
    except ModelFileError:
        return True
    return False


def operations(source: Path) -> dict[str, set[str]]:
    """The operations of each tensor's name, as the table of the source has them."""
    text = (source / "src" / "llama-arch.cpp").read_text(encoding="utf-8")
    names = dict(re.findall(r"\{ (LLM_TENSOR_\w+),\s+\"([^\"]+)\" \}", text))
    found: dict[str, set[str]] = {}
    for tensor, operation in re.findall(r"\{(LLM_TENSOR_\w+),\s+\{LLM_TENSOR_LAYER_\w+,\s+GGML_OP_(\w+)\}\}", text):
        if tensor in names:
            found.setdefault(names[tensor].replace("%d", "3"), set()).add(operation)
    return found


def test_every_tensor_of_the_source_is_judged_by_its_operation(llama_cpp_models: Path) -> None:
    table = operations(llama_cpp_models.parent)
    assert len(table) > 200
    for name, found in table.items():
        last = name.rpartition(".")[2]
        if last in BOTH or "NONE" in found or "IM2COL" in found:
            continue
        alone = bool(found & set(ALONE)) or last in ROWS_ADDED
        assert alone or found <= set(PRODUCTS), (name, found)
        for kind in (TYPES.F16, TYPES.Q8_0):
            assert refused(f"{name}.weight", kind) == alone, (name, kind)
        assert not refused(f"{name}.weight", TYPES.F32)
        assert refused(f"{name}.bias", TYPES.F16)
        for kind in (TYPES.Q8_1, TYPES.Q8_K, TYPES.I8, TYPES.I32, TYPES.F64):
            assert refused(f"{name}.weight", kind) == (last not in INTEGERS), (name, kind)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        (b"blk.1.attn_norm.weight", TYPES.F16, "blk.1.attn_norm.weight has the type F16; the operation"),
        (b"blk.0.ffn_down.weight", TYPES.F64, "blk.0.ffn_down.weight has the type F64, which no matrix product"),
        (b"token_embd.weight", TYPES.I32, "token_embd.weight has the type I32"),
    ],
)
def test_a_type_that_would_end_the_process(
    model_path: Path, tmp_path: Path, name: bytes, kind: gguf.GGMLQuantizationType, reason: str
) -> None:
    parts = parse(model_path.read_bytes())
    tensor = next(one for one in parts.tensors if one.name == name)
    tensor.kind = int(kind)
    tensor.data = bytes(tensor.nbytes)
    path = tmp_path / "other.gguf"
    path.write_bytes(parts.bytes())
    with pytest.raises(ModelFileError, match=re.escape(reason)):
        Model(path)
    Model(path, ModelOptions(vocab_only=True)).close()


def test_what_is_put_together_again_is_the_same_file(model_path: Path) -> None:
    data = model_path.read_bytes()
    assert parse(parse(data).bytes()) == parse(data)
