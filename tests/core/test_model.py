"""Model: loading, metadata, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cffi import Context, ContextOptions, Model, ModelOptions
from llama_cffi.errors import ModelLoadCancelled
from tests.support.random_model import TINY, write_random_model

pytest_plugins = ["tests.support.models"]


def test_sizes(model: Model, model_path: Path) -> None:
    assert model.path == model_path
    assert model.n_params == TINY.n_params
    assert 4 * TINY.n_params <= model.size <= model_path.stat().st_size
    assert (model.n_layer, model.n_embd, model.n_head, model.n_head_kv) == (2, 64, 4, 4)
    assert model.n_ctx_train == 2048
    assert model.n_swa == 0
    assert model.rope_freq_scale_train == 1.0
    assert model.has_decoder
    assert not model.has_encoder
    assert model.decoder_start_token is None
    assert [model.is_recurrent, model.is_hybrid, model.is_diffusion] == [False] * 3


def test_sizes_of_stories(stories: Model) -> None:
    assert (stories.n_layer, stories.n_embd, stories.n_head, stories.n_head_kv) == (5, 64, 8, 4)
    assert stories.n_params == 292_800


def test_metadata(model: Model) -> None:
    assert model.metadata["general.architecture"] == model.architecture == "llama"
    assert model.metadata["general.name"] == "random 2x64"
    assert model.metadata["llama.context_length"] == "2048"
    assert model.metadata is model.metadata
    assert model.desc.startswith("llama")
    assert "tiny.gguf" in repr(model)
    assert model.desc in repr(model)


def test_long_metadata_is_whole(tmp_path: Path) -> None:
    value = "é" * 5000
    path = write_random_model(tmp_path / "long.gguf", metadata={"test.long": value})
    with Model(path, ModelOptions(vocab_only=True)) as model:
        assert model.metadata["test.long"] == value


def test_chat_templates(tmp_path: Path, model: Model) -> None:
    assert model.chat_template() is None
    metadata = {"tokenizer.chat_template": "{{ default }}", "tokenizer.chat_template.tool_use": "{{ tools }}"}
    path = write_random_model(tmp_path / "chat.gguf", metadata=metadata)
    with Model(path, ModelOptions(vocab_only=True)) as chat:
        assert chat.chat_template() == "{{ default }}"
        assert chat.chat_template("tool_use") == "{{ tools }}"
        assert chat.chat_template("other") is None


def test_overrides(model_path: Path) -> None:
    overrides: dict[str, bool | int | float | str] = {
        "general.name": "renamed",
        "llama.context_length": 77,
        "llama.rope.freq_base": 5000.0,
        "tokenizer.ggml.add_bos_token": False,
    }
    with Model(model_path, ModelOptions(kv_overrides=overrides)) as model:
        assert model.n_ctx_train == 77
        assert not model.vocab.add_bos


def test_vocab_only(model_path: Path) -> None:
    with Model(model_path, ModelOptions(vocab_only=True)) as model:
        assert model.vocab.n_tokens == 512
        assert model.metadata["general.name"] == "random 2x64"
        assert (model.n_layer, model.n_head, model.n_head_kv) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["auto", "none", "mmap"])
def test_load_modes(model_path: Path, mode: str) -> None:
    with Model(model_path, ModelOptions(load_mode=mode, check_tensors=True)) as model:  # type: ignore[arg-type]
        assert model.n_params == TINY.n_params


def test_paths_of_any_kind(model_path: Path, tmp_path: Path) -> None:
    odd = tmp_path / "ein Möbel 日本.gguf"
    odd.symlink_to(model_path)
    for path in (str(odd), odd):
        with Model(path, ModelOptions(vocab_only=True)) as model:
            assert model.path == odd


def test_devices_by_name(model_path: Path) -> None:
    with Model(model_path, ModelOptions(devices=[])) as model:
        assert model.n_params == TINY.n_params


# -- progress


def test_progress(model_path: Path) -> None:
    seen: list[float] = []
    Model(model_path, progress=seen.append).close()
    assert seen[-1] == 1.0
    assert seen == sorted(seen)
    assert all(0.0 <= fraction <= 1.0 for fraction in seen)


def test_progress_can_cancel(model_path: Path) -> None:
    with pytest.raises(ModelLoadCancelled, match=r"tiny\.gguf was cancelled"):
        Model(model_path, progress=lambda fraction: False)


@pytest.mark.parametrize("answer", [None, True, 1, "yes", 0])
def test_only_false_cancels(model_path: Path, answer: object) -> None:
    """A callback written for its side effect returns None."""
    Model(model_path, progress=lambda fraction: answer).close()


def fail(fraction: float) -> bool:
    raise LookupError("from the callback")


def fail_at_the_end(fraction: float) -> bool:
    if fraction == 1.0:
        raise LookupError("from the callback")
    return True


@pytest.mark.parametrize("callback", [fail, fail_at_the_end])
def test_what_progress_raises_reaches_the_caller(model_path: Path, callback: Callable[[float], bool]) -> None:
    with pytest.raises(LookupError, match="from the callback"):
        Model(model_path, progress=callback)


# -- lifetime


def test_close(model_path: Path) -> None:
    with Model(model_path) as model:
        context = Context(model, ContextOptions(n_ctx=32, n_threads=1))
        assert not context.closed
    assert model.closed
    assert context.closed
    assert repr(model) == "<Model 'tiny.gguf': closed>"
    model.close()


def test_weights_are_shared(model: Model) -> None:
    one, two = (Context(model, ContextOptions(n_ctx=32, n_threads=1)) for _ in range(2))
    one.close()
    assert not two.closed
    two.close()
    assert not model.closed


def test_options_are_values() -> None:
    assert ModelOptions(vocab_only=True) == ModelOptions(vocab_only=True)
    assert ModelOptions().n_gpu_layers is None
    assert math.isclose(ContextOptions(rope_freq_base=1e4).rope_freq_base or 0, 1e4)
