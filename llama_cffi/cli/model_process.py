"""``python -m llama_cffi.cli.model_process N ...``: ``llama-cffi serve`` for a parent, to which socket N leads.

It answers on a socket file, trusts whoever connects to that, and ends with its parent.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Serve a model as the arguments say."""
    from llama_cffi.server.router.link import Link, die_with_parent

    die_with_parent()
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)  # what this process starts must not keep it open
    sock.setblocking(False)
    from llama_cffi.cli.app import app

    app(args=["serve", *sys.argv[2:]], obj=Link(sock), prog_name="llama-cffi")


if __name__ == "__main__":
    main()
