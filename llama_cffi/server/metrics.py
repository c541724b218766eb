"""GET /metrics: what the engine and the server count, in Prometheus' text format."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from llama_cffi.engine.snapshot import EngineSnapshot
from llama_cffi.engine.telemetry import BOUNDS, HistogramSnapshot
from llama_cffi.server.service import Service
from llama_cffi.server.vllm_metrics import vllm_counts, vllm_histograms

TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HISTOGRAMS = {
    "queue": "queue_seconds",
    "first_token": "time_to_first_token_seconds",
    "token_gap": "inter_token_seconds",
    "request": "e2e_seconds",
}
_STEPS = ("decode", "prefill", "mixed")


class MetricsText:
    """Lines of metrics, one family after the other."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, name: str, kind: str, help_: str, rows: Iterable[tuple[Mapping[str, str], float]]) -> None:
        """Add a metric with its rows: labels and value."""
        self.lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
        for labels, value in rows:
            self.lines.append(f"{name}{_labels(labels)} {_number(value)}")

    def histogram(self, name: str, help_: str, rows: Iterable[tuple[Mapping[str, str], HistogramSnapshot]]) -> None:
        """Add distributions of seconds."""
        self.lines += [f"# HELP {name} {help_}", f"# TYPE {name} histogram"]
        for labels, found in rows:
            sum_ = 0
            for bound, count in zip((*BOUNDS, float("inf")), found.counts, strict=True):
                sum_ += count
                end = "+Inf" if bound == float("inf") else f"{bound:g}"
                self.lines.append(f"{name}_bucket{_labels({**labels, 'le': end})} {sum_}")
            self.lines.append(f"{name}_sum{_labels(labels)} {found.total:.9g}")
            self.lines.append(f"{name}_count{_labels(labels)} {sum_}")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    found = (f'{name}="{value}"' for name, value in labels.items())
    return "{" + ",".join(found) + "}"


def escaped(value: str) -> str:
    """Return the value of a label as it is written."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.13g}"


def render(service: Service, requests: Counter[tuple[str, str, int]], seconds: HistogramSnapshot) -> str:
    """Return all metrics as text; ``requests`` counts answers by path, method and status, which took ``seconds``."""
    text = MetricsText()
    model = {"model": escaped(service.id)}
    http_rows(text, requests, seconds, service.loop_lag.snapshot())
    process_rows(text, service.started)
    text.add(
        "llama_cffi_model_state", "gauge", "1 for the state that the model is in.",
        [({**model, "state": state}, service.state == state) for state in ("loading", "ready", "failed", "draining")],
    )  # fmt: skip
    text.add("llama_cffi_model_load_seconds", "gauge", "How long loading took.", [(model, service.load_seconds)])
    stats = service.stats
    if stats is not None:
        _engine(text, stats, model)
        if service.settings.vllm_metrics:
            named = {"model_name": model["model"]}
            for name, kind, help_, rows in vllm_counts(stats):
                text.add(name, kind, help_, [({**named, **labels}, value) for labels, value in rows])
            for name, found in vllm_histograms(stats):
                text.histogram(name, "Seconds.", [(named, found)])
    return "\n".join(text.lines) + "\n"


def http_rows(
    text: MetricsText, requests: Counter[tuple[str, str, int]], seconds: HistogramSnapshot, lag: HistogramSnapshot
) -> None:
    """Add what every server counts of its answers, and how late its event loop is."""
    text.add(
        "llama_cffi_http_requests_total", "counter", "Answered HTTP requests.",
        [({"handler": route, "method": method, "status": str(status)}, n)
         for (route, method, status), n in sorted(requests.items())],
    )  # fmt: skip
    text.histogram("llama_cffi_http_request_seconds", "Seconds of an answer over HTTP.", [({}, seconds)])
    text.histogram("llama_cffi_loop_lag_seconds", "How late the event loop is.", [({}, lag)])


def process_rows(text: MetricsText, started: float) -> None:
    """Add what Prometheus' own clients tell of a process, where the system tells it."""
    text.add("process_start_time_seconds", "gauge", "When the server was started.", [({}, started)])
    text.add("process_cpu_seconds_total", "counter", "CPU time of the process.", [({}, time.process_time())])
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        n_files = len(os.listdir("/proc/self/fd"))
    except OSError:
        return
    text.add("process_resident_memory_bytes", "gauge", "Memory of the process.", [({}, resident)])
    text.add("process_open_fds", "gauge", "Open files and sockets.", [({}, n_files)])


