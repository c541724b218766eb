"""Models with a learned vector for each position: what is behind the last one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi import Batch, Context, ContextOptions, Llama, Model
from llama_cffi.errors import BatchError, ContextOverflowError
from tests.support.children import run_module


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 that was trained for 256 positions."""
    folder = tmp_path_factory.mktemp("gpt2")
    assert run_module("tests.support.architectures", folder, "gpt2") == ["gpt2"]
    return folder / "gpt2.gguf"


def test_a_batch_behind_the_last_position(gpt2: Path) -> None:
    options = ContextOptions(n_ctx=1024, n_seq_max=2, n_threads=1, kv_unified=True)
    with Model(gpt2) as model, Context(model, options) as context:
        assert model.has_learned_positions
        assert (context.n_ctx, context.n_ctx_seq) == (1024, 256)
        batch = Batch(2)
        for position, sound in ((255, True), (256, False), (700, False), (-1, False)):
            batch.clear()
            batch.add(5, position, 0, output=True)
            context.memory.clear()
            if sound:
                context.decode(batch)
            else:
                with pytest.raises(BatchError, match=f"position {position} is outside 0 to 255"):
                    context.decode(batch)


def test_a_text_has_no_more_room_than_there_are_positions(gpt2: Path) -> None:
    with Llama(gpt2, n_ctx=512, n_threads=1) as llm, pytest.raises(ContextOverflowError, match="room for 256"):
        llm.generate([5] * 300, max_tokens=1)
