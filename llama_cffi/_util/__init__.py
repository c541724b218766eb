"""Helpers that need no library: files, checksums, ranges, threads."""
