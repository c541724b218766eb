"""A year of foreign libraries through the same public API: the object layer does not know which one it runs on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.npm import library_folder

pytestmark = pytest.mark.npm

ROOT = Path(__file__).resolve().parents[2]

# Package version: the llama.cpp release that it carries, and the ABI generation of that.
LIBRARIES = {
    "3.22.1": ("v0.5.0", "v0.4.0"),
    "3.20.0": ("b10361", "b10361"),
    "3.18.1": ("b8390", "b8121"),
    "3.15.1": ("b7836", "b7698"),
    "3.12.4": ("b6301", "b6301"),
}

CHILD = r"""
import json, shutil, sys, tempfile
from llama_cffi import Batch, Context, ContextOptions, GGUFFile, Llama, Model, ModelOptions, SamplerChain, SavedState
from llama_cffi._native import library_info
from llama_cffi._native.features import features
from llama_cffi.core.backend import devices
from llama_cffi.core.sampler import Grammar, Greedy, Penalties
from llama_cffi.errors import GrammarError, ModelFileError, StateFormatError, UnsupportedError

path = sys.argv[1]
found = {}
info = library_info()
found["library"] = [info.path.name, info.mode, info.version, info.generation]
found["devices"] = [[device.name, device.type] for device in devices()]
file = GGUFFile(path)
found["file"] = [file.architecture, len(file.tensors), file.n_params, list(file.tensors[0].shape)]

llm = Llama(path, n_ctx=512, n_seq_max=4, n_threads=1)
vocab = llm.model.vocab
found["model"] = [llm.model.n_params, llm.model.n_ctx_train, llm.model.is_recurrent, llm.model.is_hybrid]
found["text"] = llm.generate("", max_tokens=256, temperature=0).text
tokens = llm.tokenize("Once upon a time").tolist()
found["tokens"] = [tokens, vocab.detokenize(tokens, remove_special=True).decode().strip()]
prompts = ["Once upon a time", "The cat", "One day, Tim"]
together = [one.text for one in llm.generate(prompts, max_tokens=24, temperature=0)]
found["batch"] = [together, [llm.generate(one, max_tokens=24, temperature=0).text for one in prompts]]

model = llm.model

def greedy(context, token, pos, n):
    batch, chosen = Batch(1), []
    for pos in range(pos, pos + n):
        batch.single(token, pos, 0)
        context.decode(batch)
        token = int(context.outputs.logits().argmax())
        chosen.append(token)
    return chosen

def filled(tokens):
    context = Context(model, ContextOptions(n_ctx=128, n_batch=64, n_threads=1))
    batch = Batch(len(tokens))
    batch.extend(tokens, 0, output_last=True)
    context.decode(batch)
    return context

# a grammar, with penalties before it: their native function gained an argument
steps = [Penalties(64, repeat=1.1), Grammar('root ::= "cat" | "dog"'), Greedy()]
with filled(tokens) as context, SamplerChain(steps, vocab) as chain:
    said, pos, batch = b"", len(tokens), Batch(1)
    while not vocab.is_eog(token := chain.sample(context)):
        said += vocab.piece(token)
        batch.single(token, pos, 0)
        context.decode(batch)
        pos += 1
    found["grammar"] = said.decode()
try:
    SamplerChain([Grammar('root ::= "a'), Greedy()], vocab)
except GrammarError as error:
    found["bad_grammar"] = str(error)

# save and restore: bytes, a session file, and all that a model has computed
folder = tempfile.mkdtemp()
with filled(tokens) as context:
    state = context.state.data()
    one = SavedState.take(context, {0: tokens}, seq_id=0).to_bytes()
    context.state.save_file(folder + "/session", tokens)
    expected = greedy(context, tokens[-1], len(tokens), 12)
again, last = [], []
with Context(model, ContextOptions(n_ctx=128, n_batch=64, n_threads=1)) as context:
    for restore in (
        lambda: context.state.set_data(state),
        lambda: SavedState.from_bytes(one).restore(context),
        lambda: context.state.load_file(folder + "/session"),
    ):
        context.memory.clear()
        restore()
        last.append(context.memory.seq_pos_max(0))
        again.append(greedy(context, tokens[-1], len(tokens), 12))
