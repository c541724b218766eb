"""A draft model and a projector on the device of their model: counted by the fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ContextOptions, DraftHeads, Llama, Model, ModelOptions, estimate_memory
from llama_cffi._native import media_sketch
from llama_cffi.core.backend import devices
from llama_cffi.core.media.projector import Projector
from llama_cffi.core.media.projector_memory import projector_memory
from llama_cffi.engine.beside import BesideModel
from tests.gpu.conftest import DENSE, PLENTY, Gpus
from tests.support.headed_models import Headed, write_eagle3_model, write_headed_model
from tests.support.media_kinds import Kind, write_kind
from tests.support.random_model import Shape, write_random_model
from tests.support.rpc import RpcServer

pytestmark = pytest.mark.gpu

CONTEXT: dict[str, Any] = {"n_ctx": 1024, "n_ubatch": 128, "n_seq_max": 1, "n_threads": 1}
N_LAYERS = DENSE.n_layer + 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft model with the vocabulary of the dense one."""
    return write_random_model(tmp_path_factory.mktemp("small") / "small.gguf", replace(DENSE, n_layer=2), weights="f16")


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    return write_kind(tmp_path_factory.mktemp("media"), "qwen2vl", assets)


def taken(path: Path, name: str, n_ctx: int = 1024) -> int:
    options = ModelOptions(devices=[name])
    found = estimate_memory(path, options, ContextOptions(n_ctx=n_ctx, n_ubatch=128, n_seq_max=1)).on(name)
    assert found is not None
    return found.total


def test_a_draft_model_has_its_room(gpus: Gpus, servers: list[RpcServer], dense: Path, small: Path) -> None:
    name = gpus.names[0]
    devices()
    assert servers[0].used == 0
    whole, draft = taken(dense, name), taken(small, name)
    options: dict[str, Any] = {**CONTEXT, "model_options": ModelOptions(devices=[name], device_margin=0)}
    # Room for one of them and a half of the other.
    servers[0].limit = whole + draft // 2
    with Llama(dense, **options) as llm:
        assert llm.model.placement.n_gpu_layers == N_LAYERS
    with Llama(dense, draft=small, **options) as llm:
        placement = llm.model.placement
        assert 0 < placement.n_gpu_layers < N_LAYERS
        assert "are left for the draft model and the projector" in placement.steps[-1]
        drafts = llm._runtime.draft
        assert drafts is not None
        assert drafts.source.context.model.placement.n_gpu_layers == 3  # type: ignore[attr-defined]
        assert servers[0].used <= servers[0].limit
        assert len(llm.generate([300, 301, 302], max_tokens=6, temperature=0).tokens) == 6
    # With room for both, both have it.
    servers[0].limit = whole + draft + 4096
    with Llama(dense, draft=small, **options) as llm:
        assert llm.model.placement.n_gpu_layers == N_LAYERS
        assert servers[0].used == pytest.approx(whole + draft, rel=0.02)


