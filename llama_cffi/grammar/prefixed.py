"""A constraint on a text whose beginning is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_cffi.errors import PromptError
from llama_cffi.grammar.matcher import Constraint, Matcher


@dataclass(frozen=True)
class Prefixed:
    """The rest of a text of which ``tokens`` stand in the prompt already.

    :meth:`start` raises :class:`PromptError` when the constraint does not allow them.
    """

    constraint: Constraint
    tokens: Sequence[int]

    def start(self) -> Matcher:
        matcher = self.constraint.start()
        for token in self.tokens:
            if not matcher.accept(token):
                matcher.close()
                raise PromptError("the reply cannot begin with that prefix: the schema or the tools do not allow it")
        return matcher


__all__ = ["Prefixed"]
