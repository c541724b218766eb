"""Images and sound in the contents of messages: read from OpenAI's parts, and put into a template's text.

A template sees one character in place of each medium, which occurs nowhere else: so nothing that a message says can be
taken for a medium.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llama_cffi._util.shown import shown
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.image import Image
from llama_cffi.core.media.video import Video
from llama_cffi.errors import MediaError, MessageError, UnsupportedError
from llama_cffi.prompt.marking import unused_characters

Medium = Image | Audio | Video
VALUES = (Image, Audio, Video)
"""The classes of media."""

MARKER = "<__media__>"
"""What is shown for a medium where a prompt is shown as text: libmtmd's marker."""
MAX_MEDIA = 1024
"""Most media of a conversation."""

_KINDS = {
    "image_url": ("image", ("url",)),
    "input_image": ("image", ("url",)),
    "image": ("image", ("url",)),
    "input_audio": ("audio", ("data", "url")),
    "audio_url": ("audio", ("url",)),
    "audio": ("audio", ("data", "url")),
    "video": ("video", ()),
    "file": ("", ("file_data",)),
    "input_file": ("", ("file_data",)),
}
"""Types of parts: what they are, and the keys of their data, if it is not given directly."""
_URL_KEYS = ("url", "data", "file_url", "file_data")
_REMOTE = re.compile(r"https?://", re.I)
_INNER = {"input_image": "image_url", "input_file": "file"}
"""Where a part has what it holds, if it is not under the name of its type."""


class PlacedMedium(NamedTuple):
    """A medium of a conversation, the character that stands for it, and its place among the messages."""

    mark: str
    medium: Medium
    place: str


def is_medium(part: object) -> bool:
    """Whether a part of a content is a medium: a value, or a mapping of a type that media have."""
    return isinstance(part, VALUES) or (
        isinstance(part, Mapping) and isinstance(part.get("type"), str) and part["type"] in _KINDS
    )


def read_medium(part: Any, place: str) -> dict[str, Any]:
    """Return a part that is a medium as ``{"type": "image", "audio" or "video", that type: a value}``.

    Raises :class:`MessageError` for a part without data, :class:`UnsupportedError` for an address of another host and
    for files that are neither images nor sound, and :class:`MediaError` for data that is neither; each names the place.
    """
    medium = part if isinstance(part, VALUES) else _of_mapping(part, place)
    return {"type": kind_of(medium), kind_of(medium): medium}


def url_of(part: Mapping[str, Any]) -> str | None:
    """Return the http or https URL that a part has in place of the data of a medium, in any of the APIs."""
    name = part.get("type")
    if not isinstance(name, str) or name not in _KINDS:
        return None
    held = part.get(_INNER.get(name, name), part.get("source"))
    if held is None and name == "input_file":
        held = part
    places = [held.get(key) for key in _URL_KEYS] if isinstance(held, Mapping) else [held]
    return next((one for one in places if isinstance(one, str) and _REMOTE.match(one)), None)


def read_fetched(part: Mapping[str, Any], data: bytes, place: str) -> dict[str, Any]:
    """Return a part whose data was at a URL as :func:`read_medium` does. What the data is, they say themselves."""
    kind = _KINDS[part["type"]][0]
    try:
        if kind != "audio":
            try:
                return {"type": "image", "image": Image(data)}
            except MediaError:
                if kind:
                    raise
        return {"type": "audio", "audio": Audio(data)}
    except MediaError as error:
        error.message = f"{place}: {error.message}"
        raise


def kind_of(medium: Medium) -> str:
    """Return ``"image"``, ``"audio"`` or ``"video"``."""
    return type(medium).__name__.lower()


def medium_of(part: Mapping[str, Any]) -> Medium | None:
    """Return the medium of a checked part, or None for a text."""
    return None if part["type"] == "text" else part[part["type"]]


def _of_mapping(part: Mapping[str, Any], place: str) -> Medium:
    name = part["type"]
    kind, keys = _KINDS[name]
    inner = _INNER.get(name, name)
    held, place = part.get(inner), f"{place}.{inner}"
    if held is None and name == "input_file":
        held = part
    if kind == "video" and isinstance(held, Mapping):
        return _video(held, place)
    if isinstance(held, Mapping):
        key = next((key for key in keys if held.get(key) is not None), keys[0])
        held, place = held.get(key), f"{place}.{key}"
    if isinstance(held, VALUES):
        if kind not in ("", kind_of(held)):
            raise MessageError(f"{place} must be of the kind {kind}, got {shown(held)}")
        return held
    if kind == "video":
        raise MessageError(f"{place} must be a Video, got {shown(held)}")
    if not isinstance(held, str) or not held:
        raise MessageError(f"{place} must be a data: URL or base64 data, got {shown(held)}")
    return _of_text(held, kind, place)


