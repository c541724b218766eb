"""Which sampler does what: the same beginning, continued by several of them, and by a chain of one's own."""

from __future__ import annotations

from llama_cffi import Llama
from llama_cffi.engine.sampling_params import SamplingKwargs
from llama_cffi.samplers import Dist, MinP, Sampler, Temperature, TopNSigma

WAYS: dict[str, SamplingKwargs] = {
    "greedy": {"temperature": 0},
    "no repetitions (DRY)": {"dry_multiplier": 0.8, "dry_allowed_length": 2},
    "no clichés (XTC)": {"xtc_probability": 0.5, "xtc_threshold": 0.1},
    "dynamic temperature": {"dynatemp_range": 0.5},
    "Mirostat 2": {"mirostat": 2, "mirostat_tau": 3.0},
    "the temperature first": {"sampler_order": ("temperature", "top_p"), "temperature": 1.5, "top_p": 0.5},
}

with Llama.demo() as llm:
    for name, options in WAYS.items():
        print(f"{name}: {llm.generate('Once upon a time', max_tokens=24, seed=1, **options)}")

    chain: tuple[Sampler, ...] = (TopNSigma(1.0), MinP(0.02), Temperature(1.2), Dist(seed=7))
    print(f"a chain: {llm.generate('Once upon a time', max_tokens=24, samplers=chain)}")