found["state"] = [last, expected, again]
story = llm.generate("Once upon a time", max_tokens=24, temperature=0)
llm.save_state(folder + "/state")
with Llama(model, n_ctx=512, n_seq_max=4, n_threads=1) as other:
    other.load_state(folder + "/state")
    same = other.generate("Once upon a time", max_tokens=24, temperature=0)
    found["prefix"] = [story.text, same.text, same.usage.prompt_tokens, same.usage.cached_tokens]
    try:
        other.load_state(folder + "/session")
    except StateFormatError as error:
        found["no_state"] = str(error)
shutil.rmtree(folder)

# what only newer ones can do
def refusal(function):
    try:
        function()
    except UnsupportedError as error:
        return [error.message, error.since]
    except ModelFileError:
        pass  # the option is known, and wants a GPU

def load(**options):
    Model(path, ModelOptions(**options)).close()

found["direct_io"] = refusal(lambda: load(load_mode="direct_io"))
found["split"] = refusal(lambda: load(split_mode="tensor"))
found["no_host"] = refusal(lambda: load(no_host=True))
found["mmap"] = refusal(lambda: load(load_mode="mmap"))
found["suppress"] = refusal(lambda: vocab.suppress_tokens)
found["flash"] = refusal(lambda: Context(model, ContextOptions(n_ctx=64, flash_attn="enabled")).close())
found["missing"] = [feature.name for feature in features.missing()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=LIBRARIES)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(version: str, assets: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What one child process with that library did."""
    folder = library_folder(version, fetch="npm" in request.config.getoption("-m"))
    environment = {name: value for name, value in os.environ.items() if name != "LLAMA_CFFI_BINDING"}
    environment["LLAMA_CFFI_LIB"] = str(folder)
    command = [sys.executable, "-c", CHILD, str(assets / "models" / "stories260K.gguf")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_library_is_the_one_that_was_named(version: str, found: dict[str, Any]) -> None:
    release, generation = LIBRARIES[version]
    name, mode, said, bound = found["library"]
    assert release in name
    assert (mode, bound) == ("abi", generation)
    assert said.removesuffix("-dev").lstrip("v") == release.lstrip("v")
    assert found["devices"] == [["CPU", "cpu"]]


def test_golden_text(found: dict[str, Any], assets: Path) -> None:
    assert found["text"] == " " + (assets / "llama2c" / "golden_greedy.txt").read_text()


def test_file_and_model(found: dict[str, Any]) -> None:
    assert found["file"] == ["llama", 48, 292800, [64, 512]]
    assert found["model"] == [292800, 2048, False, False]


def test_tokens(found: dict[str, Any]) -> None:
    assert found["tokens"] == [[1, 403, 407, 261, 378], "Once upon a time"]


def test_prompts_together(found: dict[str, Any]) -> None:
    together, alone = found["batch"]
    assert together == alone
    assert all(together)


def test_grammar(found: dict[str, Any]) -> None:
    assert found["grammar"] in ("cat", "dog")
    assert "the grammar does not parse" in found["bad_grammar"]


def test_state(found: dict[str, Any]) -> None:
    last, expected, again = found["state"]
    assert last == [4] * 3
    assert again == [expected] * 3
    story, same, n_prompt, n_cached = found["prefix"]
    assert story == same
    assert n_cached == n_prompt - 1
    assert "not a saved state" in found["no_state"]


def test_what_came_later_is_refused_with_its_release(version: str, found: dict[str, Any]) -> None:
    order = list(LIBRARIES)  # newest first

    def refused(key: str, oldest: str, option: str, since: str) -> None:
        if order.index(version) <= order.index(oldest):
            assert found[key] is None
        else:
            message, release = found[key]
            assert option in message
            assert release == since
            assert f"since {since}" in message or f"from {since} to" in message

    refused("direct_io", "3.15.1", "load_mode='direct_io'", "b7698")
    refused("split", "3.20.0", "split_mode='tensor'", "f53577432")
    refused("no_host", "3.15.1", "no_host", "b6845")
    refused("suppress", "3.20.0", "llama_vocab_get_suppress_tokens", "b10361")
    refused("mmap", "3.12.4", "", "")
    refused("flash", "3.12.4", "", "")


def test_features(version: str, found: dict[str, Any]) -> None:
    missing = set(found["missing"])
    assert {"vocab", "memory", "samplers", "state", "batches"}.isdisjoint(missing)
    assert ("adapter_lora" in missing) == (version in ("3.15.1", "3.12.4"))
    assert ("version" in missing) == (version != "3.22.1")
