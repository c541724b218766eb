"""The real program, as its users run it: in a pipe, in a terminal, with the wrong arguments."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llama_cffi
from llama_cffi._native import abi
from llama_cffi.cli import hardware
from llama_cffi.cli.generate import generate as generate_command
from tests.core.test_gguf import GGML_F32, STRING, U16, U32, array, gguf, pair, tensor

PROMPT = "Once upon a time"
GREEDY = ("--temp", "0")
COMMAND = [sys.executable, "-m", "llama_cffi"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("LLAMA_", "NO_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm")
    # A second thread costs a tiny model more than it gives, and very much on a busy machine.
    monkeypatch.setenv("LLAMA_ARG_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setenv("PYTHONWARNINGS", "error")


@pytest.fixture(scope="module")
def llm() -> Iterator[llama_cffi.Llama]:
    with llama_cffi.Llama.demo(n_seq_max=1, n_threads=1) as model:
        yield model


def run(*arguments: str | Path, stdin: str | bytes | None = None) -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    place: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, timeout=120, **place)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    )


def refused(code: int, *arguments: str | Path, stdin: str | bytes | None = None) -> str:
    """Run what must fail with one message, no traceback and nothing on standard output."""
    done = run(*arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    return done.stderr


# -- the program


def test_help_imports_neither_numpy_nor_the_extension() -> None:
    script = (
        "import sys\nfrom llama_cffi.cli.app import app\n"
        "commands = [c.name or c.callback.__name__ for c in app.registered_commands]\n"
        "for command in ([], *([name] for name in commands)):\n"
        "    app([*command, '--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'cffi', '_cffi_backend', 'llama_cffi.llama', 'llama_cffi.core'}\n"
        "heavy |= {'llama_cffi._native._llama', 'llama_cffi._native._helpers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"
    assert "--n-predict" in done.stdout


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"llama-cffi {llama_cffi.__version__}\n")


def test_the_list_of_commands_cuts_no_sentence() -> None:
    commands = run("--help").stdout.split("Commands:\n")[1].splitlines()
    assert len(commands) > 15
    assert [line for line in commands if not line.endswith(".") or line.endswith("...")] == []


def test_without_a_command_the_help_is_shown() -> None:
    done = run()
    assert done.returncode in (0, 2)  # typer's own choice changed between releases
    assert "generate" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["generate", "--sing", PROMPT],
        ["generate", PROMPT, "-n", "many"],
        ["generate", PROMPT, "-n", "-3"],
        ["generate", PROMPT, "-b", "0"],
        ["generate", PROMPT, "--load-mode", "sometimes"],
        ["generate", PROMPT, "-l", "1"],
        ["generate", PROMPT, "-ngl", "some"],
        ["generate", PROMPT, "--override-kv", "a"],
        ["generate", PROMPT, "--grammar", "root ::= [a]", "--grammar-file", "file"],
        ["generate", PROMPT, "-p", PROMPT],
        ["generate", PROMPT, "-f", "file"],
        ["generate"],
        ["info"],
        ["doctor", "now"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert refused(2, *arguments).strip()


def test_the_defaults_are_those_of_the_library() -> None:
    parameters = inspect.signature(generate_command).parameters
    names = {
        "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
        "repeat_last_n": "repeat_last_n", "repeat_penalty": "repeat_penalty",
        "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
        "xtc_probability": "xtc_probability", "xtc_threshold": "xtc_threshold", "mirostat": "mirostat",
        "mirostat_lr": "mirostat_eta", "mirostat_ent": "mirostat_tau",
    }  # fmt: skip
    sampling = llama_cffi.SamplingParams()
    context = llama_cffi.ContextOptions()
    for option, field in names.items():
        usual, (settings,) = getattr(sampling, field), parameters[option].annotation.__metadata__
        if parameters[option].default is None:  # the model's author may recommend another one
            assert settings.show_default == f"the model's, or {usual}", option
        else:
            assert parameters[option].default == usual, option
    assert parameters["batch_size"].default == context.n_batch
    assert parameters["ubatch_size"].default == context.n_ubatch


def test_options_and_variables_are_llama_cpps(checkout: Path) -> None:
    source = checkout / "vendor" / "llama.cpp" / "common" / "arg.cpp"
    if not source.is_file():
        pytest.skip("the llama.cpp source is not unpacked in vendor/")
    theirs = source.read_text(encoding="utf-8")
    text = run("generate", "--help").stdout
    ours = set(re.findall(r"(?<=[ /,])--?[a-z][a-z-]*", text.partition("Options:")[2]))
    own = {"--stop", "--json", "--help", "-h", "--isolate", "--no-isolate", "--max-device-memory"}
    own |= {"--model-sampling", "--no-model-sampling", "--schema"}
    assert {flag for flag in ours - own if f'"{flag}"' not in theirs} == set()
    variables = set(re.findall(r"LLAMA_ARG_\w+", text))
    assert len(variables) > 15
    assert {name for name in variables if f'"{name}"' not in theirs} == set()


# -- generate


def test_the_text_goes_to_stdout_and_the_note_to_stderr(llm: llama_cffi.Llama) -> None:
    done = run("generate", PROMPT, *GREEDY, "-n", "30")
    assert done.returncode == 0
    assert done.stdout == llm.generate(PROMPT, temperature=0.0, max_tokens=30).text
    assert done.stderr.count("\n") == 1
    assert "demo model" in done.stderr


def test_json(llm: llama_cffi.Llama) -> None:
    done = run("generate", PROMPT, *GREEDY, "-n", "20", "--json", "--seed", "7")
    report = json.loads(done.stdout)
    expected = llm.generate(PROMPT, temperature=0.0, max_tokens=20, seed=7)
    assert report["text"] == expected.text
    assert report["tokens"] == list(expected.tokens)
    assert report["finish_reason"] == "length"
    assert report["stop_sequence"] is None
    assert report["seed"] == 7
    assert report["usage"] == {
        "prompt_tokens": expected.usage.prompt_tokens,
        "cached_tokens": 0,
        "completion_tokens": 20,
        "reasoning_tokens": 0,
        "host_tokens": 0,
        "disk_tokens": 0,
    }
    assert report["timings"]["decode_tokens_per_second"] > 0
    assert report["model"] == {"path": str(llm.model.path), "description": llm.model.desc}


def test_the_prompt_from_everywhere(tmp_path: Path, llm: llama_cffi.Llama) -> None:
    (tmp_path / "prompt.txt").write_text(f"{PROMPT}\n", encoding="utf-8")
    tail = ("generate", *GREEDY, "-n", "10")
    outputs = {
        run(*tail, PROMPT).stdout,
        run(*tail, "-p", PROMPT).stdout,
        run(*tail, "-f", tmp_path / "prompt.txt").stdout,
        run(*tail, stdin=f"{PROMPT}\n").stdout,
        run(*tail, "-f", "-", stdin=PROMPT).stdout,
        run(*tail, "-e", PROMPT.replace(" ", r"\x20")).stdout,
        run(*tail, PROMPT, stdin="").stdout,
        run(*tail, stdin=b"\xef\xbb\xbf" + PROMPT.encode()).stdout,
    }
    assert outputs == {llm.generate(PROMPT, temperature=0.0, max_tokens=10).text}


def test_standard_input_follows_a_prompt(llm: llama_cffi.Llama) -> None:
    expected = llm.generate(f"{PROMPT}\n\nThere was a cat.", temperature=0.0, max_tokens=5).text
    assert run("generate", PROMPT, *GREEDY, "-n", "5", stdin="There was a cat.\n").stdout == expected
    assert "not a terminal" in run("generate", "--help").stdout


def test_an_explicitly_empty_prompt_is_one(llm: llama_cffi.Llama) -> None:
    assert run("generate", "", *GREEDY, "-n", "5").stdout == llm.generate("", temperature=0.0, max_tokens=5).text


def test_a_given_model_is_used_without_a_note(llm: llama_cffi.Llama) -> None:
    done = run("generate", PROMPT, "-m", llm.model.path, "-n", "3")
    assert (done.returncode, done.stderr) == (0, "")


def test_stop_texts_end_the_text(llm: llama_cffi.Llama) -> None:
    whole = llm.generate(PROMPT, temperature=0.0, max_tokens=30).text
    stop = whole[len(whole) // 2 :][:3]
    before = whole[: whole.index(stop)]
    for flag in ("-r", "--reverse-prompt", "--stop"):
        assert run("generate", PROMPT, *GREEDY, "-n", "30", flag, "\x01", flag, stop).stdout == before
    report = json.loads(run("generate", PROMPT, *GREEDY, "-n", "30", "--stop", stop, "--json").stdout)
    assert (report["finish_reason"], report["stop_sequence"]) == ("stop", stop)
    escaped = "".join(f"\\x{ord(letter):02x}" for letter in stop)
    assert run("generate", PROMPT, *GREEDY, "-n", "30", "-e", "--stop", escaped).stdout == before


def test_the_same_seed_gives_the_same_text() -> None:
    first, second, other = (run("generate", PROMPT, "-n", "40", "-s", seed).stdout for seed in ("3", "3", "4"))
    assert first == second
    assert first != other


def test_a_drawn_seed_is_reported_and_repeats(llm: llama_cffi.Llama) -> None:
    report = json.loads(run("generate", PROMPT, "-n", "20", "--json").stdout)
    assert llm.generate(PROMPT, max_tokens=20, seed=report["seed"]).text == report["text"]


def test_sampling_options_reach_the_library(llm: llama_cffi.Llama) -> None:
    done = run(
        "generate", PROMPT, "-n", "40", "-s", "5", "--temp", "1.3", "--top-k", "17", "--top-p", "0.9",
        "--min-p", "0.01", "--repeat-penalty", "1.3", "--presence-penalty", "0.2", "--frequency-penalty", "0.1",
        "--repeat-last-n", "32",
    )  # fmt: skip
    expected = llm.generate(
        PROMPT, max_tokens=40, seed=5, temperature=1.3, top_k=17, top_p=0.9, min_p=0.01, repeat_penalty=1.3,
        presence_penalty=0.2, frequency_penalty=0.1, repeat_last_n=32,
    )  # fmt: skip
    assert done.stdout == expected.text


def test_more_samplers_reach_the_library(llm: llama_cffi.Llama) -> None:
    done = run(
        "generate", PROMPT, "-n", "40", "-s", "5", "--top-nsigma", "3", "--xtc-probability", "0.4",
        "--xtc-threshold", "0.05", "--typical", "0.9", "--dynatemp-range", "0.3", "--dynatemp-exp", "1.5",
        "--dry-multiplier", "0.8", "--dry-base", "1.5", "--dry-allowed-length", "1", "--dry-penalty-last-n", "40",
        "--dry-sequence-breaker", r"\n", "--dry-sequence-breaker", "x", "--adaptive-target", "0.4",
        "--adaptive-decay", "0.8", "--samplers", "dry;xtc;top_n_sigma;typical_p;temperature",
    )  # fmt: skip
    expected = llm.generate(
        PROMPT, max_tokens=40, seed=5, top_n_sigma=3, xtc_probability=0.4, xtc_threshold=0.05, typical_p=0.9,
        dynatemp_range=0.3, dynatemp_exponent=1.5, dry_multiplier=0.8, dry_base=1.5, dry_allowed_length=1,
        dry_penalty_last_n=40, dry_sequence_breakers=("\n", "x"), adaptive_target=0.4, adaptive_decay=0.8,
        sampler_order=("dry", "xtc", "top_n_sigma", "typical_p", "temperature"),
    )  # fmt: skip
    assert done.stdout == expected.text
    done = run("generate", PROMPT, "-n", "40", "-s", "5", "--mirostat", "2", "--mirostat-lr", "0.3",
               "--mirostat-ent", "2")  # fmt: skip
    assert done.stdout == llm.generate(
        PROMPT, max_tokens=40, seed=5, mirostat=2, mirostat_eta=0.3, mirostat_tau=2
    ).text  # fmt: skip


def test_logit_bias_forbids_a_token() -> None:
    tokens = json.loads(run("generate", PROMPT, *GREEDY, "-n", "8", "--json").stdout)["tokens"]
    biased = run("generate", PROMPT, *GREEDY, "-n", "8", "--json", "-l", f"{tokens[0]}-inf")
    assert json.loads(biased.stdout)["tokens"][0] != tokens[0]


def test_ignore_eos_goes_on_to_the_limit(llm: llama_cffi.Llama) -> None:
    assert llm.generate(PROMPT, temperature=0.0).finish_reason == "stop"
    limit = len(llm.generate(PROMPT, temperature=0.0).tokens) + 5
    report = json.loads(run("generate", PROMPT, *GREEDY, "--ignore-eos", "-n", str(limit), "--json").stdout)
    assert (report["finish_reason"], len(report["tokens"])) == ("length", limit)


def test_without_a_limit_the_context_is_one() -> None:
    report = json.loads(run("generate", PROMPT, *GREEDY, "--ignore-eos", "-c", "256", "--json").stdout)
    assert report["finish_reason"] == "length"
    assert report["usage"]["prompt_tokens"] + len(report["tokens"]) in (256, 257)


def test_context_shift_goes_on_beyond_the_context() -> None:
    done = run("generate", PROMPT, *GREEDY, "--ignore-eos", "-c", "256", "-n", "300", "--context-shift", "--json")
    assert len(json.loads(done.stdout)["tokens"]) == 300


def test_grammar(tmp_path: Path) -> None:
    grammar = 'root ::= "yes" | "no"\n'
    (tmp_path / "answer.gbnf").write_text(grammar, encoding="utf-8")
    assert run("generate", PROMPT, "--grammar", grammar).stdout in ("yes", "no")
    assert run("generate", PROMPT, "--grammar-file", tmp_path / "answer.gbnf").stdout in ("yes", "no")


def test_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [1, 22]}')
    report = json.loads(run("generate", PROMPT, "-jf", schema, "--json", *GREEDY).stdout)
    assert report["parsed"] == json.loads(report["text"]) in (1, 22)
    done = run("generate", PROMPT, "-j", '{"type": "string", "minLength": 99}', "-n", "5", "--json", *GREEDY)
    report = json.loads(done.stdout)
    assert (done.returncode, report["parsed"], report["finish_reason"]) == (1, None, "length")
    assert report["text"].startswith('"' + report["partial"])
    assert "was cut after 5 tokens" in done.stderr
    assert "give one of" in refused(2, "generate", PROMPT, "-j", "true", "--grammar", "root ::= [a]")


def test_environment_variables_count_and_options_win(monkeypatch: pytest.MonkeyPatch, llm: llama_cffi.Llama) -> None:
    monkeypatch.setenv("LLAMA_ARG_MODEL", str(llm.model.path))
    monkeypatch.setenv("LLAMA_ARG_N_PREDICT", "3")
    monkeypatch.setenv("LLAMA_ARG_TEMPERATURE", "0")
    done = run("generate", PROMPT, "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["tokens"] == list(llm.generate(PROMPT, temperature=0.0, max_tokens=3).tokens)
    assert len(json.loads(run("generate", PROMPT, "--json", "-n", "5").stdout)["tokens"]) == 5


def test_timings_are_shown_when_asked_for() -> None:
    done = run("generate", PROMPT, "-n", "5", "-s", "11", "--show-timings")
    assert re.search(r"text: 5 tokens, \d+ per second; ended by length; seed 11", done.stderr)


def test_verbose_shows_llama_cpps_log() -> None:
    done = run("generate", PROMPT, "-n", "1", "-v")
    assert done.returncode == 0
    assert "llama_model_loader" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-m", "missing.gguf"], "missing.gguf"),
        (["-m", "."], "directory"),
        (["-f", "missing.txt"], "missing.txt"),
        (["--grammar", "root ::= ("], "grammar"),
        (["--top-p", "2"], "--top-p must be"),
        (["--repeat-penalty", "0"], "--repeat-penalty must be"),
        (["-l", "99999999+1"], "99999999"),
        (["--device", "abacus"], "abacus"),
        (["-c", "256", "-p", "word " * 300], "context"),
        (["-f", "missing/x.txt"], "error: no such folder: missing"),
        (["-m", "missing.gguf"], "error: no such file: missing.gguf"),
        (["--grammar-file", "missing.txt"], "error: no such file: missing.txt"),
    ],
)
def test_what_the_library_refuses_is_one_message(arguments: list[str], reason: str) -> None:
    prompt = [] if {"-p", "-f"} & set(arguments) else [PROMPT]
    message = refused(1, "generate", *prompt, *arguments)
    assert message.splitlines()[-1].startswith("error: ") or "error: " in message
    assert reason in message


def test_verbose_adds_the_traceback() -> None:
    done = run("generate", PROMPT, "-m", "missing.gguf", "-v")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_standard_input_that_is_no_text_is_refused() -> None:
    assert "not valid UTF-8 at byte 2" in refused(1, "generate", stdin=b"ab\xff")


def test_an_argument_is_utf8_in_every_locale(monkeypatch: pytest.MonkeyPatch, llm: llama_cffi.Llama) -> None:
    prompt = "Zoë sees a 🦙"
    expected = llm.generate(prompt, temperature=0.0, max_tokens=6).text
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    report = json.loads(run("generate", prompt, *GREEDY, "-n", "6", "--json").stdout)
    assert report["text"] == expected
    assert "not valid UTF-8 at byte 1" in refused(1, "generate", os.fsdecode(b"a\xff"))


def test_closed_and_full_streams() -> None:
    command = " ".join(COMMAND)
    shell = subprocess.run(
        f"{command} generate hi -n 2 <&- >&- 2>&- && {command} generate hi -n 9 --seed 1 --ignore-eos > /dev/full",
        shell=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert shell.returncode == 1
    assert shell.stderr.splitlines()[1:] == ["error: [Errno 28] No space left on device"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    child = subprocess.Popen(
        [*COMMAND, "generate", PROMPT, *GREEDY, "--ignore-eos", "--context-shift"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    with child:
        assert child.stdout.read(10)
        child.stdout.close()
        assert child.wait(timeout=30) == 141
        assert child.stderr.read().count(b"\n") == 1  # the note about the demo model


def test_an_interrupt_in_a_pipe_ends_with_130() -> None:
    child = subprocess.Popen(
        [*COMMAND, "generate", PROMPT, *GREEDY, "--ignore-eos", "--context-shift", "--show-timings"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    with child:
        assert child.stdout.read(10)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.stdout.read()
        assert child.wait(timeout=30) == 130
        assert time.monotonic() - start < 5
        assert child.stderr.read().count(b"\n") == 1


# -- generate in a terminal


TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


class Terminal:
    """The program in a pseudo-terminal of its own, which Ctrl-C goes through."""

    def __init__(self, *arguments: str) -> None:
        self.output = b""
        self.fd, side = pty.openpty()
        command = [sys.executable, "-c", TAKE_TERMINAL, *COMMAND, *arguments]
        self.process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, start_new_session=True)
        os.close(side)

    def read(self, seconds: float = 60.0, until: bytes | None = None) -> str:
        """Read up to some bytes, or to the end; returns everything so far."""
        deadline = time.monotonic() + seconds
        while until is None or until not in self.output:
            assert select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0], self.output
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not data:
                break
            self.output += data
        return self.output.decode("utf-8", "replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Press keys; forget what was read before them."""
        self.output = b""
        os.write(self.fd, text.encode())

    def close(self) -> int:
        """Wait for the program and return its exit code."""
        code = self.process.wait(timeout=60)
        os.close(self.fd)
        return code


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text)


