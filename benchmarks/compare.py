"""Interleaved rounds and what they say: medians, and ratios taken within a round, so that a machine whose speed
drifts does not favor anybody."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Peer, Settings, Test


@dataclass(frozen=True)
class Contender:
    """A peer running a test, under the title of its row."""

    peer: Peer
    test: Test
    title: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    test: str
    peer: str
    tokens_per_second: float
    """Median over all repetitions."""
    ratio: float | None
    """Median over the rounds of this peer's speed by the reference's in the same round; None for the reference."""
    ratio_quartiles: tuple[float, float] | None
    samples: tuple[tuple[float, ...], ...]
    """Tokens per second, by round and repetition."""


def measure(
    contenders: Sequence[Contender],
    model: Path,
    settings: Settings,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Row]:
    """Run all contenders ``rounds`` times in turn; the first one is what the others are compared with."""
    samples: list[list[list[float]]] = [[] for _ in contenders]
    for i in range(rounds):
        # There and back, so that nobody always comes after the same one.
        order = range(len(contenders)) if i % 2 == 0 else reversed(range(len(contenders)))
        for j in order:
            contender = contenders[j]
            progress(f"round {i + 1}/{rounds}: {contender.title}, {contender.peer.name}")
            samples[j].append(contender.peer.run(contender.test, model, settings))
    reference = [statistics.median(values) for values in samples[0]]
    return [
        summarize(contender, values, reference if j else None)
        for j, (contender, values) in enumerate(zip(contenders, samples, strict=True))
    ]


def summarize(contender: Contender, rounds: list[list[float]], reference: list[float] | None) -> Row:
    """The row of one contender."""
    ratio = quartiles = None
    if reference is not None:
        ratios = [statistics.median(own) / other for own, other in zip(rounds, reference, strict=True)]
        ratio = statistics.median(ratios)
        quartiles = spread(ratios)
    everything = [value for values in rounds for value in values]
    return Row(
        test=contender.title,
        peer=contender.peer.name,
        tokens_per_second=statistics.median(everything),
        ratio=ratio,
        ratio_quartiles=quartiles,
        samples=tuple(map(tuple, rounds)),
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def table(rows: Sequence[Row], reference: str) -> str:
    """The rows as text."""
    lines = [f"  {'test':<24}{'peer':<18}{'tokens/s':>10}  {'of ' + reference:<16}quartiles"]
    for row in rows:
        line = f"  {row.test:<24}{row.peer:<18}{row.tokens_per_second:>10.1f}"
        if row.ratio is not None and row.ratio_quartiles is not None:
            line += f"  {row.ratio:<16.3f}{row.ratio_quartiles[0]:.3f} to {row.ratio_quartiles[1]:.3f}"
        lines.append(line)
    return "\n".join(lines)
