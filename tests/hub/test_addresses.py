"""Models at addresses: downloads that go on, and headers that are read without one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import GGUFFile, Llama, Model, errors, estimate_memory
from llama_cffi._util.cache_folder import folder
from llama_cffi.cli.app import app
from llama_cffi.hub import pull_address
from llama_cffi.hub import transfer as transfers
from llama_cffi.hub.ranges import RangeFile
from llama_cffi.hub.web import WebFile
from tests.support.file_server import FileServer, serve_files
from tests.support.random_model import Shape, write_random_model

CONTENT = b"GGUF" + random.Random(0).randbytes(300_000)


@pytest.fixture(scope="module")
def serving() -> Iterator[FileServer]:
    with serve_files() as server:
        yield server


@pytest.fixture
def server(serving: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """A server with one file as if it were new, and an empty cache, for this process and for children."""
    vars(serving).update(vars(FileServer(serving.url)))
    serving.files["/m/tiny.gguf"] = CONTENT
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LLAMA_ARG_THREADS", "1")
    monkeypatch.setattr(transfers, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(transfers, "_LOCK_POLL", 0.005)
    return serving


@pytest.fixture(scope="module")
def model_data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny.gguf").read_bytes()


def url(server: FileServer, path: str = "/m/tiny.gguf") -> str:
    return server.url + path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints."""
    app([*arguments], standalone_mode=False)
    return capsys.readouterr().out


def left_over() -> list[str]:
    """The files of unfinished downloads."""
    return sorted(path.name for path in folder().rglob("*.part*"))


# -- addresses


@pytest.mark.parametrize(
    "text",
    ["", "m.gguf", "ftp://h/m.gguf", "file:///etc/passwd", "https://", "https:///m.gguf", "https://h:x/m.gguf",
     "https://h/m n.gguf", "https://h/m.gguf\nX: y", "https://h/m\u00fc.gguf", "https://h/m.gguf#sha256=ab",
     "https://h/m.gguf#x", "https://[h/m.gguf"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(errors.HubNameError):
        WebFile.parse(text)


def test_secrets_are_not_shown() -> None:
    file = WebFile.parse("https://ann:s%40crit@host:8080/a/b.gguf?key=hidden")
    assert file.url == "https://host:8080/a/b.gguf?key=hidden"
    assert file.label == "https://host:8080/a/b.gguf?..."
    assert file.headers == {"Authorization": "Basic YW5uOnNAY3JpdA=="}
    assert file.name == "b.gguf"
    assert WebFile.parse("http://[::1]:80/x").url == "http://[::1]:80/x"


# -- downloads


def test_a_file_is_downloaded_once(server: FileServer) -> None:
    seen: list[float] = []
    path = pull_address(url(server), progress=seen.append)
    assert path.read_bytes() == CONTENT
    assert path.name == "tiny.gguf"
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert pull_address(url(server)) == path
    assert server.sent == len(CONTENT)
    assert server.requests[-1][1]["If-None-Match"] == server.tag("/m/tiny.gguf")
    assert pull_address(url(server), offline=True) == path
    assert len(server.requests) == 2
    assert sorted(one.name for one in path.parent.iterdir()) == ["tiny.gguf", "tiny.gguf.json"]


@pytest.mark.parametrize("seed", range(12))
def test_a_download_goes_on_where_the_connection_broke(server: FileServer, seed: int) -> None:
    rng = random.Random(seed)
    server.breaks["/m/tiny.gguf"] = [rng.choice([0, 1, 3, rng.randrange(100_000)]) for _ in range(rng.randrange(1, 5))]
    path = pull_address(url(server))
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)  # nothing of it twice
    assert left_over() == []


@pytest.mark.parametrize("lack", ["etags", "ranges", "conditions", "lengths"])
def test_servers_that_lack_something(server: FileServer, lack: str) -> None:
    setattr(server, lack, False)
    if lack != "lengths":  # without one, nothing tells that more was to come
        server.breaks["/m/tiny.gguf"] = [70_000]
    path = pull_address(url(server))
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT) + (70_000 if lack in ("etags", "ranges") else 0)
    server.files["/m/tiny.gguf"] = changed = CONTENT + b"more"
    assert pull_address(url(server)).read_bytes() == changed


