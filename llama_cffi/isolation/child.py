"""The program of a process for one model: it gets its library, and then serves.

Standard input is the socket to the process that wants the model. Its first bytes are the size of a JSON object, and
that object. Standard error is a pipe to that process; standard output goes there, too.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys


def main() -> int:
    """Serve until the other process closes the socket."""
    # Ctrl-C in a terminal is for the other process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    request = json.loads(_exactly(sock, struct.unpack("<I", _exactly(sock, 4))[0]))
    sys.path[:] = request["sys_path"]
    from llama_cffi._native.library import use_library

    use_library(**request["library"])
    from llama_cffi.isolation.serving import Serving

    Serving(sock, request["parent"]).run()
    return 0


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = sock.recv(size - len(data))
        if not received:
            sys.exit(1)
        data += received
    return data


if __name__ == "__main__":
    sys.exit(main())
