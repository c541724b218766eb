"""Models over RPC servers, which are away, are of another version, or die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from llama_cffi import Llama, ModelOptions
from llama_cffi.cli.app import app
from llama_cffi.core import backend
from llama_cffi.errors import EngineCrashed, RpcError
from tests.support.children import run_child
from tests.support.media_kinds import open_llama, write_kind
from tests.support.speech_models import SpeechName, write_speaking_model

PROMPT = "Once upon a time"
OPTIONS: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_seq_max": 2}
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """An ``llama-cffi rpc-server``."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama_cffi", "rpc-server", "--port", str(self.port), "--threads", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait(self) -> Server:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        pytest.fail(f"the server does not come: {self.said()}")

    def said(self) -> str:
        self.process.kill()
        return self.process.communicate()[0].decode()

    def end(self) -> None:
        self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process.wait(SECONDS)


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    if not backend.supports().rpc:
        pytest.skip("this libllama has no RPC backend")
    found = [Server(), Server()]
    for one in found:
        one.wait()
    yield found  # a test may replace them
    for one in found:
        one.end()


def test_a_model_over_two_servers_and_what_happens_when_one_dies(servers: list[Server]) -> None:
    with Llama.demo(**OPTIONS) as here:
        expected = here.generate(PROMPT, max_tokens=12, temperature=0).tokens
    names = [one.endpoint for one in servers]
    with Llama.demo(rpc=names, **OPTIONS) as llm:
        assert llm._runtime.pid is not None  # type: ignore[attr-defined]
        assert llm.model.placement.n_gpu_layers == llm.model.placement.n_layers > 0
        used = [one for one, size in llm.model.placement.buffers.items() if size and one.startswith("RPC")]
        assert len(used) == 2
        assert llm.generate(PROMPT, max_tokens=12, temperature=0).tokens == expected
        stream = llm.stream(PROMPT, max_tokens=200, seed=1)
        next(stream)
        servers[1].process.kill()
        began = time.monotonic()
        with pytest.raises(EngineCrashed, match="RPC server crashed"):
            list(stream)
        assert time.monotonic() - began < SECONDS
        servers[1].end()
        with pytest.raises(RpcError, match=f"{servers[1].endpoint} cannot be reached"):
            llm.generate(PROMPT, max_tokens=1)
        servers[1] = Server(servers[1].port).wait()
        assert llm.generate(PROMPT, max_tokens=12, temperature=0).tokens == expected


