"""Devices whose memory ends: at load, at a context, and in the middle of a decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Batch, Context, ContextOptions, Llama, LoraAdapter, Model, ModelOptions, estimate_memory
from llama_cffi._native import helpers
from llama_cffi.core.backend import devices
from llama_cffi.errors import ContextError, DecodeError, ModelFileError
from tests.gpu.conftest import DENSE, MIB, PLENTY, Gpus
from tests.support.lora import random_pairs, write_lora
from tests.support.random_model import write_random_model
from tests.support.rpc import RpcServer

pytestmark = pytest.mark.gpu

CONTEXT = ContextOptions(n_ctx=1024, n_batch=128, n_ubatch=128)
N_LAYERS = DENSE.n_layer + 1


@pytest.fixture
def server(servers: list[RpcServer]) -> Iterator[RpcServer]:
    """A server that holds nothing, and claims to have as much memory as ever."""
    devices()  # an answer of the server: what was freed before is freed by then
    assert servers[0].used == 0
    yield servers[0]
    devices()
    assert servers[0].used == 0


def batch(tokens: Sequence[int], start: int = 0) -> Batch:
    made = Batch(len(tokens))
    made.extend(list(tokens), start, output_last=True)
    return made


def has_only(server: RpcServer, size: int) -> None:
    server.limit, server.claimed = size, PLENTY - size


def test_at_load(gpus: Gpus, server: RpcServer, dense: Path) -> None:
    here = gpus.names[:1]
    has_only(server, 4 * MIB)
    with pytest.raises(ModelFileError, match="unable to allocate RPC"):
        Model(dense, ModelOptions(n_gpu_layers="all", devices=here))
    loaded: list[float] = []
    with Model(dense, ModelOptions(devices=here), context=CONTEXT, progress=loaded.append) as model:
        placement = model.placement
        assert 0 < server.used <= 4 * MIB
        assert 0 < placement.n_gpu_layers < N_LAYERS
    assert sum("an allocation failed" in step for step in placement.steps) >= 1, placement.steps
    assert f"{placement.n_gpu_layers} of {N_LAYERS} layers" in placement.steps[-1]
    assert loaded[-1] == 1.0


def test_nothing_is_left_of_the_device(gpus: Gpus, server: RpcServer, dense: Path) -> None:
    has_only(server, 1000)
    with Llama(dense, n_ctx=512, n_ubatch=64, n_seq_max=1, model_options=ModelOptions(devices=gpus.names[:1])) as llm:
        assert llm.model.placement.n_gpu_layers == 0
        assert llm.memory.on(gpus.names[0]) is None
        assert len(llm.generate("once", max_tokens=3, temperature=0).tokens) == 3


def test_at_a_context(gpus: Gpus, server: RpcServer, dense: Path) -> None:
    here = gpus.names[:1]
    whole = estimate_memory(dense, ModelOptions(devices=here), CONTEXT).on(here[0])
    assert whole is not None
    has_only(server, whole.weights + whole.kv // 2)
    with Model(dense, ModelOptions(n_gpu_layers="all", devices=here)) as model:
        with pytest.raises(ContextError, match="alloc"):
            Context(model, CONTEXT)
        with pytest.raises(ContextError, match="alloc"):
            Llama(model, n_ctx=1024, n_ubatch=128)
        server.limit = PLENTY
        with Context(model, CONTEXT) as context:  # the model is as good as before
            context.decode(batch([300, 301]))
    # What is found here makes room for the context, too.
    has_only(server, whole.weights + whole.kv // 2)
    with Llama(dense, n_ctx=1024, n_ubatch=128, n_seq_max=1, model_options=ModelOptions(devices=here)) as llm:
        placement = llm.model.placement
        assert 0 < placement.n_gpu_layers < N_LAYERS
        assert server.used <= server.limit
        assert any("an allocation failed" in step for step in placement.steps)
        assert len(llm.generate("once", max_tokens=3, temperature=0).tokens) == 3


def test_in_the_middle_of_a_decode(gpus: Gpus, server: RpcServer, dense: Path, tmp_path: Path) -> None:
    """An adapter changes what is computed: the next decode allocates its buffers anew, and others took the memory."""
    path = write_lora(tmp_path / "adapter.gguf", random_pairs(dense))
    options = ModelOptions(n_gpu_layers="all", devices=gpus.names[:1])
    with Model(dense, options) as model, LoraAdapter(model, path) as adapter, Context(model, CONTEXT) as context:
        context.decode(batch([300, 301]))
        before = context.outputs.logits(1)
        devices()
        has_only(server, server.used - 4096)
        context.set_adapters({adapter: 1.0})
        for _ in range(3):
            with pytest.raises(DecodeError, match=r"a device has no memory left to compute with: .*alloc") as caught:
                context.decode(batch([302], 2))
            assert caught.value.code == -2
            assert any("failed to allocate" in line for line in caught.value.log)
        # Once there is memory again, it computes as if nothing had been.
        server.limit = PLENTY
        context.decode(batch([302], 2))
        context.set_adapters({})
        context.memory.clear()
        context.decode(batch([300, 301]))
        assert np.allclose(context.outputs.logits(1), before, atol=1e-3)


def test_in_the_middle_of_a_text(gpus: Gpus, server: RpcServer, dense: Path, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "adapter.gguf", random_pairs(dense))
    options = ModelOptions(n_gpu_layers="all", devices=gpus.names[:1])
    greedy: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "reuse": False}
    with Llama(dense, n_ctx=512, n_ubatch=128, n_seq_max=2, model_options=options) as llm:
        adapter = llm.load_adapter(path)
        expected = llm.generate([300, 301], **greedy).tokens
        devices()
        has_only(server, server.used - 4096)
        for prompts in ([300, 301], [[300, 301], [302, 303]]):
            with pytest.raises(DecodeError, match="a device has no memory left to compute with"):
                llm.generate(prompts, adapters={adapter: 1.0}, **greedy)
        server.limit = PLENTY
        assert len(llm.generate([300, 301], adapters={adapter: 1.0}, **greedy).tokens) == 4
        assert llm.generate([300, 301], **greedy).tokens == expected


@pytest.mark.skipif(helpers.KIND == "python", reason="only the compiled helpers can stop llama.cpp there")
def test_a_shift_of_quantized_memory(gpus: Gpus, server: RpcServer, tmp_path: Path) -> None:
    """It is computed with numbers of 32 bits, for which there may be no room.

    llama.cpp would go on with buffers that are not there, and end the process.
    """
    path = write_random_model(tmp_path / "model.gguf", replace(DENSE, n_head=4, n_head_kv=2), weights="f16")
    quantized = ContextOptions(n_ctx=8192, n_batch=64, n_ubatch=8, type_k="q8_0")
    options = ModelOptions(n_gpu_layers="all", devices=gpus.names[:1])
    with Model(path, options) as model, Context(model, quantized) as context:
        context.decode(batch(range(300, 364)))
        devices()
        has_only(server, server.used)
        context.memory.seq_rm(0, 0, 32)
        context.memory.seq_add(0, 32, None, -32)
        for _ in range(2):
            with pytest.raises(DecodeError, match=r"a device has no memory left to compute with: .*alloc") as caught:
                context.decode(batch([300], 32))
            assert any("K-shift" in line for line in caught.value.log)
        server.limit = PLENTY
        context.decode(batch([300], 32))
        assert context.memory.seq_pos_max(0) == 32


def test_the_context_gives_way(gpus: Gpus, server: RpcServer, dense: Path) -> None:
    """With all layers on the device by order, only the context can be shorter."""
    here = gpus.names[:1]
    options = ModelOptions(n_gpu_layers="all", devices=here)
    has_only(server, 28 * MIB)
    with Llama(dense, n_ctx="auto", n_ubatch=128, n_seq_max=1, model_options=options) as llm:
        assert 4096 <= llm.n_ctx < DENSE.n_ctx_train
        assert llm.model.placement.n_gpu_layers == N_LAYERS
