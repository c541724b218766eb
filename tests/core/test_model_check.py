"""Values in a model file that would end the process, or take all memory, are refused before llama.cpp reads them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

from llama_cffi import Model, ModelOptions
from llama_cffi.core import model_check
from llama_cffi.core.model_check import check_model_file, check_rope
from llama_cffi.errors import ModelFileError
from tests.support.gguf_surgery import parse
from tests.support.other_memories import write_windowed_model
from tests.support.random_encoder import write_random_t5

pytest_plugins = ["tests.support.models"]

EPSILON = "llama.attention.layer_norm_rms_epsilon"


def with_float(path: Path, key: str, value: float, target: Path) -> Path:
    """A copy of a model with another value at a key of type float32."""
    data = bytearray(path.read_bytes())
    at = data.index(key.encode()) + len(key) + 4
    data[at : at + 4] = struct.pack("<f", value)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("value", [math.nan, -1e-5, -math.inf, math.inf])
def test_an_epsilon_that_fails_an_assertion(model_path: Path, tmp_path: Path, value: float) -> None:
    damaged = with_float(model_path, EPSILON, value, tmp_path / "damaged.gguf")
    with pytest.raises(ModelFileError, match=rf"damaged.gguf: {EPSILON} is .*, which no computation can use"):
        Model(damaged)
    with pytest.raises(ModelFileError, match=r"kv_overrides\['llama.attention"):
        Model(model_path, ModelOptions(kv_overrides={EPSILON: value}))
    Model(damaged, ModelOptions(kv_overrides={EPSILON: 1e-5})).close()


def test_no_number_of_the_architecture_is_nan(model_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"llama.rope.freq_base'\] is nan"):
        Model(model_path, ModelOptions(kv_overrides={"llama.rope.freq_base": math.nan}))


def write_vocabulary(path: Path, model: str, tokens: list[bytes]) -> Path:
    writer = gguf.GGUFWriter(path, "rwkv6")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("model", ["rwkv", "t5", "plamo2"])
def test_a_vocabulary_that_would_become_a_huge_tree(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = write_vocabulary(tmp_path / "long.gguf", model, [b"a", b"b" * 16_385])
    with pytest.raises(ModelFileError, match="token 1 has 16385 bytes"):
        Model(long, ModelOptions(vocab_only=True))
    many = write_vocabulary(tmp_path / "many.gguf", model, [b"a" * 100] * 50)
    check_model_file(many, {})
    monkeypatch.setattr(model_check, "MAX_TREE", 4_000)
    with pytest.raises(ModelFileError, match="token 40 has 100 bytes, and all up to it 4100"):
        Model(many, ModelOptions(vocab_only=True))
    check_model_file(many, {"tokenizer.ggml.model": "gpt2"})


def test_files_that_are_sound_pass(assets: Path, llama_cpp_models: Path) -> None:
    files = [*assets.rglob("*.gguf"), *llama_cpp_models.glob("*.gguf")]
    assert len(files) > 10
    for path in files:
        check_model_file(path, {})


def test_what_is_no_gguf_file_is_left_to_llama_cpp(model_path: Path, tmp_path: Path) -> None:
    data = model_path.read_bytes()
    for n in range(0, 2_000, 7):
        part = tmp_path / "part.gguf"
        part.write_bytes(data[:n] + b"\xff" * 9)
        check_model_file(part, {})


@pytest.mark.parametrize("count", [0, 2, 15, 16, 17, 18, 255, 2**31 - 1])
def test_dimensions_that_no_rotary_embedding_turns(tmp_path: Path, count: int) -> None:
    path = write_windowed_model(tmp_path / "windowed.gguf")  # 16 dimensions for a head
    options = ModelOptions(kv_overrides={"cohere2.rope.dimension_count": count})
    if count in (2, 16):
        Model(path, options).close()
        return
    with pytest.raises(ModelFileError, match=rf"rope.dimension_count is {count}; it must be positive, even, and"):
        Model(path, options)
    Model(path, ModelOptions(kv_overrides=options.kv_overrides, vocab_only=True)).close()


@pytest.mark.parametrize(
    ("sections", "kind", "sound"),
    [
        ([4, 2, 2, 0], 8, True),
        ([4, 2, 2, 0], 40, True),
        ([0, 0, 0, 4], 8, False),
        ([0, 0, 0, 0], 40, False),
        ([8, 8, 8, 0], 8, False),
        ([-1, 2, 2, 0], 8, False),
        ([8, 8, 8, 0], 0, True),
    ],
)
def test_sections_of_rotary_embeddings(sections: list[int], kind: int, sound: bool) -> None:
    values: dict[str, Any] = {"embedding_length": 64, "attention.head_count": 4, "rope.dimension_sections": sections}
    if sound:
        check_rope(Path("x"), values, kind)
    else:
        with pytest.raises(ModelFileError, match=r"rope\.dimension_sections"):
            check_rope(Path("x"), values, kind)


def test_a_pooling_that_nobody_knows(model_path: Path) -> None:
    with pytest.raises(ModelFileError, match="pooling_type is 9; known are 0 to 4"):
        Model(model_path, ModelOptions(kv_overrides={"llama.pooling_type": 9}))
    Model(model_path, ModelOptions(kv_overrides={"llama.pooling_type": -1})).close()


def test_a_table_that_the_computation_looks_into_is_missing(tmp_path: Path) -> None:
    path = write_random_t5(tmp_path / "t5.gguf")
    parts = parse(path.read_bytes())
    parts.tensors = [one for one in parts.tensors if one.name != b"dec.blk.0.attn_rel_b.weight"]
    path.write_bytes(parts.bytes())
    with pytest.raises(ModelFileError, match=r"dec.blk.0.attn_rel_b.weight is missing"):
        Model(path)