def test_a_terminal_sees_prompt_text_and_timings(llm: llama_cffi.Llama) -> None:
    terminal = Terminal("generate", PROMPT, *GREEDY, "-n", "12", "-s", "1")
    shown = terminal.read()
    assert terminal.close() == 0
    text = llm.generate(PROMPT, temperature=0.0, max_tokens=12).text
    assert f"\x1b[1m{PROMPT}\x1b[0m{text}\n" in shown
    note, *_, timings = plain(shown).splitlines()
    assert "demo model" in note
    assert re.fullmatch(r"prompt: \d+ tokens.*; text: 12 tokens, \d+ per second; ended by length; seed 1", timings)


def test_a_terminal_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal("generate", PROMPT, *GREEDY, "-n", "12", "--no-display-prompt", "--no-show-timings")
    shown = terminal.read()
    assert terminal.close() == 0
    assert not re.search(r"\x1b\[[0-9;]*m", shown)
    assert PROMPT not in shown
    assert "per second" not in shown


def test_text_streams_and_ctrl_c_leaves_what_there_is(llm: llama_cffi.Llama) -> None:
    arguments = ("generate", PROMPT, *GREEDY, "--ignore-eos", "--context-shift")
    terminal = Terminal(*arguments)
    start = llm.generate(PROMPT, temperature=0.0, max_tokens=8).text
    terminal.read(until=start.encode().replace(b"\n", b"\r\n"))  # there is no end: this can only be streamed
    os.write(terminal.fd, b"\x03")
    before = time.monotonic()
    shown = plain(terminal.read())
    assert terminal.close() == 130
    assert time.monotonic() - before < 5
    assert f"{PROMPT}{start}" in shown
    assert shown.endswith("\n")
    assert "Traceback" not in shown
    assert "per second" not in shown


