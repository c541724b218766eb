"""What is said to a model that hears, so that it writes down what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.core.media.audio import Audio

_INSTRUCTION = "Transcribe audio to text"
"""What llama.cpp's server says, too."""
_LFM2, _LFM2_SYSTEM = "<|tool_list_start|>", "Perform ASR."
"""What the template of Liquid's models has, and the system text that those that hear were trained with."""


def transcription_messages(
    audio: Audio, *, prompt: str = "", language: str = "", template: str | None = None
) -> list[dict[str, Any]]:
    """Return the conversation whose reply is the text of a sound.

    ``prompt`` replaces the instruction, and ``language`` is a name or a code of the language that is spoken;
    ``template`` is the text of the model's chat template.
    """
    system = ""
    if template is not None and _LFM2 in template:
        system = _LFM2_SYSTEM
    elif not prompt:
        prompt = _INSTRUCTION
    if language:
        prompt = f"{prompt} (language: {language})"
    said: list[Any] = [{"type": "text", "text": prompt}] if prompt else []
    messages: list[dict[str, Any]] = [{"role": "user", "content": [*said, audio]}]
    return [{"role": "system", "content": system}, *messages] if system else messages


__all__ = ["transcription_messages"]
