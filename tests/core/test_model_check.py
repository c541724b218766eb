"""Values in a model file that would end the process, or take all memory, are refused before llama.cpp reads them."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import gguf
import pytest

from llama_cffi import Model, ModelOptions
from llama_cffi.core import model_check
from llama_cffi.core.model_check import check_model_file
from llama_cffi.errors import ModelFileError

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
