"""The memory that a model of the server is said to need, beside what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ContextOptions, Llama, ModelOptions, estimate_memory
from llama_cffi.cli.memory_plan import planned_bytes

pytest_plugins = ["tests.support.models"]


@pytest.mark.parametrize(
    "given",
    [
        {"n_ctx": 256},
        {"n_ctx": None},
        {"n_ctx": 0},
        {"n_ctx": 256, "n_cells": 700},
        {"n_ctx": 256, "context_options": ContextOptions(kv_unified=False, type_k="f32")},
    ],
)
def test_it_is_that_of_the_context_that_is_made(given: dict[str, Any], model_path: Path) -> None:
    options: dict[str, Any] = {
        "n_cells": None, "n_seq_max": 3, "n_batch": 64, "n_ubatch": 32, "draft": None,
        "model_options": ModelOptions(), **given,
    }  # fmt: skip
    planned = planned_bytes(str(model_path), options)
    with Llama(model_path, n_threads=1, **options) as llm:
        context = llm.context
        form = given.get("context_options") or ContextOptions()
        same = ContextOptions(
            n_ctx=context.n_ctx, n_seq_max=3, n_batch=64, n_ubatch=32, kv_unified=form.kv_unified, type_k=form.type_k
        )
    found = estimate_memory(model_path, None, same)
    assert planned == found.weights + found.kv + found.compute
    drafted = planned_bytes(str(model_path), {**options, "draft": model_path})
    assert drafted > planned + found.weights
