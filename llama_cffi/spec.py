"""The arguments of calls as frozen values: one class for each kind of call.

A spec is created from the arguments of a public method; :mod:`llama_cffi.prepare` evaluates it for one model. It
compares, prints and pickles where what it holds does; what lives in this process (an adapter, a sampler written in
Python) is refused by name when a spec is pickled.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._util import arguments as args
from llama_cffi._util.frozen import FrozenDict
from llama_cffi._util.scalars import as_int
from llama_cffi._util.shown import shown
from llama_cffi.core.prompt import Prompt
from llama_cffi.options import (
    ChatOptions,
    ClassifyOptions,
    EmbedOptions,
    GenerateOptions,
    InfillOptions,
    Norm,
    PerplexityOptions,
    RenderOptions,
    RerankOptions,
    ScoreOptions,
    SpeechOptions,
    ToolOptions,
    check_options,
)
from llama_cffi.prompt.media_parts import VALUES, Medium

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.prompt.messages import Message

    Tokens = Sequence[int] | NDArray[np.int32]


class Spec:
    """Base of the specs: pickling that names what cannot be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        for name, value in values.items():
            inner = value if isinstance(value, FrozenDict) else {name: value}
            for key, one in inner.items():
                _check_pickles(key, one)
        return _restore, (type(self), values)


def _check_pickles(name: str, value: object) -> None:
    try:
        pickle.dumps(value)
    except Exception as error:
        raise TypeError(f"{name}= contains an object that cannot be pickled: {error}") from None


def _restore(kind: type[Spec], values: dict[str, Any]) -> Spec:
    return kind(**values)


def _freeze(spec: Spec, kind: type, name: str = "options") -> None:
    object.__setattr__(spec, name, FrozenDict(check_options(kind, getattr(spec, name))))


@dataclass(frozen=True)
class GenerateSpec(Spec):
    """Prompts to continue. ``many`` is whether a list of prompts was given; the result is then a list."""

    prompts: tuple[GivenPrompt, ...]
    options: GenerateOptions = field(default_factory=lambda: GenerateOptions())
    many: bool = False
    n: int | None = None
    best_of: int | None = None

    def __post_init__(self) -> None:
        _freeze(self, GenerateOptions)
        prompts = tuple(any_prompt(one) for one in args.check_sequence("prompts", self.prompts, "prompts"))
        object.__setattr__(self, "prompts", prompts)
        object.__setattr__(self, "many", args.check_flag("many", self.many))
        for name in ("n", "best_of"):
            value = getattr(self, name)
            if value is not None and as_int(value) is None:
                raise ValueError(f"n must be at least 1 and at most best_of, both ints, got {name}={shown(value)}")
            object.__setattr__(self, name, as_int(value))

    @classmethod
    def of(
        cls, prompt: Any, options: GenerateOptions, *, n: int | None = None, best_of: int | None = None
    ) -> GenerateSpec:
        """Make a spec from what :meth:`Llama.generate` takes: a prompt as text, tokens or parts, or a list of prompts.

        A list with an image or sound in it is one prompt.
        """
        many = _is_list_of_prompts(prompt)
        return cls(tuple(prompt) if many else (prompt,), options, many, n, best_of)


def _begins_otherwise(options: object) -> str:
    """Return the option among these that says how a text begins after a prompt, "" without one."""
    if not isinstance(options, Mapping):
        return ""  # refused by name when the options are checked
    given = [name for name in ("echo", "heal") if options.get(name) is not None and options.get(name) is not False]
    return given[0] if given else ""


@dataclass(frozen=True)
class InfillSpec(Spec):
    """A gap between two texts."""

    prefix: str
    suffix: str
    options: InfillOptions = field(default_factory=lambda: InfillOptions())

    def __post_init__(self) -> None:
        if _begins_otherwise(self.options):
            raise ValueError("echo= and heal= cannot be used with fill-in-the-middle")
        _freeze(self, InfillOptions)
        args.check_str("prefix", self.prefix)
        args.check_str("suffix", self.suffix)