def test_the_next_call_goes_on_after_a_cancel(server: FileServer) -> None:
    server.breaks["/m/tiny.gguf"] = [100_000] * 2
    with pytest.raises(errors.HubCancelled):
        pull_address(url(server), progress=lambda part: part < 0.2)
    assert left_over() == ["tiny.gguf.part", "tiny.gguf.part.json"]
    pull_address(url(server))
    assert server.sent == len(CONTENT)

    class Own(Exception):
        pass

    def fail(part: float) -> None:
        raise Own

    server.files["/m/b.gguf"] = CONTENT
    with pytest.raises(Own):
        pull_address(url(server, "/m/b.gguf"), progress=fail)


def test_another_process_goes_on_after_a_crash(server: FileServer, tmp_path: Path) -> None:
    server.gate = threading.Event()
    code = f"from llama_cffi.hub import pull_address; pull_address({url(server)!r})"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        part = None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            part = next(folder().rglob("*.part"), None)
            if part is not None and part.stat().st_size >= len(CONTENT) // 2:
                break
            time.sleep(0.01)
        assert part is not None
        assert part.stat().st_size == len(CONTENT) // 2
    finally:
        child.kill()
        child.wait()
    server.gate.set()
    server.gate = None
    assert pull_address(url(server)).read_bytes() == CONTENT
    assert server.ranges_of("/m/tiny.gguf")[-1] == f"bytes={len(CONTENT) // 2}-"


@pytest.mark.parametrize("conditions", [True, False])
def test_a_file_that_changed_meanwhile_is_downloaded_anew(server: FileServer, conditions: bool) -> None:
    """Also by a server that sends the rest of the new file to the beginning of the old one."""
    server.conditions = conditions
    server.breaks["/m/tiny.gguf"] = [100_000] * 2
    with pytest.raises(errors.HubCancelled):
        pull_address(url(server), progress=lambda part: part < 0.2)
    server.breaks.clear()
    server.files["/m/tiny.gguf"] = changed = b"GGUF" + random.Random(1).randbytes(300_000)
    assert pull_address(url(server)).read_bytes() == changed


def test_a_part_that_is_as_long_or_longer(server: FileServer) -> None:
    path = pull_address(url(server))
    facts, part = path.with_name(path.name + ".json"), path.with_name(path.name + ".part")
    for content in (CONTENT, CONTENT + b"longer"):
        path.unlink()
        part.write_bytes(content)
        part.with_name(part.name + ".json").write_bytes(facts.read_bytes())
        assert pull_address(url(server)).read_bytes() == CONTENT
    path.unlink()
    part.write_bytes(CONTENT)
    part.with_name(part.name + ".json").write_bytes(facts.read_bytes())
    server.files["/m/tiny.gguf"] = changed = b"GGUF changed"
    assert pull_address(url(server)).read_bytes() == changed  # complete, but not what the server has
    server.files["/m/tiny.gguf"] = CONTENT
    for noted in (b"", b"[]", b'{"size": "x"}', b'{"odd": 1}', b"\xff"):
        path.unlink()
        part.write_bytes(b"GGUF wrong")
        part.with_name(part.name + ".json").write_bytes(noted)
        assert pull_address(url(server)).read_bytes() == CONTENT


def test_a_new_version_replaces_the_old_one(server: FileServer) -> None:
    path = pull_address(url(server))
    with open(path, "rb") as old:
        server.files["/m/tiny.gguf"] = changed = b"GGUF new"
        assert pull_address(url(server)) == path
        assert path.read_bytes() == changed
        assert old.read() == CONTENT
    path.write_bytes(b"GGUF")  # damaged by another program
    assert pull_address(url(server)).read_bytes() == changed


def test_a_checksum_is_compared(server: FileServer) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    server.breaks["/m/tiny.gguf"] = [1000]
    path = pull_address(f"{url(server)}#sha256={digest.upper()}")
    n_requests = len(server.requests)
    server.files["/m/tiny.gguf"] = b"GGUF other"
    assert pull_address(f"{url(server)}#sha256={digest}") == path
    assert len(server.requests) == n_requests  # it is what was asked for, whatever the server has
    other = hashlib.sha256(b"x").hexdigest()
    with pytest.raises(errors.HubChecksumError, match="was downloaded damaged and was deleted"):
        pull_address(f"{url(server)}#sha256={other}")
    assert left_over() == []
    assert path.read_bytes() == CONTENT


