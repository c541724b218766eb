"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_cffi.reply.completion import Chunk, Completion
from llama_cffi.server.choices import interleaved, with_seed
from llama_cffi.server.exchange import Call, make_id
from llama_cffi.server.fields import FIELDS, Field, read_fields, text_options
from llama_cffi.server.logprobs import Aligner, LegacyForm, joined
from llama_cffi.server.numbers import finish_reason, stop_detail, times_so_far, timings, usage
from llama_cffi.server.openai.chat_request import read_stream_options
from llama_cffi.server.problem import wrong
from llama_cffi.server.progress import PromptProgress
from llama_cffi.server.response import DONE, Answer, event, json_answer
from llama_cffi.server.values import Facts, flag, integer, items, text, token_ids, whole, wrong_type

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llama_cffi.core.vocab import Vocab

PROMPT_BYTES, PROMPT_TOKENS = 16 << 20, 1 << 22


def _best_of(param: str, value: Any, facts: Facts) -> int:
    return whole(param, value, 1, facts.max_n)


TEXT_FIELDS: tuple[Field, ...] = (
    *FIELDS,
    Field.of("echo", flag),
    Field.of("suffix", text()),
    Field.of("best_of", _best_of),
    Field.of("logprobs n_probs", integer(0, 100)),
    Field.of("return_progress", flag),
    Field.of("timings_per_token", flag),
)


@dataclass(frozen=True)
class TextRequest:
    """A completion that was asked for."""

    prompts: list[str | list[int]]
    options: dict[str, Any]
    n: int
    best_of: int | None
    stream: bool
    include_usage: bool
    return_progress: bool
    timings_per_token: bool
    own_limit: bool

    @property
    def echo(self) -> bool:
        """Whether the prompt is part of the text."""
        return bool(self.options.get("echo"))


def read_prompts(value: Any, limit: int, param: str = "prompt") -> list[str | list[int]]:
    """Return the prompts of a body: a text, texts, token ids, or lists of token ids."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise wrong_type(param, "a text, token ids, or a list of these", value)
    if isinstance(value[0], int):
        return [token_ids(param, value, PROMPT_TOKENS)]
    found: list[str | list[int]] = []
    for i, one in enumerate(items(param, value, limit)):
        found.append(one if isinstance(one, str) else token_ids(f"{param}[{i}]", one, PROMPT_TOKENS))
    return found


def read_text(call: Call) -> TextRequest:
    """Return what a body asks for; raises :class:`Problem`."""
    asked = read_fields(call, TEXT_FIELDS, frozenset({"prompt", "stream_options"}))
    prompts = read_prompts(call.body.get("prompt"), call.service.settings.max_prompts)
    stream = bool(asked.take("stream"))
    include_usage = read_stream_options(call, stream)
    n, best_of, own_limit = asked.take("n", 1), asked.take("best_of"), "max_seconds" not in asked.options
    progress, times = bool(asked.take("return_progress")), bool(asked.take("timings_per_token"))
    options = text_options(call, asked, max(n, best_of or 1) * len(prompts))
    if options.get("suffix") == "":
        del options["suffix"]
    if options.get("max_tokens") == 0 and not options.get("echo"):
        raise wrong(asked.given["max_tokens"], "0 needs echo=true")
    if options.get("echo") and options.get("logprobs") is not None:
        options["prompt_logprobs"] = options["logprobs"]
    if best_of is not None and best_of < n:
        raise wrong("best_of", f"must be at least n, which is {n}")
    if stream and best_of is not None and best_of > n:
        raise wrong("best_of", "cannot be streamed")
    ranked = best_of if best_of is not None and best_of > n else None
    return TextRequest(prompts, options, n, ranked, stream, include_usage, progress, times, own_limit)


class Choice:
    """One text as it grows."""

    def __init__(self, index: int, vocab: Vocab, *, logprobs: bool) -> None:
        self.index = index
        self.completion: Completion | None = None
        self._vocab = vocab
        self._aligner = Aligner() if logprobs else None
        self._form = LegacyForm(vocab)

    def add(self, chunk: Chunk) -> dict[str, Any] | None:
        """Return the log-probabilities of the text of a chunk."""
        self.completion = chunk.completion or self.completion
        if self._aligner is None:
            return None
        return self._form.add(self._aligner.add(chunk.logprobs or (), chunk.text))

    def whole(self, completion: Completion, shown: str) -> dict[str, Any] | None:
        """Return the log-probabilities of a whole text, the prompt's included where it is shown."""
        if self._aligner is None:
            return None
        found: dict[str, Any] = {}
        if shown:
            entries = completion.prompt_logprobs or ()
            rows = [
                (self._vocab.piece(token, special=False), entry)
                for token, entry in zip(completion.prompt.tokens, entries, strict=True)
            ]
            if rows and not shown.startswith(" "):
                # The space that some vocabularies put before a text.
                at = next((i for i, (piece, _) in enumerate(rows) if piece), 0)
                rows[at] = (rows[at][0].removeprefix(b" "), rows[at][1])
            found = self._form.rows(rows)
        text = completion.text[len(shown) :]
        return joined(found, self._form.add(self._aligner.add(completion.logprobs or (), text)))


