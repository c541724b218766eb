"""The known ABI generations: the data against the pinned headers, and fingerprints against real libraries."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cffi
import pytest

from llama_cffi._native import abi, binding_build

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ROOT / "build" / "libllama" / "lib"
PINNED = abi.generations()[-1]
# Unpacked npm packages @node-llama-cpp/linux-x64, one folder per version, and the release each carries.
NPM_FOLDER = os.environ.get("LLAMA_CFFI_NPM_LIBS")
NPM_LIBRARIES = {
    "3.12.4": "b6301",
    "3.13.0": "b6431",
    "3.14.0": "b6673",
    "3.14.2": "b6845",
    "3.14.4": "b7324",
    "3.14.5": "b7347",
    "3.15.0": "b7698",
    "3.15.1": "b7836",
    "3.16.0": "b8095",
    "3.16.2": "b8121",
    "3.17.1": "b8179",
    "3.18.0": "b8352",
    "3.18.1": "b8390",
    "3.19.0": "b9842",
    "3.19.1": "b10068",
    "3.20.0": "b10361",
    "3.21.1": "v0.4.0",
    "3.22.1": "v0.5.0",
}

# Reached through the CPU backend, not declared as functions.
PROC_PREFIXES = ("ggml_threadpool_", "ggml_numa_init", "ggml_is_numa")

PROBE = """
import ctypes, json, sys
from llama_cffi._native import abi
libraries = [ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL) for path in sys.argv[1:]]
library = libraries[-1]
def call(name):
    function = getattr(library, name)
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    buffers = [ctypes.create_string_buffer(bytes([one]) * abi.BUFFER_SIZE, abi.BUFFER_SIZE) for one in abi.PATTERNS]
    for buffer in buffers:
        function(ctypes.addressof(buffer))
    return abi.picture(*(buffer.raw for buffer in buffers))
version = None
if hasattr(library, "llama_version"):
    library.llama_version.restype = ctypes.c_char_p
    version = library.llama_version().decode()
