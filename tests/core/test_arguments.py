"""Hostile values for every argument of the objects under Llama: an error that says what was wrong, or an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Batch, Context, ContextOptions, ControlVector, GGUFFile, LoraAdapter, Model, SamplerChain
from llama_cffi.core.sampler import Dist
from tests.support.hostile import HOSTILE, fault
from tests.support.lora import random_pairs, write_lora

pytest_plugins = ["tests.support.models"]

Calls = dict[str, tuple[Callable[..., object], dict[str, Any]]]

BEYOND_32_BITS = [("add", "token", "10**30"), ("add", "token", "10**5000")]
"""An OverflowError, as of numpy's arrays of this type."""


@pytest.fixture(scope="module")
def calls(model: Model, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """Functions and what is usual for their arguments."""
    folder = tmp_path_factory.mktemp("arguments")
    adapter_path = write_lora(folder / "lora.gguf", random_pairs(model_path))
    options = ContextOptions(n_ctx=32, n_batch=16, n_threads=1, n_seq_max=2)
    with Context(model, options) as context:
        batch = Batch(8)
        batch.extend([1, 2, 3], 0, output_last=True)
        context.decode(batch)
        chain = SamplerChain([Dist(1)], model.vocab)
        rows = np.zeros((model.n_layer, model.n_embd), dtype=np.float32)
        vector = ControlVector(rows)
        adapter = LoraAdapter(model, adapter_path)
        memory, state, vocab = context.memory, context.state, model.vocab
        logits = np.zeros(vocab.n_tokens, dtype=np.float32)
        state.save_file(folder / "state")
        state.seq_save_file(0, folder / "sequence")
        yield {
            "Model": (Model, {"path": model_path, "options": None, "progress": None}),
            "Context": (Context, {"model": model, "options": options, "threads_of": None}),
            "GGUFFile": (GGUFFile, {"path": model_path}),
            "LoraAdapter": (LoraAdapter, {"model": model, "path": adapter_path}),
            "ControlVector": (ControlVector, {"data": rows, "model_hint": ""}),
            "from_gguf": (ControlVector.from_gguf, {"path": adapter_path}),
            "vector.save": (vector.save, {"path": folder / "vector"}),
            "vector.check": (vector.check, {"model": model, "layers": None}),
            "Batch": (Batch, {"capacity": 8, "n_seq_max": 1}),
            "add": (batch.add, {"token": 1, "pos": 0, "seq_id": 0}),
            "extend": (batch.extend, {"tokens": [1], "pos": 0, "seq_id": 0}),
            "decode": (context.decode, {"batch": batch}),
            "encode": (context.encode, {"batch": batch}),
            "SamplerChain": (SamplerChain, {"samplers": [Dist(1)], "vocab": vocab}),
            "sample": (chain.sample, {"context": context, "i": -1}),
            "accept": (chain.accept, {"token": 1}),
            "select": (chain.select, {"logits": logits}),
            "apply": (chain.apply, {"logits": logits, "ids": None}),
            "accept_prompt": (chain.accept_prompt, {"tokens": [1]}),
            "clear": (memory.clear, {"data": True}),
            "seq_rm": (memory.seq_rm, {"seq_id": 0, "p0": None, "p1": None}),
            "seq_cp": (memory.seq_cp, {"src": 0, "dst": 1, "p0": None, "p1": None}),
            "seq_keep": (memory.seq_keep, {"seq_id": 0}),
            "seq_add": (memory.seq_add, {"seq_id": 0, "p0": None, "p1": None, "delta": 1}),
            "seq_div": (memory.seq_div, {"seq_id": 0, "p0": None, "p1": None, "divisor": 1}),
            "seq_pos_max": (memory.seq_pos_max, {"seq_id": 0}),
            "data": (state.data, {"out": None}),
            "set_data": (state.set_data, {"data": b"x"}),
            "seq_data": (state.seq_data, {"seq_id": 0, "out": None, "partial": False, "on_device": False}),
            "seq_set_data": (state.seq_set_data, {"seq_id": 0, "data": b"x", "partial": False, "on_device": False}),
            "save_file": (state.save_file, {"path": folder / "state", "tokens": [1]}),
            "load_file": (state.load_file, {"path": folder / "state"}),
            "seq_save_file": (state.seq_save_file, {"seq_id": 0, "path": folder / "sequence", "tokens": [1]}),
            "seq_load_file": (state.seq_load_file, {"seq_id": 0, "path": folder / "sequence"}),
            "piece": (vocab.piece, {"token": 1}),
            "is_eog": (vocab.is_eog, {"token": 1}),
            "set_threads": (context.set_threads, {"n_threads": 1, "n_threads_batch": 1}),
            "set_adapters": (context.set_adapters, {"adapters": {adapter: 1.0}}),
            "set_control_vector": (context.set_control_vector, {"vector": vector, "layers": None}),
            "logits": (context.outputs.logits, {"i": -1}),
            "logits_view": (context.outputs.logits_view, {"i": -1}),
        }


@pytest.mark.filterwarnings("ignore")  # of more threads than processors
def test_every_argument(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for name, (call, usual) in calls.items():
        for argument in usual:
            for label, make in HOSTILE.items():
                given = {**usual, argument: make()}
                bad = fault(lambda call=call, given=given: call(**given), argument)  # type: ignore[misc]
                if bad and "does not name" not in bad and (name, argument, label) not in BEYOND_32_BITS:
                    found.append(f"{name}({argument}={label}): {bad}")
    assert not found, "\n".join(found)


def test_a_buffer_of_objects_is_not_written_to(calls: Calls) -> None:
    objects = np.array([None] * 100_000, dtype=object)
    for name in ("data", "seq_data", "set_data", "seq_set_data"):
        call, usual = calls[name]
        argument = "out" if "out" in usual else "data"
        with pytest.raises(TypeError, match="not of objects"):
            call(**{**usual, argument: objects})
    assert all(item is None for item in objects)


def test_what_is_no_number_does_not_scale_a_control_vector() -> None:
    vector = ControlVector(np.zeros((2, 4), dtype=np.float32))
    for scale in ("2", None, [1.0], 1j):
        with pytest.raises(TypeError):
            vector * scale  # type: ignore[operator]
    assert vector * np.float64(2) == vector * 2 == vector
