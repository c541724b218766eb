"""The header of a saved state, and whether it fits a Context. Pure data: no byte of the state is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llama_cffi._native import library_info
from llama_cffi.core.fingerprint import Fingerprint
from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.errors import StateFormatError, StateMismatchError

if TYPE_CHECKING:
    from llama_cffi.core.context import Context


_INT32_MAX = 2**31 - 1
"""Sequence ids and positions are of this size in llama.cpp."""


@dataclass(frozen=True, kw_only=True)
class MemoryKind:
    """What of a context decides how its memory is laid out, and what the numbers in it mean."""

    n_ctx: int
    n_ctx_seq: int
    n_seq_max: int
    type_k: str
    type_v: str
    flash_attn: str
    kv_unified: bool
    swa_full: bool
    rope: tuple[str | None, float | None, float | None]
    """Scaling, base and frequency scale as the context was given them; None is the model's."""

    @classmethod
    def of(cls, context: Context) -> MemoryKind:
        """That of a context."""
        options = context.options
        return cls(
            n_ctx=context.n_ctx,
            n_ctx_seq=context.n_ctx_seq,
            n_seq_max=context.n_seq_max,
            type_k=options.type_k,
            type_v=options.type_v,
            flash_attn=options.flash_attn,
            kv_unified=bool(options.kv_unified),
            swa_full=bool(options.swa_full),
            rope=(options.rope_scaling, _float(options.rope_freq_base), _float(options.rope_freq_scale)),
        )

    @property
    def n_streams(self) -> int:
        """Into how many parts llama.cpp cuts the memory."""
        return 1 if self.kv_unified else self.n_seq_max


class SavedCheckpoint(NamedTuple):
    """What the memory of a sequence was after its first cells, saved behind that of all its cells."""

    n_cells: int
    n_bytes: int
    partial: bool
    """Whether the cells of full attention are left out, which the memory of all cells has."""


@dataclass(frozen=True, kw_only=True)
class SavedSequence:
    """One sequence of a saved state: positions 0 to ``n_past - 1``, and what they hold, None where that is unknown."""

    n_past: int
    prompt: Prompt | None = None
    checkpoints: tuple[SavedCheckpoint, ...] = ()
    """Beginnings of the prompt to which its memory can be set back, although it cannot be cut there."""

    def to_json(self) -> dict[str, Any]:
        """As JSON's own types: cells, and the media among them."""
        if self.prompt is None:
            return {"n_past": self.n_past, "cells": None, "media": []}
        more = {"checkpoints": [list(one) for one in self.checkpoints]} if self.checkpoints else {}
        media = [
            [span.start, span.media.digest.hex(), span.media.n_cells, span.media.n_positions]
            for span in self.prompt.media
        ]
        # A cell of media is known by the digest: a reader of 64-bit numbers need not read it.
        return {"n_past": self.n_past, "cells": [max(cell, -1) for cell in self.prompt], "media": media, **more}


