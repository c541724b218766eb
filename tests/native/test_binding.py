"""Bindings: both modes show the same library, and what one lacks says so at use."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import _native
from llama_cffi._native import abi, binding, ffi, lib, library_info
from llama_cffi._native.abi import modules
from llama_cffi._native.bindings import AbiBinding, bind_abi
from llama_cffi.core.options import choice, constant, named_call, set_field
from llama_cffi.errors import LibraryError, UnsupportedError

ROOT = Path(__file__).resolve().parents[2]
PINNED = abi.generations()[-1]
OLDEST = abi.generations()[0]


@pytest.fixture(scope="module")
def direct() -> AbiBinding:
    """The library of this process once more, by its binary interface."""
    return bind_abi(library_info().path, PINNED)


@pytest.fixture(scope="module")
def older() -> AbiBinding:
    """The same library taken for an old one: nothing of it may be called."""
    return bind_abi(library_info().path, OLDEST)


def test_the_run_has_the_mode_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    assert binding.mode == library_info().mode == request.config.getoption("--binding")


def test_the_package_gives_out_one_binding() -> None:
    assert ffi.new == binding.ffi.new
    assert lib.llama_decode is binding.lib.llama_decode


def test_no_module_hides_an_attribute_of_its_name() -> None:
    for name in _native.__all__:
        assert importlib.util.find_spec(f"llama_cffi._native.{name}") is None, name


# -- functions and constants


def test_a_call_of_each_kind(direct: AbiBinding) -> None:
    assert direct.ffi.string(direct.lib.llama_version()) == ffi.string(lib.llama_version())
    params = direct.lib.llama_context_default_params()
    assert (params.n_ctx, params.n_batch, params.type_k) == (512, 2048, direct.lib.GGML_TYPE_F16)
    assert direct.lib.ggml_type_size(direct.lib.GGML_TYPE_F32) == 4  # from a library that it depends on
    assert direct.ffi.sizeof("struct llama_model_params") == PINNED.structs["llama_model_params"].size


def test_constants_are_those_of_the_generation(direct: AbiBinding, older: AbiBinding) -> None:
    wrong = {name for name, value in PINNED.all_constants.items() if getattr(direct.lib, name) != value}
    assert wrong == set()
    assert older.lib.GGML_BACKEND_DEVICE_TYPE_ACCEL == 2
    assert direct.lib.GGML_BACKEND_DEVICE_TYPE_ACCEL == lib.GGML_BACKEND_DEVICE_TYPE_ACCEL == 3


def test_a_name_is_looked_up_once(direct: AbiBinding) -> None:
    direct.lib.llama_max_devices  # noqa: B018
    assert "llama_max_devices" in vars(direct.lib)
    assert direct.lib.llama_max_devices is direct.lib.llama_max_devices


def test_a_function_that_came_later(older: AbiBinding) -> None:
    message = "this libllama has no llama_n_ctx_seq, which llama.cpp has since b7324"
    with pytest.raises(UnsupportedError, match=message) as caught:
        older.lib.llama_n_ctx_seq  # noqa: B018
    assert caught.value.since == "b7324"
    assert not older.has("llama_n_ctx_seq")


def test_a_function_that_went(direct: AbiBinding) -> None:
    with pytest.raises(UnsupportedError, match=r"no llama_set_adapter_lora, which llama\.cpp had from b6301 to b7836"):
        direct.lib.llama_set_adapter_lora  # noqa: B018


def test_a_function_that_the_file_lacks(older: AbiBinding) -> None:
    """The oldest generation declares it, and the pinned library has dropped it."""
    assert OLDEST.function("llama_set_adapter_lora") is not None
    with pytest.raises(UnsupportedError, match="llama_set_adapter_lora"):
        older.lib.llama_set_adapter_lora  # noqa: B018


def test_a_name_that_llama_cpp_never_had(direct: AbiBinding) -> None:
    for name in ("llama_sing", "LLAMA_SONG", "__deepcopy__"):
        with pytest.raises(AttributeError) as caught:
            getattr(direct.lib, name)
        assert not isinstance(caught.value, UnsupportedError)
        assert not direct.has(name)


def test_has(direct: AbiBinding, older: AbiBinding) -> None:
    for one in (binding, direct):
        assert one.has("llama_decode")
        assert one.has("LLAMA_SPLIT_MODE_TENSOR")
        assert one.has("llama_model_params.load_mode")
        assert not one.has("llama_model_params.use_mmap")
        assert not one.has("llama_vocab.anything")  # opaque
        assert not one.has("no_such_struct.anything")
    assert older.has("llama_model_params.use_mmap")
    assert not older.has("llama_model_params.load_mode")
    assert not older.has("LLAMA_SPLIT_MODE_TENSOR")


def test_function_is_a_typed_pointer(direct: AbiBinding) -> None:
    for one in (binding, direct):
        function = one.function("llama_max_devices")
        assert one.ffi.typeof(function).kind == "function"
        assert function() == lib.llama_max_devices()
        by_words = one.ffi.typeof(one.function("gguf_init_from_file"))
        assert [arg.cname for arg in by_words.args] == ["char *", "_Bool", "void *"]
    with pytest.raises(UnsupportedError, match="to b7836"):
        direct.function("llama_set_adapter_lora")


def test_parameters(direct: AbiBinding, older: AbiBinding) -> None:
    name = "llama_sampler_init_penalties"
    now = ("n_vocab", "penalty_last_n", "penalty_repeat", "penalty_freq", "penalty_present")
    assert binding.parameters(name) == direct.parameters(name) == now
    assert older.parameters(name) == now[1:]
    assert older.parameters("llama_max_devices") == ()
    with pytest.raises(UnsupportedError, match="b7324"):
        older.parameters("llama_n_ctx_seq")


# -- what is in doubt


def test_doubts_forbid_use() -> None:
    doubtful = {"llama_n_batch", "GGML_TYPE_COUNT", "struct llama_model_quantize_params"}
    bound = bind_abi(library_info().path, PINNED, doubtful=doubtful)
    for name, what in (
        ("llama_n_batch", "llama_n_batch"),
        ("GGML_TYPE_COUNT", "GGML_TYPE_COUNT"),
        ("llama_model_quantize", "struct llama_model_quantize_params"),
        ("llama_model_quantize_default_params", "struct llama_model_quantize_params"),
    ):
        with pytest.raises(UnsupportedError, match=f"{name} cannot be used: .* another {what} than"):
            getattr(bound.lib, name)
        assert not bound.has(name)
    assert not bound.has("llama_model_quantize_params.ftype")
    assert bound.has("llama_n_ubatch")
    assert bound.has("llama_model_params.load_mode")


# -- modules


def test_the_packaged_modules_are_those_of_the_headers(tmp_path: Path) -> None:
    package = Path(abi.__file__).parent
    written = modules.write_modules(tmp_path)
    assert len(written) == len(abi.generations()) + 1  # and libmtmd
    for path in written:
        assert (package / path.name).read_text() == path.read_text(), "write_modules() was not run since a change"


def test_binding_needs_no_parser() -> None:
    code = (
        "import sys\n"
        "from llama_cffi._native import abi\n"
        "from llama_cffi._native.abi.modules import load_ffi\n"
        f"ffi = load_ffi(abi.generation({OLDEST.name!r}))\n"
        "print(ffi.sizeof('struct llama_batch'), 'pycparser' in sys.modules, 'cffi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["56", "False", "False"], done.stderr


def test_a_generation_of_ones_own(tmp_path: Path) -> None:
    """As the one that is derived from the headers beside an unknown library."""
    own = dataclasses.replace(PINNED, name="mine", constants={**PINNED.constants, "GGML_TYPE_COUNT": 99})
    with pytest.raises(LibraryError, match="no ABI-mode binding of mine"):
        bind_abi(library_info().path, own)
    folder = tmp_path / "cache" / "modules"
    bound = bind_abi(library_info().path, own, modules_folder=folder)
    assert bound.lib.GGML_TYPE_COUNT == 99
    assert bound.lib.llama_max_devices() == lib.llama_max_devices()
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    bind_abi(library_info().path, own, modules_folder=folder)
    assert kept.stat().st_mtime_ns == before
    other = dataclasses.replace(own, constants={**own.constants, "GGML_TYPE_COUNT": 98})
    assert bind_abi(library_info().path, other, modules_folder=folder).lib.GGML_TYPE_COUNT == 98


def test_what_is_kept_of_a_generation_is_data_and_checked(tmp_path: Path) -> None:
    own = dataclasses.replace(PINNED, name="mine", constants={**PINNED.constants, "GGML_TYPE_COUNT": 99})
    first = modules.load_ffi(own, tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    text = kept.read_text()
    marker = tmp_path / "executed"
    for damaged in (
        f"open({str(marker)!r}, 'w')\nffi = None",
        text[:-9],
        text.replace("GGML_TYPE_COUNT", "GGML_TYPE_CAUNT"),
        text.replace("llama_batch", "llama_botch"),
        "{}",
        '{"arguments": [], "digest": null}',
    ):
        assert damaged != text
        kept.write_text(damaged)
        ffi = modules.load_ffi(own, tmp_path / "kept")
        assert ffi.sizeof("struct llama_batch") == first.sizeof("struct llama_batch")
        assert ffi.list_types() == first.list_types()
        assert kept.read_text() == text
    assert not marker.exists()


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    text = tmp_path / "libllama.so"
    text.write_text("hello")
    with pytest.raises(LibraryError, match=r"cannot open .*libllama\.so"):
        bind_abi(text, PINNED)


# -- the layer above


@pytest.fixture
def on_older(monkeypatch: pytest.MonkeyPatch, older: AbiBinding) -> AbiBinding:
    """What core/options.py sees of an old library."""
    from llama_cffi.core import options

    for name in ("ffi", "lib"):
        monkeypatch.setattr(options, name, getattr(older, name))
    monkeypatch.setattr(options, "binding", older)
    return older


def test_choice_and_constant() -> None:
    table = {"layer": "LLAMA_SPLIT_MODE_LAYER", "tensor": "LLAMA_SPLIT_MODE_TENSOR"}
    assert choice("split_mode", "layer", table) == "LLAMA_SPLIT_MODE_LAYER"
    assert constant("split_mode", "tensor", table) == lib.LLAMA_SPLIT_MODE_TENSOR
    wrong: Any
    for wrong in ("rows", None, []):
        with pytest.raises(ValueError, match="split_mode must be one of 'layer', 'tensor'"):
            constant("split_mode", wrong, table)


@pytest.mark.usefixtures("on_older")
def test_a_constant_that_the_library_lacks() -> None:
    table = {"layer": "LLAMA_SPLIT_MODE_LAYER", "tensor": "LLAMA_SPLIT_MODE_TENSOR"}
    assert constant("split_mode", "layer", table) == 1
    with pytest.raises(UnsupportedError, match="not support split_mode='tensor': it has no LLAMA_SPLIT_MODE_TENSOR"):
        constant("split_mode", "tensor", table)


def test_set_field(on_older: AbiBinding) -> None:
    params = on_older.ffi.new("struct llama_model_params *")[0]
    set_field(params, "use_mlock", True, option="load_mode='mlock'", lacking=False)
    assert params.use_mlock
    set_field(params, "no_host", False, option="no_host", lacking=False)
    with pytest.raises(UnsupportedError, match=r"no_host: it has no llama_model_params.no_host, .* since b6845"):
        set_field(params, "no_host", True, option="no_host", lacking=False)


def test_a_call_by_the_names_of_its_arguments() -> None:
    values = {"penalty_last_n": 4, "penalty_repeat": 1.0, "penalty_freq": 0.0, "penalty_present": 0.0}
    function, *args = named_call("llama_sampler_init_penalties", n_vocab=512, n_ctx_train=7, **values)
    sampler = function(*args)
    assert sampler
    lib.llama_sampler_free(sampler)
    with pytest.raises(UnsupportedError, match="llama_sampler_init_penalties of this libllama takes n_vocab as well"):
        named_call("llama_sampler_init_penalties", **values)


def test_hybrid_models_where_the_library_does_not_say(
    older: AbiBinding, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cffi.core import model as module
    from llama_cffi.core import model_base

    path = assets / "models" / "stories260K.gguf"
    for metadata, hybrid in (
        ({"general.architecture": "llama", "llama.block_count": "5"}, False),
        ({"general.architecture": "jamba", "jamba.ssm.conv_kernel": "4"}, True),
        ({"general.architecture": "lfm2", "lfm2.shortconv.l_cache": "3"}, True),
        ({"general.architecture": "llama", "jamba.ssm.conv_kernel": "4"}, False),
    ):
        with module.Model(path, module.ModelOptions(vocab_only=True)) as model, monkeypatch.context() as patch:
            patch.setitem(vars(model), "_metadata", metadata)
            patch.setattr(model_base, "binding", older)
            assert model.is_hybrid is hybrid


@pytest.mark.parametrize("kv_unified", [True, False])
def test_the_share_of_a_sequence_where_the_library_does_not_say(
    kv_unified: bool, older: AbiBinding, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cffi.core import context_limits
    from llama_cffi.core.context import Context, ContextOptions
    from llama_cffi.core.model import Model

    options = ContextOptions(n_ctx=1024, n_seq_max=4, kv_unified=kv_unified, n_threads=1)
    with Model(assets / "models" / "stories260K.gguf") as model, Context(model, options) as context:
        said = context.n_ctx_seq
        monkeypatch.setattr(context_limits, "binding", older)
        assert context_limits.read_limits(context.ptr, options).n_ctx_seq == said == (1024 if kv_unified else 256)


# -- options over a real old library

OPTIONS = """
import json, sys
from llama_cffi import Context, ContextOptions, Model, ModelOptions
from llama_cffi.errors import UnsupportedError
from llama_cffi._native import lib
from llama_cffi.core import context_options, model_options

