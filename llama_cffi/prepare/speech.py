"""Prepares texts to be read aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_cffi._util.arguments import optional_seconds
from llama_cffi._util.seed import draw_seed
from llama_cffi.core.media.audio import Audio
from llama_cffi.engine.author_sampling import with_author
from llama_cffi.engine.sampling_params import SamplingKwargs, SamplingParams
from llama_cffi.engine.speaker import SpeechRequest
from llama_cffi.errors import ContextOverflowError, MediaError, PromptError, UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.prepare.prepared import Defaults
    from llama_cffi.spec import SpeakSpec

MAX_VOICE_SECONDS = 60.0
"""Of the sound of a voice. Some models use half of it, and others need memory for all of it at once."""


def prepare_speech(
    spec: SpeakSpec, vocab: Vocab, n_ctx: int, projector: Projector, defaults: Defaults
) -> SpeechRequest:
    """Return the request for a text; raises the errors of :meth:`Llama.speak` before anything is computed."""
    given: dict[str, Any] = dict(spec.options)
    text = without_control(spec.text, vocab)
    if not text.strip():
        raise PromptError("there is no text to read aloud")
    n_tokens = len(vocab.tokenize(text, add_special=False))
    if n_tokens >= n_ctx:
        raise ContextOverflowError(
            f"the text has {n_tokens} tokens, and the context has room for {n_ctx} of text, voice and sound together: "
            "give a shorter text, or open the model with a larger n_ctx"
        )
    seconds = optional_seconds("max_seconds", given.get("max_seconds"))
    fields = {name: given[name] for name in SamplingKwargs.__annotations__ if name in given}
    sampling = SamplingParams(**with_author(fields, defaults.sampling))
    return SpeechRequest(
        text,
        seed=draw_seed() if sampling.seed is None else sampling.seed,
        voice=_voice(given.get("voice"), projector),
        language=given.get("language"),
        sampling=sampling,
        max_frames=given.get("max_frames"),
        max_seconds=seconds,
        conditioning=defaults.conditioning,
    )


def _voice(given: Any, projector: Projector) -> Audio | None:
    if given is None:
        return None
    if not projector.voices:
        raise UnsupportedError(f"voice: the projector {projector.path.name} cannot imitate a voice")
    voice = given if isinstance(given, Audio) else Audio(given)
    if voice.seconds > MAX_VOICE_SECONDS:
        raise MediaError(f"voice: {voice!r} is too long; allowed are {MAX_VOICE_SECONDS:g} seconds, and ten are enough")
    return voice


def without_control(text: str, vocab: Vocab) -> str:
    """Return a text in which nothing is read as a control token: libmtmd reads all of a text that it speaks so.

    Each one gets a space behind its first character, and sounds the same.
    """
    while True:
        tokens = set(vocab.tokenize(text, add_special=False, parse_special=True).tolist())
        names = {vocab.text(one) for one in tokens if vocab.is_control(one)}
        written = [name for name in names if len(name) > 1 and name in text]
        if not written:
            return text
        for name in written:
            text = text.replace(name, f"{name[0]} {name[1:]}")


__all__ = ["MAX_VOICE_SECONDS", "prepare_speech", "without_control"]