def test_control_characters_are_visible_in_a_terminal_and_raw_in_a_pipe() -> None:
    arguments = ("generate", PROMPT, "--grammar", r'root ::= "\x1b]0;owned\x07" "\n"')
    piped = run(*arguments)
    assert piped.stdout == "\x1b]0;owned\x07\n"
    terminal = Terminal(*arguments)
    shown = terminal.read()
    assert terminal.close() == 0
    assert "␛]0;owned␇\n" in shown
    assert "\x1b]" not in shown


# -- serve


def test_serve_looks_at_the_file_before_it_says_that_it_serves(tmp_path: Path) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    assert refused(1, "serve", "--port", "0", "-m", text).endswith("it begins with b'hell', not b'GGUF'\n")
    assert refused(1, "serve", "--port", "0", "-m", "none.gguf") == "error: no such file: none.gguf\n"


# -- info


def test_info_of_the_demo_model(llm: llama_cffi.Llama) -> None:
    done = run("info", llm.model.path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in (
        "architecture", llm.model.architecture, f"({llm.model.n_params:,}", f"{llm.model.n_ctx_train:,} tokens",
        f"{llm.model.vocab.n_tokens:,} tokens", "chat template",
    ):  # fmt: skip
        assert text in done.stdout
    assert re.search(r"^chat template +yes$", done.stdout, re.MULTILINE)


def test_info_takes_the_file_as_other_commands_take_a_model(llm: llama_cffi.Llama) -> None:
    path = str(llm.model.path)
    assert run("info", "-m", path).stdout == run("info", path).stdout
    assert "give one file" in refused(2, "info", path, "-m", path)


def test_info_json_agrees_with_the_loaded_model(llm: llama_cffi.Llama) -> None:
    report = json.loads(run("info", llm.model.path, "--json", "--metadata", "--tensors").stdout)
    model = llm.model
    assert report["architecture"] == model.architecture
    assert report["n_params"] == model.n_params == sum(part["n_params"] for part in report["weights"])
    assert report["tensor_bytes"] == model.size == sum(tensor["nbytes"] for tensor in report["tensor_list"])
    assert report["file_size"] == model.path.stat().st_size
    assert (report["layers"], report["embedding"]) == (model.n_layer, model.n_embd)
    assert (report["heads"], report["kv_heads"]) == (model.n_head, model.n_head_kv)
    assert report["context_length"] == model.n_ctx_train
    assert report["vocab_size"] == model.vocab.n_tokens == report["metadata"]["tokenizer.ggml.tokens"]["length"]
    assert len(report["metadata"]["tokenizer.ggml.tokens"]["first"]) == 8
    assert report["chat_template"] is (model.chat_template() is not None)
    assert report["metadata"]["general.name"] == model.metadata["general.name"]
    assert report["missing_files"] == []


def test_info_lists_metadata_and_tensors(llm: llama_cffi.Llama) -> None:
    done = run("info", llm.model.path, "--metadata", "--tensors")
    assert re.search(r"^general\.architecture = \w+$", done.stdout, re.MULTILINE)
    assert re.search(r"^tokenizer\.ggml\.tokens = \[.*, \.\.\. [\d,]+ in all\]$", done.stdout, re.MULTILINE)
    assert re.search(r"^token_embd\.weight +\w+ +[\d.]+ \w+ +\d+ x \d+$", done.stdout, re.MULTILINE)


def part(number: int, count: int, *pairs: bytes) -> bytes:
    split = [pair("split.no", U16, number), pair("split.count", U16, count)]
    data = gguf([*split, *pairs], [tensor(f"t{number}", [8, 2], GGML_F32, 0)], b"\0" * 64)
    return data


def test_info_of_a_split_model_adds_its_parts_up(tmp_path: Path) -> None:
    named = pair("general.architecture", STRING, "llama")
    files = [tmp_path / f"m-0000{i + 1}-of-00003.gguf" for i in range(3)]
    for i, file in enumerate(files):
        file.write_bytes(part(i, 3, *([named] if i == 0 else [])))
    report = json.loads(run("info", files[1], "--json").stdout)
    assert (report["n_params"], report["tensors"], report["architecture"]) == (48, 3, "llama")
    assert report["files"] == [str(file) for file in files]

    files[2].unlink()
    done = run("info", files[0])
    assert "3, missing: m-00003-of-00003.gguf" in done.stdout
    assert "32 (32) in the parts that are there" in done.stdout


def test_info_of_a_file_that_means_harm(tmp_path: Path) -> None:
    file = tmp_path / "evil.gguf"
    pairs = [
        pair("general.architecture", STRING, "llama\x1b[2J"),
        pair("general.name", STRING, "two\nlines"),
        pair("key\x1b[31m", STRING, "\x9b31m"),
        array("llama\x1b[2J.attention.head_count", U32, [4, 8]),
    ]
    file.write_bytes(gguf(pairs, [tensor("t\x1b[0m", [4], GGML_F32, 0)], b"\0" * 16))
    done = run("info", file, "--metadata", "--tensors")
    assert done.returncode == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    assert "two\\nlines" in done.stdout
    assert "4 to 8, by layer" in done.stdout


def test_info_without_weights_and_architecture(tmp_path: Path) -> None:
    file = tmp_path / "nothing.gguf"
    file.write_bytes(gguf())
    done = run("info", file)
    assert done.returncode == 0
    assert "none: this file holds no weights" in done.stdout
    assert "no model that llama.cpp can load" in done.stdout


@pytest.mark.parametrize(
    ("data", "reason"), [(None, "no such file"), (b"", "empty"), (b"PK\x03\x04" * 9, "not a GGUF file")]
)
def test_info_refuses_what_is_no_gguf_file(data: bytes | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    if data is not None:
        file.write_bytes(data)
    assert reason in refused(1, "info", file)


# -- doctor


def test_doctor_of_a_sound_installation() -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^decode test +\d+ tokens per second", done.stdout, re.MULTILINE)
    assert re.search(r"^device CPU +\S", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\nok\n")


def test_doctor_json() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ok"] is True
    assert report["problems"] == []
    assert Path(report["library"]["path"]).is_file()
    assert report["library"]["mode"] in ("api", "abi")
    assert report["library"]["helpers"] in ("compiled", "python")
    assert [one["path"] for one in report["candidates"] if one["state"] == "taken"] == [report["library"]["path"]]
    assert report["devices"][-1]["type"] == "cpu"
    assert report["decode"]["tokens_per_second"] > 0
    assert report["decode"]["seconds"] >= 1.0
    assert report["versions"]["numpy"] != "missing"


def test_doctor_of_a_broken_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMA_CFFI_LIB", str(tmp_path))
    done = run("doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "broken: The library cannot be used." in done.stdout
    assert str(tmp_path) in done.stdout
    assert "use_library()" in done.stdout
    report = json.loads(run("doctor", "--json").stdout)
    assert (report["ok"], report["library"], report["decode"]) == (False, None, None)
    assert len(report["problems"]) == 1


def test_other_commands_point_to_the_doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLAMA_CFFI_LIB", str(tmp_path))
    assert "See also: llama-cffi doctor" in refused(1, "generate", PROMPT)


def test_doctor_survives_a_library_that_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that dies in native code, made with a sitecustomize that only the probe reads."""
    script = "import os, sys\nif 'llama_cffi.cli.probe' in ' '.join(sys.orig_argv): os.kill(os.getpid(), 4)\n"
    (tmp_path / "sitecustomize.py").write_text(script, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    done = run("doctor")
    assert done.returncode == 1
    assert "an instruction that this CPU does not have" in done.stdout
    assert "scripts/build_libllama.py --force" in done.stdout


def test_doctor_says_why_a_place_was_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads(run("doctor", "--json").stdout)
    places = {one["source"] for one in report["candidates"]}
    assert {"bundled", "build tree", "system"} <= places
    taken = [one["state"] == "taken" for one in report["candidates"]].index(True)
    for one in report["candidates"][:taken]:
        assert one["state"].startswith("no ")
    monkeypatch.setenv("LLAMA_CFFI_LIB", report["library"]["path"])
    again = json.loads(run("doctor", "--json").stdout)
    assert again["candidates"] == [{"source": "explicit", "path": report["library"]["path"], "state": "taken"}]


def test_doctor_of_a_library_bound_by_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CFFI_BINDING", "abi")
    done = run("doctor")
    assert done.returncode == 0
    generation = abi.generations()[-1]
    assert f"{generation.name} ({generation.range}), by its fingerprint" in done.stdout
    assert re.search(r"^mode +abi$", done.stdout, re.MULTILINE)


def test_doctor_judges_a_library_without_using_it(tmp_path: Path) -> None:
    library = json.loads(run("doctor", "--json").stdout)["library"]["path"]
    done = run("doctor", "--lib", library)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{abi.generations()[-1].name} (" in done.stdout
    assert done.stdout.endswith("\nok\n")
    report = json.loads(run("doctor", "--lib", Path(library).parent, "--json").stdout)
    assert (report["ok"], report["library"], report["problems"]) == (True, library, [])
    assert report["fingerprint"]["bytes"]["llama_context_params"] > 100


def test_doctor_refuses_a_file_that_is_no_library(tmp_path: Path) -> None:
    file = tmp_path / "libllama.so"
    file.write_text("no library\x1b[2J")
    done = run("doctor", "--lib", file)
    assert done.returncode == 1
    assert "broken: " in done.stdout
    assert "cannot be used" in done.stdout
    assert "\x1b[2J" not in done.stdout
    report = json.loads(run("doctor", "--lib", tmp_path / "none", "--json").stdout)
    assert (report["ok"], "no such file or folder" in report["problem"]) == (False, True)


def test_what_a_library_leaves_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: ["Model 9"])
    assert hardware.unused_gpus([{"type": "cpu"}]) == ["Model 9"]
    assert hardware.unused_gpus([{"type": "cpu"}, {"type": "gpu"}]) == []
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: {"avx", "avx2", "sse"})
    assert hardware.unused_cpu_features({"AVX": True}) == ["AVX2"]
    assert hardware.unused_cpu_features({"AVX": True, "AVX2": True}) == []
