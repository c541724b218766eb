"""The end of a benchmark: what went wrong, or the file of what was measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.peers import BenchmarkError


def report(run: Callable[[argparse.Namespace], dict[str, Any]], options: argparse.Namespace) -> int:
    """Run a benchmark and write its results to ``options.json``, if given; returns the exit code."""
    try:
        results = run(options)
    except BenchmarkError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
        print(f"\nwrote {options.json}")
    return 0
