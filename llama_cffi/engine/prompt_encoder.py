"""The encoder of an encoder-decoder model, which reads the prompts of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi.core.batch import Batch

if TYPE_CHECKING:
    from llama_cffi.core.conditioning import Conditioning
    from llama_cffi.core.context import Context
    from llama_cffi.core.model import Model
    from llama_cffi.core.prompt import Prompt
    from llama_cffi.engine.running_sequence import RunningSequence


class PromptEncoder:
    """Reads prompts into a context, which keeps what was read last, for all its sequences."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._read: tuple[Prompt, Conditioning] | None = None
        """What was read last, and under what."""

    def read(self, sequence: RunningSequence, deadline: float | None) -> None:
        """Read the prompt of a sequence, unless it was the last one that was read."""
        request = sequence.request
        if sequence.seq_id is None or self._read == (request.prompt, request.conditioning):
            return
        self._read = None
        batch = Batch(len(request.prompt))
        batch.extend(request.prompt, 0, sequence.seq_id)
        self._context.encode(batch, deadline=deadline)
        self._read = request.prompt, request.conditioning


def decoder_start(model: Model) -> int | None:
    """Return the token that a text begins with where an encoder reads its prompt; None for a model without encoder."""
    if not model.has_encoder:
        return None
    start = model.decoder_start_token
    start = model.vocab.bos if start is None else start
    return 0 if start is None else start


__all__ = ["PromptEncoder", "decoder_start"]
