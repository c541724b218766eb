"""A rendered conversation as tokens, control tokens only where the template wrote them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.vocab import TokenAttr
from llama_cffi.errors import TemplateError
from llama_cffi.prompt.media_parts import PlacedMedium
from llama_cffi.prompt.template import ChatTemplate, Rendered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab


class PromptEncoder:
    """Tokenizes what :class:`ChatTemplate` renders.

    The text of a control token is that token where the template wrote it, and plain text inside a message.
    """

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        #: Texts of the control tokens, with their ids.
        self.controls = vocab.control_tokens
        pattern = "|".join(map(re.escape, sorted(self.controls, key=len, reverse=True)))
        self._pattern = re.compile(f"({pattern})") if pattern else None

    def template(self, source: str) -> ChatTemplate:
        """Return a template for this vocabulary: with its BOS and EOS, and its control tokens kept out of messages."""
        vocab = self._vocab
        names = {"bos_token": vocab.bos, "eos_token": vocab.eos, "pad_token": vocab.pad, "sep_token": vocab.sep}
        tokens = {name: vocab.text(token) if token is not None else "" for name, token in names.items()}
        return ChatTemplate(source, tokens=tokens, controls=tuple(self.controls))

    def encode(self, rendered: Rendered, *, prefix: str = "") -> NDArray[np.int32]:
        """Token ids, int32 of shape ``(n,)``, with exactly one BOS if the model wants one.

        ``prefix`` is the beginning of the reply, the caller's own words: control tokens in it are control tokens.
        Raises :class:`TemplateError` for a text that is empty.
        """
        parts = self.encode_parts(rendered, prefix=prefix)
        return np.concatenate([part for part in parts if not isinstance(part, PlacedMedium)])

    def encode_parts(self, rendered: Rendered, *, prefix: str = "") -> list[NDArray[np.int32] | PlacedMedium]:
        """Token ids as :meth:`encode` returns them, in several arrays, and the media between them.

        The texts between media are tokenized one by one, as libmtmd does. Raises :class:`TemplateError` for a text that
        is empty, and for media that the template does not write.
        """
        if not rendered.text and not prefix:
            raise TemplateError("the chat template rendered an empty text")
        media = {one.mark: one for one in rendered.media}
        unwritten = [one.place for mark, one in media.items() if mark not in rendered.marked]
        if unwritten:
            raise TemplateError(f"the chat template does not write {', '.join(unwritten[:3])}")
        runs = re.split(f"([{''.join(media)}])", rendered.marked) if media else [rendered.marked]
        texts = [self._tokens(Rendered(run, rendered.mark)) for run in runs[::2]]
        if prefix:
            begun = self._vocab.tokenize(prefix, add_special=False, parse_special=True)
            texts[-1] = np.concatenate([texts[-1], begun])
        texts[0] = self._with_bos(texts[0])
        parts: list[NDArray[np.int32] | PlacedMedium] = [texts[0]]
        for run, text in zip(runs[1::2], texts[1:], strict=True):
            parts += [media[run], text]
        return parts

    def _with_bos(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        vocab, bos = self._vocab, self._vocab.bos
        if bos is not None:
            begun = _count_leading(tokens, bos)
            # The template's BOS and the model's own are one and the same.
            if begun or vocab.add_bos:
                tokens = np.concatenate([np.array([bos], dtype=np.int32), tokens[begun:]])
        return tokens

    def _tokens(self, rendered: Rendered) -> NDArray[np.int32]:
        vocab, mark = self._vocab, rendered.mark
        if not mark or self._pattern is None or mark not in rendered.marked:
            return vocab.tokenize(rendered.text, add_special=False, parse_special=True)
        # A run of plain text that holds a mark is tokenized by itself; everything around it as llama.cpp would,
        # which also splits at control tokens, so that a cut there changes nothing.
        runs = self._pattern.split(rendered.marked)
        found: list[NDArray[np.int32]] = []
        trusted = ""
        for i, run in enumerate(runs):
            if i % 2 or mark not in run:
                trusted += run
                continue
            if trusted:
                found.append(vocab.tokenize(trusted, add_special=False, parse_special=True))
                trusted = ""
            text = run.replace(mark, "")
            if i and self._has(runs[i - 1], TokenAttr.RSTRIP):
                text = text.lstrip()
            if i + 1 < len(runs) and self._has(runs[i + 1], TokenAttr.LSTRIP):
                text = text.rstrip()
            if text:
                found.append(vocab.tokenize(text, add_special=False, parse_special=False))
        if trusted:
            found.append(vocab.tokenize(trusted, add_special=False, parse_special=True))
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int32)

    def _has(self, control: str, attribute: TokenAttr) -> bool:
        return bool(self._vocab.attr(self.controls[control]) & attribute)


def _count_leading(tokens: NDArray[np.int32], token: int) -> int:
    others = np.flatnonzero(tokens != token)
    return int(others[0]) if len(others) else len(tokens)


__all__ = ["PromptEncoder"]