class Params:
    pass

found = {}
for mode in ("auto", "none", "mmap", "mlock", "mmap_mlock", "direct_io"):
    try:
        params, _ = model_options.native_params(ModelOptions(load_mode=mode))
        found[mode] = [params.use_mmap, params.use_mlock]
    except UnsupportedError as error:
        found[mode] = error.message
for value in ("auto", "disabled", "enabled"):
    params = lib.llama_context_default_params()
    default = params.flash_attn
    params.flash_attn = value == "disabled"
    context_options._set_flash_attn(params, value)
    found[value] = params.flash_attn
print(json.dumps(found))
"""


@pytest.mark.skipif("LLAMA_CFFI_NPM_LIBS" not in os.environ, reason="LLAMA_CFFI_NPM_LIBS names no folder of libraries")
def test_options_of_the_oldest_release() -> None:
    folder = Path(os.environ["LLAMA_CFFI_NPM_LIBS"]) / "3.12.4" / "package" / "bins" / "linux-x64"
    environment = {**os.environ, "LLAMA_CFFI_LIB": str(folder)}
    command = [sys.executable, "-c", OPTIONS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["auto"] is False  # set to False before, and left alone
    assert (found["disabled"], found["enabled"]) == (False, True)
    assert "load_mode='direct_io': it has no llama_model_params.use_direct_io" in found["direct_io"]
    assert [found[mode] for mode in ("none", "mmap", "mlock", "mmap_mlock")] == [
        [False, False],
        [True, False],
        [False, True],
        [True, True],
    ]
