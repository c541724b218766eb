"""Requests that change the server for others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi.server.problem import Problem

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call


def check_changes(call: Call) -> None:
    """Raise :class:`Problem` for a body that is not said to be JSON: a web page can send others without asking."""
    kind = call.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, f"the body must be application/json, not {kind:.80}", code="unsupported_media_type")


__all__ = ["check_changes"]
