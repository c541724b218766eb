"""The engine's counts under the names that vLLM has: boards and autoscalers made for it read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llama_cffi.engine.snapshot import EngineSnapshot
from llama_cffi.engine.telemetry import HistogramName, HistogramSnapshot


class Metric(NamedTuple):
    """One metric; each row has further labels and a value."""

    name: str
    kind: str
    help: str
    rows: list[tuple[dict[str, str], float]]


_HISTOGRAMS: dict[str, HistogramName] = {
    "time_to_first_token_seconds": "first_token",
    "inter_token_latency_seconds": "token_gap",
    "e2e_request_latency_seconds": "request",
    "request_queue_time_seconds": "queue",
}
_REASONS = {"tool_calls": "stop", "cancelled": "abort", "deadline": "length"}


def vllm_counts(stats: EngineSnapshot) -> Iterator[Metric]:
    """Yield counters and gauges."""
    tokens = stats.prompt_tokens
    known = sum(tokens.values())
    for name, help_, value in (
        ("num_requests_running", "Texts that are computed.", stats.running),
        ("num_requests_waiting", "Texts that wait.", stats.waiting),
        ("kv_cache_usage_perc", "Part of the memory that running texts hold.", stats.memory.used / stats.memory.cells),
    ):
        yield Metric(f"vllm:{name}", "gauge", help_, [({}, value)])
    for name, help_, value in (
        ("prompt_tokens_total", "Prompt tokens.", known),
        ("generation_tokens_total", "Generated tokens.", stats.generated_tokens),
        ("num_preemptions_total", "How often a text lost its memory.", stats.preempted),
        ("prefix_cache_queries_total", "Prompt tokens that were looked for.", known),
        ("prefix_cache_hits_total", "Prompt tokens that were not computed.", known - tokens["computed"]),
    ):
        yield Metric(f"vllm:{name}", "counter", help_, [({}, value)])
    reasons: dict[str, float] = {}
    for reason, n in stats.requests.items():
        named = _REASONS.get(reason, reason)
        reasons[named] = reasons.get(named, 0) + n
    rows: list[tuple[dict[str, str], float]] = [({"finished_reason": one}, n) for one, n in sorted(reasons.items())]
    yield Metric("vllm:request_success_total", "counter", "Ended texts by their reason.", rows)


def vllm_histograms(stats: EngineSnapshot) -> Iterator[tuple[str, HistogramSnapshot]]:
    """Yield distributions of seconds with their names."""
    for name, ours in _HISTOGRAMS.items():
        yield f"vllm:{name}", stats.histograms[ours]


__all__ = ["Metric", "vllm_counts", "vllm_histograms"]
