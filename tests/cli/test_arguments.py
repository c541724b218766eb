"""The command line's own parsing and printing, without a model."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi import ContextOptions, ModelOptions, SamplingParams
from llama_cffi.cli import arguments, console, loading, wording
from llama_cffi.cli.batch import batch
from llama_cffi.cli.bench import bench
from llama_cffi.cli.chat import chat as chat_command
from llama_cffi.cli.embed import embed
from llama_cffi.cli.generate import generate as generate_command
from llama_cffi.cli.perplexity import perplexity
from llama_cffi.cli.placement import ContextMemory, Placement
from llama_cffi.cli.rerank import rerank
from llama_cffi.cli.serve import serve
from llama_cffi.engine.sampling_params import SAMPLER_ORDER
from llama_cffi.errors import LlamaCffiError
from llama_cffi.runtime import demo_path


def test_logit_bias() -> None:
    assert arguments.logit_bias(["15043+1", " 7 - 0.5", "2-inf", "7-1"]) == {15043: 1.0, 7: -1.5, 2: -math.inf}
    assert arguments.logit_bias([]) == {}


def test_sampler_order() -> None:
    assert arguments.sampler_order(None) == SAMPLER_ORDER
    assert arguments.sampler_order("top-k; dry;temperature;adaptive_p") == ("top_k", "dry", "temperature")
    assert arguments.sampler_order("") == ()
    with pytest.raises(typer.BadParameter, match="'top_q' is none of penalties, dry"):
        arguments.sampler_order("top_k;top_q")


def test_breakers() -> None:
    assert arguments.breakers(None) == ("\n", ":", '"', "*")
    assert arguments.breakers([r"\n", ";"]) == ("\n", ";")
    assert arguments.breakers(["none"]) == ()


@pytest.mark.parametrize("text", ["", "7", "7*2", "x+1", "7+", "7+x", "-7+1", "7+1+1x"])
def test_bad_logit_bias_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        arguments.logit_bias([text])


def test_kv_overrides() -> None:
    texts = ["a.b=int:-3,c=bool:true", "d=float:1.5", "e=str:x, y=z,f=bool:false"]
    expected = {"a.b": -3, "c": True, "d": 1.5, "e": "x, y=z", "f": False}
    assert arguments.kv_overrides(texts) == expected


@pytest.mark.parametrize("text", ["a", "a=1", "a=int:x", "a=bool:yes", "a=list:1", "=int:1", "a=float:"])
def test_bad_kv_overrides_are_usage_errors(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        arguments.kv_overrides([text])


def test_gpu_options() -> None:
    assert [arguments.gpu_layers(text) for text in ("auto", "all", "0", "12")] == ["auto", "all", 0, 12]
    assert arguments.devices(None) is None
    assert arguments.devices("none") == ()
    assert arguments.devices("CUDA0, CUDA1") == ("CUDA0", "CUDA1")
    assert arguments.tensor_split("3,1/2") == (3.0, 1.0, 2.0)
    assert arguments.tensor_split(None) == ()
    assert [arguments.ctx_size(text) for text in ("auto", "0", "4096")] == ["auto", 0, 4096]
    assert arguments.device_memory(None) is None
    assert arguments.device_memory("512") == 512 << 20
    assert arguments.device_memory("CUDA0=1.5, CUDA1=0") == {"CUDA0": 3 << 19, "CUDA1": 0}
    overrides = arguments.tensor_overrides([r"blk\.1\.ffn=CPU,attn=CUDA0", "x=y=CUDA1", "attn=CPU"])
    assert overrides == {r"blk\.1\.ffn": "CPU", "attn": "CUDA0", "x=y": "CUDA1"}
    for call in (
        lambda: arguments.gpu_layers("many"),
        lambda: arguments.tensor_split("a,b"),
        lambda: arguments.ctx_size("-1"),
        lambda: arguments.ctx_size("long"),
        lambda: arguments.device_memory("a lot"),
        lambda: arguments.device_memory("-1"),
        lambda: arguments.device_memory("CUDA0=1,CUDA1"),
        lambda: arguments.tensor_overrides(["ffn"]),
        lambda: arguments.tensor_overrides(["=CPU"]),
    ):
        with pytest.raises(typer.BadParameter):
            call()


def test_every_command_that_loads_a_model_places_it() -> None:
    commands = [generate_command, chat_command, serve, bench, batch, embed, rerank, perplexity]
    for command in commands:
        flags = wording.flags_of(command)
        assert {one.name for one in dataclasses.fields(Placement)} <= flags.keys(), command
        assert (flags["override_tensor"], flags["n_cpu_moe"]) == ("--override-tensor", "--n-cpu-moe")
    for command in commands[:5]:
        assert {one.name for one in dataclasses.fields(ContextMemory)} <= wording.flags_of(command).keys(), command


def test_placement_flags_are_options() -> None:
    assert Placement().options() == ModelOptions(n_gpu_layers="auto")
    assert Placement(fit="off").options().n_gpu_layers == "all"
    given = Placement(
        n_gpu_layers="7", fit_target=100, max_device_memory="200", device="CPU", override_tensor=["a=CPU"], n_cpu_moe=2,
        lazy_mode="off", load_mode="mmap+mlock", override_kv=["a=int:1"], use_extra_bufts=False, no_host=True,
    )  # fmt: skip
    assert given.options() == ModelOptions(
        n_gpu_layers=7, device_margin=100 << 20, max_device_memory=200 << 20, devices=("CPU",),
        tensor_overrides={"a": "CPU"}, n_cpu_moe=2, lazy_mode="off", load_mode="mmap_mlock", kv_overrides={"a": 1},
        use_extra_bufts=False, no_host=True,
    )  # fmt: skip
    assert Placement(cpu_moe=True).options().cpu_moe


def test_context_flags_are_options() -> None:
    assert ContextMemory().changed() == {}
    given = ContextMemory(
        type_k="q8_0", flash_attn="on", offload_kqv=False, rope_scale=4.0, yarn_orig_ctx=0, yarn_ext_factor=-1.0,
        yarn_beta_fast=32.0,
    )  # fmt: skip
    assert given.changed() == {
        "type_k": "q8_0", "flash_attn": "enabled", "offload_kqv": False, "rope_freq_scale": 0.25, "yarn_beta_fast": 32.0
    }  # fmt: skip
    settings: dict[str, Any] = {"n_ctx": None}
    given.add_to(settings, demo_path())
    assert settings == {"n_ctx": 1024, "context_options": ContextOptions(**given.changed())}
    with pytest.raises(typer.BadParameter, match="not above 0"):
        ContextMemory(rope_scale=0.0).changed()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("top_p must be between 0 and 1, got 2", "--top-p must be between 0 and 1, got 2"),
        ("give one with chat_template=, as Jinja text", "give one with --chat-template, as Jinja text"),
        ("a batch must hold 1 to n_batch=2048 tokens", "a batch must hold 1 to --batch-size 2048 tokens"),
        ("5 prompt tokens and max_tokens=7 do not fit", "5 prompt tokens and --n-predict 7 do not fit"),
        ("reply_format: there is no format 'x'", "--reply-format: there is no format 'x'"),
        ("schema at /a: 'not' is refused", "--schema at /a: 'not' is refused"),
        ("the schema of /home/schema, schema.json", "the schema of /home/schema, schema.json"),
        ("n_seq_max=3 is unknown, and 'top_p' is quoted", "n_seq_max=3 is unknown, and 'top_p' is quoted"),
        ("schema= and grammar= cannot both decide", "--schema and --grammar cannot both decide"),
        ("x.top_p, top_p.x, some-top_p, top_ping", "x.top_p, top_p.x, some-top_p, top_ping"),
    ],
)
def test_errors_speak_of_flags(message: str, told: str) -> None:
    flags = wording.flags_of(chat_command)
    assert wording.in_flags(message, flags) == told
    assert wording.describe(ValueError(message), flags) == told
    logged = LlamaCffiError(message, log=["n_ctx = 4", "top_p must be"])
    assert wording.describe(logged, flags) == f"{told}\nllama.cpp said:\n  n_ctx = 4\n  top_p must be"


def test_a_program_that_a_tool_ends_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    @console.command
    def work() -> None:
        raise SystemExit(0)

    with pytest.raises(typer.Exit) as ended:
        work()
    assert ended.value.exit_code == 1
    assert "a tool ended the program with sys.exit(0)" in capsys.readouterr().err


def test_every_argument_that_a_command_sets_has_its_flag() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)} - {"samplers", "grammar_root"}
    for command in (generate_command, chat_command):
        flags = wording.flags_of(command)
        set_by = {name for name in fields if name in flags}
        assert set_by >= {"temperature", "top_k", "seed", "repeat_penalty"}
        assert {"n_ctx", "n_batch", "n_ubatch", "n_threads", "max_tokens"} <= set(flags)
    assert fields <= set(wording.flags_of(generate_command))


def test_unescape() -> None:
    assert arguments.unescape(r"a\nb\tc\\n\x41\'\"\q\x4") == "a\nb\tc\\nA'\"\\q\\x4"


@given(st.text())
def test_unescape_undoes_escaping(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    assert arguments.unescape(escaped) == text


@pytest.mark.parametrize(
    ("data", "text"), [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"a\r", "a\r"), (b"", ""), (b"\n", "")]
)
def test_one_newline_at_the_end_of_a_file_is_not_part_of_the_prompt(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(data)
    assert arguments.read_text(tmp_path / "prompt") == text


def test_a_file_that_is_no_text_is_refused_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match="not valid UTF-8 at byte 3"):
        arguments.read_text(tmp_path / "prompt")


@given(st.text())
def test_printable_text_steers_no_terminal(text: str) -> None:
    shown = console.printable(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert len(shown) == len(text)


@given(st.text(), st.integers(4, 50))
def test_one_line_is_one_line(text: str, limit: int) -> None:
    shown = console.one_line(text, limit)
    assert len(shown) <= limit
    assert shown.splitlines() in ([], [shown]) or set(shown) & set("\u2028\u2029")


def test_printable_keeps_text_and_shows_controls() -> None:
    assert console.printable("a\n\tü🦙\x1b[31m\x07\x9b\x7f") == "a\n\tü🦙␛[31m␇\N{REPLACEMENT CHARACTER}␡"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 1024**3, "5.0 GiB"), (2 * 1024**4, "2.0 TiB")],
)
def test_size_text(size: int, text: str) -> None:
    assert console.size_text(size) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (999, "999"), (1500, "1.5 K"), (7_241_732_096, "7.24 B")])
def test_count_text(count: int, text: str) -> None:
    assert console.count_text(count) == text


def test_the_percentage_appears_only_after_a_while_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("llama_cffi.cli.loading.time.monotonic", lambda: now)
    quick = loading.Percentage()
    assert quick(0.5)
    quick.clear()
    assert capsys.readouterr().err == ""

    slow = loading.Percentage()
    now += 1.0
    for fraction in (0.1, 0.101, 0.2):
        assert slow(fraction)
    slow.clear()
    assert capsys.readouterr().err == "\rloading 10 %\rloading 20 %\r\x1b[K"


def test_cpu_flags_are_options() -> None:
    given = ContextMemory(
        cpu_mask="0x5", cpu_range="6-7", cpu_strict=1, prio=-1, poll=0, cpu_range_batch="0-1", cpu_strict_batch=0,
        prio_batch=2, poll_batch=100,
    )  # fmt: skip
    assert given.changed() == {
        "cpu_mask": (0, 2, 6, 7), "cpu_strict": True, "priority": "low", "poll": 0, "cpu_mask_batch": (0, 1),
        "cpu_strict_batch": False, "priority_batch": "high", "poll_batch": 100,
    }  # fmt: skip
    assert ContextMemory(cpu_mask="F").changed() == {"cpu_mask": (0, 1, 2, 3)}
    n = os.cpu_count() or 1
    assert ContextMemory(cpu_range="0-").changed() == {"cpu_mask": tuple(range(n))}
    assert ContextMemory(cpu_range="-1").changed() == {"cpu_mask": (0, 1)}
    assert Placement(numa="isolate").options().numa == "isolate"


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("--cpu-mask", {"cpu_mask": "xyz"}),
        ("--cpu-mask", {"cpu_mask": "0"}),
        ("--cpu-mask", {"cpu_mask": ""}),
        ("--cpu-mask", {"cpu_mask": "1" + "0" * 128}),
        ("--cpu-range", {"cpu_range": "3"}),
        ("--cpu-range", {"cpu_range": "3-1"}),
        ("--cpu-range", {"cpu_range": "0-512"}),
        ("--cpu-range", {"cpu_range": "a-b"}),
        ("--cpu-mask-batch", {"cpu_mask_batch": "-1"}),
        ("--cpu-range-batch", {"cpu_range_batch": "1,2"}),
    ],
)
def test_bad_cpus_are_usage_errors(flag: str, given: Any) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        ContextMemory(**given).changed()
    assert caught.value.param_hint == flag
