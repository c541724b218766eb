"""Every sampler through ``generate``: which chain the parameters make, and what it does to a text."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Llama, Request, SamplingParams
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
    Candidates,
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
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from llama_cffi.engine.sequence_samplers import ChainSampler, SelectorSampler, chain_samplers, make_sampler
from llama_cffi.errors import InUseError, SamplerError, TokenError

pytest_plugins = ["tests.support.models"]

PLAIN: list[Sampler] = [TopK(40), TopP(0.95), MinP(0.05), Temperature(0.8), Dist(9)]
EVERYTHING: dict[str, Any] = {
    "repeat_penalty": 1.1,
    "dry_multiplier": 0.8,
    "top_n_sigma": 2.0,
    "typical_p": 0.9,
    "xtc_probability": 0.5,
    "dynatemp_range": 0.3,
    "adaptive_target": 0.4,
    "logit_bias": {3: 1.0},
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, PLAIN),
        ({"frequency_penalty": 0.5}, [Penalties(64, 1.0, 0.5, 0.0), *PLAIN]),
        ({"dry_multiplier": 0.8}, [Dry(0.8), *PLAIN]),
        ({"dry_multiplier": 0.8, "dry_penalty_last_n": 0}, PLAIN),
        ({"top_n_sigma": 1.5}, [TopNSigma(1.5), *PLAIN]),
        ({"typical_p": 0.7}, [PLAIN[0], Typical(0.7), *PLAIN[1:]]),
        ({"xtc_probability": 0.5}, [*PLAIN[:3], XTC(0.5, 0.1, 9), *PLAIN[3:]]),
        ({"dynatemp_range": 0.5}, [*PLAIN[:3], DynamicTemperature(0.8, 0.5), Dist(9)]),
        ({"adaptive_target": 0.3}, [*PLAIN[:4], AdaptiveP(9, 0.3, 0.9)]),
        ({"mirostat": 1}, [Temperature(0.8), Mirostat(9, 5.0, 0.1)]),
        ({"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.2}, [Temperature(0.8), MirostatV2(9, 3.0, 0.2)]),
        ({"mirostat": 2, "temperature": 0}, [Greedy()]),
        ({"temperature": 0}, [Greedy()]),
        ({"temperature": 0, "dynatemp_range": 0.5, "dry_multiplier": 1.0}, [Dry(1.0), Greedy()]),
        ({"temperature": 0, "xtc_probability": 1.0}, [*PLAIN[:3], XTC(1.0, 0.1, 9), Greedy()]),
        ({"sampler_order": ("temperature", "top_k")}, [Temperature(0.8), TopK(40), Dist(9)]),
        ({"sampler_order": ["infill"]}, [Infill(), Dist(9)]),
        ({"sampler_order": (), "temperature": 0}, [Dist(9)]),
        ({"samplers": (TopK(3), Greedy()), "logit_bias": {1: 2.0}}, [LogitBias({1: 2.0}), TopK(3), Greedy()]),
        (
            EVERYTHING,
            [LogitBias({3: 1.0}), Penalties(64, 1.1), Dry(0.8), TopNSigma(2.0), TopK(40), Typical(0.9), TopP(0.95),
             MinP(0.05), XTC(0.5, 0.1, 9), DynamicTemperature(0.8, 0.3), AdaptiveP(9, 0.4)],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_chain(fields: dict[str, Any], expected: list[Sampler]) -> None:
    """In llama.cpp's order, without what is off."""
    assert chain_samplers(SamplingParams(**fields), 9) == expected


@pytest.mark.parametrize("fields", [{}, {"temperature": 0}, {"top_k": 0, "top_p": 1, "min_p": 0}, {"xtc_threshold": 0}])
def test_the_fast_way_stays(llm: Llama, fields: dict[str, Any]) -> None:
    sampler = make_sampler(llm.context, Request(prompt=Prompt((1,)), sampling=SamplingParams(**fields)), 1)
    assert isinstance(sampler, SelectorSampler)


@pytest.mark.parametrize("name", [*EVERYTHING, "mirostat", "sampler_order", "samplers"])
def test_what_needs_a_chain(llm: Llama, name: str) -> None:
    others: dict[str, Any] = {"mirostat": 1, "sampler_order": ("top_k",), "samplers": (Greedy(),)}
    params = SamplingParams(**{name: {**EVERYTHING, **others}[name]})
    sampler = make_sampler(llm.context, Request(prompt=Prompt((1,)), sampling=params), 1)
    assert isinstance(sampler, ChainSampler)
    sampler.close()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dry_multiplier": -1.0}, "dry_multiplier must not be negative"),
        ({"dry_base": 0.5}, "dry_base must be between 1 and inf"),
        ({"dry_allowed_length": -1}, "dry_allowed_length"),
        ({"dry_penalty_last_n": 2**31}, "dry_penalty_last_n"),
        ({"dry_sequence_breakers": ("",)}, "non-empty"),
        ({"top_n_sigma": float("nan")}, "top_n_sigma must be a finite"),
        ({"typical_p": 1.5}, "typical_p must be between 0 and 1"),
        ({"xtc_probability": -0.1}, "xtc_probability"),
        ({"xtc_threshold": 2}, "xtc_threshold"),
        ({"dynatemp_range": -1}, "dynatemp_range"),
        ({"dynatemp_exponent": float("inf")}, "dynatemp_exponent"),
        ({"mirostat": 3}, "mirostat must be an int from 0 to 2"),
        ({"mirostat_tau": -1}, "mirostat_tau"),
        ({"adaptive_target": 1.5}, "adaptive_target"),
        ({"adaptive_decay": 1.0}, "adaptive_decay"),
        ({"sampler_order": ("top_q",)}, "names of penalties, dry"),
        ({"sampler_order": "top_k"}, "names of"),
        ({"sampler_order": ("top_k", "dry", "top_k")}, "twice"),
        (
            {"mirostat": 2, "typical_p": 0.5, "frequency_penalty": 1.0},
            "frequency_penalty, typical_p would have no effect",
        ),
        ({"samplers": Greedy()}, "must be a tuple of samplers"),
        ({"samplers": (Greedy(),), "seed": 3, "top_k": 5}, "top_k, seed would have no effect"),
    ],
    ids=str,
)
def test_parameters_that_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SamplerError, match=words):
        SamplingParams(**fields)


