"""What a model has computed, saved and brought back: everything in memory, or one prompt."""

from __future__ import annotations

import os
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

from llama_cffi.core.saved_state import SavedState
from llama_cffi.engine.prompt_cache import CachedPrompt
from llama_cffi.errors import MemoryFullError, StateMismatchError
from llama_cffi.facade.generation import Generation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.state import BytesLike
    from llama_cffi.core.state_header import StateHeader


class State(Generation):
    """The methods of a :class:`~llama_cffi.llama.Llama` that save and restore its memory.

    All of them need an idle model: :class:`BusyError` while a request waits or runs. What is restored is checked first:
    :class:`StateFormatError` for what is no state, cut short or damaged, and :class:`StateMismatchError` for one of
    another model, another llama.cpp, other KV types, other adapters than those of :meth:`set_adapters` (a control
    vector among them), or a longer text than the context has room for; the memory is then as before.
    """

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write all texts in memory to a file, replacing it in one step; :class:`StateWriteError` on a full disk.

        They are what earlier requests left there: :meth:`load_state` brings them back, also in another process, and a
        prompt that begins like one of them is not computed again.
        """
        self._take_state().write(path)

    def load_state(self, path: str | os.PathLike[str]) -> int:
        """Replace the memory by a file of :meth:`save_state`; returns how many tokens it holds."""
        return self._restore(SavedState.read(path, self._check))

    def state_bytes(self) -> bytes:
        """:meth:`save_state` as bytes."""
        return self._take_state().to_bytes()

    def load_state_bytes(self, data: BytesLike) -> int:
        """:meth:`load_state` from the bytes of :meth:`state_bytes`."""
        return self._restore(SavedState.from_bytes(data))

    def save_prompt(self, prompt: str | SequenceOf[int] | NDArray[np.int32], path: str | os.PathLike[str]) -> int:
        """Compute a prompt, unless it is in memory already, and write its state; returns its number of tokens.

        The file holds the tokens too. With recurrent models and those with a sliding window it serves prompts that go
        on where this one ends, with others any that begin alike. Raises as :meth:`generate` and :meth:`save_state`.
        """
        tokens = self._request(prompt).tokens
        self.generate(list(tokens), max_tokens=1, temperature=0)
        with self._open_engine().at_rest() as slots:
            slot = next((one for one in slots if tuple(one.tokens) == tokens and one.adapters == self._adapters), None)
            if slot is None:
                raise MemoryFullError("other requests have taken the place of the prompt")
            saved = SavedState.take(self.context, {slot.seq_id: tokens}, seq_id=slot.seq_id, adapters=self._changes())
        saved.write(path)
        return len(tokens)

    def load_prompt(self, path: str | os.PathLike[str]) -> tuple[int, ...]:
        """Bring a file of :meth:`save_prompt` back beside what is in memory, and return its tokens.

        It takes the place of the text unused for longest when every slot is taken, and of more when there is no room.
        """
        saved = SavedState.read(path, self._check)
        tokens = next((sequence.tokens for sequence in saved.header.sequences.values()), None)
        if saved.header.kind != "sequence" or tokens is None:
            raise StateMismatchError(f"{os.fspath(path)} is not the state of one prompt; load_state() reads all in one")
        self._open_engine().adopt(CachedPrompt(saved, tokens, self._changes()), self._adapters)
        return tokens

    def _take_state(self) -> SavedState:
        with self._open_engine().at_rest() as slots:
            kept = {slot.seq_id: slot.tokens for slot in slots if slot.tokens and slot.adapters == self._adapters}
            return SavedState.take(self.context, kept, adapters=self._changes())

    def _changes(self) -> tuple[str, ...]:
        """What changes the model for a request that says nothing of it."""
        found = [f"lora {adapter.fingerprint} at {scale!r}" for adapter, scale in self._adapters]
        vector, layers = self._control
        if vector is not None:
            found.append(f"control vector {vector.fingerprint} in {layers if layers is not None else 'all layers'}")
        return tuple(sorted(found))

    def _check(self, header: StateHeader) -> None:
        header.check(self.context, adapters=self._changes())

    def _restore(self, saved: SavedState) -> int:
        if saved.header.kind != "context":
            raise StateMismatchError("this is the state of one prompt; load_prompt() reads it")
        with self._open_engine().at_rest() as slots:
            self._check(saved.header)
            for slot in slots:
                slot.fill(())
            found = saved.restore(self.context, adapters=self._changes())
            for slot in slots:
                tokens = found.get(slot.seq_id)
                if tokens is None:
                    # Nobody knows what it is, so nobody can use it.
                    self.context.memory.seq_rm(slot.seq_id)
                else:
                    slot.fill(tokens, self._adapters)
        return sum(len(tokens) for tokens in found.values() if tokens)
