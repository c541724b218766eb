"""Samplers: the steps of a :class:`SamplerChain`, and of ``SamplingParams(samplers=...)``, as frozen values.

::

    from llama_cffi.samplers import Dist, SamplerChain, Temperature, TopK

    chain = SamplerChain([TopK(40), Temperature(0.8), Dist(seed=1)], model.vocab)
"""

from __future__ import annotations

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
    LazyGrammar,
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

__all__ = [
    "XTC",
    "AdaptiveP",
    "Candidates",
    "Dist",
    "Dry",
    "DynamicTemperature",
    "Grammar",
    "Greedy",
    "Infill",
    "LazyGrammar",
    "LogitBias",
    "MinP",
    "Mirostat",
    "MirostatV2",
    "Penalties",
    "PythonSampler",
    "Sampler",
    "SamplerChain",
    "Temperature",
    "TopK",
    "TopNSigma",
    "TopP",
    "Typical",
]