@pytest.mark.conformance
def test_a_server_that_stops_answering(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.isolation import supervisor

    monkeypatch.setattr(supervisor, "STALLED_TOKEN_SECONDS", 1.0)
    with Llama.demo(rpc=[servers[0].endpoint], **OPTIONS) as llm:
        stream = llm.stream(PROMPT, max_tokens=200, seed=1)
        next(stream)
        os.kill(servers[0].process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineCrashed, match="an RPC server does not answer"):
                list(stream)
        finally:
            os.kill(servers[0].process.pid, signal.SIGCONT)
        assert llm.generate(PROMPT, max_tokens=2, temperature=0).tokens


@pytest.mark.conformance
def test_a_server_that_is_stopped_for_30_seconds(servers: list[Server]) -> None:
    from llama_cffi.isolation import supervisor

    with Llama.demo(rpc=[servers[0].endpoint], **OPTIONS) as llm:
        expected = llm.generate(PROMPT, max_tokens=4, temperature=0).tokens
        stream = llm.stream(PROMPT, max_tokens=200, seed=1)
        next(stream)
        began = time.monotonic()
        os.kill(servers[0].process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EngineCrashed, match="an RPC server does not answer"):
                list(stream)
            assert supervisor.STALLED_TOKEN_SECONDS <= time.monotonic() - began < 30
            time.sleep(max(0.0, began + 30 - time.monotonic()))
        finally:
            os.kill(servers[0].process.pid, signal.SIGCONT)
        assert llm.generate(PROMPT, max_tokens=4, temperature=0).tokens == expected


@pytest.mark.conformance
def test_without_a_process_of_its_own(servers: list[Server]) -> None:
    program = f"""
        from llama_cffi import Llama, ModelOptions
        rpc = ["{servers[0].endpoint}"]
        for options in ({{"rpc": rpc}}, {{"model_options": ModelOptions(rpc=rpc)}}):
            with Llama.demo(isolate=False, n_ctx=256, n_threads=1, **options) as llm:
                assert llm.model.placement.gpu_bytes
                print(llm.generate("Once upon a time", max_tokens=8, temperature=0).text)
    """
    with Llama.demo(**OPTIONS) as here:
        expected = here.generate(PROMPT, max_tokens=8, temperature=0).text
    assert run_child(program).splitlines() == [expected] * 2


def test_what_is_freed_breaks_no_connection(servers: list[Server]) -> None:
    # The server forgets the graph that it computed last whenever a buffer is freed.
    program = f"""
        from llama_cffi import Batch, Context, ContextOptions, Llama, Model, ModelOptions
        from llama_cffi.errors import RpcError
        from llama_cffi.runtime import demo_path
        rpc = ["{servers[0].endpoint}"]
        model = Model(demo_path(), ModelOptions(rpc=rpc))
        options = ContextOptions(n_ctx=64, n_threads=1)
        one, other = Context(model, options), Context(model, options)

        def decode(context, pos):
            batch = Batch(1)
            batch.single(5, pos, 0)
            context.decode(batch)
            return context.outputs.logits(0).argmax()

        found = [decode(one, pos) for pos in range(3)]
        other.close()
        found += [decode(one, pos) for pos in range(3, 6)]
        again = Context(model, options)
        assert found == [decode(again, pos) for pos in range(6)]
        again.close()
        decode(one, 6)
        model.close()
        print("closed")
    """
    assert run_child(program).splitlines() == ["closed"]


@pytest.mark.conformance
def test_a_server_that_is_restarted_while_no_model_is_open() -> None:
    if not backend.supports().rpc:
        pytest.skip("this libllama has no RPC backend")
    server = Server().wait()
    program = f"""
        import sys
        from llama_cffi import Llama
        from llama_cffi.errors import RpcError
        rpc = ["{server.endpoint}"]
        for _ in range(3):
            try:
                with Llama.demo(isolate=False, n_ctx=64, n_threads=1, rpc=rpc) as llm:
                    print(llm.generate("Once upon a time", max_tokens=4, temperature=0).text, flush=True)
            except RpcError as error:
                print(error, flush=True)
            sys.stdin.readline()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        first = child.stdout.readline()
        server.end()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == f"the RPC server {server.endpoint} cannot be used: it cannot be reached\n"
        server = Server(server.port).wait()
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == first
        child.communicate("\n", timeout=SECONDS)
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        server.end()


@pytest.mark.conformance
@pytest.mark.parametrize("seed", range(4))
def test_random_work_of_one_process(servers: list[Server], seed: int) -> None:
    program = f"""
        import random, threading
        from llama_cffi import Llama
        seed, rpc = {seed}, {[one.endpoint for one in servers]}
        options = dict(n_ctx=128, n_threads=1, n_seq_max=2, isolate=False)
        greedy = dict(max_tokens=12, temperature=0, reuse=False)  # a prompt that is reused rounds in another way
        texts = ["Once upon a time", "The little dog", "One day, a girl", "It was a sunny"]
        with Llama.demo(n_ctx=128, n_threads=1, n_seq_max=2) as here:
            expected = {{text: here.generate(text, **greedy).text for text in texts}}

        def work(number):
            draw = random.Random(1000 * seed + number)
            for _ in range(6):
                with Llama.demo(rpc=draw.choice((rpc, rpc[:1], rpc[1:])), **options) as llm:
                    for _ in range(draw.randrange(1, 5)):
                        text = draw.choice(texts)
                        match draw.randrange(5):
                            case 0:
                                with llm.stream(text, max_tokens=40) as stream:
                                    next(stream)
                            case 1:
                                llm.embed([text])
                            case 2:
                                with llm.fork() as twin:
                                    assert twin.generate(text, **greedy).text == expected[text]
                            case _:
                                assert llm.generate(text, **greedy).text == expected[text]
            print("done", flush=True)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """
    assert run_child(program).splitlines() == ["done"] * 3


@pytest.mark.conformance
def test_images_over_rpc(servers: list[Server], tmp_path: Path, assets: Path) -> None:
    kind = write_kind(tmp_path, "qwen2vl", assets)
    prompt = ["What is ", next(iter(kind.media.values())), "?"]
    with open_llama(kind) as here, open_llama(kind, rpc=[servers[0].endpoint]) as llm:
        assert llm.model.placement.gpu_bytes
        expected, found = (one.generate(prompt, temperature=0, max_tokens=4) for one in (here, llm))
    assert found.prompt == expected.prompt
    assert found.tokens == expected.tokens


@pytest.mark.conformance
@pytest.mark.parametrize("name", ["pockettts", "qwen3tts"])
def test_speech_over_rpc(servers: list[Server], tmp_path: Path, name: SpeechName) -> None:
    made = write_speaking_model(tmp_path, name)
    options: dict[str, Any] = {"mmproj": made.projector, "n_ctx": 512, "n_threads": 1}
    with Llama(made.model, **options) as here, Llama(made.model, rpc=[servers[0].endpoint], **options) as llm:
        assert llm.model.placement.gpu_bytes
        expected, found = (one.speak("Hello there", max_frames=20, temperature=0, seed=1) for one in (here, llm))
    assert found.n_samples == expected.n_samples
    assert np.allclose(found.samples, expected.samples, atol=1e-3)


@pytest.mark.conformance
def test_the_command_line(servers: list[Server]) -> None:
    arguments = ["--ctx-size", "256", "--threads", "1", "--temp", "0", "-n", "6"]
    found = [
        CliRunner().invoke(app, ["generate", PROMPT, *arguments, *more])
        for more in ([], ["--rpc", servers[0].endpoint], ["--isolate"])
    ]
    assert [one.exit_code for one in found] == [0, 0, 0]
    assert len({one.stdout for one in found}) == 1
    wrong = CliRunner().invoke(app, ["generate", PROMPT, "--rpc", "nowhere"])
    assert wrong.exit_code == 2
    assert "host:port" in wrong.stderr
    # The port is taken, and the address is not that of this machine alone.
    taken = CliRunner().invoke(app, ["rpc-server", "--host", "0.0.0.0", "--port", str(servers[0].port)])
    assert taken.exit_code == 1
    assert "warning: 0.0.0.0 can be reached from other machines" in taken.stderr
    assert "cannot listen on" in taken.stderr


@pytest.mark.conformance
def test_what_is_no_server() -> None:
    if not backend.supports().rpc:
        pytest.skip("this libllama has no RPC backend")
    port = free_port()
    with pytest.raises(RpcError, match="cannot be reached"):
        Llama.demo(rpc=[f"127.0.0.1:{port}"])
    # As one of another version: a hello of the right size, from a major version of 99; and one of an older size.
    newer = (28).to_bytes(8, "little") + bytes([99, 1, 2]) + bytes(25)
    older = (3).to_bytes(8, "little") + bytes([3, 6, 1])
    for hello, reason in (
        (newer, r"it has version 99\.1\.2 of the RPC protocol, which this libllama does not understand"),
        (older, "it does not answer as one of this version does, or is not an RPC server"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not answer as one of this version does"),
    ):
        check_refused(hello, reason)


def check_refused(hello: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            for _ in range(2):
                client, _ = other.accept()
                with client:
                    client.settimeout(SECONDS)
                    with suppress(ConnectionError):
                        greeting = b""  # a command, its size and 24 bytes, which may come in parts
                        while len(greeting) < 33 and (more := client.recv(100)):
                            greeting += more
                        if greeting:
                            client.sendall(hello)
                            client.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        endpoint = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RpcError, match=f"the RPC server {endpoint} cannot be used: {reason}"):
            Llama.demo(rpc=[endpoint])
        thread.join(SECONDS)


@pytest.mark.conformance
def test_a_server_that_says_nothing() -> None:
    if not backend.supports().rpc:
        pytest.skip("this libllama has no RPC backend")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        program = f"""
            from llama_cffi.core import rpc
            rpc.ANSWER_SECONDS = 0.3
            try:
                rpc.add_servers(["{endpoint}"])
            except Exception as error:
                print(type(error).__name__, error)
        """
        assert "RpcError" in (said := run_child(program))
        assert "has not answered in 0.3 seconds" in said


def test_addresses_are_checked() -> None:
    for wrong in ("localhost", ":5", "host:", "host:0", "host:70000", "host:x"):
        with pytest.raises(ValueError, match='servers as "host:port"'):
            ModelOptions(rpc=[wrong])
        with pytest.raises(ValueError, match='servers as "host:port"'):
            Llama.demo(rpc=[wrong])
    for kind in ("host:50052", 3):
        with pytest.raises(TypeError):
            ModelOptions(rpc=kind)  # type: ignore[arg-type]
    assert ModelOptions(rpc=["h:050"]).rpc == ("h:50",)
    with Llama.demo(**OPTIONS) as llm, pytest.raises(ValueError, match="rpc: the model is already loaded"):
        Llama(llm.model, rpc=["h:1"], isolate=False)
