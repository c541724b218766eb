"""Prepares texts to embed, to rank and to classify: as tokens that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.embeddings import check_pooling
from llama_cffi.core.prompt import Prompt
from llama_cffi.errors import PromptError, TextTooLongError, TokenizeError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.embeddings import PoolingType
    from llama_cffi.core.model import Model
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.prepare.model_formats import ModelFormats
    from llama_cffi.spec import RerankSpec

Tokens = list["NDArray[np.int32]"]
Inputs = list["NDArray[np.int32] | Prompt"]


def choose_pooling(wanted: PoolingType | None, model: Model) -> PoolingType:
    """Return the pooling to embed with; ``ValueError`` for an unknown one, :class:`UnsupportedError` for a ranker."""
    chosen = check_pooling(wanted) if wanted is not None else model.pooling or "mean"
    if chosen == "rank":
        if wanted is not None:
            raise ValueError('pooling="rank" gives scores, not embeddings: use rerank() or classify()')
        raise UnsupportedError("this model ranks and classifies; choose a pooling to embed with it nevertheless")
    return chosen


def check_ranks(model: Model, method: str, instead: str) -> None:
    """Raise :class:`UnsupportedError` for a model that cannot score texts; ``instead`` names the alternative."""
    if not model.has_classifier:
        kind = "reranker" if method == "rerank" else "classifier"
        raise UnsupportedError(
            f"{model.name} is not a {kind}: it has no classifier head, which {method}() reads. "
            f"Load a {kind} model; with this one, {instead}"
        )


def prepare_vectors(
    texts: Sequence[str | Prompt],
    formats: ModelFormats,
    limit: int,
    *,
    prefix: str = "",
    truncate: bool = False,
    pooling: PoolingType = "mean",
) -> tuple[Inputs, tuple[bool, ...]]:
    """Return the tokens of texts, at most ``limit`` each, and which of them lost their end.

    A prompt with media stays one. It cannot be cut, and only the ``pooling`` of the last token is one of all of it.
    """
    vocab = formats.vocab
    found: Inputs = []
    truncated = []
    for i, text in enumerate(texts):
        if isinstance(text, Prompt) and text.media:
            _check_media(i, pooling, formats)
            vocab.check_tokens(text.tokens)
            _check_length(text, "text", i, limit)
            truncated.append(False)
            found.append(text)
            continue
        with _naming("text", i):
            # Tokens that were given are computed as they are.
            tokens = vocab.check_tokens(text.tokens) if isinstance(text, Prompt) else vocab.tokenize(prefix + text)
        if not len(tokens):
            raise PromptError(f"text {i} has no tokens, and this model adds none")
        truncated.append(truncate and len(tokens) > limit)
        if truncated[-1]:
            tokens = _cut(tokens, limit, vocab)
        _check_length(tokens, "text", i, limit)
        found.append(tokens)
    return found, tuple(truncated)


def _check_media(i: int, pooling: PoolingType, formats: ModelFormats) -> None:
    model = formats.model
    if model.has_encoder or not model.has_decoder:
        raise UnsupportedError(f"text {i} has media, which {model.path.name}, an encoder, does not take")
    if pooling != "last":
        raise UnsupportedError(
            f'text {i} has media: only pooling="last" makes one vector of it, not {pooling!r}. llama.cpp pools the '
            "tokens of one decode, and media are decoded apart from the text"
        )


def prepare_ranking(spec: RerankSpec, formats: ModelFormats, limit: int) -> Tokens:
    """Return the tokens of a query with each document."""
    documents, query = check_texts(spec.documents, "documents"), check_texts(spec.query, "query")[0]
    formats.vocab.tokenize(query)  # what is wrong with the query is not said of a document
    tokens = []
    for i, document in enumerate(documents):
        with _naming("document", i):
            tokens.append(formats.pairs.encode(query, document, limit if spec.options.get("truncate") else None))
        _check_length(tokens[i], "query and document", i, limit)
    return tokens


@contextmanager
def _naming(what: str, index: int) -> Iterator[None]:
    """Say which text of a list it is that cannot be tokenized."""
    try:
        yield
    except TokenizeError as error:
        raise TokenizeError(f"{what} {index}: {error.message}", log=error.log) from None


def check_texts_or_prompts(texts: str | Sequence[str | Prompt], name: str) -> list[str | Prompt]:
    """Return texts as :func:`check_texts` does; a list may also have prompts."""
    if isinstance(texts, (list, tuple)) and any(isinstance(one, Prompt) for one in texts):
        check_texts(["-" if isinstance(one, Prompt) else one for one in texts], name)
        return list(texts)
    return [*check_texts(texts, name)]  # type: ignore[arg-type]


def check_texts(texts: str | Sequence[str], name: str) -> list[str]:
    """Return one text or several as a list; TypeError and :class:`PromptError` that name the place."""
    found = [texts] if isinstance(texts, str) else texts
    if isinstance(found, bytes) or not isinstance(found, Sequence):
        raise TypeError(f"{name} must be a text or a list of texts, not {type(texts).__name__}")
    if not found:
        raise PromptError(f"{name} is an empty list")
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be str, not {type(text).__name__}")
        if not text:
            raise PromptError(f"{name}[{i}] is an empty text" if found is texts else f"{name} is an empty text")
    return list(found)


def _check_length(tokens: Sized, what: str, i: int, limit: int) -> None:
    if len(tokens) > limit:
        raise TextTooLongError(
            f"{what} {i} has {len(tokens)} tokens; the most with this model and context are {limit}",
            index=i,
            n_tokens=len(tokens),
            limit=limit,
        )


def _cut(tokens: NDArray[np.int32], limit: int, vocab: Vocab) -> NDArray[np.int32]:
    """The first tokens, and the special ones at the end."""
    special = 0
    while special < len(tokens) and vocab.is_control(int(tokens[-1 - special])):
        special += 1
    return np.concatenate([tokens[: max(0, limit - special)], tokens[len(tokens) - special :]])


__all__ = [
    "check_ranks",
    "check_texts",
    "check_texts_or_prompts",
    "choose_pooling",
    "prepare_ranking",
    "prepare_vectors",
]
