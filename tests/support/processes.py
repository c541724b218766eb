"""Functions that tests run in other processes: a spawned process finds them by the name of this module."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from llama_cffi import Completion, Llama


def raise_error(error: BaseException) -> NoReturn:
    """Raise what came with the call."""
    raise error


def generate(prompt: str) -> Completion:
    """Open the demo model in this process, and generate greedily."""
    with Llama.demo(n_ctx=128, n_threads=1) as llm:
        return llm.generate(prompt, max_tokens=8, temperature=0, logprobs=2)


def generate_on_threads(prompts: Sequence[str]) -> list[Completion]:
    """Generate greedily on one thread for each prompt, which share one Llama."""
    with Llama.demo(n_ctx=512, n_threads=1) as llm, ThreadPoolExecutor(len(prompts)) as threads:
        return list(threads.map(lambda prompt: llm.generate(prompt, max_tokens=8, temperature=0), prompts))
