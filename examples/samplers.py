"""Which sampler does what: the same beginning, continued by several of them, and by a chain of one's own."""

from __future__ import annotations

from dataclasses import replace

from llama_cffi import Llama, SamplingParams
from llama_cffi.samplers import Dist, MinP, Sampler, Temperature, TopNSigma

WAYS = {
    "greedy": SamplingParams(temperature=0),
    "no repetitions (DRY)": SamplingParams(dry_multiplier=0.8, dry_allowed_length=2),
    "no clichés (XTC)": SamplingParams(xtc_probability=0.5, xtc_threshold=0.1),
    "dynamic temperature": SamplingParams(dynatemp_range=0.5),
    "Mirostat 2": SamplingParams(mirostat=2, mirostat_tau=3.0),
    "the temperature first": SamplingParams(sampler_order=("temperature", "top_p"), temperature=1.5, top_p=0.5),
}

with Llama.demo() as llm:
    for name, sampling in WAYS.items():
        print(f"{name}: {llm.generate('Once upon a time', max_tokens=24, sampling=replace(sampling, seed=1))}")

    chain: tuple[Sampler, ...] = (TopNSigma(1.0), MinP(0.02), Temperature(1.2), Dist(seed=7))
    print(f"a chain: {llm.generate('Once upon a time', max_tokens=24, samplers=chain)}")
