"""Estimated memory against what llama.cpp then takes."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from llama_cffi import Context, ContextOptions, Model, ModelOptions
from llama_cffi._native import log
from llama_cffi.core.backend import devices
from llama_cffi.core.layer_search import fits_room, in_words, most
from llama_cffi.core.memory_breakdown import DeviceMemory, MemoryBreakdown, can_measure
from llama_cffi.core.memory_estimate import estimate_memory
from llama_cffi.errors import ContextError, ModelFileError, ModelNotFoundError, UnsupportedError
from llama_cffi.runtime import demo_path
from tests.support.other_memories import write_recurrent_model, write_windowed_model
from tests.support.random_model import Shape, write_random_model

pytestmark = pytest.mark.skipif(not can_measure(), reason="this libllama does not tell what a model takes")

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
    with Model(path) as model, Context(model, context) as made:
        assert replace(made.memory_breakdown().devices[0], free=0) == replace(estimate.devices[0], free=0)


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


@pytest.mark.parametrize("room", range(8))
@pytest.mark.parametrize("high", range(6))
def test_the_most_that_fits(high: int, room: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count < room

    assert most(high, fits) == max(0, min(high, room - 1))
    assert len(tried) == len(set(tried))
    assert 0 not in tried


def test_room_is_for_each_device() -> None:
    use = MemoryBreakdown((DeviceMemory("G", 10, 5, 1, 0), DeviceMemory("CPU", 1000, 0, 0, 0)))
    assert use.total == 1016
    assert fits_room(use, {"G": 16})
    assert not fits_room(use, {"G": 15})
    assert fits_room(use, {"H": 0})
    assert in_words(use, {"G": 2**20, "H": 0}) == "0.0 of 1.0 MiB on G, 0.0 of 0.0 MiB on H"


def test_without_a_gpu_no_layers_are_placed() -> None:
    if any(one.type in ("gpu", "igpu") for one in devices()):
        pytest.skip("this library found a GPU")
    estimate = estimate_memory(demo_path(), ModelOptions(n_gpu_layers=0))
    assert [one.name for one in estimate.devices] == ["CPU"]
    assert (estimate.n_gpu_layers, estimate.n_layers) == (0, 5)
