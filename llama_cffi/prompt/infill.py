"""Fill-in-the-middle prompts: the texts before and after the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llama_cffi.errors import UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab

__all__ = ["InfillBudget", "InfillFormat", "InfillOrder"]

InfillOrder = Literal["psm", "spm"]
"""Which part comes first: the prefix (as most models were trained), or the suffix."""


@dataclass(frozen=True)
class InfillBudget:
    """How many tokens the parts of a prompt may have; what is more is left out."""

    window: int
    """Of the texts around the gap: three quarters for the end of what is before it, one for the beginning of what is
    behind it."""
    files: int
    """Of other files: the last ones that fit, each as a whole, so that a prompt begins as the one before it did."""


class InfillFormat:
    """Builds prompts with the fill-in-the-middle tokens of a vocabulary.

    llama.cpp finds them in the metadata, or by their usual names. Raises :class:`UnsupportedError` when there are none.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        lacking = [name for name in ("fim_pre", "fim_suf", "fim_mid") if getattr(vocab, name) is None]
        if lacking:
            raise UnsupportedError(
                f"this model does not support fill-in-the-middle: its vocabulary has no {', '.join(lacking)} token"
            )

    def tokens(
        self,
        prefix: str,
        suffix: str,
        *,
        files: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        name: str = "",
        repository: str = "",
        order: InfillOrder = "psm",
        lead: str = "",
        budget: InfillBudget | None = None,
    ) -> list[int]:
        """Token ids of a prompt after which the model writes what belongs between ``prefix`` and ``suffix``.

        ``files`` are other files, text by name, that come before; ``name`` is that of the file to fill in and
        ``repository`` that of all of them. Where the model has a token before file names it stands there, otherwise a
        line with the name; a name of the repository needs its token too, and is left out without. ``lead`` follows the
        prefix and is tokenized by itself, so that the tokens before it stay the same while it changes; a ``budget``
        never cuts it. No text is read as control tokens.
        """
        if order not in ("psm", "spm"):
            raise ValueError(f'order must be "psm" or "spm", got {order!r}')
        vocab = self._vocab
        pairs = files.items() if isinstance(files, Mapping) else files or ()
        others = [[*self._file(other), *self._plain(text if text.endswith("\n") else f"{text}\n")]
                  for other, text in pairs]  # fmt: skip
        prefix_tokens, suffix_tokens, last = self._plain(prefix), self._plain(suffix), self._plain(lead)
        if budget is not None:
            quarter = budget.window // 4
            prefix_tokens = prefix_tokens[max(0, len(prefix_tokens) - 3 * quarter) :]
            suffix_tokens = suffix_tokens[: max(0, quarter - 2 - len(last))]
            n_tokens = sum(map(len, others))
            while n_tokens > budget.files:
                n_tokens -= len(others.pop(0))
        tokens: list[int | None] = [vocab.bos] if vocab.add_bos else []
        if repository and vocab.fim_rep is not None:
            tokens += [vocab.fim_rep, *self._plain(f"{repository}\n")]
        for one in others:
            tokens += one
        if name or (files and vocab.fim_sep is not None):
            tokens += self._file(name)
        before = [vocab.fim_pre, *prefix_tokens, *last]
        after = [vocab.fim_suf, *suffix_tokens]
        tokens += before + after if order == "psm" else after + before
        return [token for token in (*tokens, vocab.fim_mid) if token is not None]

    def _file(self, name: str) -> list[int | None]:
        separator = self._vocab.fim_sep
        if separator is None:
            return [*self._plain(f"--- {name}\n")]
        return [separator, *self._plain(f"{name}\n")]

    def _plain(self, text: str) -> list[int]:
        return [int(token) for token in self._vocab.tokenize(text, add_special=False)] if text else []
