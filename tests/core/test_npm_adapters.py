"""Adapters, scores and quantized files on libraries of a year that nobody here made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.children import ROOT
from tests.support.lora import random_pairs, write_lora, write_merged
from tests.support.npm import library_folder
from tests.support.random_model import write_random_model

pytestmark = pytest.mark.npm

CHILD = """
import json, sys
import numpy as np
from llama_cffi import Batch, Context, ContextOptions, ControlVector, LoraAdapter, Model, QuantizeOptions, quantize
from llama_cffi import Llama
from llama_cffi.errors import InUseError, UnsupportedError

folder = sys.argv[1]
options = ContextOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32", flash_attn="disabled")

def row(name, vector=None, **adapters):
    with Model(f"{folder}/{name}") as model, Context(model, options) as context:
        loaded = [LoraAdapter(model, f"{folder}/{one}.gguf") for one in adapters]
        context.set_adapters(dict(zip(loaded, adapters.values())))
        if vector is not None:
            context.set_control_vector(vector)
        batch = Batch(8)
        batch.extend([1, 300, 301, 302, 303], 0, output_last=True)
        context.decode(batch)
        in_use = 0
        for one in loaded:
            try:
                one.close()
            except InUseError:
                in_use += 1
        return context.outputs.logits(), in_use

found = {}
plain, _ = row("model.gguf")
changed, found["in_use"] = row("model.gguf", one=0.7, two=-0.4)
found["lora"] = [float(abs(changed - row("merged.gguf")[0]).max()), float(abs(changed - plain).max())]
vector = ControlVector(np.array([[0.0] * 64, [1.0] * 64]))
found["vector"] = float(abs(row("model.gguf", vector)[0] - row("biased.gguf")[0]).max())
with Llama(f"{folder}/model.gguf", n_ctx=256, n_threads=1) as llm:
    found["perplexity"] = llm.perplexity("tana nese " * 40, n_ctx=64).nll
    found["score"] = llm.score("tana", [" nese"])[0].logprob
quantize(f"{folder}/model.gguf", f"{folder}/q.gguf", "Q8_0", overwrite=True)
with Llama(f"{folder}/q.gguf", n_ctx=256, n_threads=1) as llm:
    found["quantized"] = llm.perplexity("tana nese " * 40, n_ctx=64).nll
try:
    quantize(f"{folder}/model.gguf", f"{folder}/p.gguf", "Q8_0", QuantizeOptions(prune_layers=[1]), overwrite=True)
    found["pruned"] = True
except UnsupportedError:
    found["pruned"] = False
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    model = write_random_model(folder / "model.gguf", weights="f32")
    pairs = random_pairs(model, seed=1), random_pairs(model, ["attn_q"], seed=2)
    write_lora(folder / "one.gguf", pairs[0])
    write_lora(folder / "two.gguf", pairs[1])
    write_merged(folder / "merged.gguf", model, [(pairs[0], 0.7), (pairs[1], -0.4)])
    write_merged(folder / "biased.gguf", model, directions={1: np.ones(64, dtype=np.float32)})
    return folder


def told(program: str, folder: Path, request: pytest.FixtureRequest, version: str, **variables: str) -> dict[str, Any]:
    """What a program prints that runs with the library of a version."""
    library = library_folder(version, fetch="npm" in request.config.getoption("-m"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAMA_CFFI_LIB": str(library), **variables}
    environment.pop("LLAMA_CFFI_BINDING", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("version", "prunes"), [("3.22.1", True), ("3.20.0", True), ("3.18.1", False), ("3.15.1", False), ("3.12.4", False)]
)
def test_a_foreign_library(folder: Path, request: pytest.FixtureRequest, version: str, prunes: bool) -> None:
    found = told(CHILD, folder, request, version)
    assert found["lora"][0] < 1e-3 < 1.0 < found["lora"][1]
    assert (found["in_use"], found["pruned"]) == (2, prunes)
    assert found["vector"] < 1e-3
    assert found["quantized"] == pytest.approx(found["perplexity"], rel=0.05)
    assert found["score"] < 0


ONE_CONTEXT = """
import json, sys
import numpy as np
from llama_cffi import Batch, Context, ContextOptions, ControlVector, Llama, LoraAdapter, Model
from llama_cffi.errors import UnsupportedError

folder = sys.argv[1]
options = ContextOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32", flash_attn="disabled")
vector = ControlVector(np.array([[0.0] * 64, [1.0] * 64]))

def row(context):
    context.memory.clear()
    batch = Batch(8)
    batch.extend([1, 300, 301, 302, 303], 0, output_last=True)
    context.decode(batch)
    return context.outputs.logits()

def apart(one, other):
    return float(abs(one - other).max())

with Model(f"{folder}/model.gguf") as model, Context(model, options) as context:
    lora = LoraAdapter(model, f"{folder}/one.gguf")
    plain = row(context)
    found = {}
    try:
        context.set_adapters({lora: 1.0})
    except UnsupportedError as error:
        print(json.dumps({"refused": error.since}))
        sys.exit()
    whole = row(context)
    context.set_adapters({lora: 0.5})
    found["lora"] = [apart(whole, plain), apart(row(context), whole)]
    context.set_adapters({})
    found["without"] = apart(row(context), plain)
    context.set_control_vector(vector)
    found["vector"] = apart(row(context), plain)
    context.set_control_vector(None)
    found["without a vector"] = apart(row(context), plain)
with Llama(f"{folder}/model.gguf", n_ctx=256, n_threads=1) as llm:
    lora = llm.load_adapter(f"{folder}/one.gguf")
    ways = [llm.generate("tana", max_tokens=12, temperature=0, adapters=one).text for one in ({}, {lora: 1.0}, {})]
    found["texts"] = [ways[0] == ways[2], ways[0] == ways[1]]
print(json.dumps(found))
"""

VERSIONS = ("3.22.1", "3.20.0", "3.18.1", "3.16.0", "3.15.1", "3.15.0", "3.14.2", "3.14.0", "3.13.0", "3.12.4")


def in_one_context(folder: Path, request: pytest.FixtureRequest, version: str, **variables: str) -> dict[str, Any]:
    return told(ONE_CONTEXT, folder, request, version, **variables)


@pytest.mark.parametrize("version", VERSIONS)
def test_changed_adapters_count_in_the_same_context(folder: Path, request: pytest.FixtureRequest, version: str) -> None:
    found = in_one_context(folder, request, version)
    assert min(found["lora"]) > 1.0
    assert found["vector"] > 1.0
    assert found["without"] == found["without a vector"] == 0.0
    assert found["texts"] == [True, False]


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_a_change_that_an_old_library_would_not_see_is_refused(
    folder: Path, request: pytest.FixtureRequest, version: str
) -> None:
    found = in_one_context(folder, request, version, LLAMA_GRAPH_REUSE_DISABLE="0")
    assert ("refused" in found) == (version == VERSIONS[-1])
