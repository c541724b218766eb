"""The features of the loaded libllama: the functions and options that this package uses, and the libmtmd beside it.

Using a feature that is missing raises :class:`UnsupportedError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from llama_cffi._native import bound
from llama_cffi._native.bindings import missing
from llama_cffi.errors import UnsupportedError

# Name, purpose, and what it needs: functions by pattern, constants, and "struct.field". A function belongs to the first
# row that it fits, so the special stand before the general. A test reads the sources for a use of each.
_TABLE = (
    ("version", "the library says its version", "llama_version"),
    ("open_files", "models, adapters and GGUF from an open file", "llama_*_file_ptr gguf_*_file_ptr"),
    ("load_mode", "one option for the way to read a model", "llama_load_mode_* llama_model_params.load_mode"),
    ("lazy_loading", "weights read when they are needed", "llama_model_params.lazy_mode LLAMA_LAZY_MODE_ON"),
    ("no_host", "no host buffer beside a GPU's", "llama_model_params.no_host"),
    ("split_tensors", "each tensor spread over the GPUs", "LLAMA_SPLIT_MODE_TENSOR"),
    ("model_save", "a model written to a file", "llama_model_save_to_file"),
    ("model_hybrid", "the library knows hybrid models", "llama_model_is_hybrid"),
    ("model_widths", "input and output width of a model", "llama_model_n_embd_inp llama_model_n_embd_out"),
    (
        "mtp",
        "layers that predict several tokens",
        "llama_model_n_layer_nextn llama_model_params.load_mtp LLAMA_CONTEXT_TYPE_MTP llama_context_params.ctx_type",
    ),
    ("quantize_overrides", "quantization chosen for each tensor", "llama_model_quantize_params.tt_overrides"),
    ("quantize", "models quantized", "llama_model_quantize*"),
    ("models", "models loaded and described", "llama_model_*"),
    ("suppress_tokens", "tokens that the author wants never sampled", "llama_vocab_get_suppress_tokens"),
    ("vocab", "text to tokens and back", "llama_vocab_* llama_tokenize llama_token_to_piece llama_detokenize"),
    (
        "flash_attn_auto",
        "flash attention chosen by llama.cpp",
        "llama_context_params.flash_attn_type llama_flash_attn_*",
    ),
    (
        "backend_sampling",
        "sampling inside the computation",
        "llama_set_sampler llama_get_sampled_* llama_context_params.samplers",
    ),
    ("rollback", "recurrent memory that can go back", "llama_n_rs_seq llama_context_params.n_rs_seq"),
    (
        "embeddings",
        "embeddings of tokens and sequences",
        "llama_set_embeddings llama_get_embeddings* llama_pooling_type",
    ),
    ("causal_attn_get", "the kind of attention in use", "llama_get_causal_attn"),
    ("context_shares", "how much of a context each sequence has", "llama_n_ctx_seq"),
    (
        "contexts",
        "contexts and their results",
        "llama_context_default_params llama_init_from_model llama_free llama_n_* llama_get_* "
        "llama_set_causal_attn llama_set_abort_callback llama_synchronize",
    ),
    ("threads", "threads and pools of them", "llama_*_threadpool llama_set_n_threads ggml_threadpool_*"),
    ("extended_batches", "batches that grow by rows", "llama_batch_ext_* llama_process LLAMA_PROCESS_TYPE_DECODE"),
    ("batches", "tokens computed", "llama_batch_* llama_decode llama_encode"),
    ("memory", "what a context remembers, by sequence", "llama_memory_*"),
    ("adaptive_p", "the adaptive-p sampler", "llama_sampler_init_adaptive_p"),
    ("samplers", "samplers and chains", "llama_sampler_*"),
    ("adapter_vector", "control vectors", "llama_set_adapter_cvec"),
    ("adapter_lora", "LoRA adapters, several at once", "llama_adapter_lora_* llama_set_adapters_lora"),
    ("state_on_device", "saved states that stay on the GPU", "LLAMA_STATE_SEQ_FLAGS_ON_DEVICE"),
    ("state_partial", "saved states without the attention's part", "LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY"),
    ("state_sequences", "single sequences saved and restored", "llama_state_seq_*"),
    ("state", "contexts saved and restored", "llama_state_*"),
    ("log", "the log caught", "llama_log_set ggml_set_abort_callback"),
    ("perf", "timings", "llama_perf_*"),
    ("gguf_sources", "GGUF from memory or from a function", "gguf_init_from_buffer gguf_init_from_callback"),
    ("gguf_shapes", "shapes of tensors without the tensors", "gguf_get_tensor_ne"),
    ("gguf", "GGUF files read", "gguf_*"),
    ("backend_register", "devices of other machines", "ggml_backend_register"),
    ("backends", "devices and backends", "ggml_backend_* llama_numa_init"),
    ("tensors", "ggml's types and tensors", "ggml_*"),
    ("buffer_limit", "how many placement rules a model takes", "llama_max_tensor_buft_overrides"),
    ("library", "the library itself", "llama_backend_* llama_max_* llama_supports_* llama_print_system_info"),
)

_MEDIA, _MEDIA_PURPOSE = "media", "images and sound in a prompt (libmtmd)"

# Asked of the CPU backend by name, because it may be a plug-in.
_IN_BACKEND = frozenset(
    ["ggml_numa_init", "ggml_is_numa"]
    + [f"ggml_threadpool_{name}" for name in ("new", "free", "get_n_threads", "pause", "resume")]
)

# Declared, because the tests build models and expected results with them; no feature needs them.
_OF_TESTS = frozenset(
    (
        "ggml_backend_tensor_set",
        "ggml_nelements",
        "ggml_type_size",
        "llama_adapter_get_alora_invocation_tokens",
        "llama_adapter_get_alora_n_invocation_tokens",
        "llama_batch_get_one",
        "llama_model_init_from_user",
        "llama_model_meta_key_str",
    )
)


@dataclass(frozen=True)
class Feature:
    """A feature of libllama; true if the loaded library has it.

    ``needs`` names its functions, constants and "struct.field"s, ``missing`` those that the library lacks, and
    ``since`` the first llama.cpp release with all of them, or "" if that is unknown. ``reason`` is why a library of its
    own cannot be used, or "".
    """

    name: str
    purpose: str
    needs: tuple[str, ...]
    missing: tuple[str, ...]
    since: str
    reason: str = ""

    def __bool__(self) -> bool:
        return not self.missing

    def require(self) -> None:
        """Raise :class:`UnsupportedError` that names the first missing symbol and its release."""
        if self.reason:
            raise UnsupportedError(self.reason)
        if self.missing:
            raise missing(self.missing[0], self.name)

    def __str__(self) -> str:
        state = "yes" if self else f"no, since {self.since}" if self.since else "no"
        return f"{self.name:20} {state:20} {self.purpose}"


class Features(Mapping[str, Feature]):
    """Every :class:`Feature` by name; the first access loads the library. ``KeyError`` for an unknown name.

    ``features["media"]`` loads libmtmd, too.
    """

    @cached_property
    def _all(self) -> dict[str, Feature]:
        return {
            name: _feature(name, purpose, needs) for (name, purpose, _), needs in zip(_TABLE, _needs(), strict=True)
        }

    @cached_property
    def _media(self) -> Feature:
        return _media_feature()

    def __getitem__(self, name: str) -> Feature:
        return self._media if name == _MEDIA else self._all[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._all
        yield _MEDIA

    def __len__(self) -> int:
        return len(self._all) + 1

    def missing(self) -> tuple[Feature, ...]:
        """Return the features that this libllama lacks."""
        return tuple(feature for feature in self.values() if not feature)

    def __str__(self) -> str:
        return "\n".join(map(str, self.values()))

    def __repr__(self) -> str:
        return f"<Features: {len(self) - len(self.missing())} of {len(self)}>"


def _needs() -> list[list[str]]:
    """For each row of the table the names that its patterns stand for."""
    from llama_cffi._native.abi import pinned_functions

    patterns = [needs.split() for _, _, needs in _TABLE]
    found = [[one for one in row if "." in one or one.isupper()] for row in patterns]
    for function in pinned_functions():
        if function in _IN_BACKEND or function in _OF_TESTS:
            continue
        fits = (any(fnmatchcase(function, one) for one in row) for row in patterns)
        found[list(fits).index(True)].append(function)
    return found


def _feature(name: str, purpose: str, needs: list[str]) -> Feature:
    from llama_cffi._native import abi

    releases = [release.name for one in abi.generations() for release in one.releases]
    known = [release.name for one in needs if (release := abi.since(one)) is not None]
    return Feature(
        name=name,
        purpose=purpose,
        needs=tuple(needs),
        missing=tuple(one for one in needs if not bound.binding.has(one)),
        since=max(known, key=releases.index, default=""),
    )


def _media_feature() -> Feature:
    from llama_cffi._native import abi, media_library
    from llama_cffi._native.abi.media import functions

    needs = tuple(sorted(functions()))
    problem = media_library.status().problem
    return Feature(_MEDIA, _MEDIA_PURPOSE, needs, needs if problem else (), abi.generations()[-1].last.name, problem)


features = Features()

__all__ = ["Feature", "Features", "features"]
