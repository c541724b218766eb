"""Values that no argument is meant to have, and the judgment of what a call makes of them."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import llama_cffi
from llama_cffi import LlamaCffiError

PACKAGE = str(Path(llama_cffi.__file__).parent)


def nested(depth: int) -> list[Any]:
    """Return an empty list in as many lists."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


class Mute:
    """An object that cannot be shown, compared, or taken as true or false."""

    def __repr__(self) -> str:
        raise KeyError("no repr")

    def __eq__(self, other: object) -> bool:
        raise KeyError("no comparison")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise KeyError("no truth")


class Opaque:
    """An object without anything."""


def _generator() -> Iterator[int]:
    yield 1


DEEP = nested(100_000)
CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE

HOSTILE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "5": lambda: 5,
    "-1": lambda: -1,
    "10**30": lambda: 10**30,
    "10**5000": lambda: 10**5000,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "0.5": lambda: 0.5,
    "True": lambda: True,
    "bytes": lambda: b"x",
    "empty text": lambda: "",
    "text": lambda: "x",
    "surrogate": lambda: "\ud800",
    "NUL": lambda: "\0",
    "[]": list,
    "[None]": lambda: [None],
    "['surrogate']": lambda: ["\ud800"],
    "{}": dict,
    "object": Opaque,
    "mute": Mute,
    "[mute]": lambda: [Mute()],
    "int64": lambda: np.int64(1),
    "uint8": lambda: np.uint8(1),
    "float32": lambda: np.float32(0.5),
    "bool_": lambda: np.bool_(True),
    "array": lambda: np.array([1, 2]),
    "array of floats": lambda: np.array([0.5, np.nan]),
    "array of objects": lambda: np.array([None, 1], dtype=object),
    "array of two dimensions": lambda: np.ones((2, 2), dtype=np.int32),
    "array without dimension": lambda: np.array(1),
    "a class": lambda: Opaque,
    "lambda": lambda: lambda: None,
    "deep": lambda: DEEP,
    "cycle": lambda: CYCLE,
    "{surrogate: 1}": lambda: {"\ud800": 1},
    "{None: None}": lambda: {None: None},
    "{text: deep}": lambda: {"x": DEEP},
    "generator": _generator,
    "set": lambda: {1, "x"},
    "complex": lambda: 1j,
}
"""Each made anew: a generator can be used once."""


def fault(call: Callable[[], object], argument: str) -> str | None:
    """Return what is wrong with how a call ends: with an exception that is not the package's, or names nothing."""
    try:
        result = call()
        if isinstance(result, Iterator) and not inspect.isgenerator(result):
            close = getattr(result, "close", None)
            if close is not None:
                close()
    except LlamaCffiError:
        return None
    except (TypeError, ValueError) as error:
        text = str(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        if type(error) not in (TypeError, ValueError) or not where.filename.startswith(PACKAGE):
            return f"{type(error).__name__} from {_place(error)}: {text:.120}"
        if not re.search(re.escape(argument.rstrip("s")), text):
            return f"{type(error).__name__} that does not name {argument}, from {_place(error)}: {text:.120}"
        return None
    except BaseException as error:
        return f"{type(error).__name__} from {_place(error)}: {error!s:.120}"
    return None


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(PACKAGE)]
    frame = own[-1] if own else frames[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
