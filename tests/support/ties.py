"""Greedy texts computed in batches of different sizes: sums in another order may turn what is nearly equal."""

from __future__ import annotations

from collections.abc import Sequence

from llama_cffi import Llama

CLOSE = 0.2
"""Log-probabilities of the likeliest tokens that are closer than this may change places."""


def same_but_for_ties(llm: Llama, prompt: str, found: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether two greedy continuations are equal up to a place where their tokens are nearly equally likely."""
    if list(found) == list(expected):
        return True
    n = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
    if n is None:
        return False
    before = [int(token) for token in llm.tokenize(prompt)] + list(expected[:n])
    done = llm.generate(before, max_tokens=1, temperature=0, logprobs=4)
    assert done.logprobs is not None
    logprobs = dict(done.logprobs[0].top)
    best = max(logprobs.values())
    close = all(best - logprobs.get(token, -99.0) < CLOSE for token in (found[n], expected[n]))
    if not close:
        print(f"after {n} tokens of {prompt!r}: {found[n]} for {expected[n]}, where {done.logprobs[0].top}")
    return close
