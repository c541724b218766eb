"""GET /, /index.html and /chat: the page for people."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from llama_cffi.server.exchange import Call
from llama_cffi.server.response import Answer, Whole

PATHS = ("/", "/index.html", "/chat")
"""Where the page is."""

SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache"}
"""Headers of whatever a browser shows."""


@cache
def page() -> tuple[bytes, Mapping[str, str]]:
    """Return the page and its headers: it runs its own script, and asks only the server it came from."""
    text = (files("llama_cffi.server") / "page.html").read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _sources(text, "script"),
        "style-src": _sources(text, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "media-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    content = text.encode()
    headers = {
        **SAFE,
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin",
        "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }
    return content, headers


def _sources(text: str, tag: str) -> str:
    """Return the hashes of what stands in tags of the page."""
    found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", text, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in found)


async def show_page(call: Call) -> Answer:
    """Return the page."""
    content, headers = page()
    if (place := _place(call.raw_path)) is not None:
        return Whole(b"", 307, "text/plain", {"location": place})
    if headers["etag"] in call.headers.get("if-none-match", ""):
        return Whole(b"", 304, "text/html", headers)
    return Whole(content, type="text/html; charset=utf-8", headers=headers)


def _place(path: str) -> str | None:
    """Return where a browser must go if it does not find from a path what the page asks for.

    The page names the server's paths without a slash before them, so that it works behind any prefix.
    """
    before, _, last = path.rpartition("/")
    if last:
        return None if f"/{last}" in PATHS else f"./{last}/"
    above = before.rpartition("/")[2]
    return f"../{above}" if f"/{above}" in PATHS[1:] else None


__all__ = ["PATHS", "SAFE", "page", "show_page"]
