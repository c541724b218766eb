"""Devices whose memory ends: at load, at a context, and in the middle of a decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llama_cffi import Batch, Context, ContextOptions, Llama, Model, ModelOptions, estimate_memory
from llama_cffi.core.backend import devices
from llama_cffi.errors import ContextError, ModelFileError
from tests.gpu.conftest import DENSE, MIB, PLENTY, Gpus
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


def test_the_context_gives_way(gpus: Gpus, server: RpcServer, dense: Path) -> None:
    """With all layers on the device by order, only the context can be shorter."""
    here = gpus.names[:1]
    options = ModelOptions(n_gpu_layers="all", devices=here)
    has_only(server, 28 * MIB)
    with Llama(dense, n_ctx="auto", n_ubatch=128, n_seq_max=1, model_options=options) as llm:
        assert 4096 <= llm.n_ctx < DENSE.n_ctx_train
        assert llm.model.placement.n_gpu_layers == N_LAYERS