def _video(held: Mapping[str, Any], place: str) -> Video:
    """What :func:`as_json` writes of one."""
    frames, times = held.get("frames"), held.get("times")
    if not isinstance(frames, list) or not isinstance(times, list):
        raise MessageError(f"{place} must be a Video, or have lists of frames and times, got {shown(held)}")
    images = [read_medium({"type": "image", "image": one}, f"{place}.frames[{i}]") for i, one in enumerate(frames)]
    try:
        return Video([one["image"] for one in images], times)
    except MediaError as error:
        error.message = f"{place}: {error.message}"
        raise


def _of_text(text: str, kind: str, place: str) -> Medium:
    head = text[:200].lower()
    if not head.startswith("data:"):
        if "://" in head:
            raise UnsupportedError(
                f"{place}: nothing is fetched from other hosts or files, got {text[:60]!r}: give the data as a data: "
                "URL, or an Image or Audio value"
            )
        text = f"data:{kind or 'application'}/unknown;base64,{text}"
    elif not kind:
        kind = head[5:].partition("/")[0]
    if kind not in ("image", "audio"):
        raise UnsupportedError(f"{place}: only images and sound can be given, not {head.partition(',')[0]!r}")
    try:
        return Image(text) if kind == "image" else Audio(text)
    except MediaError as error:
        error.message = f"{place}: {error.message}"
        raise


def as_json(part: Any) -> Any:
    """Return a checked part of a content as OpenAI's API has it; what is no medium as it is.

    That API has no videos: one becomes its frames and times.
    """
    medium = medium_of(part) if isinstance(part, Mapping) and part.get("type") in ("image", "audio", "video") else None
    if isinstance(medium, Image):
        return {"type": "image_url", "image_url": {"url": _data_url(medium)}}
    if isinstance(medium, Video):
        held = {"frames": [_data_url(one) for one in medium.frames], "times": list(medium.times)}
        return {"type": "video", "video": held}
    if isinstance(medium, Audio):
        pcm = medium.format == "pcm"
        text = b64encode(medium.file().body if pcm else medium.data).decode()
        return {"type": "input_audio", "input_audio": {"data": text, "format": "wav" if pcm else medium.format}}
    return part


def _data_url(image: Image) -> str:
    kind, head = str(image.format), b""
    if kind == "rgb":
        kind, head = "pnm", f"P6 {image.width} {image.height} 255\n".encode()
    kind = "x-portable-anymap" if kind == "pnm" else kind
    return f"data:image/{kind};base64,{b64encode(head + image.data).decode()}"


def messages_as_json(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return checked messages whose media are written as OpenAI's API has them."""
    return [
        {key: [as_json(part) for part in value] if key == "content" and isinstance(value, list) else value
         for key, value in message.items()}
        for message in messages
    ]  # fmt: skip


def place_media(
    messages: Sequence[Mapping[str, Any]], source: str, *others: Any
) -> tuple[list[dict[str, Any]], tuple[PlacedMedium, ...]]:
    """Return messages without media, a character in place of each, and the media.

    As in llama.cpp's server, a content with media becomes one text, with a line break between two texts. ``source`` is
    the template's text, and ``others`` what else it may write.
    """
    found = [
        (i, j, medium)
        for i, message in enumerate(messages)
        if isinstance(message.get("content"), list)
        for j, part in enumerate(message["content"])
        if (medium := medium_of(part)) is not None
    ]
    if not found:
        return [dict(message) for message in messages], ()
    if len(found) > MAX_MEDIA:
        raise MessageError(f"the messages have {len(found)} images and sounds; the most are {MAX_MEDIA}")
    written = json.dumps([messages, others], ensure_ascii=False, default=lambda value: type(value).__name__)
    marks = unused_characters(source + written, len(found))
    media = tuple(
        PlacedMedium(mark, medium, f"messages[{i}].content[{j}]")
        for mark, (i, j, medium) in zip(marks, found, strict=True)
    )
    placed = [dict(message) for message in messages]
    left = iter(marks)
    for i in dict.fromkeys(i for i, _, _ in found):
        placed[i]["content"] = _joined(messages[i]["content"], left)
    return placed, media


def _joined(content: Sequence[Mapping[str, Any]], marks: Iterable[str]) -> str:
    left, text, after_text = iter(marks), "", False
    for part in content:
        is_text = part["type"] == "text"
        if is_text and after_text and text:
            text += "\n"
        text += part["text"] if is_text else next(left)
        after_text = is_text
    return text


__all__ = [
    "MARKER",
    "VALUES",
    "Medium",
    "PlacedMedium",
    "as_json",
    "is_medium",
    "kind_of",
    "medium_of",
    "messages_as_json",
    "place_media",
    "read_fetched",
    "read_medium",
    "url_of",
]
