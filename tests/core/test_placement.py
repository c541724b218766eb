"""Where the weights are, and a GPU that must be there."""

from __future__ import annotations

import pytest

from llama_cffi import Llama
from llama_cffi.core.backend import Device, DeviceType, devices
from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.core.placement import read_placement
from llama_cffi.errors import UnsupportedError
from llama_cffi.runtime import demo_path


def device(name: str, kind: DeviceType = "gpu") -> Device:
    return Device(name, name, kind, 0, 0, "backend")


CPU = device("CPU", "cpu")
has_gpu = any(one.type in ("gpu", "igpu") for one in devices())
needs_no_gpu = pytest.mark.skipif(has_gpu, reason="this library found a GPU")


def buffer(name: str, mib: float) -> str:
    return f"load_tensors: {name:>12} model buffer size = {mib:8.2f} MiB"


def test_two_gpus_and_the_rest_on_the_host() -> None:
    lines = [
        "load_tensors: offloading 20 repeating layers to GPU",
        "load_tensors: offloaded 21/33 layers to GPU",
        buffer("CUDA0", 1000),
        buffer("CUDA1", 500),
        buffer("CUDA10", 1),
        buffer("CUDA_Host", 100),
        buffer("CPU_Mapped", 2000.5),
    ]
    placement = read_placement(lines, [device("CUDA0"), device("CUDA1"), device("CUDA10"), CPU])
    assert placement.devices == {
        "CUDA0": 1000 * 2**20,
        "CUDA1": 500 * 2**20,
        "CUDA10": 2**20,
        "CPU": round(2100.5 * 2**20),
    }
    assert placement.gpu_bytes == 1501 * 2**20
    assert (placement.n_gpu_layers, placement.n_layers) == (21, 33)
    assert str(placement).endswith("21 of 33 layers on GPUs")


def test_the_devices_of_two_servers_are_told_apart() -> None:
    """llama.cpp numbers the buffers of each server from 0, and the devices of all servers through."""
    found = [Device(f"RPC{i}", server, "gpu", 0, 0, "RPC") for i, server in enumerate(["a:1", "a:1", "b:2"])]
    lines = [buffer("RPC0[a:1]", 1), buffer("RPC1[a:1]", 2), buffer("RPC0[b:2]", 4), buffer("RPC1[b:2]", 8)]
    placement = read_placement(lines, [CPU, *found])
    assert placement.devices == {"RPC0": 2**20, "RPC1": 2**21, "RPC2": 2**22, "CPU": 2**23}


def test_several_buffers_of_one_name_add_up() -> None:
    placement = read_placement([buffer("Vulkan0", 1), buffer("Vulkan0", 2)], [device("Vulkan0"), CPU])
    assert placement.buffers == placement.devices == {"Vulkan0": 3 * 2**20}


def test_layers_that_found_no_gpu_are_on_none() -> None:
    """llama.cpp with a network backend says "offloaded" although there is nothing to offload to."""
    lines = ["load_tensors: offloaded 5/5 layers to GPU", buffer("CPU_Mapped", 2)]
    placement = read_placement(lines, [CPU])
    assert (placement.gpu_bytes, placement.n_gpu_layers, placement.n_layers) == (0, 0, 5)


def test_a_library_that_says_nothing() -> None:
    placement = read_placement([], [CPU])
    assert str(placement) == "no weights"


@needs_no_gpu
def test_a_real_model_is_on_the_cpu() -> None:
    with Model(demo_path()) as model:
        placement = model.placement
        assert list(placement.devices) == ["CPU"]
        size = sum(placement.buffers.values())
        assert abs(size - model.size) < 2**17
        assert str(placement).startswith("2.")


def test_a_vocabulary_has_no_weights() -> None:
    with Model(demo_path(), ModelOptions(vocab_only=True)) as model:
        assert model.placement.devices == {}


@needs_no_gpu
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UnsupportedError, match=r"require_gpu.*no GPU.*CPU"):
        Model(demo_path(), ModelOptions(require_gpu=True))
    with pytest.raises(UnsupportedError, match="require_gpu"):
        Llama(demo_path(), require_gpu=True)


@pytest.mark.parametrize("options", [{"n_gpu_layers": 0}, {"vocab_only": True}])
def test_a_gpu_that_may_not_be_used(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="require_gpu"):
        Model(demo_path(), ModelOptions(require_gpu=True, **options))  # type: ignore[arg-type]
