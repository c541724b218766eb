"""Strings in, strings out: pure state machines between pieces (bytes of tokens) and text."""

from __future__ import annotations

from llama_cffi.text.detokenizer import Detokenizer
from llama_cffi.text.stops import StopMatcher

__all__ = ["Detokenizer", "StopMatcher"]