def test_a_chain_that_is_none_is_refused_before_computing(llm: Llama) -> None:
    with pytest.raises(SamplerError, match="must end in a sampler that selects"):
        llm.generate("tana", samplers=(TopK(3),))
    with pytest.raises(SamplerError, match="got 'greedy'"):
        llm.generate("tana", samplers=("greedy",))  # type: ignore[arg-type]
    with pytest.raises(TokenError):
        llm.generate("tana", samplers=(LogitBias({10**6: 1.0}), Greedy()))


@pytest.mark.parametrize(
    "fields",
    [
        {**EVERYTHING},
        {"mirostat": 1},
        {"mirostat": 2},
        {"sampler_order": ("min_p", "temperature")},
        {"sampler_order": ("top_k", "infill"), "top_k": 5},
        {"xtc_probability": 1.0, "temperature": 0},
    ],
    ids=str,
)
def test_the_same_seed_gives_the_same_text(llm: Llama, fields: dict[str, Any]) -> None:
    texts = {llm.generate("tana nese", max_tokens=24, seed=5, **fields).text for _ in range(2)}
    assert len(texts) == 1


def test_dry_ends_a_repetition(llm: Llama) -> None:
    """A bias makes the model write one token for ever; DRY ends that, earlier by what the prompt repeats already."""
    token = int(llm.tokenize("tana", add_special=False)[-1])
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 0, "logit_bias": {token: 50.0}}
    assert set(llm.generate([1, token, token], **options).tokens) == {token}

    def n_repeated(prompt: list[int]) -> int:
        tokens = llm.generate(prompt, **options, dry_multiplier=10.0).tokens
        return next(i for i, one in enumerate(tokens) if one != token)

    assert n_repeated([1]) - n_repeated([1, token, token]) == 2


def test_a_whole_chain_is_what_its_fields_give(llm: Llama) -> None:
    fields = llm.generate("tana", max_tokens=20, seed=3, top_n_sigma=1.5, typical_p=0.9)
    steps = chain_samplers(SamplingParams(top_n_sigma=1.5, typical_p=0.9), 3)
    assert llm.generate("tana", max_tokens=20, samplers=tuple(steps)).tokens == fields.tokens


class Ban(PythonSampler):
    """Forbids what was accepted; counts what it was told."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def apply(self, candidates: Candidates) -> None:
        candidates.logits[np.isin(candidates.ids, self.seen)] = -np.inf

    def accept(self, token: int) -> None:
        self.seen.append(token)

    def reset(self) -> None:
        self.seen.clear()


class BanAndClone(Ban):
    def clone(self) -> BanAndClone:
        twin = BanAndClone()
        twin.seen = list(self.seen)
        return twin


def test_a_python_sampler_sees_prompt_and_text(llm: Llama) -> None:
    sampler = Ban()
    for _ in range(2):  # each request starts with a reset
        completion = llm.generate([1, 300, 301], max_tokens=30, samplers=(sampler, Greedy()))
        assert len(set(completion.tokens)) == len(completion.tokens)
        assert not {1, 300, 301} & set(completion.tokens)
        assert sampler.seen[:3] == [1, 300, 301]
        assert sampler.seen[3 : 3 + len(completion.tokens)] == list(completion.tokens)


def test_python_samplers_of_requests_that_run_together(llm: Llama) -> None:
    prompts = [[1, 300], [1, 301], [1, 302]]
    alone = [llm.generate(prompt, max_tokens=10, samplers=(Ban(), Greedy())).tokens for prompt in prompts]
    together = llm.generate(prompts, max_tokens=10, samplers=(BanAndClone(), Greedy()))
    assert [one.tokens for one in together] == alone
    with pytest.raises(InUseError, match="give each its own"):
        llm.generate(prompts, max_tokens=10, samplers=(Ban(), Greedy()))
    assert llm.generate("tana", max_tokens=3).usage.completion_tokens == 3


def test_an_exception_of_a_python_sampler_ends_its_request(llm: Llama) -> None:
    class Fails(Ban):
        def apply(self, candidates: Candidates) -> None:
            if len(self.seen) > 4:
                raise ZeroDivisionError("mine")

    sampler = Fails()
    with pytest.raises(ZeroDivisionError, match="mine"):
        llm.generate([1, 300], max_tokens=10, samplers=(sampler, Greedy()))
    assert llm.generate([1, 300], max_tokens=2, samplers=(sampler, Greedy())).usage.completion_tokens == 2


def test_a_grammar_beside_a_chain(llm: Llama) -> None:
    completion = llm.generate("tana", max_tokens=8, grammar='root ::= "ab" "c"*', samplers=(BanAndClone(), Greedy()))
    assert completion.text.startswith("ab")


@pytest.mark.parametrize("name", ["samplers", "python_sampler"])
def test_the_example_runs(checkout: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(checkout / "examples" / f"{name}.py"), run_name="__main__")
    assert len(capsys.readouterr().out) > 100
