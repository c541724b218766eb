"""Reasoning and text, and no calls."""

from __future__ import annotations

from llama_cffi.text.reply.parser import TaggedFormat

PLAIN = TaggedFormat(name="plain", style=None, controls=("<think>", "</think>"))

FORMATS = (PLAIN,)
