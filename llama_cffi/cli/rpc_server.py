"""``llama-cffi rpc-server``: the devices of this machine for models of other machines."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Annotated

from llama_cffi.cli import arguments, console, options

_LOOPBACK = ("127.0.0.1", "localhost")


@console.command
def rpc_server(
    host: Annotated[
        str, options.option("-H", "--host", metavar="HOST", help="The address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, options.option("-p", "--port", metavar="PORT", min=1, max=65535, help="The port to listen on.")
    ] = 50052,
    device: Annotated[
        str | None,
        options.option(
            "-d",
            "-dev",
            "--device",
            metavar="NAMES",
            show_default="all GPUs, or the CPU",
            help="Devices to compute on, separated by commas, as doctor lists them.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        options.option(
            "-t", "--threads", metavar="N", min=1, show_default="physical cores", help="Threads of the CPU device."
        ),
    ] = None,
    cache: Annotated[
        bool,
        options.option("-c", "--cache", help="Keep what clients send in a folder of llama.cpp's cache."),
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Lend the devices of this machine to other machines.

    They use them with `--rpc HOST:PORT`, one client at a time. There is neither a password nor encryption: everyone who
    reaches the port can use it, and may take over the process.
    """
    from llama_cffi.core import rpc
    from llama_cffi.core.backend import devices
    from llama_cffi.core.threads import default_thread_count

    if host not in _LOOPBACK:
        console.note(
            f"warning: {host} can be reached from other machines, and an RPC server trusts every one of them: "
            "never open it to a network that others use"
        )
    folder = _cache_folder() if cache else None
    try:
        # llama.cpp says no more than that it has failed.
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        console.fail(f"cannot listen on {host}:{port}: {error.strerror or error}")
    names = arguments.devices(device) or ()
    there = {one.name.lower() for one in devices()}
    if unknown := [name for name in names if name.lower() not in there]:
        raise ValueError(f"--device: there is no device named {unknown[0]!r}; llama-cffi doctor lists the devices")
    print(f"{host}:{port} serves {', '.join(names) or 'the devices of this machine'}", flush=True)
    # The server runs in C, where no handler of Python's is called.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    rpc.serve(
        f"{host}:{port}",
        names,
        n_threads=threads if threads is not None else default_thread_count(),
        cache_dir=None if folder is None else str(folder),
    )
    console.fail(f"cannot serve {host}:{port}")


def _cache_folder() -> Path:
    """Return the folder that llama.cpp's own server uses."""
    given = os.environ.get("LLAMA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = (Path(given) if given else Path(base) / "llama.cpp") / "rpc"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
