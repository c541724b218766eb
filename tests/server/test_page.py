"""The page as a client of HTTP sees it: where it is, for whom, and what its headers allow; and files in its place."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from llama_cffi.cli.app import app

if TYPE_CHECKING:
    from tests.server.conftest import Running

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

FILE = Path(__file__).resolve().parents[2] / "llama_cffi" / "server" / "page.html"
Get = Callable[..., Any]


@pytest.fixture
def get(server: Running) -> Get:
    """Asks a server with other settings and the same model."""
    from llama_cffi.server.app import make_app
    from llama_cffi.server.service import Service
    from llama_cffi.server.settings import Settings

    async def open_model() -> Any:
        return server.llm

    def send(path: str, *, method: str = "GET", headers: Any = None, **settings: Any) -> Any:
        async def main() -> Any:
            service = Service(open_model, Settings(**settings), "demo")
            await service.load()
            transport = httpx.ASGITransport(app=make_app(service))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(main())

    return send


def test_the_file_is_small_and_needs_nothing_else() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.encode()) <= 72_000

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = dict(attrs)
            assert not {name for name in names if name.startswith("on")}
            assert names.keys().isdisjoint({"style", "src"})
            assert (names.get("href") or "data:").startswith("data:")

    Reader().feed(text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize("path", ["/", "/index.html", "/chat"])
def test_the_page_is_public_and_asks_its_own_server_alone(get: Get, path: str) -> None:
    found = get(path, api_keys=("secret",))
    assert (found.status_code, found.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert found.content == FILE.read_bytes()
    policy = dict(one.split(" ", 1) for one in found.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for name in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[name])
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["referrer-policy"] == "no-referrer"
    assert found.headers["x-frame-options"] == "DENY"
    assert get("/v1/models", api_keys=("secret",)).status_code == 401
    assert get(path, method="POST", api_keys=("secret",)).status_code == 401


def test_a_browser_that_has_the_page_gets_it_no_second_time(get: Get) -> None:
    first = get("/")
    again = get("/", headers={"If-None-Match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert get("/", headers={"If-None-Match": '"x"'}).status_code == 200


def test_no_page(get: Get) -> None:
    assert [get(path, ui=False).status_code for path in ("/", "/index.html", "/chat")] == [404, 404, 404]
    assert get("/props", ui=False).json()["ui"] is False
    assert get("/props").json()["ui"] is True


@pytest.mark.parametrize(
    ("path", "place"),
    [("/p", "/p/"), ("/p/", None), ("/p/chat", None), ("/p/chat/", "/p/chat"), ("/p/index.html/", "/p/index.html")],
)
def test_the_page_is_where_it_finds_its_server(get: Get, path: str, place: str | None) -> None:
    """It names paths that are relative to its own."""
    found = get(path, api_prefix="/p")
    assert found.status_code == (200 if place is None else 307)
    url = httpx.URL("http://localhost").join(path).join(found.headers.get("location", ""))
    assert url.path == (place or path)
    assert url.join("v1/models").path == "/p/v1/models"


def test_the_page_of_another_machine_name_is_refused(get: Get) -> None:
    assert get("/", headers={"Host": "evil.example"}).status_code == 403


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("treasure")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "v1").mkdir()
    files = {"index.html": "home", "a b.js": "script", "props": "mine", "sub/index.html": "inner", "v1/x.css": "css"}
    for name, text in files.items():
        (root / name).write_text(text)
    (root / "out").symlink_to(tmp_path / "secret.txt")
    (root / "loop").symlink_to(root / "loop")
    return root


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/", 200, "home"),
        ("/index.html", 200, "home"),
        ("/a%20b.js", 200, "script"),
        ("/sub/", 200, "inner"),
        ("/v1/x.css", 200, "css"),
        ("/chat", 404, None),
        ("/out", 404, None),
        ("/loop", 404, None),
        ("/none.js", 404, None),
        ("/../secret.txt", 404, None),
        ("/%2e%2e/secret.txt", 404, None),
        ("/sub/..%2f..%2fsecret.txt", 404, None),
        ("//etc/passwd", 404, None),
        ("/a%00b", 404, None),
        ("/" + "x" * 400, 404, None),
        ("/props", 401, None),
        ("/v1/models", 401, None),
    ],
)
def test_files_of_a_folder(get: Get, folder: Path, path: str, status: int, text: str | None) -> None:
    found = get(path, static_path=folder, api_keys=("secret",))
    assert found.status_code == status
    assert text is None or found.text == text
    assert "treasure" not in found.text
    if status == 200:
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "content-security-policy" not in found.headers
        again = get(path, static_path=folder, headers={"If-None-Match": found.headers["etag"]})
        assert again.status_code == 304


def test_folders_end_with_a_slash(get: Get, folder: Path) -> None:
    for path, place in (("/sub", "/sub/"), ("/p/sub", "/p/sub/"), ("/p", "/p/")):
        prefix = "/p" if path.startswith("/p") else ""
        found = get(path, static_path=folder, api_prefix=prefix)
        assert found.status_code == 307
        assert httpx.URL("http://localhost").join(path).join(found.headers["location"]).path == place


def test_only_reading(get: Get, folder: Path) -> None:
    assert get("/index.html", static_path=folder, method="HEAD").status_code == 200
    assert get("/index.html", static_path=folder, method="POST", api_keys=("secret",)).status_code == 401
    assert get("/index.html", static_path=folder, method="POST").status_code == 404


def test_a_folder_that_there_is_not(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["serve", "--path", str(tmp_path / "none")])
    assert found.exit_code == 2
    assert "there is no folder" in found.output
