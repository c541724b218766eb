"""A body that is a form with files: what an upload of a browser, or of OpenAI's clients, sends."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from llama_cffi.server.problem import Problem

MAX_PARTS = 64
_MAX_HEADER = 4096


@dataclass(frozen=True)
class Upload:
    """A file of a form."""

    name: str
    data: bytes


def parse_form(data: bytes, content_type: str) -> dict[str, Any]:
    """Return the fields of a form, and its files as :class:`Upload`.

    A field is a text; what is a number or a word of JSON stands for that, and a field without a text was not given.
    Names that end with ``[]`` are lists. Raises :class:`Problem`.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind.lower() != b"multipart/form-data":
        raise Problem(415, "the body must be multipart/form-data", code="unsupported_content_type")
    read = _Parts()
    try:
        parser = MultipartParser(options.get(b"boundary", b""), read.callbacks())
        parser.write(data)
        parser.finalize()
    except FormParserError as error:
        raise _no_form(str(error)) from None
    if not read.ended:
        raise _no_form("it has no end")
    found: dict[str, Any] = {}
    for headers, body in read.parts:
        kind, options = parse_options_header(headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise _no_form("a part has no name")
        name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            found[name.removesuffix("[]")] = Upload(options[b"filename"].decode("utf-8", "replace"), body)
        elif body:
            _add(found, name, body)
    return found


def _add(found: dict[str, Any], name: str, body: bytes) -> None:
    try:
        value = _scalar(body.decode())
    except UnicodeDecodeError:
        raise _no_form(f"{name:.64} is not UTF-8") from None
    listed = name.endswith("[]")
    name = name.removesuffix("[]")
    if name in found and isinstance(found[name], list) != listed:
        raise _no_form(f"{name:.64} is both a value and a list")
    if listed:
        found.setdefault(name, []).append(value)
    else:
        found[name] = value


class _Parts:
    """Collects the parts of a form: headers and bytes of each."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[bytes, bytes], bytes]] = []
        self.ended = False
        self._name, self._value, self._headers, self._body = bytearray(), bytearray(), dict[bytes, bytes](), bytearray()

    def callbacks(self) -> Any:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._of_header(self._name, data[start:end]),
            "on_header_value": lambda data, start, end: self._of_header(self._value, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._body.extend(data[start:end]),
            "on_part_end": lambda: self.parts.append((self._headers, bytes(self._body))),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise _no_form(f"it has more than {MAX_PARTS} parts")
        self._headers, self._body = {}, bytearray()

    def _of_header(self, text: bytearray, data: bytes) -> None:
        text += data
        if len(text) > _MAX_HEADER or len(self._headers) > 16:
            raise _no_form("the head of a part is too large")

    def _end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        self.ended = True


def _no_form(reason: str) -> Problem:
    return Problem(400, f"the body is not a form: {reason}", code="invalid_form")


def _scalar(text: str) -> Any:
    """A number, true or false for what is one in JSON; other texts as they are."""
    with suppress(orjson.JSONDecodeError):
        value = orjson.loads(text)
        if isinstance(value, (bool, int, float)):
            return value
    return text


__all__ = ["MAX_PARTS", "Upload", "parse_form"]
