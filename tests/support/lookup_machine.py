"""Prompt lookup at work on texts that are known, on machines of which it is known what a decode takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_cffi.engine.decode_cost import DecodeCost
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.prompt_lookup import PromptLookup
from tests.support.repeating_texts import N_WORDS, decodes

Decode = Callable[[int], float]
"""What a decode of so many rows takes."""


def free(n: int) -> float:
    """Rows cost nothing, as on a GPU."""
    return 1.0


def kernels(n: int) -> float:
    """The kernels of this package on two cores."""
    return 1.0 + 0.26 * (n - 1) if n <= 8 else 2.8 + 0.19 * (n - 8)


def steep(n: int) -> float:
    """A second row costs more than the first."""
    return 1.0 if n == 1 else 2.5 + 0.25 * n


MACHINES: dict[str, Decode] = {"free": free, "kernels": kernels, "steep": steep}


class _Drafting:
    """Proposes as the engine does."""

    def __init__(self, decode: Decode, cost: DecodeCost, source: PromptLookup) -> None:
        self._decode, self._cost = decode, cost
        self._controller = DraftController(source.start(), N_WORDS, cost, lambda: 0.0)
        self._known, self._draft = 0, list[int]()
        self.seconds = 0.0

    def __call__(self, known: list[int], n_max: int) -> list[int]:
        if self._draft:
            self._controller.verified(len(known) - self._known - 1)
        self._draft, self._known = self._controller.propose(known, n_max, seq_id=0), len(known)
        seconds = self._decode(1 + len(self._draft))
        self._cost.add(1 + len(self._draft), seconds)
        self.seconds += seconds
        return self._draft


def run_lookup(
    texts: Sequence[tuple[Sequence[int], Sequence[int]]], decode: Decode, source: PromptLookup
) -> tuple[int, int, float]:
    """Return the decodes that texts behind prompts take together, the tokens that were drafted in vain, and how many
    times faster than without drafts that was."""
    cost, n, in_vain, seconds = DecodeCost(), 0, 0, 0.0
    for prompt, text in texts:
        drafting = _Drafting(decode, cost, source)
        found = decodes(prompt, text, drafting)
        n, in_vain, seconds = n + found[0], in_vain + found[1], seconds + drafting.seconds
    return n, in_vain, decode(1) * sum(len(text) - 1 for _, text in texts) / seconds


__all__ = ["MACHINES", "Decode", "free", "kernels", "run_lookup", "steep"]