symbols = [name for name in sorted(abi.symbols_of_interest()) if hasattr(library, name)]
print(json.dumps({"version": version, "images": {name: call(name) for name in abi.DEFAULTS}, "symbols": symbols}))
"""


def fingerprint_of(folder: Path) -> abi.Fingerprint:
    """Probe the libllama in a folder, in a child process."""
    paths = [next(folder.glob(pattern)) for pattern in ("libggml-base*.so*", "libggml.*so*", "libllama.*so*")]
    command = [sys.executable, "-c", PROBE, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    data = json.loads(done.stdout)
    return abi.Fingerprint(data["version"], data["images"], frozenset(data["symbols"]))


def synthetic(generation: abi.Generation, *, padding: str = "..") -> abi.Fingerprint:
    """What a library of a generation shows when its compiler fills padding so, and it has what all have."""
    images = {name: images[-1].replace("??", "00").replace("..", padding) for name, images in generation.images.items()}
    return abi.Fingerprint(None, images, generation.always)


def trimmed_headers() -> str:
    """What the trimmed headers say to both modes, in the order of binding_build.py."""
    names = [name for name in binding_build.CDEF_FILES if name not in ("build.h", "callbacks.h")]
    return "\n".join((binding_build.CDEF_DIR / name).read_text(encoding="utf-8") for name in names)


def generation_of(release: str) -> abi.Generation:
    return next(one for one in abi.generations() if any(entry.name == release for entry in one.releases))


needs_libllama = pytest.mark.skipif(
    not (LIBRARIES / "libllama.so").exists() or ctypes.sizeof(ctypes.c_void_p) != 8,
    reason="no build/libllama to probe",
)
needs_npm = pytest.mark.skipif(NPM_FOLDER is None, reason="LLAMA_CFFI_NPM_LIBS names no folder of npm packages")


def test_releases_are_named_once_and_span_b6301_to_the_pin() -> None:
    pin = json.loads((ROOT / "scripts" / "llama_cpp.json").read_text(encoding="utf-8"))
    names = [release.name for one in abi.generations() for release in one.releases]
    assert len(set(names)) == len(names)
    assert names[0] == "b6301"
    assert names[-1] == pin["commit"]
    assert PINNED.last.version == pin["version"].removesuffix("-dev")


def test_releases_are_ordered_in_time() -> None:
    dates = [release.date for one in abi.generations() for release in one.releases]
    assert all(dates)
    assert dates == sorted(dates)


def test_the_list_of_releases_is_the_data() -> None:
    listed = json.loads((ROOT / "scripts" / "abi_releases.json").read_text(encoding="utf-8"))["releases"]
    assert [one["name"] for one in listed] == [one.name for each in abi.generations() for one in each.releases]


def test_the_pinned_generation_differs_in_nothing_from_itself() -> None:
    assert PINNED.functions == {}
    assert PINNED.constants == {}
    assert PINNED.absent == frozenset()
    assert PINNED.legacy == {}


@pytest.mark.parametrize("generation", abi.generations(), ids=lambda one: one.name)
def test_fields_follow_each_other_inside_their_struct(generation: abi.Generation) -> None:
    for struct in generation.structs.values():
        end = 0
        for field in struct.fields:
            assert field.offset >= end, f"{struct.name}.{field.name}"
            end = field.offset + field.size
        assert end <= struct.size


@pytest.mark.parametrize("generation", abi.generations(), ids=lambda one: one.name)
def test_images_are_the_layout_with_values(generation: abi.Generation) -> None:
    for function, struct in abi.DEFAULTS.items():
        layout = generation.structs[struct]
        covered = {place for one in layout.fields for place in range(one.offset, one.offset + one.size)}
        for image in generation.images[function]:
            assert len(image) == 2 * layout.size
            written = {place for place in range(layout.size) if image[2 * place : 2 * place + 2] != ".."}
            assert written == covered


@pytest.mark.parametrize("padding", ["..", "00"])
@pytest.mark.parametrize("generation", abi.generations(), ids=lambda one: one.name)
def test_each_generation_is_recognized_however_padding_is_filled(generation: abi.Generation, padding: str) -> None:
    shown = synthetic(generation, padding=padding)
    assert abi.by_fingerprint(shown) is generation
    assert abi.explain_difference(shown, generation) == []


@pytest.mark.parametrize("generation", abi.generations(), ids=lambda one: one.name)
def test_cffi_computes_the_layouts_that_the_compiler_told(generation: abi.Generation) -> None:
    ffi = cffi.FFI()
    ffi.cdef(abi.declarations(generation, trimmed_headers()))
    for struct in generation.structs.values():
        kind = ffi.typeof(f"struct {struct.name}")
        assert ffi.sizeof(f"struct {struct.name}") == struct.size
        offsets = {name: field.offset for name, field in kind.fields}
        for field in struct.fields:
            if field.name:
                assert offsets[field.name] == field.offset, f"{struct.name}.{field.name}"
    for enum, values in abi.enums().items():
        have = ffi.typeof(f"enum {enum}").relements
        assert {name: have[name] for name in values if name in generation.all_constants} == {
            name: generation.all_constants[name] for name in values if name in generation.all_constants
        }


def test_declarations_follow_the_generation() -> None:
    old = abi.declarations(abi.generations()[0], trimmed_headers())
    assert "llama_batch_ext_init(" not in old
    assert "llama_sampler_init_penalties(int32_t penalty_last_n, float penalty_repeat," in old
    assert "llama_set_adapter_lora(" in old
    assert "bool use_mmap;" in old
    new = abi.declarations(PINNED, trimmed_headers())
    assert "llama_batch_ext_init(" in new
    assert "llama_sampler_init_penalties(int32_t n_vocab, int32_t penalty_last_n," in new
    assert "llama_set_adapter_lora(" not in new
    assert "enum llama_load_mode load_mode;" in new


def test_every_pinned_function_is_declared() -> None:
    ffi = cffi.FFI()
    ffi.cdef(abi.declarations(PINNED, trimmed_headers()))
    text = trimmed_headers()
    assert all(f"{name}(" in text for name in abi.pinned_functions() if not name.startswith(PROC_PREFIXES))


def test_since_and_until() -> None:
    assert abi.since("llama_decode") == abi.generations()[0].first
    assert str(abi.since("llama_model_params.load_mode")) == "b10361"
    assert str(abi.since("llama_context_params.flash_attn_type")) == "b6431"
    assert str(abi.until("llama_context_params.flash_attn")) == "b6301"
    assert str(abi.until("llama_set_adapter_lora")) == "b7836"
    assert abi.until("llama_decode") is None
    assert abi.since("llama_no_such_function") is None
    assert str(abi.since("llama_batch_ext_init")) == "0c1e57098 of 2026-10-01"


def test_a_changed_default_is_explained_by_its_field() -> None:
    good = synthetic(PINNED)
    image = good.images["llama_context_default_params"]
    images = {**good.images, "llama_context_default_params": "ff" + image[2:]}
    shown = dataclasses.replace(good, images=images)
    assert abi.by_fingerprint(shown) is None
    assert abi.match(shown) is None
    assert abi.nearest(shown) is PINNED
    assert abi.explain_difference(shown, PINNED) == [
        "llama_context_params.n_ctx (uint32_t n_ctx, byte 0): 00 02 00 00 expected, ff 02 00 00 found"
    ]


def test_a_grown_struct_is_explained() -> None:
    good = synthetic(PINNED)
    image = good.images["llama_model_default_params"].ljust(2 * PINNED.structs["llama_model_params"].size, ".")
    shown = dataclasses.replace(good, images={**good.images, "llama_model_default_params": image + "00" * 8})
    assert abi.by_fingerprint(shown) is None
    assert "struct llama_model_params has at least 88 bytes, not 80" in abi.explain_difference(shown, PINNED)


def test_a_missing_function_is_explained() -> None:
    good = synthetic(PINNED)
    images = {name: image for name, image in good.images.items() if name != "llama_model_quantize_default_params"}
    lines = abi.explain_difference(dataclasses.replace(good, images=images), PINNED)
    assert lines == ["llama_model_quantize_default_params is missing"]


def test_symbols_between_two_generations_are_in_doubt() -> None:
    before = generation_of("b10068")
    coming = generation_of("b10361").always & before.never
    assert coming
    shown = synthetic(before)
    shown = dataclasses.replace(shown, symbols=shown.symbols | {min(coming)})
    assert abi.by_fingerprint(shown) is None
    found = abi.match(shown)
    assert found is not None
    assert found.generation is before
    assert "llama_sampler_init_penalties" in found.doubtful
    assert "struct llama_sampler_i" in found.doubtful


def test_releases_that_nothing_tells_apart_leave_one_struct_in_doubt() -> None:
    older, newer = generation_of("c0159f9c1"), generation_of("f49e91787")
    images = {name: images[0] for name, images in newer.images.items()}
    found = abi.match(abi.Fingerprint(None, images, older.always | newer.always))
    assert found is not None
    assert found.certain
    assert found.reasons == ()
    assert "struct llama_model_quantize_params" in found.doubtful
    assert "struct llama_context_params" not in found.doubtful


def test_an_older_library_is_refused_with_its_differences() -> None:
    oldest = abi.generations()[0]
    good = synthetic(oldest)
    image = good.images["llama_context_default_params"]
    cut = abi.Fingerprint(None, {**good.images, "llama_context_default_params": image[:-32]}, good.symbols)
    assert abi.by_fingerprint(cut) is None
    assert abi.nearest(cut) is oldest
    assert any("swa_full" in line and "unwritten" in line for line in abi.explain_difference(cut, oldest))


def test_one_generation_is_read_by_its_name() -> None:
    assert abi.generation(PINNED.name) is PINNED
    with pytest.raises(KeyError):
        abi.generation("../../secret")


def test_a_struct_whose_picture_did_not_change_is_not_in_doubt() -> None:
    """Else a newer release with the same structs could not even load a model."""
    before = abi.generations()[-2]
    assert {"struct llama_model_params", "struct llama_model_quantize_params"} <= abi.differing(PINNED, before)
    found = abi.match(dataclasses.replace(synthetic(PINNED), version="99.0.0"))
    assert found is not None
    assert not any(name.startswith("struct ") for name in found.doubtful)
    assert "LLAMA_SESSION_VERSION" in found.doubtful


def test_a_version_beyond_the_pin_is_in_doubt() -> None:
    shown = dataclasses.replace(synthetic(PINNED), version="99.0.0")
    assert abi.by_fingerprint(shown) is None
    found = abi.match(shown)
    assert found is not None
    assert found.reasons == ("version 99.0.0 is newer than any known release",)


def test_picture_tells_written_from_left_alone() -> None:
    first, second = bytes([0xA5, 1, 0xA5, 7, 0xA5]), bytes([0x5A, 1, 0xA5, 9, 0x5A])
    assert abi.picture(first, second) == "..01a5"
    with pytest.raises(ValueError, match=r"shorter|longer"):
        abi.picture(b"", b"a")


@needs_libllama
def test_the_pinned_build_is_recognized() -> None:
    shown = fingerprint_of(LIBRARIES)
    assert abi.explain_difference(shown, PINNED) == []
    assert abi.by_fingerprint(shown) is PINNED


@needs_npm
@pytest.mark.parametrize(("package", "release"), NPM_LIBRARIES.items())
def test_prebuilt_libraries_are_recognized(package: str, release: str) -> None:
    folder = Path(NPM_FOLDER or "", package, "package", "bins", "linux-x64")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    shown = fingerprint_of(folder)
    expected = generation_of(release)
    assert abi.explain_difference(shown, expected) == []
    assert abi.by_fingerprint(shown) is expected


@needs_npm
@pytest.mark.parametrize("package", ["3.6.0", "3.10.0"])
def test_libraries_older_than_the_range_are_refused(package: str) -> None:
    folder = Path(NPM_FOLDER or "", package, "package", "bins", "linux-x64")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    shown = fingerprint_of(folder)
    assert abi.by_fingerprint(shown) is None
    assert abi.nearest(shown) is abi.generations()[0]
    assert abi.explain_difference(shown, abi.generations()[0])
