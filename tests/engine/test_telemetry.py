"""What an engine counts, against what its callers saw."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.engine.telemetry import BOUNDS, Histogram, RequestEvent
from llama_cffi.errors import SamplerError
from llama_cffi.otel import spans
from llama_cffi.reply.completion import Completion


def run(engine: Engine, prompts: list[list[int]], **fields: Any) -> list[Completion]:
    sequences = [engine.submit(Request(prompt=Prompt(prompt), **fields)) for prompt in prompts]
    found = []
    for sequence in sequences:
        while (chunk := engine.next_chunk(sequence)) is not None:
            if chunk.completion is not None:
                found.append(chunk.completion)
    return found


def test_tokens_and_requests_are_counted() -> None:
    engine = Engine(FakeRunner(n_batch=8, n_ctx=64, n_seq_max=3))
    done = run(engine, [[1, 2, 3], [4] * 20, [5]], max_tokens=6) + run(engine, [[4] * 20], max_tokens=2)
    snapshot = engine.snapshot()
    assert snapshot.generated_tokens == sum(len(one.tokens) for one in done)
    assert snapshot.prompt_tokens["memory"] == sum(one.usage.cached_tokens for one in done) > 0
    assert sum(snapshot.prompt_tokens.values()) == sum(one.usage.prompt_tokens for one in done)
    assert sum(snapshot.requests.values()) == 4
    assert snapshot.running == snapshot.waiting == snapshot.preempted == 0
    histograms = snapshot.histograms
    assert histograms["request"].count == histograms["queue"].count == histograms["first_token"].count == 4
    steps = sum(histograms[kind].count for kind in ("decode_step", "prefill_step", "mixed_step"))
    assert steps == len(engine._runner.decoded)  # type: ignore[attr-defined]
    ended = sum(one.finish_reason == "stop" for one in done)
    assert histograms["token_gap"].count == snapshot.generated_tokens + ended - len(done)


def test_cancelled_and_failed_requests_are_counted() -> None:
    engine = Engine(FakeRunner())
    waits, fails = (engine.submit(Request(prompt=Prompt([n]), max_tokens=9)) for n in (1, 2))

    def choose(row: int) -> int:
        raise SamplerError("NaN")

    fails.sampler.choose = choose  # type: ignore[method-assign]
    fails.sampler.step = None  # type: ignore[misc]
    engine.cancel(waits)
    engine.cancel(waits)
    with pytest.raises(SamplerError):
        engine.next_chunk(fails)
    assert dict(engine.snapshot().requests) == {"cancelled": 1, "error": 1}


def test_drafts_and_preemptions_are_counted() -> None:
    engine = Engine(FakeRunner(n_batch=16, n_ctx=40, n_seq_max=2, n_cells=44))
    done = run(engine, [[1, 2] * 9, [3, 4] * 9], max_tokens=20, speculative=PromptLookup(min_ngram=1))
    snapshot = engine.snapshot()
    drafts = [one.speculation for one in done if one.speculation is not None]
    assert snapshot.drafted_tokens == sum(one.drafted_tokens for one in drafts)
    assert snapshot.accepted_tokens == sum(one.accepted_tokens for one in drafts)
    assert snapshot.preempted >= 0


def test_events() -> None:
    events: list[RequestEvent] = []
    engine = Engine(FakeRunner(n_seq_max=1), EngineOptions(on_event=events.append))
    done = run(engine, [[3], [1, 2]], max_tokens=4)
    assert [(event.kind, event.number) for event in events] == [
        ("queued", 1),
        ("queued", 2),
        ("ended", 1),
        ("ended", 2),
    ]
    for event, one in zip(events[2:], done, strict=True):
        assert event.submitted <= event.started <= event.first_token <= event.ended
        assert (event.prompt_tokens, event.completion_tokens) == (one.usage.prompt_tokens, len(one.tokens))
        assert event.finish_reason == one.finish_reason


def test_an_event_handler_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: RequestEvent) -> None:
        raise KeyError("mine")

    engine = Engine(FakeRunner(), EngineOptions(on_event=broken))
    with caplog.at_level(logging.ERROR):
        assert run(engine, [[1]], max_tokens=3)[0].usage.completion_tokens == 3
    assert "on_event has failed" in caplog.text
    with pytest.raises(TypeError, match="on_event"):
        EngineOptions(on_event=3)  # type: ignore[arg-type]


def test_quantiles() -> None:
    histogram = Histogram()
    assert histogram.snapshot().quantile(0.5) == 0
    for value in (0.00005, 0.002, 0.003, 0.004, 1000.0):
        histogram.add(value)
    snapshot = histogram.snapshot()
    assert snapshot.count == 5
    assert snapshot.total == pytest.approx(1000.00905)
    assert snapshot.quantile(0.2) == BOUNDS[0] == 0.0001
    assert snapshot.quantile(0.5) == 0.005
    assert snapshot.quantile(1.0) == float("inf")
    assert list(BOUNDS) == sorted(BOUNDS)


def test_spans() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine = Engine(FakeRunner(), EngineOptions(on_event=spans(provider, model="/models/a.gguf")))
    (done,) = run(engine, [[1, 2]], max_tokens=4)
    *parts, whole = exporter.get_finished_spans()
    assert whole.name == "text_completion a.gguf"
    assert whole.attributes is not None
    assert whole.attributes["gen_ai.usage.output_tokens"] == len(done.tokens)
    assert whole.attributes["gen_ai.response.finish_reasons"] == (str(done.finish_reason),)
    assert [part.name for part in parts] == ["queue", "prefill", "decode"]
    assert whole.start_time is not None
    assert all(part.parent is not None and part.parent.span_id == whole.context.span_id for part in parts)
    times = [time for part in parts for time in (part.start_time, part.end_time)]
    assert [whole.start_time, *times, whole.end_time] == sorted(
        t for t in (whole.start_time, *times, whole.end_time) if t
    )
    assert not any("Prompt" in str(value) for value in whole.attributes.values())
