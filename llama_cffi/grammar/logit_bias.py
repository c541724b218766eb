"""Logit biases in the form of the option: by token or by text, a number or "never"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from llama_cffi._util import ranges
from llama_cffi._util.scalars import as_float, as_int
from llama_cffi._util.shown import shown
from llama_cffi.errors import SamplerError, TokenError

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.piece_index import PieceIndex


def token_bias(bias: Mapping[int | str, object], vocab: Vocab, index: Callable[[], PieceIndex]) -> dict[int, float]:
    """The same bias by token alone. A text stands for every token whose piece it is, a control token by its name.
    ``index`` is called when there is a text.

    Raises :class:`TokenError` for a text that is not a single token and for ids outside the vocabulary,
    :class:`SamplerError` for what is neither a number nor ``"never"``, or a token with two different biases.
    """
    found: dict[int, float] = {}
    for key, value in bias.items():
        if not isinstance(key, str) and as_int(key) is None:
            raise TokenError(f"logit_bias: a key must be a token or a text, got {shown(key)}")
        if isinstance(value, str) and value == "never":
            number = float("-inf")
        elif as_float(value) is not None:
            number = ranges.bias(key, value)  # type: ignore[arg-type]
        else:
            raise SamplerError(f'logit_bias[{shown(key)}] must be a number or "never", got {shown(value)}')
        tokens = _tokens(key, index()) if isinstance(key, str) else _token(key, vocab)
        for token in tokens:
            if found.setdefault(token, number) != number:
                raise SamplerError(f"logit_bias: token {token} is given twice, with {found[token]} and {number}")
    return found


def _token(key: int, vocab: Vocab) -> list[int]:
    try:
        return [int(token) for token in vocab.check_tokens([key])]
    except TokenError as error:
        error.message = f"logit_bias: {error.message}"
        raise


def _tokens(key: str, index: PieceIndex) -> list[int]:
    tokens: list[int] = index.exact(ranges.bias_text(key)).tolist() if key else []
    if not tokens and key in index.vocab.control_tokens:
        tokens = [index.vocab.control_tokens[key]]
    if not tokens:
        n = len(index.vocab.tokenize(key, add_special=False))
        raise TokenError(
            f"logit_bias: the text {key!r} is {n} tokens, not one; give the tokens, "
            "or a text that is one of them, spaces included"
        )
    return tokens


__all__ = ["token_bias"]
