"""How a sequence picks its next token from the logits of a Context."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np

from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
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
    Sampler,
    SamplerChain,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from llama_cffi.core.selection import TokenSelector, row_logprobs
from llama_cffi.engine.request import Request, SamplerName, SamplingParams, TokenLogprob
from llama_cffi.engine.sequence import Chooser
from llama_cffi.errors import GrammarError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context


def make_chooser(context: Context, request: Request, seed: int) -> Chooser:
    """The cheapest chooser that gives the distribution which the parameters ask for."""
    sampling = request.sampling
    base: SelectorChooser | ChainChooser
    base = ChainChooser(context, request, seed) if sampling.needs_chain else SelectorChooser(context, request, seed)
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
    """llama.cpp's own chain, for whatever the selector does not do."""

    __slots__ = ("_chain",)

    step = None

    def __init__(self, context: Context, request: Request, seed: int) -> None:
        super().__init__(context)
        self._chain = SamplerChain(chain_samplers(request.sampling, seed), context.model.vocab)
        # A sampler written in Python may come from an earlier request.
        self._chain.reset()
        self._chain.accept_prompt(request.tokens)

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
    bias: list[Sampler] = [LogitBias(dict(sampling.logit_bias))] if sampling.logit_bias else []
    if sampling.samplers is not None:
        return [*bias, *map(_own, sampling.samplers)]
    if sampling.mirostat:
        return [*bias, *_mirostat(sampling, seed)]
    steps = [sampler for name in sampling.sampler_order if (sampler := _step(name, sampling, seed)) is not None]
    last = _last(sampling, seed)
    if isinstance(last, Greedy) and not any(isinstance(step, (XTC, Typical, Infill)) for step in steps):
        # The others never leave out the largest logit, and some sort the whole vocabulary.
        steps = [step for step in steps if isinstance(step, (Penalties, Dry))]
    return [*bias, *steps, last]


def _own(sampler: Sampler) -> Sampler:
    """A clone of a Python sampler that can be cloned, so that requests which run together do not share its state."""
    if isinstance(sampler, PythonSampler) and type(sampler).clone is not PythonSampler.clone:
        return sampler.clone()
    return sampler


def _mirostat(sampling: SamplingParams, seed: int) -> list[Sampler]:
    if sampling.temperature <= 0:
        return [Greedy()]
    kind = Mirostat if sampling.mirostat == 1 else MirostatV2
    return [Temperature(sampling.temperature), kind(seed, sampling.mirostat_tau, sampling.mirostat_eta)]


def _step(name: SamplerName, sampling: SamplingParams, seed: int) -> Sampler | None:
    """The sampler of a name, None when its parameters switch it off."""
    match name:
        case "penalties" if sampling.has_penalties:
            return Penalties(
                sampling.penalty_last_n, sampling.penalty_repeat, sampling.penalty_freq, sampling.penalty_present
            )
        case "dry" if sampling.dry_multiplier > 0 and sampling.dry_penalty_last_n:
            return Dry(
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                sampling.dry_penalty_last_n,
                tuple(sampling.dry_sequence_breakers),
            )
        case "top_n_sigma" if sampling.top_n_sigma > 0:
            return TopNSigma(sampling.top_n_sigma)
        case "top_k" if sampling.top_k > 0:
            return TopK(sampling.top_k)
        case "typ_p" if sampling.typ_p < 1:
            return Typical(sampling.typ_p)
        case "top_p" if sampling.top_p < 1:
            return TopP(sampling.top_p)
        case "min_p" if sampling.min_p > 0:
            return MinP(sampling.min_p)
        case "xtc" if sampling.xtc_probability > 0:
            return XTC(sampling.xtc_probability, sampling.xtc_threshold, seed)
        case "temperature" if sampling.temperature > 0 and sampling.dynatemp_range > 0:
            return DynamicTemperature(sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent)
        case "temperature" if sampling.temperature > 0:
            return Temperature(sampling.temperature)
        case "infill":
            return Infill()
    return None


def _last(sampling: SamplingParams, seed: int) -> Sampler:
    """What selects."""
    if sampling.temperature <= 0 and "temperature" in sampling.sampler_order:
        return Greedy()
    if sampling.adaptive_target >= 0:
        return AdaptiveP(seed, sampling.adaptive_target, sampling.adaptive_decay)
    return Dist(seed)
