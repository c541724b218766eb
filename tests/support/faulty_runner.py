"""A runner without a model whose decodes fail as a test wants, and a clock that moves when the test moves it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from llama_cffi.engine.fake import FakeRunner, FakeSampler
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import StepPlan
from llama_cffi.errors import ClosedError, DecodeError, SamplerError


class TestClock:
    """Replaces :func:`time.monotonic` in the modules of the engine, by which deadlines are kept."""

    __test__ = False

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    @contextmanager
    def installed(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in tuple(sys.modules.items()):
                if name.startswith("llama_cffi.engine.") and hasattr(module, "monotonic"):
                    stack.enter_context(patch.object(module, "monotonic", self))
            yield


class FaultyRunner(FakeRunner):
    """Fails as it was told: the next decodes, every decode of some requests, or the choice of their next token."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.next_errors: list[BaseException] = []
        """What the next decodes raise, one each."""
        self.poisoned: set[int] = set()
        """The ids of requests without which every decode succeeds."""
        self.unsure: set[int] = set()
        """The ids of requests whose logits are no numbers."""
        self.broken: dict[int, BaseException] = {}
        """What the code of requests raises for each token, by the id of the request."""
        self.closed = False
        self.largest = 0
        """Most tokens of a decode."""

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        self._check_open()
        self.largest = max(self.largest, sum(work.n_tokens + len(work.draft) for work in plan))
        error: BaseException | None = None
        if any(id(work.sequence.request) in self.poisoned for work in plan):
            error = DecodeError("poisoned", code=-3)
        elif self.next_errors:
            error = self.next_errors.pop(0)
        if error is None:
            return super().decode(plan, deadline)
        for work in plan:
            self._leave_half(work.sequence)
        raise error

    def _leave_half(self, sequence: RunningSequence) -> None:
        """Write something of what failed, as llama.cpp does."""
        seq_id = sequence.seq_id
        assert seq_id is not None
        positions = self.positions[seq_id]
        self.memory[seq_id].append(-1)
        positions.append(positions[-1] + 1 if positions else 0)
        self._write(seq_id)

    def sampler(self, request: Request, seed: int) -> FakeSampler:
        self._check_open()
        return _FaultySampler(self, request, super().sampler(request, seed).step is not None)

    def keep(self, seq_id: int, n: int) -> bool:
        self._check_open()
        return super().keep(seq_id, n)

    def copy(self, source: int, target: int, n: int) -> bool:
        self._check_open()
        return super().copy(source, target, n)

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("the context is closed")


class _FaultySampler(FakeSampler):
    def __init__(self, runner: FaultyRunner, request: Request, steps: bool) -> None:
        super().__init__(runner, steps=steps)
        self._faults = runner
        self._request = request

    def _check(self) -> None:
        if id(self._request) in self._faults.unsure:
            raise SamplerError("the logits are no numbers")
        if id(self._request) in self._faults.broken:
            raise self._faults.broken[id(self._request)]

    def _step(self, token: int, pos: int, seq_id: int) -> int:
        faults = self._faults
        faults._check_open()
        if id(self._request) in faults.poisoned:
            raise DecodeError("poisoned", code=-3)
        if faults.next_errors:
            raise faults.next_errors.pop(0)
        self._check()
        return super()._step(token, pos, seq_id)

    def choose(self, row: int) -> int:
        self._check()
        return super().choose(row)


__all__ = ["FaultyRunner", "TestClock"]
