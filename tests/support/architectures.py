"""Tiny models of many architectures: llama.cpp itself makes the tensors that the hyperparameters ask for, and saves.

Run with ``python -m``: arguments are a folder and names of architectures. Which of them can be made is printed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

N_VOCAB, N_EMBD, N_HEAD, N_FF, N_LAYER = 128, 64, 2, 96, 2


def write_keys(path: Path, architecture: str) -> Path:
    """Write a file without tensors, whose keys any architecture may ask for."""
    writer = gguf.GGUFWriter(path, architecture)
    head = N_EMBD // N_HEAD
    ints = {
        "vocab_size": N_VOCAB, "context_length": 256, "embedding_length": N_EMBD, "features_length": N_EMBD,
        "block_count": N_LAYER, "leading_dense_block_count": 1, "feed_forward_length": N_FF,
        "time_mix_extra_dim": 8, "time_decay_extra_dim": 8, "wkv.head_size": head, "full_attention_interval": 2,
        "attention.head_count": N_HEAD, "attention.head_count_kv": N_HEAD, "attention.group_norm_groups": 8,
        "attention.q_lora_rank": 16, "attention.kv_lora_rank": 16, "attention.relative_buckets_count": 8,
        "attention.sliding_window": 32, "attention.sliding_window_pattern": 2, "rope.dimension_count": head,
        "attention.decay_lora_rank": 8, "attention.iclr_lora_rank": 8, "attention.value_residual_mix_lora_rank": 8,
        "attention.gate_lora_rank": 8, "attention.key_length": head, "attention.value_length": head,
        "expert_count": 2, "expert_used_count": 2, "expert_shared_count": 1, "expert_feed_forward_length": N_FF,
        "expert_shared_feed_forward_length": N_FF, "expert_gating_func": 2, "interleave_moe_layer_step": 2,
        "ssm.conv_kernel": 4, "ssm.inner_size": 2 * N_EMBD, "ssm.state_size": 16, "ssm.time_step_rank": N_HEAD,
        "ssm.group_count": 2, "shortconv.l_cache": 3, "decoder_start_token_id": 0,
        "embedding_length_per_layer_input": 16, "attention.shared_kv_layers": 0, "token_shift_count": 2,
    }  # fmt: skip
    floats = {
        "logit_scale": 1.0, "attention.layer_norm_epsilon": 1e-5, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5, "attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 1.0,
        "residual_scale": 1.0, "embedding_scale": 1.0, "attention.scale": 1.0, "expert_weights_scale": 1.0,
    }  # fmt: skip
    for key, value in ints.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for name, number in floats.items():
        writer.add_float32(f"{architecture}.{name}", number)
    writer.add_bool(f"{architecture}.use_parallel_residual", False)
    writer.add_array(f"{architecture}.rope.dimension_sections", [head // 4] * 4)
    writer.add_tokenizer_model("no_vocab")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def write_model(path: Path, architecture: str) -> None:
    """Write a model with random weights; exits or raises where the keys do not make one."""
    from llama_cffi._native import binding, ffi, guard, lib
    from llama_cffi.core.model_options import ModelOptions, native_params

    keys = write_keys(path.with_suffix(".keys"), architecture)
    metadata = guard.call_ptr("gguf_init_from_file", os.fsencode(keys), True, None)
    rng = np.random.default_rng(0)

    @ffi.callback("void(struct ggml_tensor *, void *)")  # type: ignore[untyped-decorator]
    def fill(tensor: Any, _: Any) -> None:
        n = lib.ggml_nelements(tensor)
        data = (rng.standard_normal(n) * 0.1).astype(np.float32)
        lib.ggml_backend_tensor_set(tensor, ffi.from_buffer(data), 0, data.nbytes)

    params, keep = native_params(ModelOptions())
    assert binding.has("llama_model_init_from_user")
    model = lib.llama_model_init_from_user(metadata, fill, ffi.NULL, params)
    del keep
    if not model:
        sys.exit(3)
    lib.llama_model_save_to_file(model, os.fsencode(path))


def main(folder: str, *architectures: str) -> None:
    from tests.support.damage import use

    for architecture in architectures:
        path = Path(folder, f"{architecture}.gguf")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                write_model(path, architecture)
                use(path)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1] == 0:
            print(architecture, flush=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
