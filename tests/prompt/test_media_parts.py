"""Images and sound in messages: every form in which they come, and the place that a template gives them."""

from __future__ import annotations

import io
import json
import wave
from base64 import b64encode
from functools import cache
from typing import Any

import numpy as np
import pytest

from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.image import Image
from llama_cffi.core.media.video import Video
from llama_cffi.errors import LlamaCffiError, MediaError, MessageError, TemplateError, UnsupportedError
from llama_cffi.prompt.media_parts import MARKER, messages_as_json
from llama_cffi.prompt.messages import check_messages
from llama_cffi.prompt.template import ChatTemplate, Rendered
from llama_cffi.prompt.tool_instructions import add_tool_instructions
from tests.support.conversations import user
from tests.support.plain_jinja import NEEDED, TEMPLATES

ALL = {path.stem: path.read_text(encoding="utf-8") for path in TEMPLATES}
SOME = [
    *("openai-gpt-oss-120b", "Qwen-Qwen3-0.6B", "GLM-4.6", "mistralai-Mistral-Nemo-Instruct-2407", "LFM2.5-8B-A1B"),
    *("google-gemma-2-2b-it", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "Apriel-1.6-15b-Thinker-fixed"),
]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TYPED = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}{% endfor %}{% endfor %}"
)


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16000)
        writer.writeframes(b"\0\1" * 160)
    return file.getvalue()


PICTURE = b"P6 2 1 255\n" + bytes(range(6))
IMAGE, AUDIO = Image(PICTURE), Audio(sound())
PICTURE_URL = f"data:image/x-portable-pixmap;base64,{b64encode(PICTURE).decode()}"
SOUND_DATA = b64encode(sound()).decode()


@cache
def compiled(source: str, controls: tuple[str, ...] = ("<|im_end|>", "</s>")) -> ChatTemplate:
    return ChatTemplate(source, tokens={"bos_token": "<s>", "eos_token": "</s>"}, controls=controls)


def content_of(part: Any) -> list[dict[str, Any]]:
    (message,) = check_messages([user(["a", part])])
    return message["content"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "part",
    [
        IMAGE,
        {"type": "image_url", "image_url": {"url": PICTURE_URL, "detail": "low"}},
        {"type": "image_url", "image_url": PICTURE_URL},
        {"type": "image_url", "image_url": {"url": b64encode(PICTURE).decode()}},
        {"type": "input_image", "image_url": PICTURE_URL},
        {"type": "image", "image": IMAGE},
        {"type": "image", "image": PICTURE_URL},
        {"type": "file", "file": {"file_data": PICTURE_URL, "filename": "a.ppm"}},
        {"type": "input_file", "file_data": PICTURE_URL},
    ],
)
def test_an_image_in_any_form_is_the_same_part(part: Any) -> None:
    assert content_of(part) == [{"type": "text", "text": "a"}, {"type": "image", "image": IMAGE}]


