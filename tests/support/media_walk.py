"""Random use of a Llama whose texts have pictures in them; each text is compared with what libmtmd itself decodes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llama_cffi import Image, Model
from llama_cffi.core.prompt import Media, Prompt
from tests.support.media_reference import Reference, open_reference
from tests.support.memory_walk import Fresh, MemoryWalk, Part
from tests.support.pictures import photograph

SIZES = ((40, 30), (16, 64), (8, 8), (50, 50))
"""Of the pictures, in pixels."""
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}a:"


class FreshMedia(Fresh):
    """Texts with media, of which libmtmd's helper functions decode the media."""

    def __init__(self, model: Model, reference: Reference, media: dict[int, Media]) -> None:
        super().__init__(model)
        self._reference, self._media = reference, media

    def _decode_medium(self, cells: list[int], start: int, position: int) -> tuple[int, int]:
        content = self._media[cells[start]].content
        n, end = self._reference.decode_medium(self.context, content.medium.data, content.index, position)
        assert cells[start : start + n] == [cells[start]] * n
        return start + n, end


class MediaWalk(MemoryWalk):
    """Texts with pictures that grow, fork, go back, and are given up in the middle, at random."""

    def __init__(
        self, model: Model, projector: Path, seed: int, folder: Path, *, draft: Model | None = None, **options: Any
    ) -> None:
        self._stack = ExitStack()
        self._reference = self._stack.enter_context(open_reference(model, projector, exact=True))
        self._known: dict[int, Media] = {}
        self._pictures: list[tuple[Part, ...]] = []
        super().__init__(model, seed, folder, draft=draft, mmproj=projector, **options)
        for i, (width, height) in enumerate(SIZES):
            parts = self.llm._runtime.formats.media.parts(Image(photograph(width, height, i)))
            self._pictures.append(parts)
            self._known |= {part.cell: part for part in parts if isinstance(part, Media)}
        self.texts = [[5, *self._parts(40)], [6, *self._parts(5)]]
        self._steps |= {"again": (4, self.again), "late": (3, self.late), "talk": (1, self.talk)}

    def close(self) -> None:
        super().close()
        self._stack.close()

    # -- steps

    def again(self) -> None:
        """Another question about the last picture of a text."""
        text = self._some()
        last = next((i for i in reversed(range(len(text))) if isinstance(text[i], Media)), None)
        if last is not None:
            self.texts.append([*text[: last + 1], *self._tokens(self.rng.randint(1, 20))])
            del self.texts[:-6]
            self.grow()

    def late(self) -> None:
        """A text with a new place for a picture ends after a moment: in an encoding, a prefill, or a reply."""
        text = [*self._some()[: self.rng.randint(1, 30)], *self._picture(), 7]
        done = self.llm.generate(Prompt(text), max_tokens=6, max_seconds=self.rng.choice((1e-3, 1e-2, 5e-2, 0.2)))
        self.seen[f"late: {done.finish_reason.value}"] += 1

    def talk(self) -> None:
        """A conversation about pictures that branches and goes back."""
        options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "chat_template": TEMPLATE, "logprobs": 0}
        session = self.llm.session(**options)
        for _ in range(2):
            picture = Image(photograph(*SIZES[2], 2))
            self._talked(session.chat([picture, "tana nelu"]))
            branch = session.fork()
            self._talked(session.chat("so"))
            self._talked(branch.chat([picture, "be"]))
            session.rewind()

    def _talked(self, reply: Any) -> None:
        text = self._parts_of(reply.prompt)
        self._compare(text, reply, len(reply.tokens))

    # -- texts

    def _open_fresh(self, model: Model) -> Fresh:
        return FreshMedia(model, self._reference, self._known)

    def _picture(self) -> tuple[Part, ...]:
        return self.rng.choice(self._pictures)

    def _parts(self, n: int) -> list[Part]:
        tokens = self._tokens(n)
        if not self._pictures or self.rng.random() < 0.4:
            return list(tokens)
        place = self.rng.randrange(n)
        return [*tokens[:place], *self._picture(), *tokens[place:]]

    def _parts_of(self, prompt: Prompt) -> list[Part]:
        spans = {span.start: span for span in prompt.media}
        found: list[Part] = []
        cell = 0
        while cell < len(prompt):
            span = spans.get(cell)
            found.append(prompt[cell] if span is None else span.media)
            cell = cell + 1 if span is None else span.end
        return found


__all__ = ["MediaWalk"]