def _engine(text: MetricsText, stats: EngineSnapshot, model: Mapping[str, str]) -> None:
    prefix = "llama_cffi_"
    text.add(
        f"{prefix}requests_total", "counter", "Ended texts by their finish reason.",
        [({**model, "outcome": reason}, n) for reason, n in sorted(stats.requests.items())],
    )  # fmt: skip
    text.add(
        f"{prefix}prompt_tokens_total", "counter", "Prompt tokens by where they came from.",
        [({**model, "source": source}, n) for source, n in stats.prompt_tokens.items()],
    )  # fmt: skip
    for name, help_, value in (
        ("generated_tokens_total", "Generated tokens of ended texts.", stats.generated_tokens),
        ("draft_tokens_total", "Tokens that were drafted.", stats.drafted_tokens),
        ("draft_accepted_tokens_total", "Drafted tokens that were right.", stats.accepted_tokens),
        ("preemptions_total", "How often a text lost its place in memory.", stats.preempted),
    ):
        text.add(prefix + name, "counter", help_, [(model, value)])
    for name, help_, value in (
        ("requests_running", "Texts that are computed.", stats.running),
        ("requests_waiting", "Texts that wait.", stats.waiting),
        ("waiting_prompt_tokens", "Tokens of the prompts that wait.", stats.waiting_tokens),
        ("slots", "Texts that can be computed at once.", stats.slots),
        ("slots_busy", "Slots in use.", stats.running),
        ("kv_cells", "Cells of memory, one for each token.", stats.memory.cells),
        ("kv_cells_used", "Cells that running texts hold.", stats.memory.used),
        ("kv_cells_kept", "Cells that are kept for prompts that begin alike.", stats.memory.kept),
        ("host_cache_bytes", "Memory of the host for what had to leave the context's.", stats.memory.host_bytes),
    ):
        text.add(prefix + name, "gauge", help_, [(model, value)])
    for key, name in _HISTOGRAMS.items():
        found = stats.histograms[key]  # type: ignore[index]
        text.histogram(prefix + name, f"Seconds, {key.replace('_', ' ')}.", [(model, found)])
    steps = [({**model, "kind": kind}, stats.histograms[f"{kind}_step"]) for kind in _STEPS]  # type: ignore[index]
    text.histogram(f"{prefix}step_seconds", "Seconds of a step of the engine.", steps)
    _llama_server(text, stats)


def _llama_server(text: MetricsText, stats: EngineSnapshot) -> None:
    """Add the same under the names that llama-server has."""
    prefix = "llamacpp:"
    steps = {kind: stats.histograms[f"{kind}_step"] for kind in _STEPS}  # type: ignore[index]
    prompt_seconds = steps["prefill"].total
    text_seconds = steps["decode"].total + steps["mixed"].total
    prompt, made = stats.prompt_tokens, stats.generated_tokens
    cached = sum(n for source, n in prompt.items() if source != "computed")
    for name, help_, value in (
        ("prompt_tokens_total", "Prompt tokens computed.", float(prompt["computed"])),
        ("prompt_tokens_cached_total", "Prompt tokens found in memory.", float(cached)),
        ("prompt_seconds_total", "Seconds of steps with prompts alone.", prompt_seconds),
        ("tokens_predicted_total", "Generated tokens.", float(made)),
        ("tokens_predicted_seconds_total", "Seconds of steps with texts.", text_seconds),
        ("n_decode_total", "Steps.", float(sum(one.count for one in steps.values()))),
        ("spec_decode_num_draft_tokens_total", "Drafted tokens.", float(stats.drafted_tokens)),
        ("spec_decode_num_accepted_tokens_total", "Accepted tokens.", float(stats.accepted_tokens)),
    ):
        text.add(prefix + name, "counter", help_, [({}, value)])
    for name, help_, value in (
        ("prompt_tokens_seconds", "Prompt tokens per second.", prompt["computed"] / (prompt_seconds or 1)),
        ("predicted_tokens_seconds", "Generated tokens per second.", made / (text_seconds or 1)),
        ("requests_processing", "Texts that are computed.", stats.running),
        ("requests_deferred", "Texts that wait.", stats.waiting),
    ):
        text.add(prefix + name, "gauge", help_, [({}, value)])


__all__ = ["TYPE", "MetricsText", "escaped", "http_rows", "process_rows", "render"]
