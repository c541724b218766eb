"""Media for a model of another process: its projector makes cells of them there, and what is known of these is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.core.media.place import FIRST_PLACE, Place
from llama_cffi.core.media.speech_turn import SpeechTurn
from llama_cffi.core.prompt import Media
from llama_cffi.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from llama_cffi.isolation.supervisor import Supervisor
    from llama_cffi.prompt.media_parts import Medium

PROJECTOR_FACTS = (
    "path", "vision", "audio", "video", "sample_rate", "uses_mrope", "n_embd", "fingerprint",
    "speech", "speech_rate", "voices",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class RemoteChunk:
    """Has of a :class:`~llama_cffi.core.media.chunk.MediaChunk` what a prompt needs, without the projector's input."""

    digest: bytes
    n_tokens: int
    n_positions: int
    non_causal: bool
    first: NDArray[np.int32]
    """Its positions when it begins at 0."""
    moves: NDArray[np.int32]
    """What each of them grows by when it begins one later."""

    def positions(self, pos_0: int) -> NDArray[np.int32]:
        """As :meth:`MediaChunk.positions`."""
        found: NDArray[np.int32] = self.first + self.moves * np.int32(pos_0)
        return found


def pieces_of(parts: Iterable[int | Media]) -> list[list[int] | RemoteChunk]:
    """Return what stands for a medium as :meth:`Projector.tokenize` does, from its parts in a prompt."""
    pieces: list[list[int] | RemoteChunk] = []
    for part in parts:
        if isinstance(part, Media):
            content = part.content
            first = content.positions(0)
            moves = content.positions(1) - first
            pieces.append(RemoteChunk(part.digest, part.n_cells, part.n_positions, content.non_causal, first, moves))
        elif pieces and isinstance(pieces[-1], list):
            pieces[-1].append(part)
        else:
            pieces.append([part])
    return pieces


class RemoteProjector(ProcessBound):
    """The projector of another process: its values, and what it makes of media."""

    _instead_of_pickling = "open the model in each process"
    _instead_of_copying = "any number of threads may use one"

    speech_rate: int

    def __init__(self, supervisor: Supervisor, facts: Mapping[str, Any]) -> None:
        self._supervisor = supervisor
        self._places: tuple[bool, int] | None = None
        self.speech_turn = SpeechTurn()
        vars(self).update(facts)

    def place(self, n_images: int, n_cells: int) -> Place:
        """As :meth:`Projector.place`."""
        if self._places is None:
            self._places = self._supervisor.call(("projector_places", (), {}))
        numbered, alignment = self._places
        return Place(n_images if numbered else None, n_cells % alignment, alignment)

    def tokenize(self, media: Medium, place: Place = FIRST_PLACE) -> list[list[int] | RemoteChunk]:
        """As :meth:`Projector.tokenize`; the other process keeps what is encoded for the request that follows."""
        pieces: list[list[int] | RemoteChunk] = self._supervisor.call(("tokenize_medium", (media, place), {}))
        return pieces

    @property
    def closed(self) -> bool:
        """Whether the Llama was closed."""
        return self._supervisor.closed

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UnsupportedError(f"isolate=True: projector.{name} is in the process of the model: use isolate=False")

    def __repr__(self) -> str:
        return "<Projector of another process>"


__all__ = ["PROJECTOR_FACTS", "RemoteChunk", "RemoteProjector", "pieces_of"]