@pytest.mark.parametrize(
    "part",
    [
        AUDIO,
        {"type": "input_audio", "input_audio": {"data": SOUND_DATA, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{SOUND_DATA}"}},
        {"type": "audio", "audio": AUDIO},
        {"type": "file", "file": {"file_data": f"data:audio/wav;base64,{SOUND_DATA}"}},
    ],
)
def test_a_sound_in_any_form_is_the_same_part(part: Any) -> None:
    assert content_of(part)[1] == {"type": "audio", "audio": AUDIO}


URL = r"messages\[0\]\.content\[1\]\.image_url\.url"
WRONG: dict[str, tuple[Any, type[LlamaCffiError], str]] = {
    "another host": (
        {"type": "image_url", "image_url": {"url": "https://a.example/cat.png"}}, UnsupportedError, f"{URL}: nothing",
    ),
    "a file": ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, UnsupportedError, f"{URL}: nothing"),
    "a path": ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, MediaError, URL),
    "no data": ({"type": "image_url", "image_url": {}}, MessageError, f"{URL} must be a data: URL"),
    "nothing": ({"type": "image_url"}, MessageError, r"content\[1\]\.image_url must be a data: URL"),
    "a number": ({"type": "input_audio", "input_audio": {"data": 3}}, MessageError, r"input_audio\.data must be"),
    "no image": (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, MediaError, URL,
    ),
    "no Base64": ({"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}, MediaError, URL),
    "a document": (
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}, UnsupportedError, "only images",
    ),
    "a sound as an image": ({"type": "image", "image": AUDIO}, MessageError, "must be of the kind image, got <Audio"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_medium_is_refused_and_its_place_is_named(case: str) -> None:
    part, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        content_of(part)


def test_conversations_with_media_become_json_and_come_back() -> None:
    array = Image(np.zeros((2, 3, 3), np.uint8))
    tone = Audio(np.zeros(100, np.float32), 8000)
    video = Video([IMAGE, IMAGE], [0, 2.5])
    messages = check_messages([user(["a", IMAGE, AUDIO, array, tone, video]), {"role": "assistant", "content": "b"}])
    back = check_messages(json.loads(json.dumps(messages_as_json(messages))))
    assert back[1] == messages[1]
    assert back[0]["content"][:3] == messages[0]["content"][:3]
    assert (back[0]["content"][3]["image"].width, back[0]["content"][3]["image"].height) == (3, 2)
    assert back[0]["content"][4]["audio"].n_samples == 100
    assert back[0]["content"][5] == messages[0]["content"][5]


# -- in templates


def rendered(source: str, content: Any) -> Rendered:
    return compiled(source).render([user(content)])


@pytest.mark.skipif(not TEMPLATES, reason="no llama.cpp source in vendor/llama.cpp")
@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.conformance) for name in ALL)])
def test_every_template_writes_media_where_llama_server_puts_its_marker(name: str) -> None:
    # llama-server writes one text: a marker for each medium, and a line break between two texts.
    source, variables = ALL[name], NEEDED.get(name, {})
    template = compiled(source)
    content = ["Look at", IMAGE, "and", "at", IMAGE, IMAGE]
    try:
        expected = template.render([user(f"Look at{MARKER}and\nat{MARKER}{MARKER}")], **variables)
    except TemplateError:
        pytest.skip("the template needs something else")
    found = template.render([user(content)], **variables)
    assert found.text == expected.text
    assert [one.place for one in found.media] == [f"messages[0].content[{i}]" for i in (1, 4, 5)]
    assert [found.marked.count(one.mark) for one in found.media] == [1, 1, 1]
    places = [found.marked.index(one.mark) for one in found.media]
    assert places == sorted(places)


@pytest.mark.parametrize("source", [CHATML, TYPED])
def test_a_message_that_says_the_marker_says_a_text(source: str) -> None:
    found = rendered(source, [f"What is {MARKER}? <image>", IMAGE])
    assert found.text.count(MARKER) == 2
    assert [found.marked.count(one.mark) for one in found.media] == [1]
    # Not even by the character that stands for an image elsewhere.
    again = rendered(source, [f"{found.media[0].mark} {found.mark}", IMAGE])
    assert again.media[0].mark not in (found.media[0].mark, found.mark)
    assert again.marked.count(again.media[0].mark) == 1


def test_texts_without_media_are_what_they_were() -> None:
    assert rendered(CHATML, "a").media == ()
    assert rendered(CHATML, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]).text == (
        rendered(CHATML, "ab").text
    )


def test_tools_in_words_stand_beside_media() -> None:
    said = check_messages(
        [
            user([IMAGE, "What is it?"]),
            {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]},
            {"role": "tool", "name": "look", "content": ["a cat", IMAGE]},
            user("Sure?"),
        ]
    )
    told = add_tool_instructions(said, "Tools", role="user")
    assert told[0]["content"] == [
        {"type": "text", "text": "Tools\n\n"},
        {"type": "image", "image": IMAGE},
        {"type": "text", "text": "What is it?"},
    ]
    assert told[2]["content"] == [
        {"type": "text", "text": "The function look returned: a cat"},
        {"type": "image", "image": IMAGE},
        {"type": "text", "text": "\n\nSure?"},
    ]
