"""Where the server listens: socket files, TLS, a prefix of all paths; and what it logs there."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.server.conftest import Running

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn", reason="needs the extra llama-cffi[server]")

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no socket files")


@unix
def test_a_socket_file_has_its_rights_and_replaces_one_that_is_left_over(tmp_path: Path) -> None:
    from llama_cffi.server.listening import address_of, bind, close

    path = tmp_path / "x.sock"
    for host, mode in ((str(path), 0o600), (f"unix:{path}", 0o660)):
        sock = bind(host, 0, mode=mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert address_of(sock, tls=False) == f"unix:{path}"
        sock.close()  # as at a sudden end: the file stays
        assert path.exists()
    again = bind(str(path), 0)
    with pytest.raises(OSError, match="in use"):
        bind(str(path), 0)
    close(again)
    assert not path.exists()


@unix
def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    from llama_cffi.server.listening import bind

    path = tmp_path / "x.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        bind(str(path), 0)
    link = tmp_path / "y.sock"
    link.symlink_to(path)
    with pytest.raises(OSError, match="not a socket"):
        bind(str(link), 0)
    assert path.read_text() == "precious"


def test_several_processes_may_share_a_port() -> None:
    from llama_cffi.server.listening import bind

    with closing(bind("127.0.0.1", 0, reuse_port=True)) as first:
        port = first.getsockname()[1]
        bind("127.0.0.1", port, reuse_port=True).close()
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", port)


@unix
def test_requests_through_a_socket_file(server: Running, tmp_path: Path) -> None:
    from llama_cffi.server.listening import bind
    from llama_cffi.server.settings import Settings
    from tests.server.conftest import serving

    path = tmp_path / "x.sock"
    settings = Settings(check_host=False, api_prefix="/llm")
    with serving(bind(str(path), 0), settings, server.llm), httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path)), base_url="http://anything"
    ) as client:  # fmt: skip
        body = {"prompt": "Once", "max_tokens": 2}
        assert client.post("/llm/v1/completions", json=body).status_code == 200
        assert client.get("/llm/health/").status_code == 200
        outside = client.post("/v1/completions", json=body)
        assert (outside.status_code, "begins with /llm" in outside.text) == (404, True)
        assert client.get("/llmhealth").status_code == 404


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls(server: Running, tmp_path: Path) -> None:
    from llama_cffi.server.listening import bind, check_certificate
    from llama_cffi.server.settings import Settings
    from tests.server.conftest import serving

    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    check_certificate(str(key), str(cert))
    with pytest.raises(OSError):  # noqa: PT011 - what OpenSSL says of it
        check_certificate(str(cert), str(cert))
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    with serving(sock, Settings(ssl_key_file=str(key), ssl_cert_file=str(cert)), server.llm):
        import ssl

        trust = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust) as client:
            body = {"prompt": "Once", "max_tokens": 3, "stream": True, "temperature": 0}
            assert client.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as plain:
            plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in plain.recv(1000)


def test_the_line_of_a_request(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llama_cffi.server.access"), httpx.Client(base_url=server.url) as client:
        secret = "a very secret text"
        for stream in (False, True):
            body = {"messages": [{"role": "user", "content": secret}], "max_tokens": 3, "n": 2, "stream": stream}
            headers = {"authorization": f"Bearer {secret}", "x-request-id": f"mine-{stream}"}
            client.post("/v1/chat/completions", json={**body, "seed": 1}, headers=headers)
        client.get("/nothing", headers={"x-request-id": "a\tb"})
        server.until_idle()
    lines = [record for record in caplog.records if record.name == "llama_cffi.server.access"]
    assert secret not in caplog.text
    for record, stream in zip(lines, (False, True), strict=False):
        facts = record.facts  # type: ignore[attr-defined]
        assert facts["request_id"] == f"mine-{stream}"
        assert (facts["status"], facts["route"], facts["method"]) == (200, "/v1/chat/completions", "POST")
        assert (facts["texts"], facts["generated"], facts["finish"]) == (2, 6, "length")
        assert facts["prompt"] > 0
        assert f"request_id=mine-{stream}" in record.getMessage()
    assert lines[2].facts["route"] == "other"  # type: ignore[attr-defined]


def test_lines_of_json() -> None:
    import json

    from llama_cffi.cli.server_log import JsonLines

    record = logging.LogRecord("a", logging.WARNING, "", 1, "%s\nb", ("a",), None)
    record.facts = {"status": 200}
    line = JsonLines().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["level"], found["logger"], found["status"]) == ("a\nb", "warning", "a", 200)


def test_keys_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.cli.serve_parts import keys_of

    monkeypatch.setenv("LLAMA_API_KEY", "c")
    file = tmp_path / "keys"
    file.write_text("# ours\n a \n\nb\na\n")
    os.chmod(file, 0o600)
    assert keys_of(["x,y", "a"], file) == ("x", "y", "a", "c", "b")
    assert capsys.readouterr().err == ""
    os.chmod(file, 0o644)
    assert keys_of(None, file) == ("c", "a", "b")
    assert "chmod 600" in capsys.readouterr().err
    monkeypatch.delenv("LLAMA_API_KEY")
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="no key"):
        keys_of(None, file)
