"""The devices of these tests: RPC servers on this machine, or what a Vulkan library finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llama_cffi.core.backend import devices
from tests.support.random_model import Shape, write_random_model
from tests.support.rpc import RpcServer, add_device

MIB = 2**20
PLENTY = 256 * MIB
DENSE = Shape(n_layer=6, n_embd=256, n_head=8, n_head_kv=4, n_ff=512, n_vocab=2000, n_ctx_train=8192)
EXPERTS = Shape(n_layer=6, n_embd=256, n_head=8, n_head_kv=4, n_ff=256, n_vocab=2000, n_expert=8)


@dataclass(frozen=True)
class Gpus:
    """The names of the devices, and the servers behind them; a Vulkan device has none."""

    names: list[str]
    servers: list[RpcServer]


@pytest.fixture(scope="session")
def gpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpus]:
    if request.config.getoption("--gpu") == "vulkan":
        found = [one.name for one in devices() if one.type in ("gpu", "igpu")]
        assert found, "this library has no GPU"
        yield Gpus(found, [])
        return
    folder = tmp_path_factory.mktemp("rpc")
    servers: list[RpcServer] = []
    try:
        servers += [RpcServer(folder, PLENTY), RpcServer(folder, PLENTY)]
        yield Gpus([add_device(server.endpoint) for server in servers], servers)
    finally:
        for server in servers:
            server.close()


@pytest.fixture
def servers(gpus: Gpus) -> Iterator[list[RpcServer]]:
    """The servers, whose limits a test may change."""
    if not gpus.servers:
        pytest.skip("the memory of this device cannot be set")
    yield gpus.servers
    for server in gpus.servers:
        server.limit, server.claimed = PLENTY, 0


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("dense") / "dense.gguf", DENSE, weights="f16")


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("experts") / "experts.gguf", EXPERTS, weights="f16")
