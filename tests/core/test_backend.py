"""Devices and features, as the loaded libllama reports them."""

from __future__ import annotations

from llama_cffi.core import backend


def test_there_is_one_cpu_device_and_it_knows_the_memory() -> None:
    found = [device for device in backend.devices() if device.type == "cpu"]
    assert len(found) == 1
    cpu = found[0]
    assert cpu.backend == "CPU"
    assert cpu.name
    assert cpu.description
    # At least what an interpreter needs, at most what an address can name: a misread size_t is neither.
    assert 2**26 < cpu.memory_total < 2**48
    assert 0 <= cpu.memory_free <= cpu.memory_total


def test_cpu_features_are_those_of_the_summary() -> None:
    summary = backend.system_info()
    features = backend.cpu_features()
    assert features
    for name, value in features.items():
        assert f"{name} = {int(value)}" in summary
        assert value is True or value > 1


def test_summary_is_one_line_without_loose_ends() -> None:
    summary = backend.system_info()
    assert "\n" not in summary
    assert summary == summary.strip(" |")
    assert "CPU : " in summary


def test_supports_equals_what_the_library_says() -> None:
    from llama_cffi._native import ffi, lib

    found = backend.supports()
    assert found.mmap is bool(lib.llama_supports_mmap())
    assert found.max_parallel_sequences == lib.llama_max_parallel_sequences() > 1
    assert found.max_devices >= 1
    assert found.rpc is (lib.ggml_backend_reg_by_name(b"RPC") != ffi.NULL)
