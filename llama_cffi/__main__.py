"""``python -m llama_cffi``: the command line."""

from __future__ import annotations

from llama_cffi.cli import main

main()
