"""GET /metrics of several models: what the parent counts, and what each process says, with the model's name."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable

from llama_cffi.engine.telemetry import HistogramSnapshot
from llama_cffi.server.metrics import MetricsText, escaped, http_rows, process_rows
from llama_cffi.server.router.managed import ManagedModel
from llama_cffi.server.router.pool import Pool
from llama_cffi.server.router.upstream import Upstream, UpstreamGone

_SECONDS = 2.0
"""How long a process may take to tell its metrics; one that is late is left out."""
_ROW = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LEFT_OUT = ("llama_cffi_http_", "llama_cffi_loop_lag_", "llama_cffi_model_state", "llama_cffi_model_load_")
"""Metrics of a process that the parent has itself, of all models."""
_STATES = ("unloaded", "loading", "loaded", "unloading", "sleeping", "failed")


async def render(pool: Pool, requests: Counter[tuple[str, str, int]], seconds: HistogramSnapshot) -> str:
    """Return the metrics as text; ``requests`` counts answers by path, method and status, which took ``seconds``."""
    text = MetricsText()
    http_rows(text, requests, seconds, pool.loop_lag.snapshot())
    process_rows(text, pool.started)
    evictions = pool.keeper.evictions
    models = list(pool.models.values())
    named = [({"model": escaped(one.id)}, one) for one in models]
    text.add(
        "llama_cffi_model_state", "gauge", "1 for the state that the model is in.",
        [({**label, "state": state}, one.status == state) for label, one in named for state in _STATES],
    )  # fmt: skip
    for name, kind, help_, value in (
        ("loads_total", "counter", "How often the model was loaded.", lambda one: one.n_loads),
        ("crashes_total", "counter", "How often its process ended by itself.", lambda one: one.n_crashes),
        ("evictions_total", "counter", "How often it made room for another.", lambda one: evictions[one.id]),
        ("memory_bytes", "gauge", "Memory that is counted for it.", lambda one: one.memory),
        ("requests_active", "gauge", "Requests that its process answers.", lambda one: one.n_active),
        ("requests_held", "gauge", "Requests that wait for it to be loaded.", lambda one: one.n_waiting),
    ):
        text.add(f"llama_cffi_model_{name}", kind, help_, [(label, value(one)) for label, one in named])
    running = [one for one in models if one.status == "loaded"]
    found = await asyncio.gather(*(_of(one) for one in running))
    families = merged((one.id, lines) for one, lines in zip(running, found, strict=True))
    return "\n".join([*text.lines, *families]) + "\n"


async def _of(model: ManagedModel) -> str:
    """Return the metrics of a model's process; nothing where it does not tell them in time."""
    process = model.process
    if process is None:
        return ""

    async def ask() -> str:
        upstream = await Upstream.open(process.path, "GET", b"/metrics", (), b"")
        try:
            parts = []
            while (data := await upstream.read()) is not None:
                parts.append(data)
        finally:
            upstream.close()
        return b"".join(parts).decode("utf-8", "replace") if upstream.status == 200 else ""

    try:
        return await asyncio.wait_for(ask(), _SECONDS)
    except (UpstreamGone, asyncio.TimeoutError):
        return ""


def merged(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines of several processes' metrics, by family; each row has the label ``model``."""
    heads: dict[str, list[str]] = {}
    rows: dict[str, list[str]] = {}
    for model, text in found:
        family, label = "", f'model="{escaped(model)}"'
        for line in text.splitlines():
            line = re.sub(r"^(# \w+ |)process_", r"\1llama_cffi_model_process_", line)
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                if line not in heads.setdefault(family, []):
                    heads[family].append(line)
                continue
            row = _ROW.fullmatch(line)
            if row is None or family.startswith(_LEFT_OUT):
                continue
            name, labels, value = row.groups()
            if not labels:
                labels = label
            elif not re.search(r"(?:^|,)model=", labels):
                labels = f"{label},{labels}"
            rows.setdefault(family, []).append(f"{name}{{{labels}}} {value}")
    return [line for family, lines in rows.items() for line in (*heads[family], *lines)]


__all__ = ["merged", "render"]
