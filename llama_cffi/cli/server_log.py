"""The log of the server: lines of text or of JSON, on standard error or in a file. No line holds a text or a key."""

from __future__ import annotations

import json
import logging
from pathlib import Path

_BARE = "%(levelname)s %(name)s: %(message)s"
_TEXT = f"%(asctime)s {_BARE}"
ACCESS = "llama_cffi.server.access"


class JsonLines(logging.Formatter):
    """Writes each record as a JSON object on a line of its own; its ``facts`` become keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start(file: Path | None, *, as_json: bool, access: bool, verbose: bool, timed: bool = True) -> None:
    """Send what is logged where it belongs; ``access`` is a line for each request, ``timed`` has each with its time."""
    handler = logging.StreamHandler() if file is None else logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(_TEXT if timed else _BARE))
    logger = logging.getLogger("llama_cffi")
    if verbose:
        logger.handlers.clear()  # the one that is there writes the messages alone
        logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    logger.propagate = False
    logging.getLogger(ACCESS).setLevel(logging.INFO if access else logging.WARNING)


__all__ = ["ACCESS", "JsonLines", "start"]
