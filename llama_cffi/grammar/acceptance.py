"""Whether a text that was cut is nevertheless complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.errors import GrammarError, SchemaError
from llama_cffi.grammar.guidance import GuidanceTokenizer

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.matcher import Constraint, Matcher


def accepts(constraint: Constraint, vocab: Vocab, text: str, *, final: bool) -> bool:
    """Return whether a text is complete under a constraint; with ``final``, only where nothing but white space could
    follow, as after the last brace of an object, but not after a digit.
    """
    matcher = constraint.start()
    try:
        tokens = GuidanceTokenizer.of(vocab).tokenize(text)
        if not all(matcher.accept(token) for token in tokens) or not matcher.complete:
            return False
        return not final or matcher.ended or not _goes_on(matcher, vocab)
    except (GrammarError, SchemaError):
        return False
    finally:
        matcher.close()


def _goes_on(matcher: Matcher, vocab: Vocab) -> bool:
    try:
        mask = matcher.mask()
    except GrammarError:
        return False  # nothing is allowed
    allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
    return any(not vocab.is_eog(int(token)) and vocab.piece(int(token)).strip() for token in allowed)


__all__ = ["accepts"]
