"""Damage to files that are not models: run with ``python -m``, as :mod:`tests.support.damage`.

Arguments: a model, an adapter for it, a folder, the kind of file, the first seed, how many, how many in one child.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llama_cffi import Batch, ControlVector, Llama, LlamaCffiError
from llama_cffi._util.checksum import Checksum
from tests.support.damage import search
from tests.support.gguf_surgery import change, parse

PROMPT = "tana nese tara"
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
FRONT = struct.Struct("<8sIQQ16s16s")
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "tana"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "nese"}]},
]
ODD: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e400, 0.5, "", "x", "\ud800", [], {}, [[]], {"a": {}},
                  [1, 2], [None], "0" * 300]  # fmt: skip


class Files:
    """A file of each kind, and what reads it."""

    def __init__(self, model: Path, adapter: Path, folder: Path) -> None:
        self._model = model
        self._made: tuple[int, Llama] | None = None
        self.folder = folder
        llm = self.llm
        llm.generate(PROMPT, max_tokens=3, temperature=0)
        llm.session(MESSAGES[:1]).save(folder / "plain")
        session = llm.session()
        session._messages = MESSAGES  # a template may have no calls
        session.save(folder / "session")
        llm.save_state(folder / "state")
        llm.save_prompt(PROMPT, folder / "prompt")
        llm.context.state.save_file(folder / "native", [1, 2, 3])
        llm.context.state.seq_save_file(0, folder / "sequence", [1, 2, 3])
        rows = np.zeros((llm.model.n_layer, llm.model.n_embd), dtype=np.float32)
        rows[1:] = 0.1
        ControlVector(rows).save(folder / "vector")
        (folder / "adapter").write_bytes(adapter.read_bytes())
        (folder / "damaged").touch()
        self.reads: dict[str, Callable[[Path], object]] = {
            "session": self._session,
            "state": self._state,
            "bytes": lambda path: self._used(self.llm.load_state_bytes(path.read_bytes())),
            "prompt": lambda path: self._used(self.llm.load_prompt(path)),
            "native": lambda path: self._used(self.llm.context.state.load_file(path)),
            "sequence": lambda path: self._used(self.llm.context.state.seq_load_file(0, path)),
            "data": lambda path: self._data(path),
            "vector": self._vector,
            "adapter": self._adapter,
        }
        self.source = {"bytes": "state", "data": "native"}

    @property
    def llm(self) -> Llama:
        """One for each process: what the parent has made, a child may not use."""
        if self._made is None or self._made[0] != os.getpid():
            self._made = os.getpid(), Llama(self._model, n_ctx=128, n_seq_max=2, n_threads=2)
        return self._made[1]

    def _used(self, _: object) -> None:
        self.llm.generate(PROMPT, max_tokens=2, temperature=0)
        context = self.llm.context
        batch = Batch(1)
        for seq_id in (0, 1):
            last = context.memory.seq_pos_max(seq_id)
            batch.clear()
            try:
                batch.add(5, 0 if last is None else last + 1, seq_id, output=True)
                context.decode(batch)
            except (LlamaCffiError, OverflowError):  # a position behind the last that there is
                context.memory.clear()

    def _session(self, path: Path) -> None:
        session = self.llm.session()
        session.load(path)
        session.save(self.folder / "again")
        session.chat("tana", max_tokens=1, temperature=0, chat_template=TEMPLATE)

    def _state(self, path: Path) -> None:
        self._used(self.llm.load_state(path))

    def _data(self, path: Path) -> None:
        self.llm.context.state.set_data(path.read_bytes()[24:])
        self._used(None)

    def _vector(self, path: Path) -> None:
        self.llm.set_control_vector(ControlVector.from_gguf(path))
        self._used(None)

    def _adapter(self, path: Path) -> None:
        adapter = self.llm.load_adapter(path)
        self.llm.set_adapters({adapter: 1.0})
        self._used(None)

    def damaged(self, kind: str, seed: int) -> bytes:
        """The file of a kind with the damage of a seed."""
        rng = random.Random(seed)
        data = (self.folder / self.source.get(kind, kind)).read_bytes()
        if rng.random() < 0.4:
            return _bytes(data, rng)
        if kind in ("vector", "adapter"):
            return change(parse(data), rng.choice(["metadata", "tensors", "tensors"]), rng).bytes()
        if kind == "session":
            return _deep(rng) if rng.random() < 0.05 else _json(data, rng)
        if kind in ("state", "bytes", "prompt"):
            return _saved(data, rng)
        return _words(data, rng)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    new = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 10])):
        if new:
            new[int(rng.random() ** 3 * len(new))] = rng.choice([0, 1, 255, rng.randrange(256)])
    if rng.random() < 0.2:
        del new[rng.randrange(len(new) + 1) :]
    if rng.random() < 0.1:
        new += rng.randbytes(rng.randrange(100))
    return bytes(new)


def _words(data: bytes, rng: random.Random) -> bytes:
    """Numbers of 32 or 64 bits replaced, mostly near the beginning, where sizes are."""
    new = bytearray(data)
    for _ in range(rng.choice([1, 1, 2])):
        size = rng.choice([4, 8])
        at = 4 * int(rng.random() ** 3 * (len(new) // 4 - 2))
        number = rng.choice([0, 1, 2, 3, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.getrandbits(64)])
        new[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(new)


def _json(data: bytes, rng: random.Random) -> bytes:
    found = json.loads(data)
    for _ in range(rng.choice([1, 1, 2])):
        _exchange(found, rng)
    return json.dumps(found).encode()


def _deep(rng: random.Random) -> bytes:
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    depth = rng.choice([900, 1000, 5000, 100_000])
    deep = opened * depth + "1" + closed * depth
    message = rng.choice(['{"role": "user", "content": %s}', '{"role": "user", "content": "", "x": %s}', "%s"])
    return ('{"format": "llama_cffi conversation 1", "messages": [' + message % deep + "]}").encode()


def _exchange(found: Any, rng: random.Random) -> None:
    """Something odd at a random place of a JSON value, or a part less."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(found)
    if not places:
        return
    where, key = rng.choice(places)
    if rng.random() < 0.2:
        del where[key]
    elif rng.random() < 0.1 and isinstance(where, dict):
        where["new"] = copy.deepcopy(rng.choice(ODD))
    else:
        where[key] = copy.deepcopy(rng.choice(ODD))


