"""The trimmed headers against the llama.h they were trimmed from."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from llama_cffi._native.abi import media

ROOT = Path(__file__).resolve().parents[2]

# LLAMA_API functions of the pinned llama.h that are left out on purpose. A function that an upgrade brings shows up
# here as a difference and is then decided on. First the deprecated ones, by what replaces them.
DEPRECATED = {
    # loading and contexts: llama_model_load_from_file, llama_model_free, llama_init_from_model
    "llama_load_model_from_file",
    "llama_free_model",
    "llama_new_context_with_model",
    # model sizes: llama_model_n_*, llama_vocab_n_tokens
    "llama_n_ctx_train",
    "llama_n_embd",
    "llama_n_layer",
    "llama_n_head",
    "llama_n_vocab",
    # state: llama_state_*
    "llama_get_state_size",
    "llama_copy_state_data",
    "llama_set_state_data",
    "llama_load_session_file",
    "llama_save_session_file",
    # warm-up: the caller decodes once and discards the result
    "llama_set_warmup",
    # vocabulary: llama_vocab_*
    "llama_token_get_text",
    "llama_token_get_score",
    "llama_token_get_attr",
    "llama_token_is_eog",
    "llama_token_is_control",
    "llama_token_bos",
    "llama_token_eos",
    "llama_token_eot",
    "llama_token_cls",
    "llama_token_sep",
    "llama_token_nl",
    "llama_token_pad",
    "llama_add_bos_token",
    "llama_add_eos_token",
    "llama_token_fim_pre",
    "llama_token_fim_suf",
    "llama_token_fim_mid",
    "llama_token_fim_pad",
    "llama_token_fim_rep",
    "llama_token_fim_sep",
    "llama_vocab_cls",
    # samplers: llama_sampler_init_grammar_lazy_patterns
    "llama_sampler_init_grammar_lazy",
}

# Then what nothing in the package needs.
UNUSED = {
    # GGUF files are read in Python where their metadata are asked for, and these names are in the metadata
    "llama_adapter_meta_count",
    "llama_adapter_meta_key_by_index",
    "llama_adapter_meta_val_str",
    "llama_adapter_meta_val_str_by_index",
    "llama_ftype_name",
    "llama_model_ftype",
    "llama_split_path",
    "llama_split_prefix",
    # options are checked and named in Python
    "llama_flash_attn_type_name",
    "llama_load_mode_from_str",
    "llama_load_mode_name",
    # batches are arrays of the package's own
    "llama_batch_free",
    "llama_batch_init",
    # the row of one output, a parameter of the context, a callback that is set once: other functions do the same
    "llama_get_logits",
    "llama_log_get",
    "llama_set_abort_callback",
    # a library stays loaded until the process ends
    "llama_backend_free",
    # templates are rendered by Jinja
    "llama_chat_apply_template",
    "llama_chat_builtin_templates",
    # samplers are made anew or cloned, and timed in Python
    "llama_perf_context_print",
    "llama_perf_sampler",
    "llama_perf_sampler_print",
    "llama_perf_sampler_reset",
    "llama_sampler_chain_remove",
    "llama_sampler_copy",
    "llama_sampler_get_seed",
    "llama_time_us",
    # training
    "llama_opt_epoch",
    "llama_opt_init",
    "llama_opt_param_filter_all",
}
UNDECLARED = DEPRECATED | UNUSED

# GGUF files are read through gguf.h, and written in Python.
UNUSED_GGUF = {
    "gguf_add_tensor",
    "gguf_find_key",
    "gguf_find_tensor",
    "gguf_get_meta_data",
    "gguf_get_meta_size",
    "gguf_get_val_data",
    "gguf_init_empty",
    "gguf_remove_key",
    "gguf_set_arr_data",
    "gguf_set_arr_str",
    "gguf_set_kv",
    "gguf_set_tensor_data",
    "gguf_set_tensor_type",
    *(f"gguf_set_val_{kind}" for kind in ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "u64", "i64", "f64")),
    "gguf_set_val_bool",
    "gguf_set_val_str",
    "gguf_type_name",
    "gguf_write_to_file",
    "gguf_write_to_file_ptr",
}

# MTMD_API functions of mtmd.h and mtmd-helper.h that are left out on purpose.
UNDECLARED_MEDIA = {
    # deprecated: mtmd_encode_chunk, mtmd_input_chunk_get_n_tokens and their like
    "mtmd_encode",
    "mtmd_image_tokens_get_id",
    "mtmd_image_tokens_get_n_pos",
    "mtmd_image_tokens_get_n_tokens",
    "mtmd_image_tokens_get_nx",
    "mtmd_image_tokens_get_ny",
    # one by one what mtmd_helper_image_get_decoder_pos returns at once
    "mtmd_image_tokens_get_decoder_pos",
    # media that are decoded while they are tokenized: a callback from C in the middle of it
    "mtmd_bitmap_init_lazy",
    # chunks without their media, saved or counted: the package keeps the media
    "mtmd_input_chunk_get_placeholder",
    "mtmd_input_chunk_load",
    "mtmd_input_chunk_save",
    # sums over a list of chunks, and loops over it, which are Python's here
    "mtmd_helper_eval_chunks",
    "mtmd_helper_get_n_pos",
    "mtmd_helper_get_n_tokens",
    # files are read in Python, which checks them
    "mtmd_helper_bitmap_init_from_file",
    "mtmd_helper_video_init",
    # setting another input does it, too
    "mtmd_helper_gen_audio_reset",
    # needs a context; whether a model speaks and has no template is known without one
    "mtmd_helper_model_can_chat",
    # media are decoded, named and kept in Python
    "mtmd_bitmap_get_data",
    "mtmd_bitmap_get_id",
    "mtmd_bitmap_get_n_bytes",
    "mtmd_bitmap_init_from_audio",
    "mtmd_bitmap_is_audio",
    "mtmd_bitmap_set_id",
    "mtmd_get_cap_from_file",
    "mtmd_get_marker",
    "mtmd_helper_video_get_info",
    "mtmd_helper_video_init_from_buf",
    "mtmd_helper_video_init_params_default",
    "mtmd_helper_video_read_next",
    "mtmd_input_chunk_get_id",
    # mtmd_helper_log_set sets this one, too
    "mtmd_log_set",
    # for llama.cpp's own tests, and for its program that fits models into memory (C++)
    "mtmd_get_memory_usage",
    "mtmd_test_create_input_chunks",
}


def _build_module(name: str = "binding_build") -> ModuleType:
    path = ROOT / "llama_cffi" / "_native" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = _build_module()
MEDIA = _build_module("media_build")


def _strip(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", " ", text)
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", " ", text, flags=re.MULTILINE)


def _statements(text: str) -> list[str]:
    """Top-level declarations without bodies, so that members of structs are not mistaken for functions."""
    text = _strip(text)
    text = re.sub(r'extern\s+"C"\s*\{', " ", text)
    while True:
        shorter = re.sub(r"\{[^{}]*\}", " ", text)
        if shorter == text:
            return [" ".join(part.split()) for part in text.split(";")]
        text = shorter


def _functions(text: str, api: str = "") -> set[str]:
    names = set()
    for statement in _statements(text):
        if statement.startswith("typedef") or api not in statement or "(" not in statement:
            continue
        statement = statement.replace("GGML_DEPRECATED(", "").replace("DEPRECATED(", "")
        names.update(re.findall(r"\b((?:llama|ggml|gguf|mtmd)_\w+)\s*\((?!\*)", statement)[:1])
    return names


def _include() -> Path:
    include: Path = BUILD.prefix() / "include"
    if not (include / "llama.h").is_file():
        pytest.skip(f"no llama.h in {include}: run python scripts/build_libllama.py")
    return include


def _header(name: str) -> str:
    return (_include() / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def declared() -> set[str]:
    text = BUILD.cdef_source()
    return {name for name in _functions(text) if not name.startswith("llama_cffi_")}


def test_undeclared_functions_are_the_reviewed_ones(declared: set[str]) -> None:
    exported = _functions(_header("llama.h"), "LLAMA_API")
    # The parser is part of the test: a header it no longer understands must not look like a complete binding.
    assert len(exported) == len(re.findall(r"\bLLAMA_API\b", _strip(_header("llama.h"))))
    assert {"llama_decode", "llama_vocab_cls", "llama_get_state_size"} <= exported
    assert exported - declared == UNDECLARED


def test_what_is_deprecated_is_undeclared() -> None:
    deprecated = {
        name
        for statement in _statements(_header("llama.h"))
        if "DEPRECATED(" in statement
        for name in _functions(statement + ";")
    }
    assert deprecated == DEPRECATED


def test_undeclared_functions_of_libmtmd_are_the_reviewed_ones() -> None:
    headers = "\n".join(_header(name) for name in MEDIA.CDEF_FILES)
    exported = _functions(headers, "MTMD_API")
    assert len(exported) == len(re.findall(r"\bMTMD_API\b", _strip(headers)))
    declared = _functions(MEDIA.cdef_source())
    assert exported - declared == UNDECLARED_MEDIA
    assert declared <= exported
    assert declared == media.functions()


def test_media_files_are_the_files_of_their_folder() -> None:
    assert sorted(MEDIA.CDEF_FILES) == sorted(path.name for path in MEDIA.CDEF_DIR.glob("*.h"))


def test_nothing_is_declared_that_the_headers_lack(declared: set[str]) -> None:
    names = ("llama.h", "ggml.h", "ggml-backend.h", "gguf.h", "ggml-opt.h")
    available = _functions("\n".join(_header(name) for name in names))
    assert declared - available == set()


def test_undeclared_functions_of_gguf_are_the_reviewed_ones(declared: set[str]) -> None:
    assert _functions(_header("gguf.h"), "GGML_API") - declared == UNUSED_GGUF


def test_enums_are_complete() -> None:
    known = set(re.findall(r"\b[A-Z][A-Z0-9_a-z]+\b", _strip(BUILD.cdef_source())))
    headers = "\n".join(_strip(_header(name)) for name in ("llama.h", "ggml.h", "ggml-backend.h", "gguf.h"))
    declared_enums = re.findall(r"\benum\s+(\w+)\s*\{", _strip(BUILD.cdef_source()))
    missing = set()
    for name in declared_enums:
        match = re.search(rf"\benum\s+{name}\s*\{{([^}}]*)\}}", headers)
        if match is not None:
            missing |= set(re.findall(r"(?:^|,)\s*([A-Z]\w+)", match[1])) - known
    assert missing == {"LLAMA_ROPE_SCALING_TYPE_MAX_VALUE"}  # an alias of the last member


def test_cdef_files_are_the_files_of_the_folder() -> None:
    assert sorted(BUILD.CDEF_FILES) == sorted(path.name for path in BUILD.CDEF_DIR.glob("*.h"))


@pytest.mark.usefixtures("api_mode")
def test_compiled_constants_equal_the_headers() -> None:
    from llama_cffi._native import ffi, lib, library_info

    stamp = library_info().stamp
    assert ffi.string(lib.LLAMA_CFFI_HEADER_HASH).decode() == stamp["header_hash"]
    assert ffi.string(lib.LLAMA_CFFI_VERSION).decode() == ffi.string(lib.llama_version()).decode()
    assert lib.LLAMA_CFFI_COMMIT != ffi.NULL


def test_struct_fields_land_where_the_defaults_are() -> None:
    from llama_cffi._native import ffi, lib

    context = lib.llama_context_default_params()
    assert (context.n_ctx, context.n_batch, context.n_ubatch) == (512, 2048, 512)
    assert context.type_k == lib.GGML_TYPE_F16
    assert context.abort_callback == ffi.NULL
    assert context.offload_kqv
    model = lib.llama_model_default_params()
    assert model.n_gpu_layers == -1
    assert model.kv_overrides == ffi.NULL
    assert lib.llama_model_quantize_default_params().quantize_output_tensor
