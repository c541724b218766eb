"""Random use of models, contexts, chains and batches: whatever is done, only exceptions may come of it."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llama_cffi import Batch, Context, ContextOptions, Model, ModelOptions, SamplerChain
from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
    Candidates,
    Dist,
    Dry,
    DynamicTemperature,
    Grammar,
    Greedy,
    Infill,
    LogitBias,
    MinP,
    Mirostat,
    MirostatV2,
    Penalties,
    PythonSampler,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from llama_cffi.errors import LlamaCffiError

ODD = [-(2**31), -2, -1, 0, 1, 2, 3, 5, 31, 63, 64, 511, 512, 10**6, 2**31 - 1]
GRAMMARS = ['root ::= "a"+', "root ::= [a-z ]*", 'root ::= ""', "root ::= root", "root ::= (", 'other ::= "a"']


class Careless(PythonSampler):
    """Does something random to the candidates, also what it must not."""

    def __init__(self, random: random.Random) -> None:
        self._random = random

    def apply(self, candidates: Candidates) -> None:
        n = self._random.choice([0, 1, len(candidates) // 2, len(candidates), 10**6])
        calls: list[Callable[[], object]] = [
            lambda: candidates.keep(np.arange(n)[::-1]),
            lambda: candidates.select(n),
            lambda: setattr(candidates, "size", n),
            lambda: candidates.logits.__setitem__(0, self._random.choice([np.nan, np.inf, -np.inf, 3e38])),
        ]
        self._random.choice(calls)()

    def clone(self) -> Careless:
        return Careless(self._random)


class Fuzzer:
    """A few objects of each kind and random calls on them. ``seen`` counts what came of each kind of step."""

    def __init__(self, model_path: Path | str, seed: int) -> None:
        self._path = model_path
        self._random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.models: list[Model] = []
        self.contexts: list[Context] = []
        self.chains: list[SamplerChain] = []
        self.batches: list[Batch] = []
        self.views: list[Any] = []
        self._steps: dict[str, tuple[int, Callable[[], object]]] = {
            "model": (1, self.make_model),
            "context": (3, self.make_context),
            "chain": (4, self.make_chain),
            "batch": (4, self.make_batch),
            "fill": (8, self.fill),
            "fill and decode": (16, self.fill_and_decode),
            "write": (2, self.write_columns),
            "decode": (6, self.decode),
            "sample": (12, self.sample),
            "chain call": (6, self.call_chain),
            "memory": (12, self.call_memory),
            "state": (4, self.call_state),
            "logits": (14, self.read_logits),
            "threads": (1, self.set_threads),
            "close": (1, self.close),
            "drop": (2, self.drop),
            "cycle": (1, self.tie_cycle),
            "collect": (1, gc.collect),
        }

    def run(self, n_steps: int) -> None:
        """Take random steps."""
        names = list(self._steps)
        weights = [weight for weight, _ in self._steps.values()]
        for name in self._random.choices(names, weights, k=n_steps):
            self.step(name)

    def step(self, name: str) -> None:
        """Take one step. LlamaCffiError, ValueError and OverflowError are answers; anything else is not caught."""
        try:
            self._steps[name][1]()
            self.seen[name] += 1
        except (LlamaCffiError, ValueError, OverflowError) as error:
            self.seen[f"{name}: {type(error).__name__}"] += 1

    @property
    def names(self) -> list[str]:
        """The kinds of steps."""
        return list(self._steps)

    def _odd(self) -> int:
        return self._random.choice(ODD)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _pick(self, items: list[Any]) -> Any:
        """One of the items, open ones preferred; where there is none, one is made or ValueError raised."""
        open_ones = [item for item in items if not getattr(item, "closed", False)]
        if not open_ones and items is not self.views and self._chance(0.9):
            makers = ((self.models, self.make_model), (self.contexts, self.make_context),
                      (self.chains, self.make_chain), (self.batches, self.make_batch))  # fmt: skip
            next(make for kind, make in makers if kind is items)()
            return items[-1]
        if open_ones and not self._chance(0.03):
            items = open_ones
        if not items:
            raise ValueError("nothing to pick from")
        return self._random.choice(items)

    def make_model(self) -> None:
        if len(self.models) >= 3:
            self.models.pop(0)
        self.models.append(Model(self._path, ModelOptions(vocab_only=self._chance(0.1))))

    def make_context(self) -> None:
        if len(self.contexts) >= 3:
            self.contexts.pop(0)
        choice = self._random.choice
        options = ContextOptions(
            n_ctx=choice([32, 64, 256]),
            n_batch=choice([8, 64]),
            n_ubatch=choice([8, 32]),
            n_seq_max=choice([1, 2, 4]),
            n_threads=2 if self._chance(0.05) else 1,
            kv_unified=self._chance(0.5),
            flash_attn=choice(["auto", "enabled", "disabled"]),
        )
        self.contexts.append(Context(self._pick(self.models), options))

    def make_chain(self) -> None:
        if len(self.chains) >= 4:
            self.chains.pop(0)
        choice = self._random.choice
        steps: list[Any] = [
            TopK(self._odd()),
            TopP(choice([0.0, 0.5, 1.0, 2.0, float("nan")])),
            MinP(choice([0.0, 0.5, 1.0])),
            Temperature(choice([-1.0, 0.0, 0.8, 1e-30, 1e30])),
            Penalties(choice([0, 64, 10_000, -1]), choice([0.0, 1.0, 1.1]), 0.5, 0.5),
            LogitBias({self._odd(): choice([1.0, 1e38, -float("inf")])}),
            Grammar(choice(GRAMMARS)),
            Typical(choice([0.0, 0.5, 1.0])),
            TopNSigma(choice([-1.0, 1.0, 1e39])),
            XTC(choice([0.0, 0.5, 1.0]), 0.01, 1),
            DynamicTemperature(choice([0.0, 0.8]), choice([-1.0, 0.5, 1e30])),
            Dry(0.8, allowed_length=choice([0, 2]), last_n=choice([0, 64, 2**31]), breakers=("a",)),
            Infill(),
            Careless(self._random),
        ]
        steps = self._random.sample(steps, self._random.randrange(4))
        last = [Greedy(), Dist(1), Dist(self._odd()), TopK(1), Mirostat(1), MirostatV2(1), AdaptiveP(1, 0.3)]
        steps.append(choice(last))
        self.chains.append(SamplerChain(steps, self._pick(self.models).vocab))

    def make_batch(self) -> None:
        if len(self.batches) >= 4:
            self.batches.pop(0)
        self.batches.append(Batch(self._random.choice([0, 1, 8, 64, 64]), self._random.choice([1, 4])))

    def fill_and_decode(self) -> None:
        context, batch = self._pick(self.contexts), self._pick(self.batches)
        self.fill(context, batch)
        context.decode(batch)

    def fill(self, context: Context | None = None, batch: Batch | None = None) -> None:
        if context is None or batch is None:
            context, batch = self._pick(self.contexts), self._pick(self.batches)
        if self._chance(0.8):
            batch.clear()
        seq_id = self._random.choice([0, 0, 0, 1])
        # Mostly what can be decoded: the position after the last one in memory.
        pos = context.memory.seq_pos_max(seq_id) if seq_id < context.n_seq_max else None
        pos = self._odd() if self._chance(0.05) else 0 if pos is None else pos + 1
        if self._chance(0.05):
            seq_id = self._odd()
        n = self._random.choice([1, 1, 1, 5, 8, 40])
        tokens = [self._odd() if self._chance(0.01) else self._random.randrange(512) for _ in range(n)]
        if n > 1:
            batch.extend(tokens, pos, seq_id, output_last=self._chance(0.8))
        else:
            ids = [seq_id, self._odd()] if self._chance(0.1) else seq_id
            batch.add(tokens[0], pos, ids, output=self._chance(0.8))

    def write_columns(self) -> None:
        batch = self._pick(self.batches)
        column = self._random.choice([batch.token, batch.pos, batch.n_seq_id, batch.seq_id])
        column[...] = self._odd()
        batch.n_tokens = self._odd()

    def decode(self) -> None:
        context = self._pick(self.contexts)
        (context.encode if self._chance(0.05) else context.decode)(self._pick(self.batches))

    def sample(self) -> None:
        self._pick(self.chains).sample(self._pick(self.contexts), self._odd() if self._chance(0.3) else -1)

    def call_chain(self) -> None:
        chain = self._pick(self.chains)
        calls: list[Callable[[], object]] = [
            chain.reset,
            lambda: self.chains.append(chain.clone()),
            lambda: chain.accept(self._odd()),
            lambda: chain.accept(self._random.randrange(512)),
            lambda: chain.apply(np.linspace(-5, 5, self._random.choice([1, 2, 512, 513]), dtype=np.float32)),
        ]
        self._random.choice(calls)()

    def call_memory(self) -> None:
        memory = self._pick(self.contexts).memory
        odd = self._odd
        seq_id, other = ((odd() if self._chance(0.3) else self._random.choice([0, 0, 1])) for _ in range(2))
        p0, p1 = (self._random.choice([None, odd(), self._random.randrange(64)]) for _ in range(2))
        calls: list[Callable[[], object]] = [
            lambda: memory.clear(data=self._chance(0.5)),
            lambda: memory.seq_rm(self._random.choice([None, seq_id]), p0, p1),
            lambda: memory.seq_cp(seq_id, other, p0, p1),
            lambda: memory.seq_keep(seq_id),
            lambda: memory.seq_add(seq_id, p0, p1, odd()),
            lambda: memory.seq_div(seq_id, p0, p1, odd()),
            lambda: memory.seq_pos_min(seq_id),
            lambda: memory.seq_pos_max(seq_id),
        ]
        self._random.choice(calls)()

    def call_state(self) -> None:
        """Take a state, maybe damage it, and give it to any context."""
        source, target = self._pick(self.contexts).state, self._pick(self.contexts).state
        seq_id, other = ((self._odd() if self._chance(0.1) else self._random.choice([0, 0, 1])) for _ in range(2))
        flags = {"partial": self._chance(0.1), "on_device": self._chance(0.1)}
        whole = self._chance(0.4)
        data = bytearray((source.data() if whole else source.seq_data(seq_id, **flags)).tobytes())
        if self._chance(0.3):
            data[self._random.randrange(min(len(data), 400))] = self._random.randrange(256)
        if self._chance(0.1):
            del data[self._random.randrange(len(data)) :]
        if whole == self._chance(0.97):
            target.set_data(data)
        else:
            target.seq_set_data(other, data, **flags)

    def read_logits(self) -> None:
        context = self._pick(self.contexts)
        self.views = [*self.views[-3:], context.outputs.logits_view(self._odd() if self._chance(0.3) else -1)]
        context.outputs.logits().sum()
        for view in self.views:
            view.array.sum()

    def set_threads(self) -> None:
        self._pick(self.contexts).set_threads(self._random.choice([0, 1, 1, 1, 2]))

    def close(self) -> None:
        kinds: list[list[Any]] = [self.contexts, self.chains, self.chains]
        self._pick(self.models if self._chance(0.1) else self._random.choice(kinds)).close()

    def drop(self) -> None:
        kinds: list[list[Any]] = [self.models, self.contexts, self.chains, self.batches, self.views]
        items = self._random.choice(kinds)
        items.remove(self._pick(items))

    def tie_cycle(self) -> None:
        """Drop one of everything inside a garbage cycle."""
        cycle: list[Any] = []
        cycle.append(cycle)
        for items in (self.models, self.contexts, self.chains, self.batches, self.views):
            if items:
                cycle.append(items.pop(self._random.randrange(len(items))))
