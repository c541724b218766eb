"""Option texts of llama.cpp's own syntax, read into values. Wrong ones are usage errors (exit code 2)."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

import llama_cffi

if TYPE_CHECKING:
    from llama_cffi.core.model_options import GpuLayers
    from llama_cffi.engine.sampling_params import SamplerName

_BIAS = re.compile(r"\s*(\d+)\s*([+-])\s*(\S+)\s*")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}
_TRUTH = {"true": True, "false": False}


def logit_bias(texts: Sequence[str]) -> dict[int, float]:
    """``15043+1``, ``15043-1`` and ``15043-inf`` as token ids and biases; several for one token add up."""
    result: dict[int, float] = {}
    for text in texts:
        match = _BIAS.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            bias = float(match[2] + match[3])
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is not TOKEN+BIAS or TOKEN-BIAS, as in 15043+1", param_hint="--logit-bias"
            ) from None
        result[int(match[1])] = result.get(int(match[1]), 0.0) + bias
    return result


def breakers(texts: Sequence[str] | None) -> tuple[str, ...]:
    """DRY's sequence breakers, with their escapes read; ``none`` is none, no option the default ones."""
    if texts is None:
        return llama_cffi.SamplingParams.dry_sequence_breakers
    return tuple(unescape(text) for text in texts if text != "none")


def sampler_order(text: str | None) -> tuple[SamplerName, ...]:
    """Names separated by semicolons, with ``-`` for ``_`` as well; None is the default order.

    ``adaptive_p`` may be among them, as in llama.cpp, where it always comes last.
    """
    from llama_cffi.engine.sampling_params import SAMPLER_NAMES, SAMPLER_ORDER

    if text is None:
        return SAMPLER_ORDER
    names = [name.strip().replace("-", "_") for name in text.split(";") if name.strip()]
    if unknown := [name for name in names if name not in (*SAMPLER_NAMES, "adaptive_p")]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(SAMPLER_NAMES)}", param_hint="--samplers")
    return tuple(known for name in names for known in SAMPLER_NAMES if known == name)


def kv_overrides(texts: Sequence[str]) -> dict[str, bool | int | float | str]:
    """``KEY=TYPE:VALUE`` texts, also several in one separated by commas, as metadata values."""
    result: dict[str, bool | int | float | str] = {}
    for text in texts:
        # A comma separates only where another KEY=TYPE: follows, so that string values may hold commas.
        for item in re.split(r",(?=[^=,]+=(?:int|float|bool|str):)", text):
            match = re.fullmatch(r"([^=]+)=(int|float|bool|str):(.*)", item, re.DOTALL)
            try:
                if match is None:
                    raise ValueError
                result[match[1]] = _value(match[2], match[3])
            except (KeyError, ValueError):
                raise typer.BadParameter(
                    f"{item!r} is not KEY=TYPE:VALUE with TYPE int, float, bool or str",
                    param_hint="--override-kv",
                ) from None
    return result


def _value(kind: str, text: str) -> bool | int | float | str:
    if kind == "bool":
        return _TRUTH[text]
    if kind == "int":
        return int(text)
    return float(text) if kind == "float" else text


def gpu_layers(text: str) -> GpuLayers:
    """``auto`` (what fits), ``all``, or a number of layers."""
    if text in ("auto", "all"):
        return "auto" if text == "auto" else "all"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number, auto or all", param_hint="--n-gpu-layers") from None


def ctx_size(text: str) -> int | Literal["auto"]:
    """``auto`` (what fits), or a number of tokens."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is not a number of tokens, nor auto")
    return int(text)


def device_memory(text: str | None) -> int | dict[str, int] | None:
    """A number of MiB, or ``NAME=MIB`` texts separated by commas, in bytes."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return _mib(text)
        return {name.strip(): _mib(size) for name, _, size in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a number of MiB, nor NAME=MIB separated by commas", param_hint="--max-device-memory"
        ) from None


def _mib(text: str) -> int:
    size = float(text)
    if not 0 <= size < 2**40:
        raise ValueError
    return int(size * 2**20)


def tensor_overrides(texts: Sequence[str]) -> dict[str, str]:
    """``REGEX=DEVICE`` texts, also several in one separated by commas."""
    result: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            pattern, equals, device = part.rpartition("=")
            if not (pattern and equals and device):
                raise typer.BadParameter(f"{part!r} is not REGEX=DEVICE", param_hint="--override-tensor")
            result.setdefault(pattern, device)
    return result


def positive(count: int | None) -> int | None:
    """A number of threads; 0 and less leave the choice to the library."""
    return count if count is not None and count > 0 else None


