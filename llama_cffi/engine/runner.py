"""What the engine needs of a Context, and of the memory that is kept outside it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from llama_cffi.core.conditioning import Conditioning
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.media_encoder import MediaEncoder
from llama_cffi.engine.pieces import Pieces
from llama_cffi.engine.plan import StepPlan
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence, SequenceSampler

if TYPE_CHECKING:
    from llama_cffi.core.state import BytesLike


class SavedMemory(Protocol):
    """The memory of a sequence, kept outside the context."""

    @property
    def prompt(self) -> Prompt:
        """What it holds."""


class Runner(Protocol):
    """What the engine needs of a Context.

    :class:`~llama_cffi.engine.context_runner.ContextRunner` computes with a model,
    :class:`~llama_cffi.engine.fake.FakeRunner` without one.
    """

    @property
    def n_batch(self) -> int:
        """Most tokens of one decode."""

    @property
    def n_ubatch(self) -> int:
        """Most tokens that are computed at once: a longer decode is computed in pieces."""

    @property
    def n_ctx(self) -> int:
        """Most tokens of one sequence."""

    @property
    def n_cells(self) -> int | None:
        """Cells that all sequences share; None when each has its own."""

    @property
    def n_seq_max(self) -> int:
        """Number of sequences."""

    @property
    def n_vocab(self) -> int:
        """Number of tokens of the vocabulary."""

    @property
    def decoder_start(self) -> int | None:
        """The token that a text begins with where an encoder reads its prompt; None for a model without encoder."""

    @property
    def encoder(self) -> MediaEncoder | None:
        """Computes the embeddings of media; None where no media are taken, or they need none."""

    @property
    def can_shift(self) -> bool:
        """Whether :meth:`shift` works."""

    @property
    def can_copy(self) -> bool:
        """Whether :meth:`copy` works."""

    @property
    def can_cut(self) -> bool:
        """Whether :meth:`keep` works for less than the whole."""

    @property
    def can_cut_saved(self) -> bool:
        """Whether that also holds for a memory that was copied out and brought back."""

    @property
    def n_rollback(self) -> int | None:
        """Most tokens of a draft of which :meth:`rewind` takes back only some; None for any number."""

    @property
    def can_pad(self) -> bool:
        """Whether rows of padding can be computed and taken out of memory again without a loss."""

    @property
    def n_threads(self) -> int:
        """Threads that compute when nothing else runs; 1 where their number is not to be lowered."""

    def lower_threads(self, limit: int | None) -> None:
        """Compute with at most this many threads until further notice, because of other work; None ends that."""

    def clock(self) -> float:
        """Seconds since some moment, by which decodes are measured."""

    def seconds_waited(self) -> float:
        """Seconds that decodes have waited for their turn, in all."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other threads out of memory and logits; raises :class:`BusyError` when one is inside."""

    def use(self, conditioning: Conditioning) -> None:
        """Compute under this conditioning from now on."""

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        """Compute a plan under its conditioning and return, for each of its items, the batch row of its own last token.

        The rows of its draft follow that one. Padding is left out, and taken out of the plan, when there is no room in
        memory for it.
        Raises :class:`MemoryFullError` with the memory as it was before (of a medium, maybe with less: its sequence
        says how much), and :class:`AbortedError` when the :func:`time.monotonic` ``deadline`` has passed; some of the
        tokens may be in memory then.
        """

    def pieces(self, visible: frozenset[int]) -> Pieces:
        """Return what each token adds to a text: bytes when they are not whole characters, None for the end of it.

        Control tokens add nothing, unless they are ``visible``.
        """

    def sampler(self, request: Request, seed: int) -> SequenceSampler:
        """Return the sampler of a new sequence; raises what is wrong with the request's sampling or adapters."""

    def keep(self, seq_id: int, n: int) -> bool:
        """Cut the memory of a sequence to its first ``n`` positions.

        False when that cannot be done; the memory of the sequence is then empty.
        """

    def rewind(self, sequence: RunningSequence) -> int:
        """Cut the memory of a sequence to the cells that it says it has computed; return how many are left.

        Fewer are left where a memory cannot be cut there: after a draft at least those that were there before it.
        """

    def copy(self, source: int, target: int, n: int) -> bool:
        """Make the empty ``target`` hold the first ``n`` positions of ``source``; False when that cannot be done."""

    def shift(self, seq_id: int, start: int, count: int) -> None:
        """Remove ``count`` tokens at ``start`` and move what follows up to their place."""

    def save(self, seq_id: int) -> tuple[BytesLike, BytesLike | None]:
        """Copy the memory of a sequence, and what of it cannot be cut: None where that is all of it, or nothing."""

    def checkpoints(self, prompt: Prompt) -> tuple[int, ...]:
        """Return after how many cells of a prompt its memory is worth a copy, because it cannot be cut back later."""

    def copy_out(self, seq_id: int, held: Prompt) -> SavedMemory | None:
        """Copy the memory of a sequence that ended and holds this, if it is to be kept outside the context."""

    def store(self, saved: SavedMemory) -> None:
        """Keep what :meth:`copy_out` gave. Takes as long as a disk does; any thread may call it at any time."""

    def find(self, prompt: Prompt, held: int) -> SavedMemory | None:
        """Read what was kept and spares a prompt more work than the ``held`` cells in memory. As :meth:`store`."""

    def recall(self, seq_id: int, found: SavedMemory) -> str | None:
        """Make a sequence hold what was kept; otherwise say why there is no room, and the sequence is empty."""


__all__ = ["Runner", "SavedMemory"]
