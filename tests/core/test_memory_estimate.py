"""Estimated memory against what llama.cpp then takes, and layers on devices that are not here."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from llama_cffi import Context, ContextOptions, Model, ModelOptions
from llama_cffi._native import binding, log
from llama_cffi.core.backend import Device, devices
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.memory_estimate import LayerSizes, assign, divide, estimate_memory, layer_sizes, read_context
from llama_cffi.errors import ContextError, ModelFileError, ModelNotFoundError, UnsupportedError
from llama_cffi.runtime import demo_path
from tests.support.other_memories import write_recurrent_model, write_windowed_model
from tests.support.random_model import Shape, write_random_model

pytestmark = pytest.mark.skipif(not binding.has("llama_model_params.no_alloc"), reason="this libllama has no no_alloc")

MIB = 2**20
GQA = Shape(n_layer=4, n_embd=256, n_head=8, n_head_kv=2, n_ff=512, n_vocab=2000)


@pytest.fixture(scope="module", params=["stories", "demo", "gqa"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "stories":
        return Path(request.getfixturevalue("assets")) / "models" / "stories260K.gguf"
    if request.param == "demo":
        return Path(demo_path())
    return write_random_model(tmp_path_factory.mktemp("estimate") / "gqa.gguf", GQA, weights="f16")


def taken(path: Path, context: ContextOptions) -> tuple[int, int, int]:
    """Bytes of weights, memory and computing of the real thing, as its log tells."""
    with Model(path) as model:
        mark = log.mark()
        with Context(model, context):
            lines = log.lines_since(mark, logging.INFO)
        weights = sum(model.placement.devices.values())
    found = [(line, re.search(r"(KV|RS|compute|output) buffer size =\s+([\d.]+) MiB", line)) for line in lines]
    sums = {"KV": 0, "RS": 0, "compute": 0, "output": 0}
    for _, match in found:
        if match:
            sums[match[1]] += round(float(match[2]) * MIB)
    return weights, sums["KV"] + sums["RS"], sums["compute"] + sums["output"]


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 4096},
        {"n_ctx": 8192, "n_seq_max": 4, "kv_unified": False, "n_ubatch": 128},
        {"n_ctx": 16384, "type_k": "q8_0", "type_v": "q8_0", "flash_attn": "enabled"},
    ],
    ids=["one", "four", "q8_0"],
)
def test_the_estimate_is_what_is_taken(path: Path, options: dict[str, Any]) -> None:
    if options.get("type_k") and "stories" in path.name:
        pytest.skip("its heads of 8 are no blocks of q8_0")
    context = ContextOptions(**options)
    estimate = estimate_memory(path, context=context)
    weights, kv, compute = taken(path, context)
    # The log rounds to 10 KiB, twice for what has two lines.
    assert estimate.weights == pytest.approx(weights, rel=0.01, abs=0.01 * MIB)
    assert estimate.kv == pytest.approx(kv, rel=0.01)
    assert estimate.compute == pytest.approx(compute, rel=0.01, abs=0.02 * MIB)


def test_memories_of_other_kinds(tmp_path: Path) -> None:
    windowed = write_windowed_model(tmp_path / "windowed.gguf")
    estimates = []
    for full in (True, False):
        context = ContextOptions(n_ctx=16384, n_ubatch=64, swa_full=full)
        estimates.append(estimate_memory(windowed, context=context).kv)
        assert estimates[-1] == pytest.approx(taken(windowed, context)[1], rel=0.01)
    assert estimates[1] < estimates[0]
    recurrent = write_recurrent_model(tmp_path / "recurrent.gguf")
    context = ContextOptions(n_seq_max=128, n_ubatch=128)
    assert estimate_memory(recurrent, context=context).kv == pytest.approx(taken(recurrent, context)[1], rel=0.01)
    assert taken(recurrent, context)[1] > MIB


def test_the_weights_are_exact(path: Path) -> None:
    with Model(path) as model:
        assert estimate_memory(path).weights == model.size


def test_the_memory_is_that_of_the_architecture(path: Path) -> None:
    with Model(path) as model:
        width = model.n_embd // model.n_head * model.n_head_kv
        expected = 2 * 2 * model.n_layer * width * 8192
    assert estimate_memory(path, context=ContextOptions(n_ctx=8192)).kv == pytest.approx(expected, rel=0.01)


def test_it_fits_or_lacks_one_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = estimate_memory(demo_path())
    (cpu,) = estimate.devices
    assert estimate.weights + estimate.kv + estimate.compute == cpu.total
    for free in (cpu.total - 1, cpu.total):
        here = [replace(one, memory_free=free) if one.name == cpu.name else one for one in devices()]
        monkeypatch.setattr("llama_cffi.core.memory_estimate.devices", lambda here=here: here)
        assert estimate_memory(demo_path()).fits == (free == cpu.total)


def test_nothing_of_it_is_allocated(path: Path) -> None:
    before = psutil.Process().memory_info().rss
    estimate = estimate_memory(path, context=ContextOptions(n_ctx=2**18, n_batch=64, n_ubatch=64))
    assert psutil.Process().memory_info().rss - before < estimate.kv / 2


def test_what_cannot_be_estimated(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        estimate_memory(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFileError):
        estimate_memory(tmp_path / "bad.gguf")
    with pytest.raises(UnsupportedError, match="split_mode='row'"):
        estimate_memory(demo_path(), ModelOptions(split_mode="row"))
    with pytest.raises(ContextError, match="vocab_only"):
        estimate_memory(demo_path(), ModelOptions(vocab_only=True))


# -- devices that are not here


def device(name: str, free: int, kind: Any = "gpu") -> Device:
    return Device(name, name, kind, free, free, "backend")


def test_layers_go_to_the_gpus_from_the_last() -> None:
    assert assign(5, 0, ["G"], [1], "CPU") == ["CPU"] * 5
    assert assign(5, 2, ["G"], [1], "CPU") == ["CPU"] * 3 + ["G"] * 2
    assert assign(5, 99, ["G"], [1], "CPU") == ["G"] * 5
    assert assign(5, 99, [], [], "CPU") == ["CPU"] * 5
    assert assign(5, 4, ["G", "H"], [3, 1], "CPU") == ["CPU", "G", "G", "G", "H"]
    assert assign(4, 4, ["G", "H"], [0, 1], "CPU") == ["H"] * 4


def test_the_parts_of_the_devices() -> None:
    sizes = LayerSizes(host=1000, blocks=(100, 100, 100, 100), output=10, tied=900)
    present = [device("G", 2000), device("CPU", 9000, "cpu"), device("H", 5)]
    places = ["CPU", "CPU", "G", "G", "G"]
    on_gpu, host = divide(sizes, 400, {"G": 50, "CPU": 60}, places, places, present)
    assert (on_gpu.name, on_gpu.weights, on_gpu.kv, on_gpu.compute) == ("G", 1110, 200, 50)
    assert (host.name, host.weights, host.kv, host.compute) == ("CPU", 1200, 200, 60)
    assert (on_gpu.total, on_gpu.fits, host.fits) == (1360, True, True)
    (on_gpu, host) = divide(sizes, 4000, {"G": 50}, places, places, present)
    assert (on_gpu.fits, host.fits) == (False, True)
    (on_gpu, host) = divide(sizes, 4000, {"G": 50}, places, ["CPU"] * 5, present)
    assert (on_gpu.kv, host.kv) == (0, 4000)


def test_a_tied_embedding_is_there_twice_on_a_gpu() -> None:
    tensors = GGUFFile(demo_path()).tensors
    sizes = layer_sizes(tensors)
    assert sizes.host + sum(sizes.blocks) + sizes.output == sum(tensor.nbytes for tensor in tensors)
    has_own = any(tensor.name == "output.weight" for tensor in tensors)
    assert (sizes.tied == 0) == has_own


def test_the_most_layers_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library has no GPU here; one is made up beside its CPU, of several sizes."""
    if any(one.type != "cpu" for one in devices()):
        pytest.skip("this library found other devices")
    found = []
    for free in (0.001, 6, 7, 100):
        there = [device("G", int(free * MIB)), *devices()]
        monkeypatch.setattr("llama_cffi.core.memory_estimate.devices", lambda there=there: there)
        estimate = estimate_memory(demo_path(), ModelOptions(n_gpu_layers=0))
        assert [one.name for one in estimate.devices] == ["CPU"]
        found.append(estimate.n_gpu_layers)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, estimate.n_layers)


def test_the_log_of_a_context() -> None:
    lines = [
        "llama_context:  CUDA_Host  output buffer size =     0.50 MiB",
        "llama_kv_cache: size =    8.00 MiB (  4096 cells,   5 layers,  1/1 seqs), K (f16):    4.00 MiB, V (f16): 4.00",
        "llama_memory_recurrent: size =    1.00 MiB (     1 cells,   3 layers,  1 seqs), R (f32):    1.00 MiB",
        "sched_reserve:      CUDA0 compute buffer size =    64.25 MiB",
        "sched_reserve:  CUDA_Host compute buffer size =     2.00 MiB",
    ]
    memory, compute = read_context(lines, [device("CUDA0", 1), device("CPU", 1, "cpu")])
    assert memory == 9 * MIB
    assert compute == {"CPU": int(2.5 * MIB), "CUDA0": int(64.25 * MIB)}
