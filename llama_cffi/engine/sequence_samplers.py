"""The samplers that select the next token of a sequence from the logits of a Context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from llama_cffi.core.device_candidates import N_CANDIDATES, DeviceCandidates
from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
    Dist,
    Dry,
    DynamicTemperature,
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
from llama_cffi.core.selection import TokenSelector, mask_logits, mask_row, row_logprobs
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence, SequenceSampler
from llama_cffi.engine.sampling_params import SamplerName, SamplingParams
from llama_cffi.errors import GrammarError, SamplerError
from llama_cffi.grammar.native import NativeMatcher, grammar_chain
from llama_cffi.reply.completion import TokenLogprob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context
    from llama_cffi.grammar.matcher import Matcher


def make_sampler(
    context: Context, request: Request, seed: int, device: DeviceCandidates | None = None
) -> SequenceSampler:
    """Return the fastest sampler with the distribution of the parameters; one that takes candidates from ``device``
    where these are enough."""
    sampling = request.sampling
    base: SelectorSampler | ChainSampler
    if device is not None and _needs_few(context, request):
        return DeviceSampler(context, request, seed, device)
    if request.post_sampling_logprobs:
        base = ReportingSampler(context, request, seed)
    elif sampling.needs_chain or suppressed_tokens(context):
        base = ChainSampler(context, request, seed)
    else:
        base = SelectorSampler(context, request, seed)
    if sampling.grammar is not None:
        chain = grammar_chain(context.model.vocab, sampling.grammar, sampling.grammar_root)
        matcher: Matcher = NativeMatcher(chain)
    elif request.constraint is not None:
        matcher = request.constraint.start()
    else:
        return base
    return ConstrainedSampler(context, base, matcher, in_place=request.logprobs is None)


class _ContextSampler:
    """What every sampler does the same way: it reports the model's probabilities, whatever chose the token."""

    __slots__ = ("_context",)

    ended = False

    def __init__(self, context: Context) -> None:
        self._context = context

    def step_failed(self, result: int) -> NoReturn:
        self._context.step_failed(result)

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        value, top = row_logprobs(self._context.outputs, row, token, n_top)
        return TokenLogprob(token, self._context.model.vocab.piece(token), value, top)


class SelectorSampler(_ContextSampler):
    """Greedy, or top-k, top-p, min-p and temperature, over the raw row."""

    __slots__ = ("_selector", "choose", "peek", "peek_row", "step")

    def __init__(self, context: Context, request: Request, seed: int) -> None:
        super().__init__(context)
        self._selector = make_selector(context, request, seed)
        self.step = context.stepper(self._selector) if request.logprobs is None else None
        # A selector remembers nothing of what it chose, so choosing and peeking are the same.
        self.choose = self.peek_row = self._selector.select
        self.peek = self._selector.select_from

    def accept(self, token: int) -> None:
        """Take a peeked token for chosen."""

    def close(self) -> None:
        pass


class DeviceSampler(_ContextSampler):
    """The same choice from the candidates of a row that its device has found: more than the request's top-k."""

    __slots__ = ("_device", "_selector")

    step = None

    def __init__(self, context: Context, request: Request, seed: int, device: DeviceCandidates) -> None:
        super().__init__(context)
        self._device = device
        self._selector = make_selector(context, request, seed)

    def choose(self, row: int) -> int:
        tokens, logits = self._device.row(row)
        return int(tokens[self._selector.select_from(logits)])

    def close(self) -> None:
        pass


def switch_devices(device: DeviceCandidates, sequences: Iterable[RunningSequence]) -> None:
    """Let a device find the candidates of those sequences that choose from these; the caller holds the context."""
    for sequence in sequences:
        if sequence.seq_id is not None:
            device.switch(sequence.seq_id, isinstance(sequence.sampler, DeviceSampler))


class ChainSampler(_ContextSampler):
    """llama.cpp's own chain, for whatever the selector does not do."""

    __slots__ = ("_chain",)

    step = None

    def __init__(self, context: Context, request: Request, seed: int) -> None:
        super().__init__(context)
        self._chain = SamplerChain(
            chain_samplers(request.sampling, seed, suppressed_tokens(context)), context.model.vocab
        )
        # A sampler written in Python may come from an earlier request.
        self._chain.reset()
        self._chain.accept_prompt(request.prompt.tokens)

    def choose(self, row: int) -> int:
        return self._chain.sample(self._context, row)

    def peek_row(self, row: int) -> int:
        """Choose without accepting."""
        return self.peek(self._context.outputs.logits_view(row).array)

    def peek(self, logits: NDArray[np.float32]) -> int:
        """Choose from a row of one's own without accepting."""
        return self._chain.select(logits)

    def accept(self, token: int) -> None:
        """Take a peeked token for chosen."""
        self._chain.accept(token)

    def close(self) -> None:
        self._chain.close()