def test_what_is_not_there_or_not_open(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.HubNotFoundError, match=r"there is no http.*none.gguf \(HTTP 404\)"):
        pull_address(url(server, "/none.gguf"))
    server.needs = "Bearer token"
    with pytest.raises(errors.HubNotFoundError, match="without a login"):
        pull_address(url(server))
    path = pull_address(url(server), headers={"Authorization": "Bearer token"})
    assert path.read_bytes() == CONTENT
    server.needs = None
    server.files["/page.gguf"] = b"<!DOCTYPE html>" * 10_000
    with pytest.raises(errors.HubNotFoundError, match="is not a GGUF file: it begins with b'<!DOCTYPE"):
        pull_address(url(server, "/page.gguf"))
    server.status = 503
    n_requests = len(server.requests)
    with pytest.raises(errors.HubConnectionError, match="HTTP 503"):
        pull_address(url(server, "/other.gguf"))
    assert len(server.requests) - n_requests == 5
    assert pull_address(url(server)) == path  # the server does not answer, and the cache has it
    with pytest.raises(errors.HubNotFoundError, match="no server is asked when offline"):
        pull_address(url(server, "/other.gguf"), offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull_address(url(server)) == path


def test_a_token_stays_with_its_host(server: FileServer) -> None:
    with serve_files() as other:
        other.files["/real.gguf"] = server.files["/real.gguf"] = CONTENT
        server.redirects = {"/there.gguf": f"{other.url}/real.gguf", "/here.gguf": "/real.gguf"}
        for path in ("/there.gguf", "/here.gguf"):
            secret = server.url.replace("http://", "http://ann:secret@")
            assert pull_address(secret + path).read_bytes() == CONTENT
        assert "Authorization" not in other.requests[0][1]
        assert all("Authorization" in headers for _, headers in server.requests)
        assert len(server.requests) == 3


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher:x"])
def test_redirects_lead_to_no_other_scheme(server: FileServer, target: str) -> None:
    server.redirects["/m/tiny.gguf"] = target
    with pytest.raises(errors.HubConnectionError):
        pull_address(url(server))
    server.redirects["/m/tiny.gguf"] = "/m/tiny.gguf"
    with pytest.raises(errors.HubConnectionError):
        pull_address(url(server))


def test_a_full_disk_keeps_the_part(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = transfers._size

    def limited(part: Any) -> int:
        if real(part) > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(part)

    server.breaks["/m/tiny.gguf"] = [100_000]
    monkeypatch.setattr(transfers, "_size", limited)
    with pytest.raises(errors.HubStorageError, match=r"No space left.*goes on where this one ended"):
        pull_address(url(server))
    monkeypatch.setattr(transfers, "_size", real)
    assert pull_address(url(server)).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)
    usage = shutil.disk_usage(folder())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    server.files["/m/tiny.gguf"] = CONTENT + b"new"
    with pytest.raises(errors.HubStorageError, match=r"needs 300,007 bytes in .*, where 1,000 are free"):
        pull_address(url(server))


def test_two_callers_share_a_download(server: FileServer) -> None:
    server.gate = threading.Event()
    seen: list[list[float]] = [[], []]
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda i=i: paths.append(pull_address(url(server), progress=seen[i].append)))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while not all(seen) and time.monotonic() < deadline:
        time.sleep(0.005)
    server.gate.set()
    for thread in threads:
        thread.join(60)
    assert len(paths) == 2
    assert paths[0] == paths[1]
    assert server.sent == len(CONTENT)
    assert paths[0].read_bytes() == CONTENT


