"""Texts about media as llama-server says them, to be compared with a Llama's."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

from llama_cffi import Llama
from llama_cffi.core.vocab import TokenAttr
from llama_cffi.reply.completion import Completion
from tests.support.llama_server import LlamaServer

CLOSE = 1e-3


def forbidden(llm: Llama) -> list[int]:
    """Tokens that end a text, and bytes that are no characters, of which llama-server gives no probabilities."""
    vocab = llm.model.vocab
    return [token for token in range(len(vocab)) if vocab.is_eog(token) or vocab.attr(token) & TokenAttr.BYTE]


def greedy(llm: Llama) -> dict[str, Any]:
    """Options of a text without forbidden tokens."""
    never = dict.fromkeys(forbidden(llm), float("-inf"))
    return {"temperature": 0, "max_tokens": 6, "logprobs": 3, "logit_bias": never}


def seen(completion: Completion) -> list[tuple[int, float]]:
    return [(one.token, one.logprob) for one in completion.logprobs or ()]


def same(completion: Completion, expected: list[tuple[int, float]]) -> None:
    found = seen(completion)
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert np.allclose([p for _, p in found], [p for _, p in expected], atol=CLOSE)


def of_server(server: LlamaServer, llm: Llama, prompt: list[str | bytes]) -> tuple[list[tuple[int, float]], int]:
    """Tokens with log-probabilities, and the length of the prompt."""
    marker = server.get("/props")["media_marker"]
    text = "".join(part if isinstance(part, str) else marker for part in prompt)
    data = [b64encode(part).decode() for part in prompt if isinstance(part, bytes)]
    body = {
        "prompt": {"prompt_string": text, "multimodal_data": data} if data else text,
        "n_predict": 6, "temperature": 0, "n_probs": 3, "cache_prompt": False,
        "logit_bias": [[token, False] for token in forbidden(llm)],
    }  # fmt: skip
    answer = server.post("/completion", body)
    found = [(one["id"], one["logprob"]) for one in answer["completion_probabilities"]]
    return found, answer["tokens_evaluated"]


__all__ = ["forbidden", "greedy", "of_server", "same"]
