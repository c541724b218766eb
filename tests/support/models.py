"""The models that tests compute with. A test module asks for these fixtures through ``pytest_plugins``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cffi import Context, ContextOptions, Llama, Model
from tests.support.random_model import write_random_model

ROOT = Path(__file__).resolve().parents[2]

MakeContext = Callable[..., Context]
MakeLlama = Callable[..., Llama]


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights: 2 layers, 64 wide, 512 tokens, trained for 2,048 positions."""
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf", weights="f32")


@pytest.fixture(scope="session")
def model(model_path: Path) -> Iterator[Model]:
    """The random model, loaded once; tests must not close it."""
    with Model(model_path) as model:
        yield model


@pytest.fixture(scope="session")
def stories(assets: Path) -> Iterator[Model]:
    """stories260K: a trained Llama of 260,000 parameters with a vocabulary of 512; tests must not close it."""
    with Model(assets / "models" / "stories260K.gguf") as model:
        yield model


@pytest.fixture
def make_context(model: Model) -> Iterator[MakeContext]:
    """Makes contexts with one thread, over the random model or ``base``; closed after the test."""
    made = []

    def make(base: Model = model, **options: object) -> Context:
        defaults: dict[str, object] = {"n_ctx": 256, "n_batch": 64, "n_ubatch": 64, "n_seq_max": 4, "n_threads": 1}
        made.append(Context(base, ContextOptions(**(defaults | options))))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture
def context(make_context: MakeContext) -> Context:
    """256 cells for 4 sequences, at most 64 tokens in a batch."""
    return make_context()


@pytest.fixture
def make_llama(model: Model) -> Iterator[MakeLlama]:
    """Makes ``Llama`` objects with one thread, over the random model or ``base``; closed after the test."""
    made = []

    def make(base: Model = model, **options: object) -> Llama:
        defaults: dict[str, object] = {"n_ctx": 512, "n_seq_max": 4, "n_threads": 1, "reproducible": True}
        made.append(Llama(base, **(defaults | options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for llm in made:
        llm.close()


@pytest.fixture
def llm(make_llama: MakeLlama) -> Llama:
    """512 cells for 4 sequences."""
    return make_llama()


@pytest.fixture(scope="session")
def llama_cpp_models() -> Path:
    """The ``models`` folder of llama.cpp's source: vocabularies without weights."""
    source = Path(os.environ.get("LLAMA_CPP_SOURCE", ROOT / "vendor" / "llama.cpp"))
    folder = source / "models"
    if not any(folder.glob("ggml-vocab-*.gguf")):
        pytest.skip(f"no llama.cpp source in {source} (set LLAMA_CPP_SOURCE)")
    return folder
