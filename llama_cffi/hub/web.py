"""Requests over HTTP: redirects that keep secrets, and errors of this package."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from llama_cffi.errors import HubConnectionError, HubNameError, HubNotFoundError

TIMEOUT = 30.0
"""Seconds without an answer, or without a byte of one."""
_SCHEMES = ("http", "https")
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_MOST_INTERIM = 20
"""Answers of 100 before the one that counts; Python's module skips any number of them."""
_SIZE = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file at an address.

    ``headers`` go with each request, and an ``Authorization`` among them to the host of the address alone; ``label`` is
    the address without secrets.
    """

    url: str
    headers: Mapping[str, str]
    label: str
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str, headers: Mapping[str, str] | None = None) -> WebFile:
        """Read ``http(s)://[user:password@]host/path[?query][#sha256=...]``. Raises :class:`HubNameError`."""
        try:
            parts = urlsplit(text)
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise HubNameError(f"{text!r} is not an address: {error}") from None
        if parts.scheme not in _SCHEMES or not host or not text.isprintable() or " " in text or not text.isascii():
            raise HubNameError(
                f"{text!r} is not the address of a file: addresses look like https://host/model.gguf, in ASCII letters"
            )
        found = _SHA256.fullmatch(parts.fragment)
        if parts.fragment and found is None:
            raise HubNameError(
                f"{text!r} ends with #{parts.fragment}; known is only #sha256= with 64 hexadecimal digits"
            )
        place = f"[{host}]" if ":" in host else host
        place += f":{port}" if port is not None else ""
        sent = dict(headers or {})
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            sent.setdefault("Authorization", "Basic " + b64encode(pair.encode()).decode())
        url = urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
        # A query may be a signature that gives access.
        label = urlunsplit((parts.scheme, place, parts.path or "/", "...", "")) if parts.query else url
        return cls(url, sent, label, found[1].lower() if found else None)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])


def request(file: WebFile, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask for a file; ``headers`` are further ones. An answer of 304 and 416 is no error.

    Raises :class:`HubNotFoundError` for what is not there or not open, :class:`HubConnectionError` for everything else.
    """
    sent = {"Accept-Encoding": "identity", "User-Agent": "llama-cffi", **file.headers, **(headers or {})}
    asked = urllib.request.Request(file.url, headers=sent)
    try:
        answer: Any = _opener().open(asked, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code in (304, 416):
            return Answer(file, error, error.code)
        error.close()
        raise _refused(file, error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise broken(file, error) from error
    return Answer(file, answer, answer.status)


def broken(file: WebFile, error: object) -> HubConnectionError:
    """Return the error for a connection that failed."""
    reason = getattr(error, "reason", None) or error
    reason = getattr(reason, "strerror", None) or reason
    return HubConnectionError(f"{file.label} could not be fetched: {reason or type(error).__name__}")


def _refused(file: WebFile, code: int) -> Exception:
    if code in (401, 403):
        return HubNotFoundError(f"{file.label} is not open without a login that gives access (HTTP {code})")
    if code in (404, 410):
        return HubNotFoundError(f"there is no {file.label} (HTTP {code})")
    return HubConnectionError(f"{file.label} could not be fetched: the server answers HTTP {code}")


class Answer:
    """The answer to a request; ``with`` ends the connection."""

    def __init__(self, file: WebFile, response: Any, status: int) -> None:
        self._file, self._response, self.status = file, response, status
        self.headers: Message = response.headers

    @property
    def etag(self) -> str | None:
        """What changes with the content; None where the server does not say, or only how alike two contents are."""
        tag = self.headers.get("ETag")
        return tag if tag and not tag.startswith("W/") else None

    @property
    def modified(self) -> str | None:
        """The time of the last change, as the server says it."""
        return self.headers.get("Last-Modified")

    @property
    def length(self) -> int | None:
        """Bytes of this answer, where the server says so."""
        text = self.headers.get("Content-Length", "")
        return int(text) if _SIZE.fullmatch(text) else None

    def part(self) -> tuple[int, int, int | None]:
        """Return the first byte of a partial answer (206), the byte after its last, and the size of the whole file.

        Raises :class:`HubConnectionError` for an answer that does not say so.
        """
        found = _RANGE.fullmatch(self.headers.get("Content-Range", ""))
        if found is None or int(found[1]) > int(found[2]):
            raise HubConnectionError(f"the server of {self._file.label} sends a part without saying which")
        return int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3])

    def read(self, size: int) -> bytes:
        """Return the next bytes that come, at most ``size``; b"" at the end. Raises :class:`HubConnectionError`."""
        if self.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
            raise HubConnectionError(f"the server of {self._file.label} sends it compressed, which was not asked for")
        try:
            return bytes(self._response.read1(size))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise broken(self._file, error) from error

    def close(self) -> None:
        """End the connection."""
        self._response.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to the same or a safer scheme, and keeps what gives access from other hosts."""

    max_redirections = 10

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in _SCHEMES or (before.scheme == "https" and after.scheme != "https"):
            raise urllib.error.URLError(f"it redirects to {after.scheme or 'nothing'}, which is not as safe")
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and (before.scheme, before.netloc) != (after.scheme, after.netloc):
            for name in ("Authorization", "Cookie", "Proxy-authorization"):
                new.remove_header(name)
        return new

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """As in Python's module, which reads all of what comes with a redirection, however much that is."""
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_302

    def http_error_308(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """As 302 with the same method; Python 3.10 does not know it."""
        return self.http_error_302(req, fp, 301 if code == 308 else code, msg, headers)


class _Response(http.client.HTTPResponse):
    _n_interim = 0

    def _read_status(self) -> tuple[str, int, str]:
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        self._n_interim += 1
        if self._n_interim > _MOST_INTERIM:
            raise http.client.HTTPException("the server keeps saying that its answer will come")
        return found


class _Limited(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Any, req: Any, **arguments: Any) -> Any:
        kind: Any = type("Connection", (http_class,), {"response_class": _Response})
        return super().do_open(kind, req, **arguments)


class _HTTP(_Limited, urllib.request.HTTPHandler):
    pass


class _HTTPS(_Limited, urllib.request.HTTPSHandler):
    pass


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), _HTTP(), _HTTPS(), _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


__all__ = ["TIMEOUT", "Answer", "WebFile", "broken", "request"]
