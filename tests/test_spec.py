"""Specs: values that a call is made of, and what cannot leave the process."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from llama_cffi import GBNF, Llama, Regex
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.sampler import Greedy, PythonSampler
from llama_cffi.engine.sampling_params import SamplingKwargs, SamplingParams
from llama_cffi.options import ChatOptions, GenerateOptions
from llama_cffi.spec import (
    ChatSpec,
    ClassifySpec,
    EmbedSpec,
    GenerateSpec,
    InfillSpec,
    PerplexitySpec,
    RenderSpec,
    RerankSpec,
    ScoreSpec,
    Spec,
    ToolsSpec,
)

SPECS: list[Spec] = [
    GenerateSpec.of("a", {"max_tokens": 3, "stop": ["x", 5], "schema": {"type": "integer"}}, n=2, best_of=3),
    GenerateSpec.of(["a", [1, 2], Prompt([3])], {"schema": GBNF('root ::= "a"'), "logit_bias": {3: "never"}}),  # type: ignore[typeddict-item]
    GenerateSpec.of(np.array([1, 2]), {"sampling": SamplingParams(top_k=3), "samplers": (Greedy(),)}),
    InfillSpec("a", "b", {"files": {"x": "y"}, "order": "spm", "seed": 3}),
    ChatSpec([{"role": "user", "content": "a"}], {"schema": Regex("a"), "chat_template_kwargs": {"x": 1}}),
    ToolsSpec("hi", {"tools": [{"name": "f", "parameters": {}}], "max_rounds": 3}),
    RenderSpec("hi", {"add_generation_prompt": False}),
    EmbedSpec(["a", "b"], {"normalize": "l1", "truncate": True}),
    RerankSpec("q", ["a", "b"], {"top_n": 1}),
    ClassifySpec("a", {"truncate": False}),
    PerplexitySpec((1, 2, 3), {"stride": 4}),
    ScoreSpec("a", ["b", "c"]),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_spec_is_a_value(spec: Spec) -> None:
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert repr(again) == repr(spec)
    with pytest.raises(AttributeError):
        spec.options = {}  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="cannot be changed"):
        spec.options["seed"] = 1  # type: ignore[attr-defined]


def test_what_lives_in_this_process_is_refused_by_name() -> None:
    class Local(PythonSampler):
        def apply(self, candidates: Any) -> None: ...

    for options in ({"samplers": (Local(),)}, {"schema": lambda: None}):
        spec = GenerateSpec.of("a", options)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=rf"^{next(iter(options))}= contains an object that cannot be pickled"):
            pickle.dumps(spec)


def test_none_is_not_given() -> None:
    given: Any = dict.fromkeys(GenerateOptions.__annotations__)
    assert GenerateSpec.of("a", given) == GenerateSpec.of("a", {})
    with Llama.demo() as llm:
        assert (
            llm.generate("Once", temperature=0, max_tokens=3).text
            == llm.generate("Once", **{**given, "temperature": 0, "max_tokens": 3}).text
        )
        chat: Any = dict.fromkeys(ChatOptions.__annotations__)
        wanted = llm.chat("Hi", temperature=0, max_tokens=3)
        assert llm.chat("Hi", **{**chat, "temperature": 0, "max_tokens": 3}).text == wanted.text
        with pytest.raises(TypeError, match="unknown options: top, up"):
            llm.generate("a", top=1, up=2)  # type: ignore[call-overload]


def test_the_sampling_options_are_the_fields_of_the_parameters() -> None:
    fields = SamplingParams.__dataclass_fields__
    assert list(SamplingKwargs.__annotations__) == list(fields)


def test_the_options_of_every_method_are_shown() -> None:
    import inspect

    for name in ("generate", "stream", "chat", "stream_chat", "infill", "run_tools"):
        shown = inspect.signature(getattr(Llama, name)).parameters
        assert {"temperature", "max_tokens", "schema", "stop"} <= set(shown), name
        assert "options" not in shown
