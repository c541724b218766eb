"""``python -m llama_cffi.cli``."""

from __future__ import annotations

from llama_cffi.cli import main

main()