class ReportingSampler(ChainSampler):
    """A chain that reports the probabilities of the candidates it left, from which it drew."""

    __slots__ = ("_ids", "_logprobs")

    def choose(self, row: int) -> int:
        token = self.peek_row(row)
        self.accept(token)
        return token

    def peek(self, logits: NDArray[np.float32]) -> int:
        ids, left, selected = self._chain.apply(logits)
        if left[selected] == -np.inf:
            raise SamplerError("every token is forbidden")
        if isinstance(self._chain.samplers[-1], Greedy):  # nothing was drawn
            self._ids, self._logprobs = ids[selected : selected + 1], np.zeros(1)
            return int(ids[selected])
        shifted = left.astype(np.float64) - left.max()
        self._ids, self._logprobs = ids, shifted - np.log(np.exp(shifted).sum())
        return int(ids[selected])

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        if token not in self._ids:  # a token of the prompt
            return super().logprob(row, token, n_top)
        order = np.argsort(-self._logprobs, kind="stable")[:n_top]
        top = tuple((int(self._ids[i]), float(self._logprobs[i])) for i in order)
        value = float(self._logprobs[np.flatnonzero(self._ids == token)[0]])
        return TokenLogprob(token, self._context.model.vocab.piece(token), value, top)


class ConstrainedSampler(_ContextSampler):
    """A constraint over another sampler.

    Testing one token is cheap, finding all that are allowed is not. So the token is chosen first, and only when the
    constraint forbids it the row is masked and the choice made again; of the tokens allowed each one is then as likely
    as if the mask had come first. (Limits like top-p look at the row as it is when they are applied.)
    """

    __slots__ = ("_base", "_base_step", "_in_place", "_matcher", "_reports", "ended", "step")

    def __init__(
        self, context: Context, base: SelectorSampler | ChainSampler, matcher: Matcher, *, in_place: bool
    ) -> None:
        super().__init__(context)
        self._base = base
        self._matcher = matcher
        # Log-probabilities are read from the row afterwards, and are the model's own.
        self._in_place = in_place
        self._base_step = base.step
        self._reports = isinstance(base, ReportingSampler)
        self.step = None if base.step is None else self._step
        self.ended = False

    def _step(self, token: int, pos: int, seq_id: int) -> int:
        # The row that was chosen from must still be there if the choice is made again.
        with self._context.lock():
            chosen = self._base_step(token, pos, seq_id)  # type: ignore[misc]
            return chosen if chosen < 0 else self._constrain(chosen, 0)

    def choose(self, row: int) -> int:
        if self._reports:
            # What was drawn from is known only when the mask comes first.
            return self._take(self._choose_allowed(row))
        return self._constrain(self._base.peek_row(row), row)

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        return self._base.logprob(row, token, n_top)

    def _constrain(self, token: int, row: int) -> int:
        matcher = self._matcher
        if not matcher.accept(token):
            token = self._choose_allowed(row)
        return self._take(token)

    def _take(self, token: int) -> int:
        self._base.accept(token)
        self.ended = self._matcher.ended
        return token

    def _choose_allowed(self, row: int) -> int:
        allowed = self._matcher.mask()
        if self._in_place:
            left = mask_row(self._context.outputs, row, allowed)
        else:
            logits = self._context.outputs.logits(row)
            left = mask_logits(logits, allowed)
        if not left:
            raise GrammarError("the constraint allows no token at this place")
        token = self._base.peek_row(row) if self._in_place else self._base.peek(logits)
        if not self._matcher.accept(token):
            raise GrammarError(f"the constraint allows token {token} and then refuses it")
        return token

    def close(self) -> None:
        self._base.close()
        self._matcher.close()


def make_selector(context: Context, request: Request, seed: int) -> TokenSelector:
    """Return the selector of a request's parameters."""
    sampling = request.sampling
    return TokenSelector(
        context.outputs,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=seed,
    )


def _needs_few(context: Context, request: Request) -> bool:
    """Whether a token can be chosen from the candidates of its row, and nothing else is asked of the row.

    A draft has several rows of one sequence in a decode, for which there is no room.
    """
    sampling = request.sampling
    if sampling.needs_chain or sampling.grammar is not None or suppressed_tokens(context):
        return False
    reported = (request.constraint, request.logprobs, request.prompt_logprobs, request.speculative)
    if request.post_sampling_logprobs or any(one is not None for one in reported):
        return False
    return sampling.temperature <= 0 or 0 < sampling.top_k < N_CANDIDATES


def suppressed_tokens(context: Context) -> tuple[int, ...]:
    """Return the tokens that are never sampled, because the author of the model excludes them."""
    return context.model.vocab.known_suppress_tokens


def chain_samplers(sampling: SamplingParams, seed: int, suppressed: Sequence[int] = ()) -> list[Sampler]:
    """Return the parameters as samplers of a chain, in the order that SamplingParams documents, grammar excepted."""
    forbidden = {**sampling.logit_bias, **dict.fromkeys(suppressed, -np.inf)}
    bias: list[Sampler] = [LogitBias(forbidden)] if forbidden else []
    if sampling.samplers is not None:
        return [*bias, *map(_own, sampling.samplers)]
    if sampling.mirostat:
        return [*bias, *_mirostat(sampling, seed)]
    order = sampling.sampler_order
    if sampling.temperature <= 0 and "temperature" in order:  # it leaves one token to what comes after it
        order = order[: order.index("temperature")]
    steps = [sampler for name in order if (sampler := _step(name, sampling, seed)) is not None]
    last = _last(sampling, seed)
    if isinstance(last, Greedy) and not any(isinstance(step, (XTC, Typical, Infill)) for step in steps):
        # Behind them nothing leaves out the largest logit, and some sort the whole vocabulary.
        changing = [i for i, step in enumerate(steps) if isinstance(step, (Penalties, Dry))]
        steps = steps[: changing[-1] + 1] if changing else []
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
                sampling.repeat_last_n, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty
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
        case "typical_p" if sampling.typical_p < 1:
            return Typical(sampling.typical_p)
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