def test_all_parts_of_a_split_model(server: FileServer) -> None:
    for i in (1, 2, 3):
        server.files[f"/s/big-0000{i}-of-00003.gguf"] = b"GGUF" + bytes([i]) * 1000
    seen: list[float] = []
    first = pull_address(url(server, "/s/big-00001-of-00003.gguf?key=1"), progress=seen.append)
    assert [path.name for path in sorted(first.parent.glob("*.gguf"))] == [
        f"big-0000{i}-of-00003.gguf" for i in (1, 2, 3)
    ]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(errors.HubNameError, match="give the address of the first one"):
        pull_address(url(server, "/s/big-00002-of-00003.gguf"))


def test_odd_names_stay_in_the_cache(server: FileServer) -> None:
    for name in ("/", "/..%2F..%2Fx.gguf", "/.hidden", "/a.part", "/m.gguf?x=1", "/" + "n" * 300):
        server.files[name.partition("?")[0].replace("%2F", "/")] = CONTENT
        path = pull_address(url(server, name))
        assert path.is_relative_to(folder())
        assert path.read_bytes() == CONTENT


@pytest.mark.fuzz
def test_random_servers_interruptions_and_changes(server: FileServer) -> None:
    """Whatever happens on the way, a call that returns has what the server has, or had before it was gone."""
    seconds = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "30"))
    seed, end = random.SystemRandom().randrange(2**31), time.monotonic() + seconds
    counts: Counter[str] = Counter()
    while time.monotonic() < end:
        print(f"seed {seed}")
        rng = random.Random(seed)
        seed += 1
        path = f"/f/{seed}.gguf"
        vars(server).update(
            etags=rng.random() < 0.8, ranges=rng.random() < 0.8, conditions=rng.random() < 0.8, status=None, requests=[]
        )
        server.files[path] = content = b"GGUF" + rng.randbytes(rng.choice([0, 1, 1000, 200_000]))
        done = False
        for _ in range(rng.randrange(1, 6)):
            event = rng.choice(["break", "cancel", "change", "away", "kill", "nothing"])
            counts[event] += 1
            server.breaks[path] = [rng.randrange(len(content) + 1) for _ in range(rng.randrange(3))]
            server.status = 503 if event == "away" else None
            stop_at = rng.random() if event == "cancel" else 2.0
            if event == "change":
                server.files[path] = content = b"GGUF" + rng.randbytes(rng.choice([1, 1000, 100_000]))
            if event == "kill":  # what a power failure may leave of the notes
                for part in folder().rglob(f"{seed}.gguf.part*"):
                    if rng.random() < 0.5:
                        part.unlink()
                    else:
                        part.write_bytes(b"")
            try:
                found = pull_address(url(server, path), progress=stop_at.__gt__).read_bytes()
            except (errors.HubCancelled, errors.HubConnectionError) as error:
                counts[type(error).__name__] += 1
                continue
            assert found == content or (event == "away" and done), f"seed {seed - 1}: {event}"
            done = True
            counts["returned"] += 1
    print(dict(counts))
    assert counts["returned"] > 5


# -- models


