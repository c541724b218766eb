"""Where the parts of a model go, against what the devices then hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Context, ContextOptions, GGUFFile, Llama, Model, ModelOptions, estimate_memory
from llama_cffi.core.backend import devices
from llama_cffi.errors import UnsupportedError
from tests.gpu.conftest import DENSE, MIB, Gpus

pytestmark = pytest.mark.gpu

CONTEXT = ContextOptions(n_ctx=1024, n_batch=128, n_ubatch=128)


def sizes(path: Path) -> Mapping[str, int]:
    return {tensor.name: tensor.nbytes for tensor in GGUFFile(path).tensors}


@pytest.mark.parametrize("layers", [0, 1, 3, 7, "all"])
def test_the_parts_make_the_file(gpus: Gpus, dense: Path, layers: Any) -> None:
    expected = dict(sizes(dense))
    with Model(dense, ModelOptions(n_gpu_layers=layers, devices=gpus.names[:1])) as model:
        placement = model.placement
    on_gpu = DENSE.n_layer + 1 if layers == "all" else layers
    # The output is the embedding of tokens, and is there twice when only one of them is on the GPU.
    copy = expected["token_embd.weight"] if on_gpu else 0
    assert sum(placement.devices.values()) == sum(placement.buffers.values()) == sum(expected.values()) + copy
    assert (placement.n_gpu_layers, placement.n_layers) == (on_gpu, DENSE.n_layer + 1)
    assert placement.gpu_bytes == placement.devices.get(gpus.names[0], 0)
    first = DENSE.n_layer + 1 - on_gpu
    for i in range(DENSE.n_layer):
        where = gpus.names[0] if i >= first else "CPU"
        names = [name for name in expected if name.startswith(f"blk.{i}.")]
        assert {placement.tensors[name] for name in names} == {where}, i


def test_the_servers_hold_it(gpus: Gpus, servers: list[Any], dense: Path) -> None:
    devices()  # an answer of the servers: what was freed before is freed by then
    before = [server.used for server in servers]
    options = ModelOptions(n_gpu_layers="all", tensor_split=[1, 1])
    with Model(dense, options) as model, Context(model, CONTEXT) as context:
        use = context.memory_breakdown()
        for name, server, old in zip(gpus.names, servers, before, strict=True):
            part = use.on(name)
            assert part is not None
            assert server.used - old == pytest.approx(part.total, rel=0.02)
    devices()
    assert [server.used for server in servers] == before


@pytest.mark.parametrize(
    "context",
    [
        {"n_ctx": 2048, "n_ubatch": 128},
        {"n_ctx": 1024, "n_seq_max": 4, "kv_unified": False, "n_ubatch": 64},
        {"n_ctx": 2048, "offload_kqv": False, "n_ubatch": 128},
        {"n_ctx": 2048, "type_k": "q8_0", "type_v": "q8_0", "flash_attn": "enabled", "n_ubatch": 128},
    ],
    ids=["plain", "parts", "kv on the host", "q8_0"],
)
@pytest.mark.parametrize("layers", [0, 4, "all"])
def test_plans_are_what_is_allocated(gpus: Gpus, dense: Path, layers: Any, context: dict[str, Any]) -> None:
    options = ModelOptions(n_gpu_layers=layers, load_mode="none")
    wanted = ContextOptions(**context)
    plan = estimate_memory(dense, options, wanted)
    with Model(dense, options) as model, Context(model, wanted) as made:
        taken = made.memory_breakdown()
    assert {one.name for one in plan.devices} == {one.name for one in taken.devices}
    for part in taken.devices:
        planned = plan.on(part.name)
        assert planned is not None
        for kind in ("weights", "kv", "compute"):
            size, more = getattr(part, kind), 4096
            if kind == "compute" and len(gpus.names) > 1 and layers == "all":
                # Where the work of several devices overlaps, llama.cpp plans the attention mask once more on the last.
                more = 4 * wanted.n_ctx * wanted.n_ubatch + 4096
            assert 0.98 * size - 4096 <= getattr(planned, kind) <= 1.02 * size + more, (part.name, kind)
    if context.get("offload_kqv") is False:
        assert all(part.kv == 0 for part in taken.devices if part.name != "CPU")


def test_a_limit_leads_to_fewer_layers(gpus: Gpus, dense: Path) -> None:
    name = gpus.names[0]
    whole = estimate_memory(dense, ModelOptions(devices=[name]), CONTEXT).on(name)
    assert whole is not None
    found = []
    for part in (0, 0.3, 0.6, 0.9, 1):
        limit = int(whole.total * part)
        options = ModelOptions(devices=[name], max_device_memory=limit, device_margin=0)
        with Model(dense, options, context=CONTEXT) as model, Context(model, CONTEXT) as context:
            placement, used = model.placement, context.memory_breakdown().on(name)
        assert (used.total if used is not None else 0) <= limit
        assert any("MiB on" in step for step in placement.steps)
        found.append(placement.n_gpu_layers)
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == DENSE.n_layer + 1
    assert len(set(found)) >= 4


def test_a_llama_is_fitted_with_its_context(gpus: Gpus, dense: Path) -> None:
    name = gpus.names[0]
    limits = dict.fromkeys(gpus.names, 0) | {name: 12 * MIB}
    with Llama(dense, n_ctx=2048, n_ubatch=128, n_seq_max=2, max_device_memory=limits) as llm:
        placement, memory = llm.model.placement, llm.memory
        if gpus.servers:  # a software device compiles for a minute what is computed with
            assert len(llm.generate("once", max_tokens=4, temperature=0).tokens) == 4
    assert 0 < placement.n_gpu_layers < DENSE.n_layer + 1
    on_gpu = memory.on(name)
    assert on_gpu is not None
    assert 0 < on_gpu.total <= 12 * MIB
    assert set(placement.devices) == {"CPU", name}
    assert f"{placement.n_gpu_layers} of {DENSE.n_layer + 1} layers" in placement.steps[-1]
    with pytest.raises(UnsupportedError, match="require_gpu"):
        Llama(dense, require_gpu=True, max_device_memory=1)


def test_the_longest_context(gpus: Gpus, dense: Path) -> None:
    options = {"n_ctx": "auto", "n_ubatch": 128, "n_seq_max": 1}
    found = []
    for limit in (28, 33, 38, 4096):
        limits = dict.fromkeys(gpus.names, 0) | {gpus.names[0]: limit * MIB}
        with Llama(dense, **options, max_device_memory=limits) as llm:  # type: ignore[arg-type]
            used = llm.memory.on(gpus.names[0])
            assert used is None or used.total <= limit * MIB
            found.append(llm.n_ctx)
    assert found == sorted(found)
    assert found[-1] == DENSE.n_ctx_train
    assert len(set(found)) >= 3, found
    with Model(dense, ModelOptions(n_gpu_layers="all")) as model, Llama(model, n_ctx="auto", n_seq_max=1) as llm:
        assert llm.n_ctx == DENSE.n_ctx_train


def test_overrides_land_where_they_say(gpus: Gpus, dense: Path, experts: Path) -> None:
    name = gpus.names[0]
    overrides = {r"blk\.[01]\.ffn_": "CPU", r"blk\.2\.attn_(q|k)\.": name, r"blk\.5\.attn_v": "CPU"}
    with Model(dense, ModelOptions(n_gpu_layers=4, devices=[name], tensor_overrides=overrides)) as model:
        tensors = model.placement.tensors
    assert {tensors[f"blk.{i}.ffn_up.weight"] for i in (0, 1)} == {"CPU"}
    assert tensors["blk.2.attn_q.weight"] == tensors["blk.2.attn_k.weight"] == name
    assert tensors["blk.2.attn_v.weight"] == "CPU"
    assert tensors["blk.5.attn_v.weight"] == "CPU"
    assert tensors["blk.5.attn_q.weight"] == name

    def of_experts(**options: Any) -> list[str]:
        with Model(experts, ModelOptions(n_gpu_layers="all", devices=[name], **options)) as model:
            tensors = model.placement.tensors
            assert tensors["blk.0.attn_q.weight"] == name
            return [tensors[f"blk.{i}.ffn_up_exps.weight"] for i in range(6)]

    assert of_experts() == [name] * 6
    assert of_experts(cpu_moe=True) == ["CPU"] * 6
    assert of_experts(n_cpu_moe=2) == ["CPU"] * 2 + [name] * 4


def test_experts_leave_before_layers_do(gpus: Gpus, experts: Path) -> None:
    name = gpus.names[0]
    options = ModelOptions(devices=[name], device_margin=0)
    whole = estimate_memory(experts, options, CONTEXT).on(name)
    dense_only = estimate_memory(experts, ModelOptions(devices=[name], cpu_moe=True), CONTEXT).on(name)
    assert whole is not None
    assert dense_only is not None
    counts = []
    for limit in (whole.total - 1, (whole.total + dense_only.total) // 2, dense_only.total, dense_only.total - 1):
        limited = ModelOptions(devices=[name], device_margin=0, max_device_memory=limit)
        with Model(experts, limited, context=CONTEXT) as model, Context(model, CONTEXT) as context:
            tensors, placement = model.placement.tensors, model.placement
            used = context.memory_breakdown().on(name)
        assert used is not None
        assert used.total <= limit
        counts.append(([tensors[f"blk.{i}.ffn_up_exps.weight"] for i in range(6)].count(name), placement.n_gpu_layers))
    assert counts[0] == (5, 7)
    assert 0 < counts[1][0] < 5
    assert counts[1][1] == 7
    assert counts[2] == (0, 7)
    assert counts[3][0] == 0
    assert 0 < counts[3][1] < 7


def test_two_devices(gpus: Gpus, dense: Path) -> None:
    if len(gpus.names) < 2:
        pytest.skip("there is one device")
    first, second = gpus.names

    def layers(**options: Any) -> dict[str, int]:
        with Model(dense, ModelOptions(**options), context=CONTEXT) as model:
            names = [model.placement.tensors[f"blk.{i}.attn_q.weight"] for i in range(DENSE.n_layer)]
            return {one: names.count(one) for one in ("CPU", first, second)}

    assert layers(n_gpu_layers="all", tensor_split=[2, 5]) == {"CPU": 0, first: 2, second: 4}
    assert layers(n_gpu_layers="all", split_mode="none", main_gpu=1) == {"CPU": 0, first: 0, second: 6}
    assert layers(n_gpu_layers="all", devices=[second, first], tensor_split=[6, 1]) == {"CPU": 0, first: 0, second: 6}
    whole = estimate_memory(dense, ModelOptions(devices=[first]), CONTEXT).on(first)
    assert whole is not None
    # Neither has room for all, both together have.
    shared = layers(max_device_memory=int(whole.total * 0.85), device_margin=0)
    assert shared["CPU"] == 0
    assert shared[first] > 0
    assert shared[second] > 0
    less = layers(max_device_memory={first: int(whole.total * 0.4), second: int(whole.total * 0.5)}, device_margin=0)
    assert all(less.values())


def test_the_file_says_what_is_wrong_before_it_is_loaded(gpus: Gpus, dense: Path) -> None:
    for overrides, message in (
        ({"blk.9.": "CPU"}, "no tensor matches 'blk.9.'"),
        ({"ffn_(": "CPU"}, "is not a regular expression"),
        ({"ffn_": "GPU9"}, "must be one of .*'CPU'.*, got 'GPU9'"),
    ):
        with pytest.raises(ValueError, match=message):
            Model(dense, ModelOptions(tensor_overrides=overrides))
