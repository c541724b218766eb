"""What executes a plan: the only file of the engine that touches a Context."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast

from llama_cffi.core.adapter import adapter_set
from llama_cffi.core.batch import Batch
from llama_cffi.core.conditioning import Conditioner, Conditioning
from llama_cffi.core.device_candidates import DeviceCandidates
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.rollback import Rollback
from llama_cffi.core.state import has_partial_states
from llama_cffi.engine.host_cache import MIN_TOKENS, HostMemory
from llama_cffi.engine.media_content import check_media
from llama_cffi.engine.media_decode import decode_medium
from llama_cffi.engine.media_encoder import MediaEncoder
from llama_cffi.engine.pieces import VocabPieces
from llama_cffi.engine.plan import StepPlan, drafted
from llama_cffi.engine.prompt_encoder import PromptEncoder, decoder_start
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence, SequenceSampler
from llama_cffi.engine.sequence_samplers import make_sampler, switch_devices
from llama_cffi.errors import BusyError, ClosedError, MemoryFullError, UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.context import Context
    from llama_cffi.core.state import BytesLike
    from llama_cffi.engine.prompt_cache import CachedPrompt, PromptCache


class SavedMemory(Protocol):
    """The memory of a sequence, kept outside the context."""

    @property
    def prompt(self) -> Prompt:
        """What it holds."""


class Runner(Protocol):
    """What the engine needs of a Context. :class:`~llama_cffi.engine.fake.FakeRunner` does it without a model."""

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

    def pieces(self, visible: frozenset[int]) -> Mapping[int, str | bytes | None]:
        """What each token adds to a text: bytes when they are not whole characters, None for the end of generation.

        Control tokens add nothing, unless they are ``visible``.
        """

    def sampler(self, request: Request, seed: int) -> SequenceSampler:
        """The sampler of a new sequence; raises what is wrong with the request's sampling or adapters."""

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


