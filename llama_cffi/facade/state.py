"""What a model has computed, saved and brought back: everything in memory, or one prompt."""

from __future__ import annotations

import os
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

from llama_cffi.core.prompt import Prompt
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
        wanted, conditioning = self._request(prompt).prompt, self._conditioning
        self.generate(list(wanted), max_tokens=1, temperature=0)
        with self._open_engine().at_rest() as slots:
            slot = next((one for one in slots if one.held == wanted and one.conditioning == conditioning), None)
            if slot is None:
                raise MemoryFullError("other requests have taken the place of the prompt")
            saved = SavedState.take(
                self.context, {slot.seq_id: wanted}, seq_id=slot.seq_id, conditioning=conditioning.names()
            )
        saved.write(path)
        return len(wanted)

    def load_prompt(self, path: str | os.PathLike[str]) -> Prompt:
        """Bring a file of :meth:`save_prompt` back beside what is in memory, and return its prompt.

        It takes the place of the text unused for longest when every slot is taken, and of more when there is no room.
        """
        saved = SavedState.read(path, self._check)
        prompt = next((sequence.prompt for sequence in saved.header.sequences.values()), None)
        if saved.header.kind != "sequence" or prompt is None:
            raise StateMismatchError(f"{os.fspath(path)} is not the state of one prompt; load_state() reads all in one")
        self._open_engine().adopt(CachedPrompt(saved, prompt, self._conditioning.names()), self._conditioning)
        return prompt

    def _take_state(self) -> SavedState:
        with self._open_engine().at_rest() as slots:
            conditioning = self._conditioning
            kept = {slot.seq_id: slot.held for slot in slots if slot.held and slot.conditioning == conditioning}
            return SavedState.take(self.context, kept, conditioning=conditioning.names())

    def _check(self, header: StateHeader) -> None:
        header.check(self.context, conditioning=self._conditioning.names())

    def _restore(self, saved: SavedState) -> int:
        if saved.header.kind != "context":
            raise StateMismatchError("this is the state of one prompt; load_prompt() reads it")
        with self._open_engine().at_rest() as slots:
            self._check(saved.header)
            for slot in slots:
                slot.fill()
            found = saved.restore(self.context, conditioning=self._conditioning.names())
            for slot in slots:
                prompt = found.get(slot.seq_id)
                if prompt is None:
                    # Memory whose content is unknown is of no use.
                    self.context.memory.seq_rm(slot.seq_id)
                else:
                    slot.fill(prompt, self._conditioning)
        return sum(len(prompt) for prompt in found.values() if prompt)
