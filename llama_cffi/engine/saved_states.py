"""The memory of an idle engine, saved and brought back: everything, or one prompt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from llama_cffi.core.saved_state import SavedState
from llama_cffi.engine.prompt_cache import CachedPrompt
from llama_cffi.errors import MemoryFullError, PromptError, StateMismatchError

if TYPE_CHECKING:
    from llama_cffi.core.conditioning import Conditioning
    from llama_cffi.core.context import Context
    from llama_cffi.core.prompt import Prompt
    from llama_cffi.core.state import BytesLike
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.slots import Slot


def take_state(engine: Engine, context: Context, conditioning: Conditioning) -> SavedState:
    """Save what was computed under a conditioning; :class:`BusyError` while a request waits or runs."""
    with engine.at_rest() as slots:
        kept = {slot.seq_id: slot.held for slot in slots if slot.held and slot.conditioning == conditioning}
        checkpoints = {seq_id: engine.outside.checkpoints(held, conditioning) for seq_id, held in kept.items()}
        return SavedState.take(context, kept, conditioning=conditioning.names(), checkpoints=checkpoints)


def restore_state(engine: Engine, context: Context, saved: SavedState, conditioning: Conditioning) -> int:
    """Replace the memory, and return how many tokens it holds; raises the errors of :meth:`SavedState.restore`."""
    if saved.header.kind != "context":
        raise StateMismatchError("this is the state of one prompt; load_prompt() reads it")
    with engine.at_rest() as slots:
        saved.header.check(context, conditioning=conditioning.names())
        for slot in slots:
            slot.fill()
        found = saved.restore(context, conditioning=conditioning.names())
        for slot in slots:
            prompt = found.get(slot.seq_id)
            if prompt is None:
                # Memory whose content is unknown is of no use.
                context.memory.seq_rm(slot.seq_id)
            else:
                slot.fill(prompt, conditioning)
                checkpoints = saved.checkpoints(slot.seq_id)
                if checkpoints:
                    data = context.state.seq_data(slot.seq_id)
                    engine.outside.remember(prompt, conditioning, checkpoints, data)
    return sum(len(prompt) for prompt in found.values() if prompt)


def take_prompt(engine: Engine, context: Context, prompt: Prompt, conditioning: Conditioning) -> SavedState:
    """Save a prompt that was just computed; :class:`MemoryFullError` when it has lost its place."""
    with engine.at_rest() as slots:
        slot = next((one for one in slots if one.held == prompt and one.conditioning == conditioning), None)
        if slot is None:
            raise MemoryFullError("other requests have evicted the prompt")
        return _take(engine, context, slot)


def take_slot(engine: Engine, context: Context, slot: int) -> SavedState:
    """Save what an idle slot holds, while others compute.

    Raises :class:`BusyError` for a slot that is in use, and :class:`PromptError` for one that holds nothing.
    """
    with engine.at_rest(slot) as (idle,):
        if not idle.held:
            raise PromptError(f"slot {slot} holds nothing")
        return _take(engine, context, idle)


def _take(engine: Engine, context: Context, slot: Slot) -> SavedState:
    seq_id, held, conditioning = slot.seq_id, slot.held, slot.conditioning
    checkpoints = {seq_id: engine.outside.checkpoints(held, conditioning)}
    return SavedState.take(
        context, {seq_id: held}, seq_id=seq_id, conditioning=conditioning.names(), checkpoints=checkpoints
    )


def clear_slot(engine: Engine, context: Context, slot: int) -> int:
    """Empty an idle slot, and return how many tokens it held; raises as :func:`take_slot`."""
    with engine.at_rest(slot) as (idle,):
        n = len(idle.held)
        idle.fill()
        context.memory.seq_rm(slot)
        return n


def read_state(path: str | os.PathLike[str], context: Context, conditioning: Conditioning) -> SavedState:
    """Read a file and check that it fits before its payload is read."""
    return SavedState.read(path, lambda header: header.check(context, conditioning=conditioning.names()))


def adopt_prompt(
    engine: Engine,
    context: Context,
    path: str | os.PathLike[str],
    conditioning: Conditioning,
    slot: int | None = None,
) -> Prompt:
    """Bring the saved state of one prompt into memory, or into one ``slot``, and return the prompt."""
    saved = read_state(path, context, conditioning)
    prompt = next((sequence.prompt for sequence in saved.header.sequences.values()), None)
    if saved.header.kind != "sequence" or prompt is None:
        raise StateMismatchError(f"{os.fspath(path)} is not the state of one prompt; load_state() reads it")
    (seq_id,) = saved.header.sequences
    checkpoints = saved.checkpoints(seq_id)
    if checkpoints:
        with engine.at_rest(slot):
            engine.outside.remember(prompt, conditioning, checkpoints, saved.memory)
    engine.adopt(CachedPrompt(saved, prompt, conditioning.names()), conditioning, slot)
    return prompt


class States:
    """The states of one engine: what the methods of a Llama do with files and bytes. Each raises what those raise."""

    def __init__(self, engine: Engine, context: Context) -> None:
        self._engine = engine
        self._context = context

    def write(self, path: str | os.PathLike[str], conditioning: Conditioning) -> None:
        """Write the whole memory to a file."""
        take_state(self._engine, self._context, conditioning).write(path)

    def read(self, path: str | os.PathLike[str], conditioning: Conditioning) -> int:
        """Replace the memory with a file, and return its number of tokens."""
        saved = read_state(path, self._context, conditioning)
        return restore_state(self._engine, self._context, saved, conditioning)

    def to_bytes(self, conditioning: Conditioning) -> bytes:
        """Return the bytes of :meth:`write`."""
        return take_state(self._engine, self._context, conditioning).to_bytes()

    def from_bytes(self, data: BytesLike, conditioning: Conditioning) -> int:
        """Replace the memory with bytes, and return the number of tokens in them."""
        return restore_state(self._engine, self._context, SavedState.from_bytes(data), conditioning)

    def write_prompt(self, prompt: Prompt, path: str | os.PathLike[str], conditioning: Conditioning) -> None:
        """Write the state of a prompt that was just computed."""
        take_prompt(self._engine, self._context, prompt, conditioning).write(path)

    def read_prompt(self, path: str | os.PathLike[str], conditioning: Conditioning, slot: int | None = None) -> Prompt:
        """Bring the state of one prompt into memory, and return the prompt."""
        return adopt_prompt(self._engine, self._context, path, conditioning, slot)

    def write_slot(self, slot: int, path: str | os.PathLike[str]) -> int:
        """Write what a slot holds, and return its number of tokens."""
        saved = take_slot(self._engine, self._context, slot)
        saved.write(path)
        return sum(len(one.prompt or ()) for one in saved.header.sequences.values())

    def clear_slot(self, slot: int) -> int:
        """Empty a slot, and return the number of tokens that it held."""
        return clear_slot(self._engine, self._context, slot)


__all__ = ["States"]
