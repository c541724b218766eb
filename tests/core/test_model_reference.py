"""Models and Llamas through pickle: another process loads the same file, and refuses a changed one."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    ArchiveMember,
    ContextOptions,
    ControlVector,
    DraftModel,
    Llama,
    Model,
    ModelOptions,
    PromptCache,
)
from llama_cffi.errors import ClosedError, ModelFileError, ModelNotFoundError
from tests.support.random_model import write_random_model

OPTIONS: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "n_seq_max": 2}
PROMPT = "tana nese"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_random_model(tmp_path / "m.gguf", weights="f32")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_model_is_loaded_again_with_its_options(path: Path, protocol: int) -> None:
    options = ModelOptions(use_extra_bufts=False, kv_overrides={"general.name": "other"}, load_mode="none")
    with Model(path, options, context=ContextOptions(n_ctx=64)) as model:
        pickled = pickle.dumps(model, protocol)
        with pickle.loads(pickled) as other:
            assert (other.options, other.fingerprint, other.path) == (model.options, model.fingerprint, model.path)
            assert other is not model
            assert other.ptr != model.ptr
        assert len(pickled) < 3000


def test_relative_paths_and_archives(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.add(path, "inner/m.gguf")
    monkeypatch.chdir(tmp_path)
    pickled = []
    for given in ("m.gguf", ["m.gguf"], ArchiveMember("m.tar"), "m.tar/inner/m.gguf"):
        with Model(given) as model:
            pickled.append((pickle.dumps(model), model.fingerprint))
    monkeypatch.chdir("/")
    for data, fingerprint in pickled:
        with pickle.loads(data) as model:
            assert model.fingerprint == fingerprint


def _changes(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    name = data.index(b"general.name") + len(b"general.name") + 12
    return {
        "weights": data[:-100] + bytes(100),
        "size": data + bytes(32),
        "another": write_random_model(path.with_name("other.gguf"), weights="f32", seed=1).read_bytes(),
        "metadata": data[:name] + b"X" + data[name + 1 :],
    }


@pytest.mark.parametrize("kind", ["weights", "size", "another", "metadata"])
def test_a_changed_file_is_refused(path: Path, kind: str) -> None:
    changed = _changes(path)[kind]
    with Model(path) as model, Llama(path, **OPTIONS) as llama:
        # The pages of a mapped file change with it: a new file takes its place.
        pickled = [pickle.dumps(model), pickle.dumps(llama)]
        path.unlink()
        path.write_bytes(changed)
        pickled += [pickle.dumps(model), pickle.dumps(llama)]  # what was loaded counts, not what is there now
        for data in pickled:
            with pytest.raises(ModelFileError, match="the file has changed"):
                pickle.loads(data)
        path.unlink()
        for data in pickled:
            with pytest.raises(ModelNotFoundError, match="no such file"):
                pickle.loads(data)


def test_the_parts_of_a_split_model_count_too(path: Path, tmp_path: Path) -> None:
    from llama_cffi.core.model_reference import ModelReference, identify

    other = write_random_model(tmp_path / "n.gguf", weights="f32", seed=3)
    reference = ModelReference((str(path), str(other)), (identify(path), identify(other)), "")
    reference.check()
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFileError, match=r"n\.gguf is not what it was"):
        reference.check()


def test_a_llama_is_opened_again(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = OPTIONS | {
        "progress": calls.append,
        "draft": DraftModel(model="m.gguf", n_draft=3),
        "prompt_cache": PromptCache("kept", max_bytes=10_000_000),
        "model_options": ModelOptions(use_extra_bufts=False),
    }
    with Llama("m.gguf", **options) as llama:
        text = llama.generate(PROMPT, max_tokens=8, temperature=0).text
        pickled, n_calls = pickle.dumps(llama), len(calls)
    monkeypatch.chdir("/")
    with pickle.loads(pickled) as other:
        assert other.generate(PROMPT, max_tokens=8, temperature=0).text == text
        assert other.n_ctx == 128
        assert other.model.options.use_extra_bufts is False
        assert len(calls) == n_calls
        with pickle.loads(pickle.dumps(other)) as third:
            assert third.n_ctx == 128
        with other.fork() as fork, pickle.loads(pickle.dumps(fork)) as twin:
            assert twin.n_ctx == 128
    with Model(path) as model, Llama(model, **OPTIONS) as llama, pickle.loads(pickle.dumps(llama)) as other:
        assert other.model.fingerprint == model.fingerprint
        other.model.close()


def _refuses(given: Any) -> None:
    with Model(given) as model, pytest.raises(TypeError, match=r"a Model of <.*> cannot be pickled: it exists"):
        pickle.dumps(model)


def test_what_exists_in_this_process_only_does_not_pickle(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    with open(path, "rb") as file:
        for given in (data, io.BytesIO(data), file):
            _refuses(given)
    with Model(path) as model:
        pickle.dumps(model)
    with (
        Llama(data, **OPTIONS) as llama,
        pytest.raises(TypeError, match="cannot be pickled: it exists in this process"),
    ):
        pickle.dumps(llama)
    heard = Llama(path, **OPTIONS, on_event=lambda event: None)
    with heard, pytest.raises(TypeError, match=r"its on_event=.* cannot be"):
        pickle.dumps(heard)
    with Llama(path, **OPTIONS) as llama:
        for what in (llama.context, llama.session([]), llama.stream(PROMPT, max_tokens=1)):
            with pytest.raises(TypeError, match="cannot be pickled: "):
                pickle.dumps(what)
        for copier in (copy.copy, copy.deepcopy):
            for thing in (llama, llama.model):
                with pytest.raises(TypeError, match="cannot be copied: "):
                    copier(thing)
        llama.set_control_vector(ControlVector(np.array([[0.0] * 64, [1.0] * 64], dtype=np.float32)))
        with pytest.raises(TypeError, match="with adapters or a control vector cannot be pickled"):
            pickle.dumps(llama)
        llama.set_control_vector(None)
        pickle.dumps(llama)
    for closed in (llama, model):
        with pytest.raises(ClosedError):
            pickle.dumps(closed)


def _in_child(llama: Llama) -> tuple[int, str]:
    with llama:
        return os.getpid(), llama.generate(PROMPT, max_tokens=8, temperature=0).text


def test_another_process_computes_the_same(path: Path) -> None:
    with Llama(path, **OPTIONS) as llama:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pid, text = pool.apply_async(_in_child, (llama,)).get(timeout=120)
        assert pid != os.getpid()
        assert text == llama.generate(PROMPT, max_tokens=8, temperature=0).text