def test_models_from_addresses(server: FileServer, model_data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/m/tiny.gguf"] = model_data
    with Model(url(server)) as model:
        assert model.path.is_relative_to(folder())
    with Llama(url(server), n_ctx=64, n_threads=1) as llama:
        assert llama.generate("tana", max_tokens=2, temperature=0).text
    assert server.sent == len(model_data)
    assert run(capsys, "tokenize", "-m", url(server), "tana").strip()
    assert server.sent == len(model_data)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are most of it."""
    folder = tmp_path_factory.mktemp("models")
    return write_random_model(folder / "heavy.gguf", Shape(n_layer=2, n_embd=256, n_ff=4096))


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose header has more than the first block that is read."""
    folder = tmp_path_factory.mktemp("models")
    return write_random_model(folder / "wordy.gguf", Shape(n_layer=1, n_embd=32, n_ff=32, n_vocab=60_000))


def test_a_header_is_read_without_the_rest(server: FileServer, heavy: Path) -> None:
    data = heavy.read_bytes()
    plain = GGUFFile(heavy)
    server.files["/m/tiny.gguf"] = data
    file = GGUFFile(url(server))
    assert (file.metadata, file.tensors, file.file_size) == (plain.metadata, plain.tensors, plain.file_size)
    assert server.sent <= 1 << 20
    assert len(data) > 5 << 20
    assert estimate_memory(url(server)).weights == estimate_memory(heavy).weights
    assert not folder().exists()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
def test_headers_of_several_blocks(server: FileServer, wordy: Path, ranges: bool, lengths: bool) -> None:
    data = wordy.read_bytes()
    server.files["/m/tiny.gguf"], server.ranges, server.lengths = data, ranges, lengths
    if not (ranges or lengths):
        with pytest.raises(errors.HubConnectionError, match="does not say how long it is"):
            GGUFFile(url(server))
        return
    assert GGUFFile(url(server)).metadata == GGUFFile(wordy).metadata
    asked = server.ranges_of("/m/tiny.gguf")
    assert asked[:2] == ["bytes=0-1048575", "bytes=1048576-2097151"] if ranges else len(asked) == 1
    assert server.sent < len(data) or not ranges


def test_headers_that_cannot_be_read(server: FileServer, model_data: bytes) -> None:
    for content, error, message in (
        (b"", errors.ModelFileError, "is empty"),
        (b"<html>" * 1000, errors.ModelFileError, "is not a GGUF file: it begins with b'<html>"),
        (model_data[:3000], errors.ModelFileError, "truncated|damaged"),
        (model_data[:-100], errors.ModelFileError, "truncated"),
        (b"GGUF" + bytes(1000), errors.ModelFileError, "damaged"),
    ):
        server.files["/m/tiny.gguf"] = content
        with pytest.raises(error, match=message) as caught:
            GGUFFile(url(server))
        assert "/proc/" not in str(caught.value)
    with pytest.raises(errors.HubNotFoundError):
        GGUFFile(url(server, "/none.gguf"))


def test_a_file_that_changes_between_two_ranges(server: FileServer) -> None:
    with RangeFile(WebFile.parse(url(server))) as file:
        assert file.read(1000) == CONTENT[:1000]
        assert file.size == len(CONTENT)
        assert file.read(10**6) == CONTENT[1000:]
        assert file.read(1) == b""
    with RangeFile(WebFile.parse(url(server))) as file:
        file.read(1000)
        server.files["/m/tiny.gguf"] = CONTENT[::-1]
        with pytest.raises(errors.HubConnectionError, match="changed while it was read"):
            file.read(1000)
    with RangeFile(WebFile.parse(url(server)), limit=5000) as file:
        file.read(5000)
        with pytest.raises(errors.HubConnectionError, match="does not end within 5,000 bytes"):
            file.read(1)
    server.breaks["/m/tiny.gguf"] = [10]
    with RangeFile(WebFile.parse(url(server))) as file, pytest.raises(errors.HubConnectionError, match="broke"):
        file.read(1000)


@pytest.mark.parametrize("seed", range(10))
def test_random_reads(server: FileServer, seed: int) -> None:
    rng = random.Random(seed)
    server.ranges, server.lengths = rng.random() < 0.7, rng.random() < 0.7
    at = 0
    with RangeFile(WebFile.parse(url(server))) as file:
        while at < len(CONTENT):
            size = rng.choice([1, 7, 1000, 100_000])
            found = file.read(size)
            assert found == CONTENT[at : at + size]
            at += size
        assert file.read(10) == b""


def test_info_of_an_address(server: FileServer, heavy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = heavy.read_bytes()
    server.files["/m/tiny.gguf"] = data
    shown = run(capsys, "info", url(server), "--tensors")
    assert f"{url(server)} (" in shown
    assert "token_embd.weight" in shown
    assert "for the weights" in shown
    assert "for 2,048 tokens" in shown
    report = json.loads(run(capsys, "info", url(server), "--json"))
    assert report["memory"]["weights"] == report["tensor_bytes"]
    assert report["file_size"] == len(data)
    assert server.sent < len(data)
    assert not folder().exists()


def test_info_of_a_split_model(server: FileServer, model_data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    for i in (1, 2):
        server.files[f"/s/m-0000{i}-of-00002.gguf"] = model_data
    report = json.loads(run(capsys, "info", url(server, "/s/m-00001-of-00002.gguf"), "--json"))
    assert report["files"] == [url(server, f"/s/m-0000{i}-of-00002.gguf") for i in (1, 2)]
    assert report["file_size"] == 2 * len(model_data)
