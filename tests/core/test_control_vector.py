"""Control vectors: what a layer's bias would add, layer by layer; and their files."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_cffi import Batch, Context, Llama, Model
from llama_cffi.core.control_vector import ControlVector
from llama_cffi.errors import AdapterError, ModelFileError, ModelNotFoundError
from tests.support.lora import write_merged
from tests.support.random_model import Shape, write_random_model

if TYPE_CHECKING:
    from tests.support.models import MakeContext, MakeLlama
    from tests.support.tools import Measure

pytest_plugins = ["tests.support.models", "tests.support.tools"]

TOKENS = [1, 300, 301, 302, 303]
EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled"}


def vector(n_layer: int, n_embd: int = 64, seed: int = 0) -> ControlVector:
    data = np.random.default_rng(seed).standard_normal((n_layer, n_embd), dtype=np.float32)
    data[0] = 0
    return ControlVector(data)


def logits(context: Context) -> NDArray[np.float32]:
    context.memory.clear()
    batch = Batch(len(TOKENS))
    batch.extend(TOKENS, 0, output_last=True)
    context.decode(batch)
    return context.outputs.logits()


@pytest.fixture(scope="module")
def deep_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four layers, so that there are layers to choose from."""
    path = tmp_path_factory.mktemp("models") / "deep.gguf"
    return write_random_model(path, Shape(n_layer=4), weights="f32")


@pytest.mark.parametrize("layers", [None, range(1, 2), range(2, 4), range(3, 4)])
def test_it_is_a_bias_of_the_layers(
    deep_path: Path, tmp_path: Path, make_context: MakeContext, layers: range | None
) -> None:
    wanted = vector(4)
    biases = {i: wanted.data[i] for i in layers or range(1, 4)}
    merged = write_merged(tmp_path / "biased.gguf", deep_path, directions=biases)
    with Model(deep_path) as plain, Model(merged) as biased:
        context = make_context(plain, **EXACT)
        before = logits(context)
        context.set_control_vector(wanted, layers=layers)
        changed = logits(context)
        np.testing.assert_allclose(changed, logits(make_context(biased, **EXACT)), atol=1e-4)
        assert np.abs(changed - before).max() > 0.1
        context.set_control_vector(None)
        np.testing.assert_array_equal(logits(context), before)


def test_a_shorter_one_leaves_nothing_of_the_one_before(deep_path: Path, make_context: MakeContext) -> None:
    with Model(deep_path) as model:
        context, fresh = make_context(model), make_context(model)
        context.set_control_vector(vector(4))
        context.set_control_vector(vector(2))
        fresh.set_control_vector(vector(2))
        np.testing.assert_array_equal(logits(context), logits(fresh))


def test_arithmetic() -> None:
    one, two = vector(3, seed=1), vector(2, seed=2)
    total = 0.5 * one - two * 2
    expected = 0.5 * one.data
    expected[:2] -= 2 * two.data
    np.testing.assert_allclose(total.data, expected, atol=1e-6)
    assert one + -one == ControlVector(np.zeros((3, 64)))
    assert one != two
    assert repr(one) == "<ControlVector n_layer=3 n_embd=64>"
    with pytest.raises(AdapterError, match="widths 64 and 32"):
        one + vector(2, 32)
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]
    large = one * (3e38 / np.abs(one.data).max())
    for overflow in (lambda: large * 10, lambda: one * 1e300, lambda: one * np.inf, lambda: large + large):
        with pytest.raises(AdapterError, match="finite numbers"):
            overflow()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(np.zeros(64), "shape"), (np.zeros((1, 64)), "shape"), (np.ones((2, 64)), "row 0"),
     ([[0.0], [np.nan]], "finite"), (np.zeros((2, 0)), "shape")],
)  # fmt: skip
def test_data_that_is_none(data: object, reason: str) -> None:
    with pytest.raises(AdapterError, match=reason):
        ControlVector(data)  # type: ignore[arg-type]


def test_vectors_of_other_models(context: Context) -> None:
    with pytest.raises(AdapterError, match="width 32"):
        context.set_control_vector(vector(2, 32))
    with pytest.raises(AdapterError, match="3 layers"):
        context.set_control_vector(vector(3))
    for layers in (range(2), range(1, 3), range(1, 1), range(1, 2, 2), range(-1, 2)):
        with pytest.raises(ValueError, match=re.escape("inside range(1, 2)")):
            context.set_control_vector(vector(2), layers=layers)


