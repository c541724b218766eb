"""How a sequence picks its next token from the logits of a Context."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from llama_cffi.core.sampler import (
    Dist,
    Grammar,
    Greedy,
    LogitBias,
    MinP,
    Penalties,
    Sampler,
    SamplerChain,
    Temperature,
    TopK,
    TopP,
)
from llama_cffi.core.selection import TokenSelector, row_logprobs
from llama_cffi.engine.request import Request, SamplingParams, TokenLogprob
from llama_cffi.engine.sequence import Chooser
from llama_cffi.errors import GrammarError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context


def make_chooser(context: Context, request: Request, seed: int) -> Chooser:
    """The cheapest chooser that gives the distribution which the parameters ask for."""
    sampling = request.sampling
    base: SelectorChooser | ChainChooser
    if sampling.has_penalties or sampling.logit_bias:
        base = ChainChooser(context, request, seed)
    else:
        base = SelectorChooser(context, request, seed)
    if sampling.grammar is None:
        return base
    return GrammarChooser(context, base, Grammar(sampling.grammar, sampling.grammar_root))


class _ContextChooser:
    """What every chooser does the same way: it reports the model's probabilities, whatever chose the token."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def step_failed(self, result: int) -> NoReturn:
        self._context.step_failed(result)

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        value, top = row_logprobs(self._context, row, token, n_top)
        return TokenLogprob(token, self._context.model.vocab.piece(token), value, top)


class SelectorChooser(_ContextChooser):
    """Greedy, or top-k, top-p, min-p and temperature, over the raw row."""

    __slots__ = ("_selector", "choose", "peek", "step")

    def __init__(self, context: Context, request: Request, seed: int) -> None:
        sampling = request.sampling
        super().__init__(context)
        self._selector = TokenSelector(
            context,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=seed,
        )
        self.step = context.stepper(self._selector) if request.logprobs is None else None
        # A selector remembers nothing of what it chose, so choosing and peeking are the same.
        self.choose = self._selector.select
        self.peek = self._selector.select_from

    def accept(self, token: int) -> None:
        """A peeked token was chosen after all."""

    def close(self) -> None:
        pass


class ChainChooser(_ContextChooser):
    """llama.cpp's own chain, for penalties and logit bias."""

    __slots__ = ("_chain",)

    step = None

    def __init__(self, context: Context, request: Request, seed: int) -> None:
        super().__init__(context)
        self._chain = SamplerChain(chain_samplers(request.sampling, seed), context.model.vocab)
        if request.sampling.has_penalties:
            for token in request.tokens[-request.sampling.penalty_last_n :]:
                self._chain.accept(token)

    def choose(self, row: int) -> int:
        return self._chain.sample(self._context, row)

    def peek(self, logits: NDArray[np.float32]) -> int:
        """Choose from a whole row without accepting."""
        ids, _, selected = self._chain.apply(logits)
        return int(ids[selected])

    def accept(self, token: int) -> None:
        """A peeked token was chosen after all."""
        self._chain.accept(token)

    def close(self) -> None:
        self._chain.close()


class GrammarChooser(_ContextChooser):
    """A grammar over another chooser.

    Testing one token against a grammar is cheap, testing the whole vocabulary is not. So the token is chosen first,
    and only when the grammar forbids it the grammar masks the row and the choice is made again.
    """

    __slots__ = ("_base", "_grammar")

    step = None

    def __init__(self, context: Context, base: SelectorChooser | ChainChooser, grammar: Grammar) -> None:
        super().__init__(context)
        self._base = base
        # Greedy only makes the chain complete; what it selects is not used.
        self._grammar = SamplerChain((grammar, Greedy()), context.model.vocab)

    def choose(self, row: int) -> int:
        logits = self._context.logits_view(row).array
        token = self._base.peek(logits)
        _, verdict, _ = self._grammar.apply(_ZERO, ids=np.array([token], dtype=np.int32))
        if verdict[0] == -np.inf:
            _, masked, _ = self._grammar.apply(logits)
            if not np.isfinite(masked).any():
                raise GrammarError("the grammar allows no token at this place")
            token = self._base.peek(masked)
        self._grammar.accept(token)
        self._base.accept(token)
        return token

    def close(self) -> None:
        self._base.close()
        self._grammar.close()


_ZERO = np.zeros(1, dtype=np.float32)


def chain_samplers(sampling: SamplingParams, seed: int) -> list[Sampler]:
    """The parameters as samplers of a chain, in the order that SamplingParams documents, grammar excepted."""
    samplers: list[Sampler] = []
    if sampling.logit_bias:
        samplers.append(LogitBias(dict(sampling.logit_bias)))
    if sampling.has_penalties:
        samplers.append(
            Penalties(
                sampling.penalty_last_n,
                sampling.penalty_repeat,
                sampling.penalty_freq,
                sampling.penalty_present,
            )
        )
    if sampling.temperature <= 0:
        return [*samplers, Greedy()]
    if sampling.top_k > 0:
        samplers.append(TopK(sampling.top_k))
    if sampling.top_p < 1:
        samplers.append(TopP(sampling.top_p))
    if sampling.min_p > 0:
        samplers.append(MinP(sampling.min_p))
    return [*samplers, Temperature(sampling.temperature), Dist(seed)]
