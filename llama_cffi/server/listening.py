"""The sockets that the server listens on: addresses, and files for clients of the same machine."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from contextlib import suppress

UNIX = "unix:"
"""How the name of a socket file may begin; one that ends with ``.sock`` need not."""
BACKLOG = 1024


def socket_path(host: str) -> str | None:
    """Return the file that a host names, or None for an address."""
    if host.startswith(UNIX):
        return host.removeprefix(UNIX)
    return host if host.endswith(".sock") else None


def bind(host: str, port: int, *, reuse_port: bool = False, mode: int = 0o600) -> socket.socket:
    """Return a socket that listens on an address, or on a file with these rights; OSError where it cannot.

    A file that is there is replaced only if it is a socket on which no process listens.
    """
    path = socket_path(host)
    if path is not None:
        return _bind_file(path, mode)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # The addresses of the older protocol are not taken with it: each is said by itself.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return _listening(sock, (host, port))
    except BaseException:
        sock.close()
        raise


def _bind_file(path: str, mode: int) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no socket files")
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # No other user may connect before the rights are as they are to be.
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    try:
        os.chmod(path, mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        close(sock)
        raise
    return sock


def _listening(sock: socket.socket, address: object) -> socket.socket:
    sock.bind(address)  # type: ignore[arg-type]
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def close(sock: socket.socket) -> None:
    """Close a socket, and remove its file."""
    path = ""
    if hasattr(socket, "AF_UNIX") and sock.family == socket.AF_UNIX and sock.fileno() >= 0:
        path = sock.getsockname()
    sock.close()
    if path:
        with suppress(OSError):
            os.unlink(path)


def address_of(sock: socket.socket, *, tls: bool) -> str:
    """Return where clients find a socket: a URL, or ``unix:`` and the path of its file."""
    if hasattr(socket, "AF_UNIX") and sock.family == socket.AF_UNIX:
        return UNIX + str(sock.getsockname())
    host, port = sock.getsockname()[:2]
    return f"http{'s' * tls}://{f'[{host}]' if ':' in host else host}:{port}"


def check_certificate(key_file: str, cert_file: str) -> None:
    """Raise OSError (of which ``ssl.SSLError`` is one) for a key and a certificate that cannot be used."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)


__all__ = ["UNIX", "address_of", "bind", "check_certificate", "close", "socket_path"]
