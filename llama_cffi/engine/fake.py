"""A Runner without a model: for tests of everything above it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import NamedTuple, NoReturn
from zlib import crc32

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt, reusable
from llama_cffi.engine.media_encoder import MediaEncoder
from llama_cffi.engine.plan import StepPlan
from llama_cffi.engine.request import Request
from llama_cffi.engine.runner import SavedMemory
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import MemoryFullError
from llama_cffi.reply.completion import TokenLogprob


class FakeRunner:
    """A deterministic "model" over bytes: token n is the byte n, token 256 ends generation.

    The next token depends on all cells in memory, their positions, and the conditioning that each was computed under,
    so a scheduler that loses, repeats or mixes up a cell changes the text. :meth:`expected` computes the same text
    directly. ``n_cells`` bounds the memory over all sequences, where copies share their cells. Media are cells like
    others here, whatever they show; with an ``encoder`` their embeddings must be there. ``seconds`` says what a decode
    takes by its rows (tokens with an output) and its other tokens; a second without it.
    """

    EOG = 256
    _PIECES: Mapping[int, str | bytes | None] = MappingProxyType(
        {**{n: chr(n) if n < 128 else bytes([n]) for n in range(256)}, EOG: None}
    )

    def __init__(
        self,
        *,
        n_batch: int = 8,
        n_ubatch: int | None = None,
        n_ctx: int = 64,
        n_seq_max: int = 4,
        n_cells: int | None = None,
        seconds: Callable[[int, int], float] = lambda n_rows, n_others: 1.0,
        encoder: MediaEncoder | None = None,
    ) -> None:
        self.encoder = encoder
        self.n_batch = n_batch
        self.n_ubatch = n_batch if n_ubatch is None else n_ubatch
        self.n_ctx = n_ctx
        self.n_seq_max = n_seq_max
        self.n_vocab = self.EOG + 1
        self.n_threads = 1
        self.limit: int | None = None
        self.can_shift = True
        self.can_copy = True
        self.decoder_start: int | None = None
        self.can_cut = True
        self.n_rollback: int | None = None
        self.can_pad = True
        self.can_cut_saved = True
        self.n_cells = n_cells if n_cells is not None else n_ctx * n_seq_max
        self.seconds = seconds
        self.now = 0.0
        self.memory: dict[int, list[int]] = {i: [] for i in range(n_seq_max)}
        self.positions: dict[int, list[int]] = {i: [] for i in range(n_seq_max)}
        """The last position of each cell in ``memory``."""
        self._cells: dict[int, list[int]] = {i: [] for i in range(n_seq_max)}
        """Which cell holds each of what is in ``memory``."""
        self._n_written = 0
        self.stored: list[FakeMemory] | None = None
        """What :meth:`store` was given; None stores nothing."""
        self.decoded: list[list[tuple[int, int]]] = []
        """For each decode, (seq_id, number of tokens) of its items."""
        self.conditioning = PLAIN
        self._rows: dict[int, int] = {}
        self._n_samplers = 0
        self._before_draft: dict[int, int] = {}
        """Cells of each sequence of the last decode before its draft, to which :meth:`rewind` can always go back."""

    @classmethod
    def cells(cls, tokens: Iterable[int], conditioning: Conditioning) -> list[int]:
        """Return what the memory holds of tokens that were computed under a conditioning: without any, the tokens."""
        shift = crc32(repr(conditioning).encode()) if conditioning else 0
        return [token + shift for token in tokens]

    @classmethod
    def next_token(cls, cells: list[int]) -> int:
        """The token that follows what :meth:`cells` hold."""
        state = 7
        for cell in cells:
            state = (state * 31 + cell + 1) % 65_521
        return cls.EOG if state % 61 == 0 else 97 + state % 26

    @classmethod
    def expected(
        cls, prompt: Iterable[int], max_tokens: int, n_ctx: int, conditioning: Conditioning = PLAIN
    ) -> list[int]:
        """What a lone, uninterrupted sequence generates."""
        tokens = list(prompt)
        output: list[int] = []
        while len(output) < max_tokens and len(tokens) <= n_ctx:
            token = cls.next_token(cls.cells(tokens, conditioning))
            if token == cls.EOG:
                break
            tokens.append(token)
            output.append(token)
        return output

    def clock(self) -> float:
        """The seconds that all decodes have taken."""
        return self.now

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def lower_threads(self, limit: int | None) -> None:
        self.limit = limit

    def seconds_waited(self) -> float:
        return 0.0

    def use(self, conditioning: Conditioning) -> None:
        self.conditioning = conditioning

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        total = sum(work.n_tokens + len(work.draft) for work in plan)
        n_padding = sum(work.n_padding for work in plan)
        # A medium of more cells is decoded in several batches.
        alone = len(plan) == 1 and not n_padding and plan[0].sequence.next_medium is not None
        if not 0 < total <= total + n_padding or (total + n_padding > self.n_batch and not alone):
            raise AssertionError(f"a plan of {total} and {n_padding} tokens for n_batch={self.n_batch}")
        self.use(plan[0].sequence.request.conditioning)
        used = self.n_used
        if used + total > self.n_cells:
            raise MemoryFullError("no room", code=1)
        if n_padding:
            self._check_padding(plan)
            if used + total + n_padding > self.n_cells:
                plan[-1], n_padding = plan[-1]._replace(n_padding=0), 0
        rows, self._rows, row = [], {}, -1
        self._before_draft = {w.sequence.seq_id: w.sequence.n_past for w in plan if w.draft}  # type: ignore[misc]
        decoded: list[tuple[int, int]] = []
        for sequence, count, output, _, draft, _ in plan:
            if sequence.request.conditioning != self.conditioning:
                raise AssertionError("sequences with different conditioning were scheduled together")
            if sequence.seq_id is None:
                raise AssertionError("a sequence without a slot was scheduled")
            if draft and not output:
                raise AssertionError("a draft behind a piece of a prompt")
            memory, positions = self.memory[sequence.seq_id], self.positions[sequence.seq_id]
            if memory != self.cells(sequence.cells[: sequence.n_past], self.conditioning):
                raise AssertionError(f"slot {sequence.seq_id} does not hold what its sequence believes")
            end = sequence.n_past + count
            self._check_media(plan, sequence, end)
            memory.extend(self.cells(sequence.cells[sequence.n_past : end], self.conditioning))
            self._write(sequence.seq_id)
            whole = sequence.whole
            positions.extend(_last_position(whole, cell) for cell in range(sequence.n_past, end))
            row += count
            rows.append(row)
            if output:
                self._rows[row] = self.next_token(memory)
            for token in draft:
                memory.extend(self.cells([token], self.conditioning))
                positions.append(positions[-1] + 1)
                row += 1
                self._rows[row] = self.next_token(memory)
            self._write(sequence.seq_id)
            if len(memory) > self.n_ctx:
                raise AssertionError(f"slot {sequence.seq_id} holds {len(memory)} tokens of {self.n_ctx}")
            decoded.append((sequence.seq_id, count + len(draft)))
        self.decoded.append(decoded)
        n_rows = len(self._rows) + n_padding
        self.now += self.seconds(n_rows, total + n_padding - n_rows)
        return rows

    def _check_media(self, plan: StepPlan, sequence: RunningSequence, end: int) -> None:
        """A medium has a decode of its own, and its embeddings are there."""
        spans = [span for span in sequence.request.prompt.media if span.start < end and span.end > sequence.n_past]
        if spans and (len(plan) > 1 or [(one.start, one.end) for one in spans] != [(sequence.n_past, end)]):
            raise AssertionError("a decode with a medium holds something else, or only a part of it")
        if spans and self.encoder is not None:
            sequence.encodings[sequence.n_past].result()

    @property
    def n_used(self) -> int:
        """Cells that hold something."""
        return len(set().union(*self._cells.values()))

    def _write(self, seq_id: int) -> None:
        """Take new cells for what was added to the memory of a sequence."""
        cells, n = self._cells[seq_id], len(self.memory[seq_id])
        self._n_written += n - len(cells)
        cells.extend(range(self._n_written - n + len(cells), self._n_written))

    def _check_padding(self, plan: StepPlan) -> None:
        """Padding is computed last, and goes without a trace."""
        host = plan[-1].sequence
        if any(work.n_padding for work in plan[:-1]) or not self.can_pad or not self.can_cut:
            raise AssertionError("padding where it does not belong")
        if len(host.cells) + len(plan[-1].draft) + plan[-1].n_padding > self.n_ctx:
            raise AssertionError(f"padding beyond the context of {self.n_ctx}")

    def pieces(self, visible: frozenset[int]) -> Mapping[int, str | bytes | None]:
        return self._PIECES

    def sampler(self, request: Request, seed: int) -> FakeSampler:
        # Every other one steps, so that both ways are tried.
        self._n_samplers += 1
        return FakeSampler(self, steps=self._n_samplers % 2 == 0)

    def keep(self, seq_id: int, n: int) -> bool:
        memory, positions, wanted = self.memory[seq_id], self.positions[seq_id], n
        end = positions[-1] + 1 if positions else 0
        if n > end or (n < end and not self.can_cut):
            n = 0
        left = bisect_left(positions, n)
        del memory[left:], positions[left:], self._cells[seq_id][left:]
        return n == wanted

    def rewind(self, sequence: RunningSequence) -> int:
        seq_id, n = sequence.seq_id, sequence.n_past
        if seq_id is None:
            return 0
        if self.can_cut or len(self.memory[seq_id]) == n:
            return n if self.keep(seq_id, sequence.position(n)) else 0
        left = self._before_draft.get(seq_id, n + 1)
        left = left if left <= min(n, len(self.memory[seq_id])) else 0
        for kept in (self.memory, self.positions, self._cells):
            del kept[seq_id][left:]
        return left

    def copy(self, source: int, target: int, n: int) -> bool:
        left = bisect_left(self.positions[source], n)
        for kept in (self.memory, self.positions, self._cells):
            kept[target] = kept[source][:left]
        return True

    def shift(self, seq_id: int, start: int, count: int) -> None:
        del self.memory[seq_id][start : start + count], self._cells[seq_id][start : start + count]
        del self.positions[seq_id][-count:]

    def save(self, seq_id: int) -> tuple[bytes, bytes | None]:
        # Four bytes for each cell.
        return bytes(4 * len(self.memory[seq_id])), None if self.can_cut_saved else bytes(4)

    def checkpoints(self, prompt: Prompt) -> tuple[int, ...]:
        return () if self.can_cut else tuple(range(64, len(prompt), 64))

    def copy_out(self, seq_id: int, held: Prompt) -> FakeMemory | None:
        if self.stored is None:
            return None
        if self.memory[seq_id] != list(held):
            raise AssertionError(f"slot {seq_id} does not hold what is to be stored of it")
        return FakeMemory(held)

    def store(self, saved: SavedMemory) -> None:
        if self.stored is not None:
            self.stored.append(FakeMemory(saved.prompt))

    def find(self, prompt: Prompt, held: int) -> FakeMemory | None:
        longest = max(self.stored or (), key=lambda one: reusable(one.prompt, prompt), default=None)
        return longest if longest is not None and reusable(longest.prompt, prompt) > held else None

    def recall(self, seq_id: int, found: SavedMemory) -> str | None:
        memory, prompt = self.memory[seq_id], found.prompt
        self.keep(seq_id, 0)
        if self.n_used + len(prompt) > self.n_cells:
            return "too many tokens"
        memory.extend(self.cells(prompt, getattr(found, "conditioning", PLAIN)))
        self._write(seq_id)
        self.positions[seq_id].extend(_last_position(prompt, cell) for cell in range(len(prompt)))
        return None


def _last_position(prompt: Prompt, cell: int) -> int:
    """That of a cell, but that of the whole media for their last one."""
    return max(prompt.position(cell), prompt.position(cell + 1) - 1)


class FakeMemory(NamedTuple):
    """The memory of a sequence of a :class:`FakeRunner`, kept outside it."""

    prompt: Prompt


class FakeSampler:
    """Reads the token that a :class:`FakeRunner` computed."""

    ended = False

    def __init__(self, runner: FakeRunner, *, steps: bool = True) -> None:
        self._runner = runner
        self.step = self._step if steps else None
        self.closed = False

    def _step(self, token: int, pos: int, seq_id: int) -> int:
        runner = self._runner
        memory = runner.memory[seq_id]
        positions = runner.positions[seq_id]
        if (positions[-1] + 1 if positions else 0) != pos:
            raise AssertionError(f"slot {seq_id} goes on at another position than {pos}")
        if runner.n_used >= runner.n_cells:
            return -1
        memory.extend(runner.cells([token], runner.conditioning))
        runner._write(seq_id)
        positions.append(pos)
        runner.decoded.append([(seq_id, 1)])
        runner.now += runner.seconds(1, 0)
        return runner.next_token(memory)

    def step_failed(self, result: int) -> NoReturn:
        raise MemoryFullError("no room", code=1)

    def choose(self, row: int) -> int:
        return self._runner._rows[row]

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        return TokenLogprob(token, bytes([token]) if token < 256 else b"", 0.0, ((token, 0.0),) * min(n_top, 1))

    def close(self) -> None:
        self.closed = True
