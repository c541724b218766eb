"""The command line: ``llama-cffi generate | chat | info | doctor | ...``. The only place that prints."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line with ``sys.argv`` and exit with its code: 0, 1 failure, 2 usage, 130 Ctrl-C."""
    import sys

    try:
        from llama_cffi.cli.app import app

        app(prog_name="llama-cffi")
    except KeyboardInterrupt:  # while typer was being imported, or between its own handlers
        sys.exit(130)
