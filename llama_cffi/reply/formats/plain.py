"""Reasoning and text, and no calls."""

from __future__ import annotations

from llama_cffi.reply.parser import TaggedFormat

PLAIN = TaggedFormat(name="plain", syntax=None, controls=("<think>", "</think>"))

FORMATS = (PLAIN,)