def test_a_limit_is_for_both(gpus: Gpus, servers: list[RpcServer], dense: Path, small: Path) -> None:
    name = gpus.names[0]
    whole, draft = taken(dense, name), taken(small, name)
    limit = dict.fromkeys(gpus.names, 0) | {name: whole + draft // 2}
    with Llama(dense, draft=small, max_device_memory=limit, **CONTEXT) as llm:
        assert llm.model.placement.n_gpu_layers < N_LAYERS
        assert 0 < servers[0].used <= limit[name]
        assert all(server.used == 0 for server in servers[1:])


def test_a_draft_model_that_never_fits_takes_what_is_left(gpus: Gpus, dense: Path, small: Path) -> None:
    name = gpus.names[0]
    limit = dict.fromkeys(gpus.names, 0) | {name: taken(dense, name) // 2}
    with Llama(small, draft=dense, max_device_memory=limit, **CONTEXT) as llm:
        assert llm.model.placement.n_gpu_layers > 0
        assert not any("are left for" in step for step in llm.model.placement.steps)


def test_the_longest_context_leaves_room_for_both(gpus: Gpus, dense: Path, small: Path) -> None:
    name = gpus.names[0]
    limits = dict.fromkeys(gpus.names, 0) | {name: taken(dense, name, 6000) + taken(small, name)}
    options: dict[str, Any] = {"n_ctx": "auto", "n_ubatch": 128, "n_seq_max": 1, "max_device_memory": limits}
    with Llama(dense, **options) as alone, Llama(dense, draft=small, **options) as llm:
        assert 4096 <= llm.n_ctx < alone.n_ctx


def test_a_projector_is_planned_as_it_is_allocated(gpus: Gpus, servers: list[RpcServer], kind: Kind) -> None:
    # libmtmd takes the first GPU.
    devices()
    plan = projector_memory(kind.projector)
    assert set(plan) & set(gpus.names)
    name = next(one for one in plan if one in gpus.names)
    server = servers[gpus.names.index(name)]
    # Without room for the buffers to compute with, or for the weights.
    for limit in (plan[name] // 2, 4096):
        server.limit = limit
        tight = projector_memory(kind.projector)
        server.limit = PLENTY
        assert tight[name] == pytest.approx(plan[name], rel=0.02)
    with Model(kind.model, ModelOptions(n_gpu_layers=0, devices=[])) as model:
        before = server.used
        with Projector(model, kind.projector, n_threads=1):
            assert server.used - before == pytest.approx(plan[name], rel=0.02)


@pytest.mark.usefixtures("servers")
def test_a_projector_is_measured_once(gpus: Gpus, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked: list[Any] = []
    lay_out = media_sketch.lay_out

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(options["device"])
        return lay_out(*args, **options)

    monkeypatch.setattr(media_sketch, "lay_out", counted)
    with Llama(kind.model, mmproj=kind.projector, model_options=ModelOptions(devices=gpus.names[:1]), **CONTEXT):
        pass
    assert [device.name for device in asked] == gpus.names[:1]
    projector_memory(kind.projector)
    assert len(asked) == 1


def test_a_server_that_is_busy_with_this_process(
    gpus: Gpus, servers: list[RpcServer], kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = projector_memory(kind.projector)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(media_sketch, "_SERVER_SECONDS", 0.5)
    with Model(kind.model, ModelOptions(n_gpu_layers="all", devices=gpus.names[:1])):
        found = projector_memory(kind.projector)
    assert found[gpus.names[0]] == pytest.approx(plan[gpus.names[0]], rel=0.02)


def test_a_projector_has_its_room(gpus: Gpus, servers: list[RpcServer], kind: Kind) -> None:
    name = gpus.names[0]
    projector = projector_memory(kind.projector)[name]
    options: dict[str, Any] = {**CONTEXT, "model_options": ModelOptions(devices=[name], device_margin=0)}
    servers[0].limit = taken(kind.model, name) // 2 + projector
    with Llama(kind.model, **options) as llm:
        all_layers = llm.model.placement.n_layers
        assert llm.model.placement.n_gpu_layers == all_layers
    with Llama(kind.model, mmproj=kind.projector, **options) as llm:
        assert llm.model.placement.n_gpu_layers < all_layers
        assert servers[0].used <= servers[0].limit < PLENTY


def heads_of(kind: str, folder: Path) -> tuple[Path, Any]:
    """A model, and the value of ``draft=`` for its heads."""
    if kind == "eagle3":
        path = write_random_model(folder / "model.gguf", Shape(n_layer=4), weights="f32")
        return path, write_eagle3_model(folder / "eagle3.gguf", path, (0, 1, 3))
    shape = Headed(architecture="step35", n_layer=3, n_heads=int(kind[-1]))
    if kind.startswith("own"):
        return write_headed_model(folder / "model.gguf", shape), "mtp"
    whole = write_headed_model(folder / "model.gguf", shape, heads=False)
    return whole, DraftHeads(model=write_headed_model(folder / "heads.gguf", shape, trunk=False))


@pytest.mark.parametrize("kind", ["own 1", "own 3", "alone 1", "eagle3"])
def test_draft_heads_have_their_room(gpus: Gpus, servers: list[RpcServer], tmp_path: Path, kind: str) -> None:
    name, server = gpus.names[0], servers[0]
    path, draft = heads_of(kind, tmp_path)
    own = ModelOptions(devices=[name], device_margin=0, load_mtp=draft == "mtp")
    options: dict[str, Any] = {**CONTEXT, "n_ctx": 2048, "n_cells": 8192, "n_seq_max": 2, "model_options": own}

    def use(**more: Any) -> tuple[int, int, Any]:
        with Llama(path, **options, **more) as llm:
            llm.generate([300, 301, 302] * 50, max_tokens=8, temperature=0)
            return server.used, llm.model.placement.n_gpu_layers, llm.context.options

    devices()
    assert server.used == 0
    plain, n_layers, context = use()
    both, n_beside, _ = use(draft=draft)
    assert n_layers == n_beside
    beside = BesideModel(path, {"draft": draft, **options}, own)
    planned = beside.bytes_on(context)[name]
    beside.close()
    assert planned == pytest.approx(both - plain, rel=0.02)
    server.limit = plain + planned // 2
    used, n_beside, _ = use(draft=draft)
    assert 0 < n_beside < n_layers
    assert used <= server.limit
