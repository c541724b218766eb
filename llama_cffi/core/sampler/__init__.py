"""Samplers as values, and the chain that runs them."""

from __future__ import annotations

from llama_cffi.core.sampler.base import Sampler
from llama_cffi.core.sampler.chain import SamplerChain
from llama_cffi.core.sampler.grammar import Grammar, LazyGrammar
from llama_cffi.core.sampler.python import Candidates, PythonSampler
from llama_cffi.core.sampler.selecting import AdaptiveP, Dist, Greedy, Mirostat, MirostatV2
from llama_cffi.core.sampler.shaping import Dry, DynamicTemperature, LogitBias, Penalties, Temperature
from llama_cffi.core.sampler.truncation import XTC, Infill, MinP, TopK, TopNSigma, TopP, Typical

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