# -- files


@given(st.integers(2, 9), st.integers(1, 70), st.text(max_size=9))
def test_what_is_saved_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, n_layer: int, n_embd: int, hint: str
) -> None:
    path = tmp_path_factory.mktemp("vectors") / "v.gguf"
    wanted = ControlVector(vector(n_layer, n_embd).data, model_hint=hint.replace("\0", ""))
    wanted.save(path)
    found = ControlVector.from_gguf(path)
    assert found == wanted
    assert found.model_hint == wanted.model_hint
    reader = gguf.GGUFReader(path)
    assert [tensor.name for tensor in reader.tensors] == [f"direction.{i}" for i in range(1, n_layer)]
    for i, tensor in enumerate(reader.tensors):
        np.testing.assert_array_equal(tensor.data, wanted.data[i + 1])
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.layer_count"].contents() == n_layer - 1


def test_a_saved_file_has_the_rights_of_any_file(tmp_path: Path) -> None:
    vector(2).save(tmp_path / "v.gguf")
    (tmp_path / "other").touch()
    assert stat.S_IMODE(os.stat(tmp_path / "v.gguf").st_mode) == stat.S_IMODE(os.stat(tmp_path / "other").st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "v.gguf"]


def write(path: Path, tensors: dict[str, NDArray[np.generic]]) -> Path:
    writer = gguf.GGUFWriter(path, "controlvector")
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_that_are_none(tmp_path: Path, model_path: Path) -> None:
    row = np.ones(8, dtype=np.float32)
    with pytest.raises(ModelNotFoundError):
        ControlVector.from_gguf(tmp_path / "nothing")
    with pytest.raises(AdapterError, match="no directions"):
        ControlVector.from_gguf(model_path)
    with pytest.raises(AdapterError, match="widths"):
        ControlVector.from_gguf(write(tmp_path / "widths", {"direction.1": row, "direction.2": row[:4].copy()}))
    with pytest.raises(AdapterError, match="not one f32 row"):
        ControlVector.from_gguf(write(tmp_path / "f16", {"direction.1": row.astype(np.float16)}))
    gap = ControlVector.from_gguf(write(tmp_path / "gap", {"direction.3": row}))
    assert gap == ControlVector(np.repeat([[0], [0], [0], [1]], 8, axis=1))
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "gap").read_bytes()[:-20])
    with pytest.raises(ModelFileError):
        ControlVector.from_gguf(cut)


# -- through the facade, and against llama.cpp's tool


def test_prompts_in_memory_are_computed_again(make_llama: MakeLlama) -> None:
    llm = make_llama()
    plain = llm.generate("tana nese", temperature=0.0, max_tokens=8)
    llm.set_control_vector(3 * vector(2))
    changed = llm.generate("tana nese", temperature=0.0, max_tokens=8)
    assert (changed.usage.cached_tokens, changed.text != plain.text) == (0, True)
    stream = llm.stream("tana nese", temperature=0.0, max_tokens=8)
    next(stream)
    llm.set_control_vector(None)
    *_, last = stream  # what runs goes on as it began
    assert (last.completion and last.completion.text) == changed.text
    assert llm.generate("tana nese", temperature=0.0, max_tokens=8).text == plain.text


def test_perplexity_with_a_vector_is_that_of_llama_perplexity(
    deep_path: Path, tmp_path: Path, llama_perplexity: Measure
) -> None:
    text = " ".join(["tana nese roki", "mupo", "tana seli"] * 90)
    (tmp_path / "text").write_text(text)
    vector(4).save(tmp_path / "v.gguf")
    expected, _ = llama_perplexity(
        "-m", deep_path, "-f", tmp_path / "text", "-c", "64",
        "--control-vector-scaled", f"{tmp_path / 'v.gguf'}:0.7", "--control-vector-layer-range", "2", "3",
    )  # fmt: skip
    with Llama(deep_path, n_ctx=256, n_threads=1) as llm:
        llm.set_control_vector(0.7 * ControlVector.from_gguf(tmp_path / "v.gguf"), layers=range(2, 4))
        assert llm.perplexity(text, n_ctx=64).value == pytest.approx(expected, rel=1e-3)
        llm.set_control_vector(None)
        assert llm.perplexity(text, n_ctx=64).value != pytest.approx(expected, rel=1e-3)
