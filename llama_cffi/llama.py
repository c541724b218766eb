"""The front door: a model, a context and an engine in one object."""

from __future__ import annotations

from llama_cffi.facade.chat import Chat
from llama_cffi.facade.embedding import Embedding


class Llama(Chat, Embedding):
    """A model ready to generate and to embed.

    ``model`` is the path of a GGUF file, or a :class:`Model` that others share: it is closed with this object only
    when this object loaded it. ``n_ctx`` is the number of tokens in memory over all sequences (default: the smaller
    of 4096 and what the model was trained for; 0: the latter), ``n_seq_max`` how many texts are generated at once.
    ``overflow`` is what happens when a text fills the context: ``"stop"`` finishes it with ``length``, ``"error"``
    raises :class:`ContextOverflowError`, ``"shift"`` forgets the older half and goes on.
    All layers go to a GPU when the library has one (``n_gpu_layers`` limits them, ``model.placement`` says what went
    where); ``require_gpu`` raises :class:`UnsupportedError` instead of computing on the CPU.
    ``model_options`` and ``context_options`` give everything else; the arguments here win over the latter.

    Any thread may call any method: concurrent calls are computed together, in one batch.

    Raises :class:`ModelFileError` and :class:`ContextError` with llama.cpp's reasons.
    """


__all__ = ["Llama"]
