"""Draft heads, and candidates that the device finds, where the model is on a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llama_cffi import ContextOptions, DraftHeads, Llama, Model, ModelOptions
from tests.gpu.conftest import Gpus
from tests.support.headed_models import Headed, write_headed_model

pytestmark = pytest.mark.gpu

EXACT = ContextOptions(
    n_ctx=512, n_ubatch=64, n_seq_max=2, n_threads=1, type_k="f32", type_v="f32", flash_attn="disabled"
)
PROMPT = [1, *range(300, 312)]


@pytest.mark.parametrize("architecture", ["glm4moe", "step35"])
def test_heads_on_a_device(gpus: Gpus, tmp_path: Path, architecture: str) -> None:
    """A head that is right is right there, too, and that needs the states of the target."""
    if architecture == "glm4moe" and not gpus.servers:
        pytest.skip("a software device compiles for minutes what experts are computed with")
    head = "right" if architecture == "glm4moe" else "random"
    shape = Headed(architecture=architecture, head=head, n_layer=2)  # type: ignore[arg-type]
    path = write_headed_model(tmp_path / "model.gguf", shape)
    options = ModelOptions(load_mtp=True, n_gpu_layers="all", devices=gpus.names[:1])
    with Model(path, options) as model:
        texts = []
        for draft in (None, DraftHeads(p_min=0.0)):
            with Llama(model, draft=draft, context_options=EXACT, reproducible=True) as llm:
                texts.append(llm.generate(PROMPT, temperature=0, max_tokens=24))
    plain, drafted = texts
    assert drafted.tokens == plain.tokens
    assert drafted.speculation is not None
    assert drafted.speculation.drafted_tokens > 0
    if head == "right":
        assert drafted.speculation.acceptance > 0.95


@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 1}], ids=["greedy", "drawn"])
def test_candidates_of_a_device(gpus: Gpus, dense: Path, options: dict[str, int]) -> None:
    where = ModelOptions(n_gpu_layers="all", devices=gpus.names[:1])
    with Model(dense, where) as model:
        texts = []
        for on in (False, True):
            context = replace(EXACT, backend_sampling=on)
            with Llama(model, context_options=context, reproducible=True) as llm:
                texts.append(llm.generate(PROMPT, max_tokens=24, **options).tokens)  # type: ignore[call-overload]
    assert texts[0] == texts[1]
