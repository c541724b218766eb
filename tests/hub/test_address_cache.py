"""Models from addresses in the cache: listed, also where unfinished, and deleted while others use or download them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llama_cffi import Model, ModelOptions, errors
from llama_cffi._util.cache_folder import folder
from llama_cffi.cli.app import app
from llama_cffi.hub import cached_addresses, pull_address, remove_addresses
from tests.hub.test_addresses import CONTENT, model_data, server, serving, url
from tests.support.file_server import FileServer

__all__ = ["model_data", "server", "serving"]  # fixtures


def left() -> list[Path]:
    return sorted(folder().rglob("*"))


def test_what_was_downloaded_is_listed_and_deleted(server: FileServer) -> None:
    with pytest.raises(errors.HubNotFoundError):
        pull_address(url(server, "/m/none.gguf"))
    assert cached_addresses() == []
    secret = url(server) + "?sig=secret"
    first, second = pull_address(url(server)), pull_address(secret)
    one, other = cached_addresses()
    assert (one.name, other.name) == (url(server), url(server) + "?...")
    assert (one.files, other.files) == ((first,), (second,))
    assert one.size == len(CONTENT) == one.expected
    assert (one.missing, one.unfinished) == ((), 0)
    for address, model in ((url(server), one), (secret, other), (other.name, other)):
        assert cached_addresses(address) == [model]
    assert cached_addresses(url(server, "/m/none.gguf")) == []
    with pytest.raises(errors.HubNameError):
        cached_addresses("nothing")
    assert len(CONTENT) <= remove_addresses([one]) < len(CONTENT) + 1000
    assert cached_addresses() == [other]
    remove_addresses([other])
    assert [path for path in left() if path.is_file()] == []
    assert not first.parent.exists()
    assert remove_addresses([other]) == 0
    assert pull_address(url(server)).read_bytes() == CONTENT


def test_unfinished_downloads(server: FileServer) -> None:
    server.breaks["/m/tiny.gguf"] = [100_000] * 2
    with pytest.raises(errors.HubCancelled):
        pull_address(url(server), progress=lambda part: part < 0.2)
    (one,) = cached_addresses()
    assert (one.name, one.files, one.missing) == (url(server), (), ("tiny.gguf",))
    assert 0.2 * len(CONTENT) <= one.size == one.unfinished < len(CONTENT) == one.expected
    remove_addresses([one])
    assert not any(path.is_file() for path in left())
    server.breaks.clear()
    server.files["/m/tiny.gguf"] = CONTENT
    path = pull_address(url(server))
    server.files["/m/tiny.gguf"] = CONTENT + b"more"
    with pytest.raises(errors.HubCancelled):
        pull_address(url(server), progress=lambda part: part < 0.2)
    (one,) = cached_addresses()
    assert one.files == (path,)
    assert one.missing == ()
    assert one.size == len(CONTENT) + one.unfinished > len(CONTENT)


def test_split_models(server: FileServer) -> None:
    for i in (1, 2, 3):
        server.files[f"/s/m-0000{i}-of-00003.gguf"] = CONTENT
    address = url(server, "/s/m-00001-of-00003.gguf")
    path = pull_address(address)
    (one,) = cached_addresses(address)
    assert (one.name, len(one.files), one.size, one.expected) == (address, 3, 3 * len(CONTENT), 3 * len(CONTENT))
    path.unlink()
    (one,) = cached_addresses(address)
    assert (one.missing, one.size, len(one.files)) == ((path.name,), 2 * len(CONTENT), 2)
    remove_addresses([one])
    assert not any(path.is_file() for path in left())


def test_a_download_is_not_deleted(server: FileServer) -> None:
    server.gate = threading.Event()
    code = f"from llama_cffi.hub import pull_address; print(pull_address({url(server)!r}).stat().st_size)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (found := cached_addresses()) or not found[0].unfinished:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(errors.HubStorageError, match="is being downloaded by another process"):
            remove_addresses(found)
        server.gate.set()
        assert child.communicate(timeout=60)[0] == f"{len(CONTENT)}\n"
    finally:
        child.kill()
        child.wait()
    assert remove_addresses(cached_addresses()) > 0


def test_a_model_in_use_is_deleted(server: FileServer, model_data: bytes) -> None:
    server.files["/m/model.gguf"] = model_data
    path = pull_address(url(server, "/m/model.gguf"))
    with Model(path, ModelOptions(load_mode="mmap")) as model:
        remove_addresses(cached_addresses())
        assert not path.exists()
        assert model.metadata["general.architecture"]
        assert model.vocab.tokenize("a").size
    with Model(url(server, "/m/model.gguf"), ModelOptions(vocab_only=True)):
        assert path.exists()


def test_files_whose_address_is_not_known(server: FileServer) -> None:
    path = pull_address(url(server))
    facts = path.with_name(path.name + ".json")
    noted = json.loads(facts.read_text())
    assert noted.pop("address") == url(server)
    facts.write_text(json.dumps(noted))
    (one,) = cached_addresses()
    assert one.name == str(path)
    assert cached_addresses(one.name) == [one]
    n_requests = len(server.requests)
    assert pull_address(url(server)) == path
    assert len(server.requests) == n_requests + 1  # it is current
    facts.unlink()
    (folder() / "models" / "stray").write_text("no folder")
    assert [one.name for one in cached_addresses()] == [str(path)]


def test_commands(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package(name: object = None) -> list[object]:
        raise errors.UnsupportedError("huggingface_hub is not installed")

    def run(*arguments: str, answer: str | None = None) -> Any:
        return CliRunner().invoke(app, arguments, input=answer)

    def no_models(name: object = None) -> list[object]:
        return []

    monkeypatch.setattr("llama_cffi.hub.cached", no_package)
    assert "huggingface_hub" in run("list").stderr
    pull_address(url(server))
    server.breaks["/m/other.gguf"] = [100_000] * 2
    server.files["/m/other.gguf"] = CONTENT
    with pytest.raises(errors.HubCancelled):
        pull_address(url(server, "/m/other.gguf"), progress=lambda part: part < 0.2)
    listed = run("list").stdout.splitlines()
    assert len(listed) == 2
    assert url(server, "/m/other.gguf") in listed[0]
    assert listed[0].endswith("of 293.0 KiB, download unfinished")
    assert listed[1].split() == [url(server), "293.0", "KiB"]
    monkeypatch.setattr("llama_cffi.hub.cached", no_models)
    report = json.loads(run("list", "--json").stdout)["models"]
    assert [one["name"] for one in report] == [url(server, "/m/other.gguf"), url(server)]
    assert report[0]["expected"] == report[1]["size"] == len(CONTENT)
    assert run("rm", url(server), answer="n\n").exit_code == 1
    for address in (url(server), url(server, "/m/other.gguf")):
        assert "freed" in run("rm", address, "-y").stdout
        gone = run("rm", address, "-y")
        assert gone.exit_code == 1
        assert "not in the cache" in gone.stderr
    assert cached_addresses() == []
    assert "no models in the cache" in run("list").stderr