@dataclass(frozen=True, kw_only=True)
class StateHeader:
    """The origin and the contents of a saved state. ``kind`` says whether it is that of a whole context."""

    kind: Literal["context", "sequence"]
    model: Fingerprint
    library: str
    """Version and commit of llama.cpp: the payload is in its private format."""
    memory: MemoryKind
    conditioning: tuple[str, ...] = ()
    """What changed the model while the state was computed, as :meth:`Conditioning.names` says it."""
    sequences: Mapping[int, SavedSequence]

    @property
    def n_checkpoint_bytes(self) -> int:
        """Bytes of all checkpoints."""
        return sum(one.n_bytes for sequence in self.sequences.values() for one in sequence.checkpoints)

    def check(self, context: Context, *, conditioning: Sequence[str] = ()) -> None:
        """Raise :class:`StateMismatchError`, which names the difference, when a context cannot take this state."""
        mine = context.model.fingerprint
        if self.model != mine:
            raise StateMismatchError(f"the state is of another model: {_differences(self.model, mine)}")
        if self.library != library_name():
            raise StateMismatchError(f"the state is of llama.cpp {self.library}, and this is {library_name()}")
        if self.conditioning != tuple(conditioning):
            raise StateMismatchError(
                f"the state was computed with adapters {list(self.conditioning)}, and the current adapters are "
                f"{list(conditioning)}"
            )
        self._check_memory(context)
        self._check_room(context)

    def _check_memory(self, context: Context) -> None:
        saved, mine = self.memory, MemoryKind.of(context)
        for name in ("type_k", "type_v", "rope", "n_streams"):
            _check_same(name, getattr(saved, name), getattr(mine, name))
        if context.model.n_swa:
            _check_same("swa_full", saved.swa_full, mine.swa_full)
        if "auto" not in (saved.flash_attn, mine.flash_attn):
            # What "auto" became is known to llama.cpp alone, which compares the layouts.
            _check_same("flash_attn", saved.flash_attn, mine.flash_attn)

    def _check_room(self, context: Context) -> None:
        n_vocab = context.n_vocab
        for seq_id, sequence in self.sequences.items():
            if self.kind == "context" and seq_id >= context.n_seq_max:
                raise StateMismatchError(
                    f"the state has a sequence {seq_id}; the context has n_seq_max={context.n_seq_max}"
                )
            if any(cell >= n_vocab for cell in sequence.prompt or ()):
                raise StateMismatchError(f"the state has tokens outside the vocabulary of {n_vocab}")
        if context.model.is_recurrent:
            return  # one cell for each sequence, whatever its length
        lengths = [one.n_past if one.prompt is None else len(one.prompt) for one in self.sequences.values()]
        if max(lengths, default=0) > context.n_ctx_seq:
            raise StateMismatchError(
                f"the state has a sequence of {max(lengths)} tokens; the context has room for {context.n_ctx_seq}"
            )
        # Shared cells are counted for each of their sequences: they were together in a memory of the saved size.
        if self.kind == "context" and min(sum(lengths), self.memory.n_ctx) > context.n_ctx:
            raise StateMismatchError(f"the state has {sum(lengths)} tokens; the context has room for {context.n_ctx}")

    # -- as JSON

    def to_json(self) -> bytes:
        """As UTF-8 JSON."""
        data = asdict(replace(self, sequences={}))
        data["sequences"] = {str(seq_id): one.to_json() for seq_id, one in self.sequences.items()}
        return json.dumps(data, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> StateHeader:
        """From :meth:`to_json`; :class:`StateFormatError` for anything else."""
        try:
            found = json.loads(data)
            header = cls(
                kind=_one_of(found.pop("kind"), ("context", "sequence")),
                model=_record(Fingerprint, found.pop("model")),
                library=_typed(found.pop("library"), str),
                memory=_memory(found.pop("memory")),
                conditioning=tuple(_typed(one, str) for one in _typed(found.pop("conditioning"), list)),
                sequences={int(key): _sequence(one) for key, one in found.pop("sequences").items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise StateFormatError(f"the header of the state does not make sense: {error!r}") from error
        if found or any(not 0 <= seq_id <= _INT32_MAX for seq_id in header.sequences):
            raise StateFormatError("the header of the state does not make sense")
        if header.kind == "sequence" and len(header.sequences) != 1:
            raise StateFormatError("the state of a sequence must have one sequence")
        return header


def library_name() -> str:
    """Return the llama.cpp in use, as headers name it."""
    info = library_info()
    return f"{info.version} {info.commit}".strip()


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _check_same(name: str, saved: object, mine: object) -> None:
    if saved != mine:
        raise StateMismatchError(f"the state was saved with {name}={saved!r}, and the context has {mine!r}")


def _differences(saved: Fingerprint, mine: Fingerprint) -> str:
    names = [field.name for field in fields(saved) if getattr(saved, field.name) != getattr(mine, field.name)]
    return ", ".join(f"{name} {getattr(saved, name)!r}, not {getattr(mine, name)!r}" for name in names)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("an integer of more than 64 bits")
    return value


def _one_of(value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{value!r:.40} is none of {choices}")
    return value


_KINDS: dict[str, type] = {"str": str, "int": int, "bool": bool}


def _record(kind: type, data: dict[str, Any]) -> Any:
    """A dataclass from its fields, each of its declared type; a missing or an unknown one is a TypeError."""
    types = {field.name: _KINDS.get(str(field.type)) for field in fields(kind)}
    for name, value in data.items():
        if (expected := types[name]) is not None:
            _typed(value, expected)
    return kind(**data)


def _memory(data: dict[str, Any]) -> MemoryKind:
    scaling, base, scale = data["rope"]
    if not isinstance(scaling, (str, type(None))) or any(not isinstance(x, (float, type(None))) for x in (base, scale)):
        raise TypeError("rope is not a name and two numbers")
    return _record(MemoryKind, {**data, "rope": (scaling, base, scale)})  # type: ignore[no-any-return]


def _sequence(data: dict[str, Any]) -> SavedSequence:
    n_past, cells, media = _typed(data.pop("n_past"), int), data.pop("cells"), _typed(data.pop("media"), list)
    checkpoints = tuple(_checkpoint(*one) for one in _typed(data.pop("checkpoints", []), list))
    if data:
        raise ValueError(f"unknown fields {list(data)}")
    prompt = None if cells is None else _prompt(_typed(cells, list), media)
    if not 1 <= n_past <= _INT32_MAX or (prompt is not None and prompt.n_positions != n_past):
        raise ValueError("a sequence whose tokens are not those in memory")
    n_cells = len(prompt or ())
    if any(one.n_cells > n_cells or (prompt or Prompt()).boundary(one.n_cells) != one.n_cells for one in checkpoints):
        raise ValueError("a checkpoint outside of the tokens, or in the middle of media")
    return SavedSequence(n_past=n_past, prompt=prompt, checkpoints=checkpoints)


def _checkpoint(n_cells: Any, n_bytes: Any, partial: Any) -> SavedCheckpoint:
    found = SavedCheckpoint(_typed(n_cells, int), _typed(n_bytes, int), _typed(partial, bool))
    if found.n_cells < 1 or found.n_bytes < 1:
        raise ValueError("an empty checkpoint")
    return found


def _prompt(cells: list[Any], media: list[Any]) -> Prompt:
    spans = {}
    for start, digest, n_cells, n_positions in media:
        sizes = _typed(n_cells, int), _typed(n_positions, int)
        spans[_typed(start, int)] = Media(bytes.fromhex(_typed(digest, str)), *sizes)
    parts: list[int | Media] = []
    cell = 0
    while cell < len(cells):
        if (one := spans.pop(cell, None)) is not None:
            parts.append(one)
            if cells[cell : cell + one.n_cells] != [-1] * one.n_cells:
                raise ValueError("media that are not at their cells")
            cell += one.n_cells
        elif _typed(cells[cell], int) < 0:
            raise ValueError("a cell of media that are not described")
        else:
            parts.append(cells[cell])
            cell += 1
    if spans:
        raise ValueError("media after the end")
    return Prompt(parts)


__all__ = ["MemoryKind", "SavedCheckpoint", "SavedSequence", "StateHeader", "library_name"]