async def completions(call: Call) -> Answer:
    """Go on from prompts."""
    request = read_text(call)
    head = {
        "id": make_id("cmpl"),
        "object": "text_completion",
        "created": call.created,
        "model": call.model,
        "system_fingerprint": call.service.card.fingerprint,
    }
    if request.stream:
        return call.events(_events(call, request, head))
    return json_answer(await _whole(call, request, head))


async def generate(call: Call, request: TextRequest) -> list[list[Completion]]:
    """Return the completions of each prompt."""
    llm, options = call.service.llm, request.options
    if request.best_of is not None:
        asked = [llm.generate(one, n=request.n, best_of=request.best_of, **options) for one in request.prompts]
        tasks = [asyncio.ensure_future(one) for one in asked]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
    found: dict[int, Completion] = {}
    streams = [llm.stream(one, **with_seed(options, i)) for one in request.prompts for i in range(request.n)]
    async with aclosing(interleaved(streams, request.own_limit)) as chunks:  # type: ignore[type-var]
        async for i, chunk in chunks:
            if chunk.completion is not None:
                found[i] = chunk.completion
    n = request.n
    return [[found[i * n + j] for j in range(n)] for i in range(len(request.prompts))]


async def _whole(call: Call, request: TextRequest, head: dict[str, Any]) -> dict[str, Any]:
    vocab = call.service.llm.llama.model.vocab
    logprobs = request.options.get("logprobs") is not None
    groups = await generate(call, request)
    choices: list[dict[str, Any]] = []
    for i, group in enumerate(groups):
        shown = _shown(request, vocab, i, group)
        for completion in group:
            choice = Choice(len(choices), vocab, logprobs=logprobs)
            text = completion.text
            end = {"finish_reason": finish_reason(completion), **stop_detail(completion)}
            entries = choice.whole(completion, shown)
            choices.append({"index": choice.index, "text": text, "logprobs": entries, **end})
    return {**head, "choices": choices, "usage": usage(groups), "timings": timings(groups[0][0])}


def _shown(request: TextRequest, vocab: Vocab, i: int, group: Sequence[Completion]) -> str:
    """Return the prompt as the text begins with it, "" where it does not."""
    if not request.echo:
        return ""
    prompt = request.prompts[i]
    if isinstance(prompt, str):
        return prompt
    return vocab.detokenize(group[0].prompt.tokens, unparse_special=False).decode("utf-8", "replace")


async def _events(call: Call, request: TextRequest, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    llm, n = call.service.llm, request.n
    vocab, logprobs = llm.llama.model.vocab, request.options.get("logprobs") is not None
    streams = [llm.stream(one, **with_seed(request.options, i)) for one in request.prompts for i in range(n)]
    choices = [Choice(i, vocab, logprobs=logprobs) for i in range(len(streams))]
    chunks: AsyncIterator[tuple[int, Chunk]] = interleaved(streams, request.own_limit)
    progress = PromptProgress(streams, wanted=request.return_progress)
    left = len(streams)
    async with aclosing(chunks), aclosing(progress.with_pauses(chunks)) as each:  # type: ignore[type-var]
        async for item in each:
            if item is None:
                for number, told in progress.news():
                    yield _progress_event(head, number, told)
                continue
            i, chunk = item
            if (told_last := progress.end(i)) is not None:
                yield _progress_event(head, i, told_last)
            entries = choices[i].add(chunk)
            choice: dict[str, Any] = {"index": i, "text": chunk.text, "logprobs": entries, "finish_reason": None}
            end = chunk.completion
            if end is None:
                now = streams[i].progress if request.timings_per_token else None
                timed = {} if now is None else {"timings": times_so_far(now.timings, now.cached_tokens)}
                if chunk.text:
                    yield event({**head, "choices": [choice], **timed})
                continue
            left -= 1
            choice.update(finish_reason=finish_reason(end), **stop_detail(end))
            # llama-server's clients read the usage here.
            more = {} if left else {"usage": usage(_groups(choices, n)), "timings": timings(end)}
            yield event({**head, "choices": [choice], **more})
    if request.include_usage:
        yield event({**head, "choices": [], "usage": usage(_groups(choices, n))})
    yield DONE


def _progress_event(head: dict[str, Any], index: int, told: dict[str, Any]) -> bytes:
    choice = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
    return event({**head, "choices": [choice], "prompt_progress": told})


def _groups(choices: list[Choice], n: int) -> list[list[Completion]]:
    found = [choice.completion for choice in choices]
    return [[one for one in found[i : i + n] if one is not None] for i in range(0, len(found), n)]


__all__ = ["TEXT_FIELDS", "completions", "read_prompts", "read_text"]
