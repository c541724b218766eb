"""Random use of a Llama whose texts branch, go back, move and are drafted; each text is compared with a fresh one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cffi import Llama, Model, PromptLookup
from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.core.selection import row_logprobs
from llama_cffi.engine.draft_model import DraftModel
from llama_cffi.errors import LlamaCffiError
from llama_cffi.reply.completion import Completion

TOLERANCE = 1e-3
"""Most that a log-probability may differ from that of the fresh computation."""
N_CTX = 320
EXACT = ContextOptions(flash_attn="disabled", type_k="f32", type_v="f32")
"""Flash attention adds in half precision, in the order of the cells."""
Part = int | Media
"""Of a text: a token, or media."""


class Fresh:
    """Greedy texts and their log-probabilities, each computed from its first token on in an empty context."""

    def __init__(self, model: Model) -> None:
        options = replace(EXACT, n_ctx=2 * N_CTX, n_batch=64, n_ubatch=64, n_threads=1)
        self.context = Context(model, options)
        self._known: dict[tuple[int, ...], list[tuple[int, float, float]]] = {}

    def text(self, prompt: Sequence[int], n: int) -> list[tuple[int, float, float]]:
        """Return of each token its id, its log-probability and how much less likely the second one is."""
        key = tuple(prompt)
        known = self._known.get(key, [])
        if len(known) < n:
            self._known[key] = known = self._compute(list(prompt), n)
        return known[:n]

    def _compute(self, cells: list[int], n: int) -> list[tuple[int, float, float]]:
        context = self.context
        context.memory.clear()
        batch = Batch(64)
        found: list[tuple[int, float, float]] = []
        start = position = 0
        while len(found) < n:
            while start < len(cells):
                if cells[start] < 0:
                    start, position = self._decode_medium(cells, start, position)
                    continue
                batch.clear()
                part = cells[start : start + 64]
                part = part[: next((i for i, cell in enumerate(part) if cell < 0), 64)]
                batch.extend(part, position, 0, output_last=True)
                context.decode(batch)
                start, position = start + len(part), position + len(part)
            row = context.outputs.logits()
            token = int(row.argmax())
            logprob, top = row_logprobs(context.outputs, batch.n_tokens - 1, token, 2)
            found.append((token, logprob, logprob - top[1][1]))
            cells = [*cells, token]
        return found

    def _decode_medium(self, cells: list[int], start: int, position: int) -> tuple[int, int]:
        """Compute the media at a cell and a position; return the cell and the position behind them."""
        raise NotImplementedError("these texts have no media")

    def close(self) -> None:
        self.context.close()


class Guesses:
    """Drafts what a fresh computation says, with wrong tokens and short drafts here and there."""

    def __init__(self, fresh: Fresh, rng: random.Random, n_vocab: int) -> None:
        self._fresh, self._rng, self._n_vocab = fresh, rng, n_vocab

    def start(self) -> Guesses:
        return self

    def propose(self, tokens: Sequence[int], n_max: int, *, seq_id: int) -> list[int]:
        n = self._rng.randint(0, min(n_max, 10))
        draft = [token for token, _, _ in self._fresh.text(list(tokens), n)]
        if draft and self._rng.random() < 0.7:
            draft[self._rng.randrange(len(draft))] = self._rng.randrange(3, self._n_vocab)
        return draft


class Wrong:
    """Drafts the same tokens each time."""

    def start(self) -> Wrong:
        return self

    def propose(self, tokens: Sequence[int], n_max: int, *, seq_id: int) -> list[int]:
        return [5, 6, 7][:n_max]


class MemoryWalk:
    """Texts of one model that grow, fork and go back at random."""

    def __init__(self, model: Model, seed: int, folder: Path, *, draft: Model | None = None, **options: Any) -> None:
        self.rng = random.Random(seed)
        self.fresh = self._open_fresh(model)
        self.model, self.folder = model, folder
        self._options: dict[str, Any] = {
            "context_options": EXACT,
            "n_ctx": N_CTX,
            "n_batch": 64,
            "n_seq_max": 3,
            "n_threads": 1,
            "reproducible": True,
            "host_bytes": 2**24,
            "draft": None if draft is None else DraftModel(model=draft, n_draft=4, p_min=0.0),
            **options,
        }
        self.llm = Llama(model, **self._options)
        self.plain = Llama(model, **{**self._options, "n_seq_max": 1, "host_bytes": 0, "draft": None})
        self.n_vocab = model.vocab.n_tokens
        self.texts: list[list[Part]] = [self._parts(80), self._parts(5)]
        self.seen: Counter[str] = Counter()
        self.moved = 0.0
        """The largest difference of a log-probability that was seen."""
        self._steps: dict[str, tuple[int, Callable[[], None]]] = {
            "grow": (6, self.grow),
            "together": (3, self.together),
            "several": (2, self.several),
            "branch": (4, self.branch),
            "back": (4, self.back),
            "schema": (2, self.schema),
            "cancel": (2, self.cancel),
            "state": (1, self.state),
            "prompt": (1, self.prompt),
            "fork": (1, self.fork),
            "shift": (1, self.shift),
        }

    def run(self, n: int) -> None:
        """Do this many steps."""
        names = list(self._steps)
        weights = [self._steps[name][0] for name in names]
        for _ in range(n):
            name = self.rng.choices(names, weights)[0]
            self._steps[name][1]()
            self.seen[name] += 1

    def close(self) -> None:
        self.llm.close()
        self.plain.close()
        self.fresh.close()

    # -- steps

    def grow(self) -> None:
        """One text goes on."""
        text = self._some()
        n = self.rng.randint(1, 14)
        done = self.llm.generate(Prompt(text), max_tokens=n, logprobs=0, **self._drafted())
        self._compare(text, done, n)
        text += [token for token, _, _ in self.fresh.text(Prompt(text), n)]
        if self.rng.random() < 0.5:
            text += self._parts(self.rng.randint(1, 30))

    def together(self) -> None:
        """Several texts go on at once."""
        texts = [self._some() for _ in range(self.rng.randint(2, 5))]
        n = self.rng.randint(1, 10)
        done = self.llm.generate([Prompt(one) for one in texts], max_tokens=n, logprobs=0, **self._drafted())
        for text, one in zip(texts, done, strict=True):
            self._compare(text, one, n)

    def several(self) -> None:
        """Several completions of one text."""
        text, n = self._some(), self.rng.randint(1, 8)
        for one in self.llm.generate(Prompt(text), n=3, max_tokens=n, logprobs=0, **self._drafted()):
            self._compare(text, one, n)

    def branch(self) -> None:
        """Another text begins as one does."""
        text = self._some()
        self.texts.append([*text[: self.rng.randint(1, len(text))], *self._parts(self.rng.randint(1, 20))])
        del self.texts[:-6]

    def back(self) -> None:
        """The end of a text is taken back."""
        text = self._some()
        del text[self.rng.randint(max(1, len(text) - 40), len(text)) :]

    def schema(self) -> None:
        """A text in a form."""
        text = self._some()
        schema = self.rng.choice([{"type": "integer"}, ["tana", "nelu", "soki"], {"type": "array", "maxItems": 2}])
        options: dict[str, Any] = {"schema": schema, "max_tokens": 12, "temperature": 0, "on_incomplete": "return"}
        done = self.llm.generate(Prompt(text), logprobs=0, **(options | self._drafted()))
        self.plain.clear_slot(0) if self.plain.slots()[0].n_held else None
        expected = self.plain.generate(Prompt(text), logprobs=2, **options)
        assert expected.usage.cached_tokens == 0
        fresh = [(one.token, one.logprob, _gap(one.top)) for one in expected.logprobs or ()]
        self._same(text, done, fresh)

    def cancel(self) -> None:
        """A text is given up in the middle."""
        with closing(self.llm.stream(Prompt(self._some()), max_tokens=20, **self._drafted())) as stream:
            for _ in range(self.rng.randint(0, 6)):
                next(stream, None)

    def state(self) -> None:
        """The whole memory goes out and in."""
        data = self.llm.state_bytes()
        if self.rng.random() < 0.5:
            self.grow()
        self.llm.load_state_bytes(data)

    def prompt(self) -> None:
        """The state of one text goes to a file and back."""
        path = self.folder / "prompt"
        text = list(self._some())
        try:
            self.llm.save_prompt(Prompt(text), path)
        except LlamaCffiError:
            self.seen["no room"] += 1
            return
        self.cancel()
        self.llm.load_prompt(path)
        more = [*text, *self._parts(2)]
        self._compare(more, self.llm.generate(Prompt(more), max_tokens=3, temperature=0, logprobs=0), 3)

    def fork(self) -> None:
        """A fork takes the place of the original."""
        twin = self.llm.fork()
        self.grow()
        self.llm.close()
        self.llm = twin

    def shift(self) -> None:
        """A text fills the context and goes on, in memory that is not what its tokens say."""
        text = [*self._some(), *self._tokens(200)][: N_CTX - 4]
        if self.llm._runtime.engine.room.can_shift and not Prompt(text).media:
            n = 20 + N_CTX - len(text)
            done = self.llm.generate(Prompt(text), max_tokens=n, overflow="shift", **self._drafted())
            assert len(done.tokens) == n

    # -- comparing

    def _open_fresh(self, model: Model) -> Fresh:
        return Fresh(model)

    def _some(self) -> list[Part]:
        """A text that is not too long, and ends with a token: the logits of others are not looked at."""
        text = self.rng.choice(self.texts)
        while len(Prompt(text)) > N_CTX - 60 or not isinstance(text[-1], int):
            text.pop()
        return text

    def _parts(self, n: int) -> list[Part]:
        """Something that a text goes on with, which ends with a token."""
        return list(self._tokens(n))

    def _tokens(self, n: int) -> list[int]:
        return [self.rng.randrange(3, self.n_vocab) for _ in range(n)]

    def _drafted(self) -> dict[str, Any]:
        kinds: list[Any] = [False, False, PromptLookup(min_ngram=1), Guesses(self.fresh, self.rng, self.n_vocab)]
        if self._options["draft"] is not None:
            kinds.append(True)
        return {"temperature": 0, "speculative": self.rng.choice(kinds)}

    def _compare(self, text: list[Part], done: Completion, n: int) -> None:
        assert len(done.tokens) == n
        self._same(text, done, self.fresh.text(Prompt(text), n))

    def _same(self, text: list[Part], done: Completion, expected: list[tuple[int, float, float]]) -> None:
        assert done.logprobs is not None
        if done.speculation is not None:
            self.seen["drafted"] += done.speculation.drafted_tokens
            self.seen["accepted"] += done.speculation.accepted_tokens
        self.seen["cached"] += done.usage.cached_tokens
        for found, (token, logprob, gap) in zip(done.logprobs, expected, strict=False):
            if found.token != token:
                assert gap < 2 * TOLERANCE, f"{found} for {token} after {text}"
                self.seen["ties"] += 1
                return
            self.moved = max(self.moved, abs(found.logprob - logprob))
            assert abs(found.logprob - logprob) < TOLERANCE, f"{found}, but {logprob} after {text}"
        assert len(done.tokens) == len(expected)
        self.seen["texts"] += 1


def _gap(top: Sequence[tuple[int, float]]) -> float:
    return top[0][1] - top[1][1] if len(top) > 1 else 1.0


__all__ = ["EXACT", "N_CTX", "Fresh", "MemoryWalk", "Part", "Wrong"]
