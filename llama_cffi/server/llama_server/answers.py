"""Texts in llama-server's own form: pieces of them, and whole ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llama_cffi.core.prompt import Prompt
from llama_cffi.reply.completion import Chunk, Completion, FinishReason, TextProgress, TokenLogprob
from llama_cffi.server.llama_server.parameters import parameters
from llama_cffi.server.logprobs import Aligner, chat_form
from llama_cffi.server.numbers import stop_detail, times_so_far, timings

if TYPE_CHECKING:
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.server.llama_server.request import Form


class Text:
    """One text as it grows. Streams and whole answers are made of it."""

    def __init__(self, index: int, prompt: Sequence[int], form: Form, model: str, vocab: Vocab) -> None:
        self._index = index
        self._prompt = prompt
        self._form = form
        self._model = model
        self._vocab = vocab
        self._aligner = Aligner() if form.logprobs else None
        self._n_predicted = 0

    def piece(self, chunk: Chunk, progress: TextProgress | None) -> dict[str, Any]:
        """Return what a chunk adds."""
        self._n_predicted += len(chunk.tokens)
        found = self._event(chunk.text, chunk.tokens)
        if progress is not None and self._form.timings_per_token:
            found["timings"] = times_so_far(progress.timings, progress.cached_tokens)
        if self._aligner is not None and (entries := self._aligner.add(chunk.logprobs or (), chunk.text)):
            found["completion_probabilities"] = self._probabilities(entries)
        return found

    def progress(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return the event of how far the prompt is."""
        return {**self._event("", ()), "prompt_progress": told}

    def _event(self, text: str, tokens: Sequence[int]) -> dict[str, Any]:
        return {
            "index": self._index,
            "content": text,
            "tokens": list(tokens),
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._n_predicted,
            "tokens_evaluated": len(self._prompt),
        }

    def whole(self, completion: Completion, *, streamed: bool) -> dict[str, Any]:
        """Return the answer for a finished text; one that was ``streamed`` does not say its text again."""
        form = self._form
        kind, word = _stop(completion, self._vocab)
        settings = parameters({**completion.sampling, **form.settings, "seed": completion.seed}, form.adapters)
        found = {
            "index": self._index,
            "content": "" if streamed else completion.text,
            "tokens": list(completion.tokens) if form.return_tokens and not streamed else [],
            "id_slot": -1 if completion.slot is None else completion.slot,
            "stop": True,
            "model": self._model,
            "tokens_predicted": len(completion.tokens),
            "tokens_evaluated": len(self._prompt),
            "generation_settings": settings,
            "prompt": self._vocab.detokenize(Prompt(self._prompt).tokens).decode("utf-8", "replace")
            if form.echo_prompt
            else "",
            "has_new_line": "\n" in completion.text,
            "truncated": completion.context_full,
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": self._n_held(completion, kind),
            "timings": timings(completion),
            **stop_detail(completion),
        }
        if self._aligner is not None and completion.text and not streamed:
            entries = self._aligner.add(completion.logprobs or (), completion.text)
            found["completion_probabilities"] = self._probabilities(entries)
        return chosen(found, form.fields) if form.fields else found

    def _n_held(self, completion: Completion, kind: str) -> int:
        """Return how many tokens are in memory: the last one is not, unless the end of generation came after it."""
        n = len(completion.tokens)
        return len(self._prompt) + (n if kind == "eos" else max(0, n - 1))

    def _probabilities(self, entries: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
        found = chat_form(entries, self._vocab)
        if not self._form.post_sampling:
            return found
        return [
            {
                **_probability(entry),
                "top_probs": [one for top in entry["top_logprobs"] if (one := _probability(top))["prob"]],
            }
            for entry in found
        ]


def _probability(entry: dict[str, Any]) -> dict[str, Any]:
    return {**{key: entry[key] for key in ("id", "token", "bytes")}, "prob": math.exp(entry["logprob"])}


def _stop(completion: Completion, vocab: Vocab) -> tuple[str, str]:
    """Return llama-server's word for the end of a text, and the stop string."""
    stop = completion.stop_sequence
    if stop is not None:
        return "word", stop if isinstance(stop, str) else vocab.piece(stop).decode("utf-8", "replace")
    return ("eos" if completion.finish_reason is FinishReason.STOP else "limit"), ""


def chosen(answer: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return the fields of an answer that paths with slashes name, by these paths; what is not there is left out."""
    found = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            found[path] = value
    return found


__all__ = ["Text", "chosen"]
