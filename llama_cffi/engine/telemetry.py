"""The statistics of an engine: tokens by their origin, requests by their end, and distributions of durations."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import current_thread, main_thread
from time import perf_counter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llama_cffi.engine.running_sequence import RunningSequence

BOUNDS = tuple(
    round(factor * 10.0**power, 6) for power in range(-4, 3) for factor in (1, 2.5, 5) if factor * 10.0**power <= 600
)
"""Upper ends of the classes of every histogram, in seconds: 0.1 ms to 500 s. A last class has no end."""

StepKind = Literal["decode", "prefill", "mixed"]
TokenSource = Literal["computed", "memory", "host", "disk"]
HistogramName = Literal["queue", "first_token", "token_gap", "request", "decode_step", "prefill_step", "mixed_step"]

_log = logging.getLogger("llama_cffi.engine")


@dataclass(frozen=True)
class HistogramSnapshot:
    """A distribution of seconds."""

    counts: tuple[int, ...]
    """The number of values of each class; there is one class more than :data:`BOUNDS`."""
    total: float
    """The sum of all values."""

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Return the upper end of the class in which the share of the values is reached; 0 without values."""
        left = share * self.count
        for bound, count in zip((*BOUNDS, float("inf")), self.counts, strict=True):
            left -= count
            if count and left <= 0:
                return bound
        return 0.0


class Histogram:
    """Counts seconds by their class. One thread adds; others may take a snapshot."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count a value."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def snapshot(self) -> HistogramSnapshot:
        """Return what was counted so far."""
        return HistogramSnapshot(tuple(self.counts), self.total)


@dataclass(frozen=True, kw_only=True)
class RequestEvent:
    """The arrival or the end of a request; ``on_event`` receives it on the thread that computes.

    Times are of :func:`time.perf_counter`, 0 for what has not happened.
    """

    kind: Literal["queued", "ended"]
    number: int
    """Requests of an engine are numbered from 1, in the order of their arrival."""
    submitted: float
    started: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    error: BaseException | None = None
    """The exception that ended the request, if there was one."""


OnEvent = Callable[[RequestEvent], object]


class Telemetry:
    """Written by the thread that computes alone, read by any: plain numbers, no lock."""

    def __init__(self, on_event: OnEvent | None = None, watch: Callable[[float, float], float] | None = None) -> None:
        """``watch`` is called with the time and the seconds of all steps so far, after each step that ends after the
        time that it has returned."""
        self._on_event = on_event
        self._watch = watch
        self._due = 0.0 if watch is not None else float("inf")
        self._n_requests = 0
        self.tokens: dict[TokenSource, int] = {"computed": 0, "memory": 0, "host": 0, "disk": 0}
        """Prompt tokens by where they came from."""
        self.generated = 0
        self.drafted = 0
        self.accepted = 0
        self.preempted = 0
        self.finished: dict[str, int] = {}
        """Requests by how they ended: a finish reason, or ``"error"``."""
        self.queue, self.first_token, self.token_gap, self.request = (Histogram() for _ in range(4))
        self.steps: Mapping[StepKind, Histogram] = {kind: Histogram() for kind in ("decode", "prefill", "mixed")}
        self._alone = self.steps["decode"]

    def queued(self, sequence: RunningSequence) -> None:
        """Count a request that has come."""
        self._n_requests += 1
        sequence.number = self._n_requests
        if self._on_event is not None:
            self._tell(RequestEvent(kind="queued", number=sequence.number, submitted=sequence.created))

    def stepped(self, kind: StepKind, began: float, sequences: Iterable[RunningSequence]) -> None:
        """Count a step that began at this :func:`time.perf_counter`, and of which each of these has a token."""
        now = perf_counter()
        self.steps[kind].add(now - began)
        for sequence in sequences:
            if sequence.last:
                self.token_gap.add(now - sequence.last)
            sequence.last = now
        if now >= self._due:
            self._look(now)

    def _look(self, now: float) -> None:
        if self._watch is not None:
            self._due = self._watch(now, sum(histogram.total for histogram in self.steps.values()))

    def stepped_alone(self, began: float, sequence: RunningSequence) -> None:
        """Do as :meth:`stepped` for one row: without the calls, which a lone stream would feel at every token."""
        now, last = perf_counter(), sequence.last
        seconds, steps, gaps = now - began, self._alone, self.token_gap
        steps.counts[bisect_left(BOUNDS, seconds)] += 1
        steps.total += seconds
        if last:
            gap = now - last
            gaps.counts[bisect_left(BOUNDS, gap)] += 1
            gaps.total += gap
        sequence.last = now
        if now >= self._due:
            self._look(now)

    def ended(self, sequence: RunningSequence) -> None:
        """Count a request that is done."""
        now = perf_counter()
        reason = "error" if sequence.error is not None else str(sequence.finish_reason)
        self.finished[reason] = self.finished.get(reason, 0) + 1
        self.generated += len(sequence.output)
        if sequence.started:
            n_host = min(sequence.n_host, sequence.n_cached)
            n_disk = min(sequence.n_disk, sequence.n_cached - n_host)
            self.tokens["host"] += n_host
            self.tokens["disk"] += n_disk
            self.tokens["memory"] += sequence.n_cached - n_host - n_disk
            self.tokens["computed"] += max(0, sequence.n_computed - sequence.n_cached)
        if sequence.drafting is not None:
            self.drafted += sequence.drafting.n_drafted
            self.accepted += sequence.drafting.n_accepted
        self.request.add(now - sequence.created)
        if sequence.started:
            self.queue.add(sequence.started - sequence.created)
        if sequence.first:
            self.first_token.add(sequence.first - sequence.created)
        if self._on_event is not None:
            self._tell(
                RequestEvent(
                    kind="ended",
                    number=sequence.number,
                    submitted=sequence.created,
                    started=sequence.started,
                    first_token=sequence.first,
                    ended=now,
                    prompt_tokens=sequence.n_prompt,
                    cached_tokens=sequence.n_cached,
                    completion_tokens=len(sequence.output),
                    finish_reason=None if sequence.error is not None else reason,
                    error=sequence.error,
                )
            )

    def _tell(self, event: RequestEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except BaseException as error:
            # On the main thread it may come from a signal handler, and is then for the code that was interrupted.
            if not isinstance(error, Exception) and current_thread() is main_thread():
                raise
            # It is not the request's fault, and the engine goes on.
            _log.exception("on_event has failed")

    def histograms(self) -> dict[HistogramName, HistogramSnapshot]:
        """Return all distributions."""
        return {
            "queue": self.queue.snapshot(),
            "first_token": self.first_token.snapshot(),
            "token_gap": self.token_gap.snapshot(),
            "request": self.request.snapshot(),
            "decode_step": self.steps["decode"].snapshot(),
            "prefill_step": self.steps["prefill"].snapshot(),
            "mixed_step": self.steps["mixed"].snapshot(),
        }


__all__ = ["BOUNDS", "Histogram", "HistogramSnapshot", "OnEvent", "RequestEvent", "Telemetry"]