def _saved(data: bytes, rng: random.Random) -> bytes:
    """A state whose header or payload are others, under checksums that are right."""
    magic, version, n_header, _, _, _ = FRONT.unpack_from(data)
    head, payload = data[FRONT.size : FRONT.size + n_header], data[FRONT.size + n_header :]
    if rng.random() < 0.6:
        head = _json(head, rng)
    elif rng.random() < 0.05:
        head = b"[" * 100_000 + b"]" * 100_000
    else:
        payload = _words(payload, rng) if rng.random() < 0.7 else _bytes(payload, rng)
    checksum = Checksum()
    checksum.update(np.frombuffer(payload, dtype=np.uint8))
    digest = hashlib.blake2b(head, digest_size=16).digest()
    return FRONT.pack(magic, version, len(head), len(payload), digest, checksum.digest()) + head + payload


def main(model: str, adapter: str, folder: str, kind: str, seed: str, count: str, together: str) -> None:
    files = Files(Path(model), Path(adapter), Path(folder))
    target = Path(folder, "damaged")

    def make(one: int) -> Callable[[], None]:
        def case() -> None:
            target.write_bytes(files.damaged(kind, one))
            files.reads[kind](target)

        return case

    counts = search(make, lambda one: repr(files.damaged(kind, one)[:300]), int(seed), int(count), int(together))
    print(json.dumps({"counts": counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
