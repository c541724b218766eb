"""Recurrent layers on a device: states that are copied there, and put back after wrong drafts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import Llama, ModelOptions
from llama_cffi.core.rollback import Rollback
from tests.gpu.conftest import Gpus
from tests.support.memory_models import write_memory_model
from tests.support.memory_walk import EXACT, Wrong
from tests.support.ties import same_but_for_ties

pytestmark = pytest.mark.gpu

PROMPT = [1, *range(300, 330), *range(300, 310)]


@pytest.mark.parametrize("name", ["mamba2", "rwkv7", "granitehybrid", "qwen35"])
def test_drafts_on_a_device(gpus: Gpus, tmp_path: Path, name: str) -> None:
    path = write_memory_model(tmp_path / "model.gguf", name)
    options = ModelOptions(n_gpu_layers="all", devices=gpus.names[:1])
    with (
        Llama(path, n_ctx=256, n_seq_max=2, n_threads=1, context_options=EXACT, n_gpu_layers=0) as here,
        Llama(
            path, n_ctx=256, n_seq_max=2, n_threads=1, context_options=EXACT, model_options=options, reproducible=True
        ) as there,
    ):
        assert Rollback(there.context)._on_device
        assert not Rollback(here.context)._on_device
        expected = here.generate(PROMPT, max_tokens=20, temperature=0)
        drafted = there.generate(PROMPT, max_tokens=20, temperature=0, speculative=Wrong())
        assert drafted.speculation is not None
        assert drafted.speculation.drafted_tokens > drafted.speculation.accepted_tokens
        assert same_but_for_ties(here, here.detokenize(PROMPT), drafted.tokens, expected.tokens)
