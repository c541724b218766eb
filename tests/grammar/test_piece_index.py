"""Finding tokens by their bytes, against a walk over the vocabulary."""

from __future__ import annotations

import pytest

from llama_cffi import Model
from llama_cffi.grammar.piece_index import PieceIndex

pytest_plugins = ["tests.support.models"]


@pytest.mark.parametrize("text", [b"", b" ", b" t", b"ta", b"nese", b"\xff", b"\xff\xff", b"\xe6", b"zzz", b"\0"])
def test_tokens_by_text(model: Model, text: bytes) -> None:
    index = PieceIndex(model.vocab)
    pieces = {token: model.vocab.piece(token, special=False) for token in range(model.vocab.n_tokens)}
    assert sorted(index.exact(text).tolist()) == [token for token, piece in pieces.items() if piece == text]
    assert sorted(index.beginning(text).tolist()) == [
        token for token, piece in pieces.items() if piece.startswith(text)
    ]
