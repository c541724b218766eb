"""A second Llama that begins where the first one is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama_cffi.facade.base import Base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from llama_cffi.engine.slots import Slot


class Fork(Base):
    """How a :class:`~llama_cffi.llama.Llama` is doubled."""

    def fork(self) -> Self:
        """A Llama of its own over the same weights, whose memory begins as a copy of this one's.

        It has a context with the same options, the adapters, the control vector and the prompt cache that are set now,
        and all texts in memory: a prompt that begins like one of them is not computed again. From then on each goes its
        own way, and both may compute at the same time, on threads of the caller. It costs what a context costs, and for
        a moment the copied part of the memory once more; weights are not loaded again. A draft model gets a second
        context too; a source of drafts of the caller's own is shared.

        Each is closed on its own: a model that this object loaded is closed with the last of them. The fork is of the
        same class, without a call of ``__init__``; what a subclass has set on the object is shared.

        Raises :class:`BusyError` while a request waits or runs, :class:`ContextError` when there is no room for another
        context, and :class:`ClosedError`. Wraps ``llama_init_from_model``, ``llama_state_get_data`` and
        ``llama_state_set_data``.
        """
        self._check_open()
        if not self._generates:
            return self._twin(())
        with self._engine.at_rest() as slots:
            return self._twin(slots)

    def _twin(self, slots: Sequence[Slot]) -> Self:
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        context = self.context
        # First of all: whoever closes this object meanwhile leaves the model open.
        owned = twin._owned = self._owned.share() if self._owned is not None else None
        twin._draft = None
        try:
            options = replace(context.options, n_threads=context.n_threads, n_threads_batch=context.n_threads_batch)
            twin._open(options)
        except BaseException:
            if owned is not None:
                owned.close()
            raise
        try:
            if self._draft is not None:
                twin._draft = self._draft.fork(twin.context)
            if any(slot.held for slot in slots):
                twin.context.state.set_data(context.state.data())
                twin._engine.inherit(slots)
        except BaseException:
            twin.close()
            raise
        return twin


__all__ = ["Fork"]
