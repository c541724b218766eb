"""Where ``llama-cffi serve`` listens, which requests it takes, and how texts of options become lists."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llama_cffi.cli import console

if TYPE_CHECKING:
    import socket

    from llama_cffi import Audio

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bind_all(hosts: Sequence[str], port: int, *, reuse_port: bool, mode: int) -> list[socket.socket]:
    """Open all sockets, or none; the first address with port 0 decides the port of the others."""
    from llama_cffi.server.listening import bind, close, socket_path

    found: list[socket.socket] = []
    for host in hosts:
        try:
            sock = bind(host, port, reuse_port=reuse_port, mode=mode)
        except OSError as error:
            for one in found:
                close(one)
            place = host if socket_path(host) is not None else f"{host}:{port}"
            taken = socket_path(host) is None and error.errno in (errno.EADDRINUSE, errno.EACCES)
            hint = "; --port 0 takes a free port" if taken else ""
            console.fail(f"cannot listen on {place}: {error.strerror or error}{hint}")
        found.append(sock)
        if not port and socket_path(host) is None:
            port = sock.getsockname()[1]
    return found


def remove_files(places: Sequence[str]) -> None:
    """Remove the socket files among the places of a server."""
    for place in places:
        if place.startswith("unix:"):
            Path(place.removeprefix("unix:")).unlink(missing_ok=True)


def mode_of(text: str) -> int:
    """Return the rights that ``--socket-mode`` says."""
    try:
        found = int(text, 8)
    except ValueError:
        found = -1
    if not 0 <= found <= 0o777:
        raise typer.BadParameter(f"{text!r} is not a mode such as 660", param_hint="--socket-mode")
    return found


def prefix_of(text: str) -> str:
    """Return what every path begins with: nothing, or a path that begins with a slash and does not end with one."""
    stripped = text.strip("/")
    return f"/{stripped}" if stripped else ""


def listed(text: str | None) -> tuple[str, ...]:
    """Return the parts of a text that commas separate."""
    return tuple(one for part in (text or "").split(",") if (one := part.strip()))


def voices_of(given: Sequence[str] | None) -> dict[str, Audio]:
    """Return the sounds of ``--voice``, by their names; raises :class:`MediaError` and ``typer.BadParameter``."""
    from llama_cffi import Audio

    found: dict[str, Audio] = {}
    for one in given or ():
        name, sign, file = one.partition("=")
        if not sign or not name or not file or name in found:
            said = "is there already" if name in found else "is no NAME=FILE"
            raise typer.BadParameter(f"{one!r} {said}", param_hint="--voice")
        found[name] = Audio(Path(file))
    return found


def media_hosts_of(text: str | None) -> tuple[str, ...]:
    """Return the entries of ``--media-hosts``."""
    from llama_cffi.server.media_hosts import MediaHosts

    found = listed(text)
    try:
        MediaHosts(found)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--media-hosts") from None
    return found


def keys_of(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """The keys of options, the file and the environment."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
    stripped = [line.strip() for line in lines]
    found = [key for text in (*(given or ()), os.environ.get("LLAMA_API_KEY", "")) for key in listed(text)]
    keys = tuple(dict.fromkeys([*found, *(line for line in stripped if line and not line.startswith("#"))]))
    if file is not None:
        if not keys:
            raise ValueError(f"there is no key in {file}")
        if os.name == "posix" and file.stat().st_mode & 0o077:
            console.note(f"warning: other users can read the keys in {file}: chmod 600")
    return keys


__all__ = ["LOOPBACK", "bind_all", "keys_of", "listed", "media_hosts_of", "mode_of", "prefix_of", "remove_files"]
