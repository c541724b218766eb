"""Prepares texts to score: cut into chunks, or joined with their prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_cffi._util.shown import shown
from llama_cffi.core.prompt import common_prefix
from llama_cffi.errors import ContextOverflowError, PromptError

if TYPE_CHECKING:
    from llama_cffi.core.scorer import Text
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.prepare.model_formats import ModelFormats
    from llama_cffi.spec import PerplexitySpec, ScoreSpec, Tokens

DEFAULT_CHUNK = 512
"""Tokens of a chunk of :meth:`Llama.perplexity` unless told otherwise: what llama.cpp's own tool takes."""

_MIN_CHUNK = 3


@dataclass(frozen=True)
class PreparedChunks:
    """The chunks of a text, each created at its access: with a small stride they are many times the text."""

    tokens: list[int]
    size: int
    """Tokens of each chunk."""
    first: int
    """The number of first tokens that are not scored."""
    starts: range
    bos: int | None
    """The token that replaces the first token of each chunk, if the model uses one."""

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Text]:
        for start in self.starts:
            chunk = self.tokens[start : start + self.size]
            yield (chunk if self.bos is None else [self.bos, *chunk[1:]]), self.first


def prepare_perplexity(spec: PerplexitySpec, formats: ModelFormats, room: int) -> PreparedChunks:
    """Cut a text into chunks that fit ``room`` tokens; raises the errors of :meth:`Llama.perplexity`."""
    vocab, stride = formats.vocab, spec.options.get("stride")
    tokens = _plain_tokens(spec.text, vocab)
    size = _chunk_size(len(tokens), spec.options.get("n_ctx"), room, formats.model.n_ctx_train)
    if stride is not None and not 0 < stride < size:
        raise ValueError(f"stride must be 1 to {size - 1}, less than the chunk of {size} tokens, got {shown(stride)}")
    first = size // 2 + 1 if stride is None else size - stride
    starts = range(0, len(tokens) - size + 1, size if stride is None else stride)
    return PreparedChunks(tokens, size, first, starts, _bos(vocab))


def prepare_scores(spec: ScoreSpec, formats: ModelFormats, room: int) -> list[tuple[list[int], int]]:
    """Return prefix and continuation as tokens, each with the number of those that come before what is scored."""
    texts = [_whole(spec.prefix, one, i, formats.vocab) for i, one in enumerate(spec.continuations)]
    if not texts:
        raise PromptError("there are no continuations to score")
    for i, (whole, _) in enumerate(texts):
        if len(whole) > room:
            raise ContextOverflowError(f"prefix and continuation {i} have {len(whole)} tokens; the context has {room}")
    return texts


def _plain_tokens(text: str | Tokens, vocab: Vocab) -> list[int]:
    """Tokens of a text with BOS where the model wants one, and without an end."""
    if not isinstance(text, str):
        given: list[int] = vocab.check_tokens(text).tolist()
        return given
    tokens: list[int] = vocab.tokenize(text, add_special=False).tolist()
    bos = _bos(vocab)
    return tokens if bos is None else [bos, *tokens]


def _bos(vocab: Vocab) -> int | None:
    return vocab.bos if vocab.add_bos else None


def _chunk_size(n_tokens: int, wanted: int | None, room: int, n_ctx_train: int) -> int:
    if wanted is None:
        size = min(DEFAULT_CHUNK, room, n_tokens, n_ctx_train or DEFAULT_CHUNK)
        if size < _MIN_CHUNK:
            raise PromptError(f"a text of {n_tokens} tokens is too short: at least {_MIN_CHUNK} are needed")
        return size
    if wanted < _MIN_CHUNK:
        raise ValueError(f"n_ctx must be at least {_MIN_CHUNK}, got {shown(wanted)}")
    if wanted > room:
        raise ContextOverflowError(f"a chunk of {shown(wanted)} tokens (n_ctx) does not fit a context of {room}")
    if n_tokens < wanted:
        raise PromptError(f"the text has {n_tokens} tokens, which is less than one chunk of {wanted}")
    return wanted


def _whole(prefix: str | Tokens, continuation: str | Sequence[int], index: int, vocab: Vocab) -> tuple[list[int], int]:
    if isinstance(continuation, str):
        if not isinstance(prefix, str):
            raise PromptError("a continuation of a prefix in tokens must be tokens too")
        tokens = _plain_tokens(prefix + continuation, vocab)
        first = common_prefix(tokens, _plain_tokens(prefix.rstrip(), vocab))
    else:
        before = _plain_tokens(prefix, vocab)
        tokens = [*before, *_plain_tokens(continuation, vocab)]
        first = len(before)
    if first == len(tokens):
        raise PromptError(f"continuation {index} has no tokens")
    if first:
        return tokens, first
    start = vocab.bos if vocab.bos is not None else vocab.eos
    if start is None:
        raise PromptError("the prefix is empty, and this model has neither BOS nor EOS")
    return [start, *tokens], 1


__all__ = ["DEFAULT_CHUNK", "PreparedChunks", "prepare_perplexity", "prepare_scores"]