class ContextRunner:
    """Runs plans on a :class:`~llama_cffi.core.context.Context`."""

    def __init__(
        self, context: Context, prompt_cache: PromptCache | None = None, encoder: MediaEncoder | None = None
    ) -> None:
        self.context = context
        self._cache, self.encoder = prompt_cache, encoder
        self.n_batch, self.n_ubatch = context.n_batch, context.n_ubatch
        self.n_ctx = context.n_ctx_seq
        # llama.cpp keeps what the encoder has read last, for all sequences: one text at a time can have read something.
        self.decoder_start = decoder_start(context.model)
        self.n_seq_max = context.n_seq_max if self.decoder_start is None else 1
        self._prompts = PromptEncoder(context)
        self.n_vocab = context.n_vocab
        # A decode that waits for a piece of an encoding takes no longer for that.
        self.clock = perf_counter if encoder is None else lambda: perf_counter() - context.seconds_waited
        self.lock, self.seconds_waited = context.lock, lambda: context.seconds_waited
        self.can_shift = context.memory.can_shift
        self._memory = context.memory
        # Recurrent state keeps only the last position: it can neither be cut nor shared in part.
        self._recurrent = context.model.is_recurrent or context.model.is_hybrid
        self._rollback = Rollback(context) if self._recurrent else None
        self.n_rollback = context.n_rs_seq if self._recurrent else None
        self.can_copy = context.options.kv_unified and not self._recurrent
        self.can_cut = not self._recurrent
        self._n_swa = context.model.n_swa
        # With M-RoPE all cells of an image are at its first position, so that memory may end before it does.
        self._ends_early = context.model.n_pos_per_embd > 1
        self.can_cut_saved = self.can_cut and not self._n_swa
        self._device = DeviceCandidates(context) if context.options.backend_sampling else None
        self._has_parts = not self.can_cut_saved and not context.model.is_recurrent and has_partial_states()
        # A window would miss what it has let go for padding, and a sequence has one row for candidates of a device.
        self.can_pad = self.can_cut and (not self._n_swa or context.options.swa_full) and self._device is None
        shares_cells = context.options.kv_unified and not context.model.is_recurrent
        self.n_cells: int | None = context.n_ctx if shares_cells else None
        self._batch = Batch(context.n_batch)
        self.use = Conditioner(context).use
        self._pieces: dict[frozenset[int], Mapping[int, str | bytes | None]] = {}

    @property
    def n_threads(self) -> int:
        # A GPU that computes looks like a CPU that is lacking.
        context = self.context
        return 1 if context.model.placement.gpu_bytes else min(context.n_threads, context.n_threads_batch)

    def lower_threads(self, limit: int | None) -> None:
        # While another thread is inside, or has closed it, that waits for the next time.
        with suppress(BusyError, ClosedError):
            self.context.lower_threads(limit, "other work keeps the rest of the CPUs busy")

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        self.use(plan[0].sequence.request.conditioning)
        if self.decoder_start is not None:
            self._prompts.read(plan[0].sequence, deadline)
        if plan[0].sequence.cells[plan[0].sequence.n_past] < 0:
            return [decode_medium(self.context, plan[0], deadline, self.rewind)]
        rows = self._fill(plan)
        if self._device is not None:
            switch_devices(self._device, (work.sequence for work in plan))
        if self._rollback is not None:
            self._rollback.forget()
            for place, position, n_tokens in drafted(plan):
                self._rollback.prepare(place, position, n_tokens, alone=len(plan) == 1)
        padded = plan[-1] if plan[-1].n_padding else None
        if padded is None:
            self.context.decode(self._batch, deadline=deadline)
            return rows
        sequence, seq_id = padded.sequence, padded.sequence.seq_id
        end = sequence.position(sequence.n_past) + padded.n_tokens + len(padded.draft)
        n, token = self._batch.n_tokens, sequence.cells[sequence.n_past]
        for pos in range(end, end + padded.n_padding):
            self._batch.add(token, pos, seq_id, output=True)  # type: ignore[arg-type]
        try:
            self.context.decode(self._batch, deadline=deadline)
        except MemoryFullError:
            plan[-1] = padded._replace(n_padding=0)
            self._batch.n_tokens = n
            self.context.decode(self._batch, deadline=deadline)
            return rows
        self._memory.seq_rm(seq_id, end)
        return rows

    def _fill(self, plan: StepPlan) -> list[int]:
        """Put a plan into the batch, without its padding; return the row of each item's last token."""
        batch = self._batch
        batch.clear()
        rows = []
        for sequence, count, output, _, draft, _ in plan:
            start = sequence.n_past
            position = sequence.position(start)
            seq_id = sequence.seq_id
            if count == 1:
                rows.append(batch.add(sequence.cells[start], position, seq_id, output=output))  # type: ignore[arg-type]
            else:
                tokens = sequence.cells[start : start + count]
                rows.append(batch.extend(tokens, position, seq_id, output_last=output))  # type: ignore[arg-type]
            if sequence.prompt_logprobs is not None:
                batch.output[batch.n_tokens - count : batch.n_tokens] = 1
            for pos, token in enumerate(draft, position + count):
                batch.add(token, pos, seq_id, output=True)  # type: ignore[arg-type]
        return rows

    def pieces(self, visible: frozenset[int]) -> Mapping[int, str | bytes | None]:
        if visible not in self._pieces:
            self._pieces[visible] = VocabPieces(self.context.model.vocab, visible)
        return self._pieces[visible]

    def sampler(self, request: Request, seed: int) -> SequenceSampler:
        if request.prompt.media:
            if self.encoder is None:
                raise UnsupportedError("this model takes no media: it has no projector; give one with mmproj=")
            check_media(request.prompt, self.encoder.projector, self.n_ubatch)
        if request.conditioning.adapters:
            adapter_set(dict(request.conditioning.adapters), self.context.model)
        if self.decoder_start is not None:
            # Penalties are for what the decoder has before it.
            request = replace(request, prompt=Prompt((self.decoder_start,)))
        return make_sampler(self.context, request, seed, self._device)

    def keep(self, seq_id: int, n: int) -> bool:
        memory = self._memory
        if self._rollback is not None:
            self._rollback.forget(seq_id)
        if n and self._holds(seq_id, n) and memory.seq_rm(seq_id, n):
            return True
        memory.seq_rm(seq_id)
        return n == 0

    def rewind(self, sequence: RunningSequence) -> int:
        seq_id, n = sequence.seq_id, sequence.n_past
        if seq_id is None:
            return 0
        position = sequence.position(n)
        if self._rollback is None:
            return n if self.keep(seq_id, position) else 0
        if self._holds(seq_id, position) and self._memory.seq_rm(seq_id, position):
            return n
        left = self._rollback.rewind(seq_id, position)
        # Drafts are tokens: where they were, each cell has a position of its own.
        return n - (position - left) if left else 0

    def _holds(self, seq_id: int, n: int) -> bool:
        """Whether the cells that position ``n`` attends to are all there.

        A sliding window drops old ones: in memory without ``swa_full``, and always in the saved state of a sequence.
        """
        first, last = self._memory.seq_pos_min(seq_id), self._memory.seq_pos_max(seq_id)
        if first is None or last is None or (last + 1 < n and not self._ends_early):
            return False
        if self._recurrent:
            return last < n  # what is behind could not be removed
        return first <= max(0, n + 1 - self._n_swa) if self._n_swa else first == 0

    def copy(self, source: int, target: int, n: int) -> bool:
        self._memory.seq_rm(target)
        if not self.can_copy or not self._holds(source, n):
            return False
        self._memory.seq_cp(source, target, 0, n)
        return True

    def shift(self, seq_id: int, start: int, count: int) -> None:
        memory = self._memory
        if not self.can_shift or not memory.seq_rm(seq_id, start, start + count):
            raise UnsupportedError("the memory of this model cannot be shifted")
        memory.seq_add(seq_id, start + count, None, -count)
        if self._rollback is not None:
            self._rollback.forget(seq_id)

    def save(self, seq_id: int) -> tuple[BytesLike, BytesLike | None]:
        state = self.context.state
        return state.seq_data(seq_id), state.seq_data(seq_id, partial=True) if self._has_parts else None

    def checkpoints(self, prompt: Prompt) -> tuple[int, ...]:
        if self.can_cut_saved:
            return ()
        # Chat templates end each message with a token that ends a text: what is before it comes again in the next turn.
        vocab, n = self.context.model.vocab, len(prompt)
        borders = [i + 1 for i, cell in enumerate(prompt) if cell >= 0 and vocab.is_eog(cell)]
        # The next question may be another one about the same image.
        media = [span.end for span in prompt.media]
        found: list[int] = []
        for border in sorted({*borders[:1], *borders[-1:], *media[-1:], n - 1}):
            if MIN_TOKENS <= border < n and (not found or border - found[-1] >= MIN_TOKENS):
                found.append(prompt.boundary(border))
        return tuple(found)

    def copy_out(self, seq_id: int, held: Prompt) -> SavedMemory | None:
        # A context shift leaves more in memory than can be used again.
        if self._cache is None or not self.keep(seq_id, held.n_positions):
            return None
        return self._cache.take(self.context, seq_id, held, can_cut=self.can_cut_saved)

    def store(self, saved: SavedMemory) -> None:
        if self._cache is not None:
            self._cache.store(self.context, cast("CachedPrompt", saved), can_cut=self.can_cut_saved)

    def find(self, prompt: Prompt, held: int) -> SavedMemory | None:
        if self._cache is None:
            return None
        return self._cache.find(self.context, prompt, held, can_cut=self.can_cut_saved)

    def recall(self, seq_id: int, found: SavedMemory) -> str | None:
        if self._rollback is not None:
            self._rollback.forget(seq_id)
        return cast("CachedPrompt | HostMemory", found).restore(self.context, seq_id)
