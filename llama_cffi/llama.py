"""The front door: a model, a context and an engine in one object."""

from __future__ import annotations

from llama_cffi.facade.adapters import Adapters
from llama_cffi.facade.chat import Chat
from llama_cffi.facade.embedding import Embedding
from llama_cffi.facade.fork import Fork
from llama_cffi.facade.hub import Hub
from llama_cffi.facade.infill import Infill
from llama_cffi.facade.scoring import Scoring
from llama_cffi.facade.state import State


class Llama(Chat, Infill, Embedding, State, Adapters, Scoring, Fork, Hub):
    """A model ready to generate and to embed.

    ``model`` is the path of a GGUF file, or a :class:`Model` that others share: it is closed with this object only
    when this object loaded it. ``n_ctx`` is the number of tokens in memory over all sequences (default: the smaller
    of 4096 and what the model was trained for; 0: the latter), ``n_seq_max`` how many texts are generated at once.
    ``overflow`` is what happens when a text fills the context: ``"stop"`` finishes it with ``length``, ``"error"``
    raises :class:`ContextOverflowError`, ``"shift"`` forgets the older half and goes on.
    All layers go to a GPU when the library has one (``n_gpu_layers`` limits them, ``model.placement`` says what went
    where); ``require_gpu`` raises :class:`UnsupportedError` instead of computing on the CPU.
    ``draft`` turns speculative decoding on: ``"lookup"`` guesses what follows from the prompt, a GGUF file or
    :class:`Model` with the same vocabulary computes it (:class:`PromptLookup` and :class:`DraftModel` have options).
    The text is what it is without, in fewer decodes where the guesses are good; ``Completion.speculation`` counts them.
    ``prompt_cache`` is a :class:`PromptCache` that keeps what was computed in a folder.
    ``model_options`` and ``context_options`` give everything else; the arguments here win over the latter.

    Any thread may call any method: concurrent calls are computed together, in one batch. :meth:`fork` makes a second
    one over the same weights, which computes beside this one.

    Raises :class:`ModelFileError` and :class:`ContextError` with llama.cpp's reasons.
    """


__all__ = ["Llama"]
