"""Images on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from llama_cffi import Image
from tests.cli.test_commands import refused, run
from tests.support.media_kinds import FILES, TEMPLATE, open_llama, write_kind


def test_images_come_before_the_text(tmp_path: Path, assets: Path) -> None:
    kind = write_kind(tmp_path, "qwen2vl", assets)
    picture = tmp_path / "picture.png"
    picture.write_bytes(FILES["qwen2vl"]["gray"])
    # The projector lies beside the model, and an image needs one.
    common = ("-m", kind.model, "--image", picture, "-n", 4, "--temp", 0, "-c", 512, "-t", 1, "--json")
    with open_llama(kind) as llm:
        image = Image(picture)
        text = llm.generate([image, "What?"], max_tokens=4, temperature=0)
        said = [{"role": "user", "content": [image, "What?"]}]
        reply = llm.chat(said, chat_template=TEMPLATE, max_tokens=4, temperature=0)
    done = run("generate", "What?", *map(str, common))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == text.text
    done = run("chat", "What?", "--mmproj", kind.projector, "--chat-template", TEMPLATE, *map(str, common))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == reply.text
    said_of = refused(1, "generate", "What?", "-m", kind.model, "--image", kind.model, "-n", "1")
    assert "image" in said_of