@dataclass(frozen=True)
class ChatSpec(Spec):
    """A conversation that waits for its reply."""

    messages: str | Sequence[Message]
    options: ChatOptions = field(default_factory=lambda: ChatOptions())

    def __post_init__(self) -> None:
        if name := _begins_otherwise(self.options):
            raise ValueError(f"{name}= is for prompts; use prefix= for the beginning of a reply")
        _freeze(self, ChatOptions)


@dataclass(frozen=True)
class ToolsSpec(Spec):
    """A conversation in which the tools that replies ask for are called."""

    messages: str | Sequence[Message]
    options: ToolOptions = field(default_factory=lambda: ToolOptions())

    def __post_init__(self) -> None:
        _freeze(self, ToolOptions)

    def chat(self, messages: Sequence[Message], **changes: Any) -> ChatSpec:
        """Return the spec of one reply, to the messages so far."""
        options = {key: value for key, value in self.options.items() if key not in ("max_rounds", "on_error")}
        return ChatSpec(messages, ChatOptions(**{**options, **changes}))  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class RenderSpec(Spec):
    """A conversation as the chat template writes it."""

    messages: str | Sequence[Message]
    options: RenderOptions = field(default_factory=lambda: RenderOptions())

    def __post_init__(self) -> None:
        _freeze(self, RenderOptions)


@dataclass(frozen=True)
class EmbedSpec(Spec):
    """Texts to embed."""

    texts: Any
    """A text or a medium, or a list of texts, media, prompts and lists of the parts of one prompt."""
    options: EmbedOptions = field(default_factory=lambda: EmbedOptions())

    def __post_init__(self) -> None:
        _freeze(self, EmbedOptions)

    @property
    def inputs(self) -> Any:
        """The texts as they were given; of a list, and of a medium alone, those with media are mixed prompts."""
        given = [self.texts] if isinstance(self.texts, VALUES) else self.texts
        sequence = isinstance(given, (list, tuple))
        return [any_prompt(one) if has_media(one) else one for one in given] if sequence else given

    @property
    def norm(self) -> Norm | None:
        """The norm by which every vector is divided, or None."""
        wanted = self.options.get("normalize", True)
        if isinstance(wanted, bool):
            return "l2" if wanted else None
        return wanted


@dataclass(frozen=True)
class RerankSpec(Spec):
    """Documents to order by their relevance to a query."""

    query: str
    documents: Sequence[str]
    options: RerankOptions = field(default_factory=lambda: RerankOptions())

    def __post_init__(self) -> None:
        _freeze(self, RerankOptions)
        top_n = self.options.get("top_n")
        if top_n is not None and top_n < 1:
            raise ValueError(f"top_n must be at least 1, got {top_n}")
        args.check_str("query", self.query)
        args.check_sequence("documents", self.documents, "texts")


@dataclass(frozen=True)
class ClassifySpec(Spec):
    """Texts to label."""

    texts: str | Sequence[str]
    options: ClassifyOptions = field(default_factory=lambda: ClassifyOptions())

    def __post_init__(self) -> None:
        _freeze(self, ClassifyOptions)


@dataclass(frozen=True)
class PerplexitySpec(Spec):
    """A text whose perplexity is computed."""

    text: str | Tokens
    options: PerplexityOptions = field(default_factory=lambda: PerplexityOptions())

    def __post_init__(self) -> None:
        _freeze(self, PerplexityOptions)
        object.__setattr__(self, "text", plain_prompt(self.text, "text"))


@dataclass(frozen=True)
class ScoreSpec(Spec):
    """Continuations of one prefix, to be scored."""

    prefix: str | Tokens
    continuations: Sequence[str | Sequence[int]]
    options: ScoreOptions = field(default_factory=lambda: ScoreOptions())

    def __post_init__(self) -> None:
        _freeze(self, ScoreOptions)
        object.__setattr__(self, "prefix", plain_prompt(self.prefix, "prefix"))
        parts = args.check_sequence("continuations", self.continuations, "texts or lists of tokens")
        parts = tuple(plain_prompt(one, f"continuations[{i}]") for i, one in enumerate(parts))
        object.__setattr__(self, "continuations", parts)


