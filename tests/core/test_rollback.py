"""Taking back the last tokens of sequences where layers are recurrent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi.core.rollback import Rollback
from tests.support.memory_models import write_memory_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models"]

TEXTS = {0: [1, 300, 301, 305, 320, 411, 333, 260], 2: [1, 290, 280, 270, 444]}
MORE = [310, 311, 312, 313]
RECURRENT = ("mamba", "mamba2", "rwkv6", "rwkv7", "jamba", "granitehybrid", "lfm2", "qwen35")
EXACT = {"flash_attn": "disabled", "type_k": "f32", "type_v": "f32"}
"""Flash attention adds in half precision, in the order of the cells."""
KEEPING = ("lfm2", "qwen35")
"""Those of which llama.cpp keeps earlier states."""


@pytest.fixture(scope="module", params=RECURRENT)
def recurrent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_memory_model(tmp_path_factory.mktemp("models") / "model.gguf", request.param)) as model:
        assert model.is_recurrent or model.is_hybrid
        yield model


def decode(context: Context, parts: dict[int, list[int]], starts: dict[int, int]) -> dict[int, NDArray[np.float32]]:
    """Compute a part of each sequence in one decode; the logits of its last token."""
    batch = Batch(64)
    rows = {seq_id: batch.extend(part, starts[seq_id], seq_id, output_last=True) for seq_id, part in parts.items()}
    context.decode(batch)
    return {seq_id: context.outputs.logits(row) for seq_id, row in rows.items()}


@pytest.mark.parametrize("n_rs_seq", [0, 3], ids=["copies", "kept"])
def test_what_follows_is_as_if_nothing_had_been_taken_back(
    recurrent: Model, make_context: MakeContext, n_rs_seq: int
) -> None:
    context = make_context(recurrent, n_rs_seq=n_rs_seq, **EXACT)
    kept = recurrent.architecture in KEEPING
    assert context.n_rs_seq == (n_rs_seq if kept else 0)
    rollback = Rollback(context)
    ends = {seq_id: len(text) for seq_id, text in TEXTS.items()}
    decode(context, TEXTS, dict.fromkeys(TEXTS, 0))
    for seq_id, end in ends.items():
        rollback.prepare(seq_id, end, len(MORE), alone=False)
    decode(context, dict.fromkeys(TEXTS, MORE), ends)
    left = {seq_id: rollback.rewind(seq_id, ends[seq_id] + n) for seq_id, n in zip(ends, (1, 3), strict=True)}
    assert left == ends
    for seq_id, n in left.items():
        assert context.memory.seq_pos_max(seq_id) == n - 1
    ways = {seq_id: [*TEXTS[seq_id], *MORE][:n] for seq_id, n in left.items()}
    found = decode(context, {seq_id: [400 + seq_id, 350] for seq_id in ways}, left)
    fresh = make_context(recurrent, **EXACT)
    for seq_id, before in ways.items():
        (expected,) = decode(fresh, {seq_id: [*before, 400 + seq_id, 350]}, {seq_id: 0}).values()
        np.testing.assert_allclose(found[seq_id], expected, atol=1e-4)


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("n_left", [1, 2, 3])
def test_kept_states_take_back_wrong_tokens_alone(
    name: str, n_left: int, make_context: MakeContext, tmp_path: Path
) -> None:
    with Model(write_memory_model(tmp_path / "model.gguf", name)) as model:
        context = make_context(model, n_rs_seq=3, **EXACT)
        rollback, n = Rollback(context), len(TEXTS[0])
        decode(context, TEXTS, dict.fromkeys(TEXTS, 0))
        rollback.prepare(0, n, len(MORE), alone=True)
        decode(context, {0: MORE}, {0: n})
        assert rollback.rewind(0, n + n_left) == n + n_left
        # The other sequence goes on in between, and in the same decode.
        decode(context, {2: [350]}, {2: len(TEXTS[2])})
        found = decode(context, {0: [400], 2: [351]}, {0: n + n_left, 2: len(TEXTS[2]) + 1})
        ways = {0: [*TEXTS[0], *MORE[:n_left], 400], 2: [*TEXTS[2], 350, 351]}
        for seq_id, way in ways.items():
            (expected,) = decode(make_context(model, **EXACT), {seq_id: way}, {seq_id: 0}).values()
            np.testing.assert_allclose(found[seq_id], expected, atol=1e-4)
        context.close()


@pytest.mark.parametrize("on_device", [False, True])
def test_a_copy_serves_until_it_is_forgotten(recurrent: Model, make_context: MakeContext, on_device: bool) -> None:
    context = make_context(recurrent)
    rollback, n = Rollback(context), len(TEXTS[0])
    rollback._on_device = on_device  # a copy beside the state, which only pays on a GPU
    decode(context, {0: TEXTS[0]}, {0: 0})
    rollback.copy(0, n)
    rows = []
    for token in (310, 320, 310):
        rows.append(decode(context, {0: [token, 7]}, {0: n})[0])
        assert rollback.rewind(0, n + 1) == n
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-4)
    assert np.abs(rows[0] - rows[1]).max() > 0.05
    rollback.forget(0)
    decode(context, {0: [310, 7]}, {0: n})
    assert rollback.rewind(0, n + 2) == n + 2, "nothing to take back"
    assert rollback.rewind(0, n + 1) == 0
    assert context.memory.seq_pos_max(0) is None


@pytest.mark.parametrize("name", KEEPING)
def test_states_are_those_of_the_last_decode_alone(name: str, make_context: MakeContext, tmp_path: Path) -> None:
    """llama.cpp would give a wrong state after a decode of a single token."""
    with Model(write_memory_model(tmp_path / "model.gguf", name)) as model:
        context = make_context(model, n_rs_seq=3)
        rollback, n = Rollback(context), len(TEXTS[0])
        decode(context, {0: TEXTS[0]}, {0: 0})
        rollback.prepare(0, n, 3, alone=True)
        decode(context, {0: [310, 311, 312]}, {0: n})
        decode(context, {0: [313]}, {0: n + 3})
        assert rollback.rewind(0, n + 2) == 0
        context.close()


def test_states_that_do_not_fit_a_batch(make_context: MakeContext) -> None:
    for wrong in (-1, 63, 1.5, "3"):
        with pytest.raises(ValueError, match="n_rs_seq"):
            make_context(n_rs_seq=wrong)
    assert ContextOptions().n_rs_seq == 0
    assert make_context(n_rs_seq=4).n_rs_seq == 0, "attention needs no states"
