"""Encoders that tests compute with. A test module asks for these fixtures through ``pytest_plugins``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.random_encoder import LABELS, write_random_bert, write_random_t5


@pytest.fixture(scope="session")
def bert_vocab(llama_cpp_models: Path) -> Path:
    """The WordPiece vocabulary of real encoders, 30,522 tokens."""
    return llama_cpp_models / "ggml-vocab-bert-bge.gguf"


@pytest.fixture(scope="session")
def bert_path(bert_vocab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that pools by mean: 2 layers, 64 wide, trained for 128 positions."""
    return write_random_bert(tmp_path_factory.mktemp("bert") / "bert.gguf", bert_vocab)


@pytest.fixture(scope="session")
def classifier_path(bert_vocab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a classifier head of three labels, which its pooling is."""
    path = tmp_path_factory.mktemp("bert") / "classifier.gguf"
    return write_random_bert(path, bert_vocab, pooling="rank", n_classes=len(LABELS), labels=LABELS)


@pytest.fixture(scope="session")
def t5_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 with encoder and decoder."""
    return write_random_t5(tmp_path_factory.mktemp("t5") / "t5.gguf")
