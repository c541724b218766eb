"""A loaded model written to a file, loaded again and compared by its logits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from llama_cffi import GGUFFile, Model, ModelOptions
from llama_cffi.errors import UnsupportedError
from tests.core.test_damaged_models import MADE
from tests.core.test_source import logits
from tests.support.children import run_module
from tests.support.random_model import Shape, write_random_model

pytest_plugins = ("tests.support.models",)

PLAIN = ModelOptions(use_extra_bufts=False)


@pytest.mark.parametrize("shape", [Shape(), Shape(n_expert=4), Shape(n_head_kv=2)])
def test_a_saved_model_computes_the_same(shape: Shape, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    metadata: dict[str, str | int | float | bool | list[int]] = {
        "tokenizer.chat_template": template,
        "general.license": "mit",
        "general.sampling.top_k": 7,
    }
    path = write_random_model(tmp_path / "m.gguf", shape, metadata=metadata)
    with Model(path.read_bytes(), PLAIN) as model:
        saved = model.save(tmp_path / "saved.gguf")
        with Model(saved, PLAIN) as again:
            np.testing.assert_array_equal(logits(again), logits(model))
            assert again.chat_template() == template
            assert [again.vocab.piece(i) for i in range(512)] == [model.vocab.piece(i) for i in range(512)]
    before, after = GGUFFile(path), GGUFFile(saved)
    assert {(t.name, t.shape, t.type) for t in after.tensors} == {(t.name, t.shape, t.type) for t in before.tensors}
    assert before.metadata.items() <= after.metadata.items()
    assert sorted(tmp_path.iterdir()) == [path, saved]
    with Model(path, PLAIN) as model:
        path.unlink()
        with Model(model.save(tmp_path / "bare.gguf"), PLAIN) as again:
            np.testing.assert_array_equal(logits(again), logits(model))
            assert "general.license" not in again.metadata


@pytest.mark.conformance
def test_models_of_many_architectures(tmp_path: Path) -> None:
    """What llama.cpp makes of hyperparameters, saved twice."""
    made = run_module("tests.support.architectures", tmp_path, *MADE)
    compared = 0
    for name in made:
        with Model(tmp_path / f"{name}.gguf", PLAIN) as model:
            if not model.has_decoder:
                continue
            with Model(model.save(tmp_path / "saved.gguf", overwrite=True), PLAIN) as again:
                np.testing.assert_array_equal(logits(again), logits(model), name)
                compared += 1
    print(f"{compared} architectures are equal")
    assert compared > 15


def test_what_is_not_saved(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", weights="f32")
    target = tmp_path / "saved.gguf"
    with Model(path, PLAIN) as model:
        with pytest.raises(ValueError, match="is the file that the model was loaded from"):
            model.save(path, overwrite=True)
        model.save(target)
        with pytest.raises(FileExistsError):
            model.save(target)
        assert model.save(target, overwrite=True) == target
        with pytest.raises(OSError, match="none"):
            model.save(tmp_path / "none" / "m.gguf")
    with (
        Model(path, ModelOptions(vocab_only=True)) as model,
        pytest.raises(UnsupportedError, match="no weights to save"),
    ):
        model.save(tmp_path / "vocab.gguf")
    assert sorted(tmp_path.iterdir()) == [path, target]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    path = write_random_model(tmp_path / "m.gguf", weights="f32")
    with Model(path, PLAIN) as model:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match="could not be written completely"):
                model.save(tmp_path / "saved.gguf")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == [path]


def test_rearranged_weights_are_refused(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", Shape(n_embd=256, n_ff=512), weights="q8_0")
    with Model(io.BytesIO(path.read_bytes())) as model:
        if any(name.startswith("CPU_") and "Mapped" not in name for name in model.placement.buffers):
            with pytest.raises(UnsupportedError, match="use_extra_bufts=False"):
                model.save(tmp_path / "saved.gguf")
        else:
            model.save(tmp_path / "saved.gguf")
