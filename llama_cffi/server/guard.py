"""What every request passes before its endpoint: size of the head, Host, Origin, key; and what is noted at its end."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llama_cffi.engine.telemetry import Histogram
from llama_cffi.server.facts import FACTS
from llama_cffi.server.problem import Dialect, Problem
from llama_cffi.server.response import Whole, problem_answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from llama_cffi.server.serving import Serving

PUBLIC = frozenset({"/health", "/v1/health", "/livez", "/readyz"})
"""Paths for which no key is needed."""
MAX_HEADERS, MAX_URL = 32 << 10, 8 << 10

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = "GET, POST, DELETE, OPTIONS"
_log = logging.getLogger("llama_cffi.server.access")


def dialect_of(path: str) -> Dialect:
    """Return whose API a path belongs to."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    openai = ("/v1", "/models", "/responses")
    return "openai" if path.startswith(("/v1/", "/chat/", "/responses/")) or path in openai else "native"


class Guard:
    """An ASGI application around the one with the routes."""

    def __init__(self, app: ASGIApp, service: Serving, is_shown: Callable[[str], bool]) -> None:
        """``is_shown`` returns whether a path is one of those that people open in a browser."""
        self.app, self.service, self._is_shown = app, service, is_shown
        settings = service.settings
        self._digests: list[bytes] = []
        self.set_keys(settings.api_keys)
        self._hosts = _LOCAL | {host.lower() for host in settings.allowed_hosts}
        self.public = PUBLIC | ({"/metrics"} if settings.public_metrics else frozenset())
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Answered requests by path pattern, method and status."""
        self.seconds = Histogram()
        """How long answers took."""
        self._running = 0

    def set_keys(self, keys: Sequence[str]) -> None:
        """Take other keys from now on."""
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this server speaks HTTP alone, not {scope['type']}")
        began = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        wanted = headers.get("x-request-id", "")
        request_id = wanted if _REQUEST_ID.fullmatch(wanted) else f"req-{secrets.token_hex(12)}"
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            path = path.rstrip("/") or "/"
        prefix = self.service.settings.api_prefix
        inside = not prefix or path == prefix or path.startswith(f"{prefix}/")
        if inside and prefix:
            path = path[len(prefix) :] or "/"
        facts: dict[str, Any] = {"headers": headers, "request_id": request_id, "status": 0, "route": "other"}
        facts["reply_headers"] = {"x-request-id": request_id}
        if dialect_of(path) == "anthropic":
            facts["reply_headers"]["request-id"] = request_id
        scope = {**scope, "path": path, "llama_cffi": facts}
        self._running += 1
        FACTS.set(facts)
        try:
            try:
                if not inside:
                    raise Problem(404, f"every path begins with {prefix}", code="not_found")
                self._check_head(scope, headers)
                facts["reply_headers"].update(self._origin(headers))
                if scope["method"] == "OPTIONS":
                    await self._preflight(send, facts)
                    return
                if not (scope["method"] in ("GET", "HEAD") and self._is_shown(path)):
                    self._check_key(path, headers)
                if self._running > self.service.settings.max_connections:
                    raise Problem(
                        503, "too many requests at once", code="too_many_requests", headers={"Retry-After": "1"}
                    )
            except Problem as problem:
                answer = problem_answer(problem, dialect_of(path), request_id)
                facts["status"] = await answer.send(send, facts["reply_headers"])
                return
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            facts["status"] = facts["status"] or 499
            raise
        finally:
            self._running -= 1
            self.requests[facts["route"], _method(scope["method"]), facts["status"]] += 1
            self._note(scope, facts, time.perf_counter() - began)

    def _note(self, scope: Scope, facts: dict[str, Any], seconds: float) -> None:
        """Log a request that has ended."""
        self.seconds.add(seconds)
        if not _log.isEnabledFor(logging.INFO):
            return
        client = (scope.get("client") or ("-",))[0] or "-"
        shown = {
            "client": client,
            "method": _method(scope["method"]),
            "route": facts["route"],
            "status": facts["status"],
            "ms": round(seconds * 1000, 1),
            "request_id": facts["request_id"],
            **facts.get("texts", {}),
        }
        _log.info("%s", " ".join(f"{name}={value}" for name, value in shown.items()), extra={"facts": shown})

    def _check_head(self, scope: Scope, headers: dict[str, str]) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise Problem(431, f"the headers have more than {MAX_HEADERS} bytes", code="headers_too_large")
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            raise Problem(414, f"the URL has more than {MAX_URL} bytes", code="url_too_long")
        if self.service.settings.check_host and _host(f"//{headers.get('host', '')}") not in self._hosts:
            raise Problem(
                403, "the Host header does not name this machine; --allowed-hosts adds names", code="host_not_allowed"
            )

    def _origin(self, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers for a web page; :class:`Problem` for one that may not ask."""
        origin = headers.get("origin")
        if origin is None:
            return {}
        settings = self.service.settings
        if "*" in settings.cors_origins:
            allowed = "*"
        elif (
            settings.compat
            or origin in settings.cors_origins
            or (settings.local_pages and _host(origin) in _LOCAL)
            or urlsplit(origin).netloc == headers.get("host", "")
        ):
            allowed = origin
        else:
            _log.warning("a web page of %.200r may not ask; --cors-origins adds origins", origin)
            raise Problem(403, "web pages of this origin may not ask", code="origin_not_allowed")
        expose = {"Access-Control-Expose-Headers": "x-request-id, retry-after, x-llama-cffi-ignored"}
        return {"Access-Control-Allow-Origin": allowed, "Vary": "Origin", **expose}

    async def _preflight(self, send: Send, facts: dict[str, Any]) -> None:
        wanted = facts["headers"].get("access-control-request-headers", "")
        names = wanted if re.fullmatch(r"[A-Za-z0-9_\-, ]{1,1024}", wanted) else "authorization, content-type"
        headers = {
            "Allow": _METHODS,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": names,
            "Access-Control-Max-Age": "600",
        }
        facts["status"] = await Whole(b"", 204, "text/plain", headers).send(send, facts["reply_headers"])

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        if not self._digests or path in self.public:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        # Clients of Anthropic's API may send two, of which one is another server's.
        given = (bearer.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
        digests = [hashlib.sha256(key.encode("latin-1", "replace")).digest() for key in given]
        # All of them are compared, so that the time says nothing.
        found = [hmac.compare_digest(digest, one) for digest in digests for one in self._digests]
        if not any(found):
            raise Problem(
                401, "a key of this server is needed: Authorization: Bearer KEY, or X-Api-Key: KEY",
                code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _method(method: str) -> str:
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE") else "other"


__all__ = ["MAX_HEADERS", "MAX_URL", "PUBLIC", "Guard", "dialect_of"]