@dataclass(frozen=True)
class SpeakSpec(Spec):
    """A text to read aloud."""

    text: str
    options: SpeechOptions = field(default_factory=lambda: SpeechOptions())

    def __post_init__(self) -> None:
        _freeze(self, SpeechOptions)
        args.check_text("text", self.text)


@dataclass(frozen=True)
class MixedPrompt:
    """A prompt with media: texts, tokens, images and sounds in their order."""

    parts: tuple[str | int | Medium, ...]

    @property
    def text(self) -> str:
        """The texts, one after another."""
        return "".join(part for part in self.parts if isinstance(part, str))


GivenPrompt = str | Sequence[int] | Prompt | MixedPrompt


def any_prompt(prompt: Any) -> GivenPrompt:
    """Return a prompt as :func:`plain_prompt` does; a sequence with an image or sound in it is a mixed one."""
    if isinstance(prompt, MixedPrompt):
        return prompt
    if not has_media(prompt):
        return plain_prompt(prompt)  # type: ignore[no-any-return]
    parts: list[str | int | Medium] = []
    for i, part in enumerate([prompt] if isinstance(prompt, VALUES) else prompt):
        token = None if isinstance(part, (str, *VALUES)) else as_int(part)
        if token is None and not isinstance(part, (str, *VALUES)):
            raise TypeError(f"prompt[{i}] must be a text, a token, an Image, Audio or Video, got {shown(part)}")
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part  # one text is tokenized as a whole
        else:
            parts.append(part if token is None else token)
    return MixedPrompt(tuple(parts))


def has_media(prompt: object) -> bool:
    """Whether a prompt is a medium, or a sequence with one in it."""
    if isinstance(prompt, (str, bytes, np.ndarray, Prompt)):
        return False
    if isinstance(prompt, Sequence):
        return any(isinstance(part, VALUES) for part in prompt)
    return isinstance(prompt, VALUES)


def plain_prompt(prompt: Any, name: str = "prompt") -> Any:
    """Return a text, tokens as a tuple of ints, or a Prompt; TypeError and ``ValueError`` for anything else."""
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, (Sequence, np.ndarray)) or isinstance(prompt, (bytes, bytearray)):
        raise TypeError(f"{name} must be a text or a sequence of tokens, not {type(prompt).__name__}")
    if isinstance(prompt, np.ndarray) and prompt.ndim != 1:
        raise TypeError(f"{name} must be a text or a sequence of tokens, not an array of shape {prompt.shape}")
    tokens = tuple(prompt.tolist() if isinstance(prompt, np.ndarray) else map(as_int, prompt))
    if any(type(token) is not int for token in tokens):
        raise TypeError(f"{name} must be a text or a sequence of tokens, which are ints, got {shown(prompt)}")
    return tokens


def _is_list_of_prompts(prompt: object) -> bool:
    if isinstance(prompt, (str, bytes, np.ndarray, Prompt)) or not isinstance(prompt, Sequence) or has_media(prompt):
        return False
    # Anything but a text or tokens is refused as the one prompt that it is meant to be.
    return not len(prompt) or isinstance(prompt[0], (str, Sequence, np.ndarray))


__all__ = [
    "ChatSpec",
    "ClassifySpec",
    "EmbedSpec",
    "GenerateSpec",
    "GivenPrompt",
    "InfillSpec",
    "MixedPrompt",
    "PerplexitySpec",
    "RenderSpec",
    "RerankSpec",
    "ScoreSpec",
    "SpeakSpec",
    "Spec",
    "ToolsSpec",
    "any_prompt",
    "has_media",
    "plain_prompt",
]
