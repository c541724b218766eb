"""A Context beside the engine's: for embeddings, scores and drafts, which must not disturb what generates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llama_cffi.core.conditioning import PLAIN, Conditioner, Conditioning
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.model import Model


class SideContext:
    """Opens a context, conditions it for one computation after another, and closes it.

    ``threads_of`` and ``own_threads`` are as in :class:`Context`. Raises the errors of :class:`Context`.
    """

    __slots__ = ("_conditioner", "_held_under", "context")

    def __init__(
        self, model: Model, options: ContextOptions, *, threads_of: Context | None = None, own_threads: bool = False
    ) -> None:
        self.context = Context(model, options, threads_of=threads_of, own_threads=own_threads)
        self._conditioner = Conditioner(self.context)
        self._held_under = PLAIN

    @contextmanager
    def conditioned(self, conditioning: Conditioning) -> Iterator[bool]:
        """Hold the context and compute under a conditioning; yields whether the computation before had the same.

        Otherwise what is in memory is of no use. Adapters are detached at the end: an adapter that is attached here
        could not be closed until the next computation. Raises the errors of :meth:`Context.lock` and
        :meth:`Conditioner.use`.
        """
        with self.context.lock():
            self._conditioner.use(conditioning)
            same, self._held_under = conditioning == self._held_under, conditioning
            try:
                yield same
            finally:
                self._conditioner.detach_adapters()

    def close(self) -> None:
        """Stop what is computed and free the context. Idempotent."""
        self.context.close()


__all__ = ["SideContext"]
