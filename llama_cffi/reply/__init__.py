"""Tokens to text, reasoning, tool calls and values."""
