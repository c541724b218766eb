"""What `doctor` tries in a child process, so that a library that ends the process ends only the child.

``python -m llama_cffi.cli.probe library|media|decode`` prints one JSON object: what it found, or an "error".
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

DECODE_SECONDS = 1.0


def library() -> dict[str, Any]:
    """Load libllama and describe it."""
    from llama_cffi._native import library_info

    found = library_info()

    from llama_cffi.core import backend

    return {
        "library": {
            "path": str(found.path),
            "source": found.source,
            "mode": found.mode,
            "version": found.version,
            "commit": found.commit,
            "generation": _generation(found.generation),
            "doubts": list(found.doubts),
            "helpers": found.helpers,
            "stamp": found.stamp,
        },
        "devices": [
            {
                "name": device.name,
                "description": device.description,
                "type": device.type,
                "memory_free": device.memory_free,
                "memory_total": device.memory_total,
                "backend": device.backend,
            }
            for device in backend.devices()
        ],
        "cpu_features": backend.cpu_features(),
    }


def _generation(name: str | None) -> dict[str, str] | None:
    """The name and the range of releases of a known generation; the range of a derived one is its headers."""
    if name is None:
        return None
    from llama_cffi._native import abi

    known = next((one for one in abi.generations() if one.name == name), None)
    return {"name": name, "range": known.range if known else "derived from headers"}


def media() -> dict[str, Any]:
    """Load libmtmd and describe it: its path, how it is bound, and the problem with it, if there is one."""
    from llama_cffi._native import media_library

    found = media_library.status()
    return {"path": str(found.path) if found.path else None, "mode": found.mode, "problem": found.problem}


def decode() -> dict[str, Any]:
    """Generate with the demo model for a second."""
    from llama_cffi import Llama

    start = time.perf_counter()
    with Llama.demo(n_seq_max=1) as llm:
        loaded = time.perf_counter()
        tokens, text = 0, ""
        while (seconds := time.perf_counter() - loaded) < DECODE_SECONDS:
            before = tokens
            for chunk in llm.stream("Once upon a time", temperature=0.0):
                tokens += len(chunk.tokens)
                text += "" if before else chunk.text
                seconds = time.perf_counter() - loaded
                if seconds >= DECODE_SECONDS:
                    break
            if tokens == before:
                raise RuntimeError("the demo model generated nothing")
        return {
            "tokens_per_second": tokens / seconds,
            "tokens": tokens,
            "seconds": seconds,
            "load_seconds": loaded - start,
            "threads": str(llm.threads),
            "text": text,
        }


def main() -> None:
    """Run the probe named on the command line."""
    try:
        found = {"library": library, "media": media, "decode": decode}[sys.argv[1]]()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