def rpc(text: str | None) -> tuple[str, ...] | None:
    """Servers separated by commas, as ``host:port``; None for none."""
    from llama_cffi.core.rpc import check_endpoint

    if text is None:
        return None
    try:
        return tuple(check_endpoint("--rpc", one.strip()) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rpc") from None


def devices(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; ``none`` is no device, None all of them."""
    if text is None:
        return None
    return () if text == "none" else tuple(name.strip() for name in text.split(","))


def tensor_split(text: str | None) -> tuple[float, ...]:
    """Shares separated by commas or slashes."""
    try:
        return tuple(float(share) for share in re.split(r"[,/]+", text)) if text else ()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers", param_hint="--tensor-split") from None


def pairs(texts: Sequence[str], option: str, form: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping."""
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{text!r} is not {form}", param_hint=option)
        result[name] = value
    return result


def scaled_file(text: str, option: str) -> tuple[Path, float]:
    """``FILE``, at the scale 1, or ``FILE:SCALE``. The last colon is the name's own unless a number follows it."""
    name, colon, number = text.rpartition(":")
    try:
        scale = float(number) if colon else None
    except ValueError:
        scale = None
    if scale is None:
        return Path(text), 1.0
    from llama_cffi._util.ranges import FLT_MAX

    if not name or not abs(scale) <= FLT_MAX:  # as NaN is not
        raise typer.BadParameter(f"{text!r} is not FILE or FILE:SCALE with a finite number", param_hint=option)
    return Path(name), scale


def numbers(text: str | None, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    try:
        return tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers", param_hint=option) from None


def unescape(text: str) -> str:
    r"""``\n``, ``\r``, ``\t``, ``\'``, ``\"``, ``\\`` and ``\xHH`` as characters; other backslashes stay."""

    def character(match: re.Match[str]) -> str:
        code = match[1]
        return chr(int(code[1:], 16)) if len(code) == 3 else _ESCAPED.get(code, match[0])

    return _ESCAPE.sub(character, text)


def prompt_text(
    argument: str | None,
    option: str | None,
    file: Path | None,
    *,
    escape: bool = False,
    what: str = "prompt",
    more: bool = False,
) -> str:
    """The prompt from the one place that was named, or from standard input when that is no terminal.

    With ``more``, standard input that is no terminal follows a prompt that was given, behind a blank line.
    """
    if sum(source is not None for source in (argument, option, file)) > 1:
        raise typer.BadParameter(f"give the {what} once: as an argument, with --prompt or with --file")
    given = argument if argument is not None else option
    if given is not None:
        given = unescape(_argument(given)) if escape else _argument(given)
        rest = _piped() if more else ""
        return f"{given}\n\n{rest}" if given and rest else given or rest
    if file is not None and str(file) != "-":
        return read_text(file)
    if sys.stdin is None or (file is None and sys.stdin.isatty()):
        raise typer.BadParameter(f"no {what}: give one as an argument, with --file, or on standard input")
    text = _standard_input()
    if not text and file is None:
        raise typer.BadParameter(f"no {what}: none given, and standard input is empty")
    return text


def _piped() -> str:
    """What stands on standard input; "" when that is a terminal or closed."""
    return "" if sys.stdin is None or sys.stdin.isatty() else _standard_input()


def _standard_input() -> str:
    return _decode(sys.stdin.buffer.read(), "standard input")


def texts(given: Sequence[str], file: Path | None, *, whole: bool, what: str = "text") -> list[str]:
    """The texts from the arguments, or the lines of the file or of standard input; ``whole`` takes those as one."""
    if given and (file is not None or whole):
        raise typer.BadParameter(f"give {what}s as arguments, or lines with --file or on standard input, not both")
    if given:
        return [_argument(text) for text in given]
    text = prompt_text(None, None, file, what=what)
    return [text] if whole else [line.removesuffix("\r") for line in text.split("\n")]


def read_text(path: Path) -> str:
    """The text of a prompt or grammar file, without the newline and the byte order mark that editors put there."""
    return _decode(path.read_bytes(), str(path))


def _argument(text: str) -> str:
    """A command line argument as UTF-8, also where the locale is not: Python keeps such bytes as surrogates."""
    if text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text):
        return text
    return _decode(os.fsencode(text), "the prompt", whole=True)


def _decode(data: bytes, source: str, *, whole: bool = False) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = ": it looks like UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        raise ValueError(f"{source} is not valid UTF-8 at byte {error.start}{hint}") from None
    if not whole:
        text = text.removeprefix("\ufeff")  # a mark of the file, and none of the text
    return text if whole or not text.endswith("\n") else text[:-1].removesuffix("\r")
