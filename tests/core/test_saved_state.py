"""States in our own format: they go on like the original, and whatever does not fit is refused before it does harm."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi import Context, Llama, Model, SavedState
from llama_cffi._util import checksum, files
from llama_cffi.core import saved_state, state_header
from llama_cffi.core.saved_state import read_header
from llama_cffi.core.state_header import StateHeader
from llama_cffi.errors import StateError, StateFormatError, StateMismatchError, StateWriteError, TokenError
from tests.support.children import run_child
from tests.support.random_model import write_random_model
from tests.support.states import OTHER, TEXT, decode, follow

if TYPE_CHECKING:
    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models"]

FRONT = 60


@pytest.fixture
def filled(context: Context) -> Context:
    """TEXT in sequence 0 and OTHER in sequence 2."""
    decode(context, TEXT)
    decode(context, OTHER, seq_id=2)
    return context


@pytest.fixture
def saved(filled: Context) -> SavedState:
    return SavedState.take(filled, {0: TEXT, 2: OTHER})


def positions(context: Context) -> list[int | None]:
    return [context.memory.seq_pos_max(i) for i in range(context.n_seq_max)]


# -- there and back


def test_through_a_file(saved: SavedState, filled: Context, make_context: MakeContext, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    saved.write(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size == saved.nbytes
    header = read_header(path)
    assert header == saved.header
    assert header.kind == "context"
    assert header.sequences[2].prompt == tuple(OTHER)
    other = make_context()
    assert SavedState.read(path).restore(other) == {0: tuple(TEXT), 2: tuple(OTHER)}
    for seq_id, tokens in ((0, TEXT), (2, OTHER)):
        expected = follow(filled, len(tokens), seq_id)
        np.testing.assert_array_equal(follow(other, len(tokens), seq_id), expected)


def test_through_bytes(saved: SavedState, filled: Context, make_context: MakeContext) -> None:
    data = saved.to_bytes()
    other = make_context()
    for source in (data, bytearray(data), memoryview(data), np.frombuffer(data, dtype=np.uint8)):
        assert SavedState.from_bytes(source).restore(other)[0] == tuple(TEXT)
    np.testing.assert_array_equal(follow(other, len(TEXT)), follow(filled, len(TEXT)))


def test_one_sequence(filled: Context, make_context: MakeContext, tmp_path: Path) -> None:
    one = SavedState.take(filled, {2: OTHER}, seq_id=2)
    assert one.header.kind == "sequence"
    one.write(tmp_path / "one", sync=False)
    other = make_context()
    decode(other, TEXT)
    assert SavedState.read(tmp_path / "one").restore(other, seq_id=3) == {3: tuple(OTHER)}
    assert SavedState.read(tmp_path / "one").restore(other) == {2: tuple(OTHER)}
    assert positions(other) == [len(TEXT) - 1, None, len(OTHER) - 1, len(OTHER) - 1]
    np.testing.assert_allclose(follow(other, 4, 3), follow(filled, 4, 2), atol=1e-3)
    with pytest.raises(ValueError, match="seq_id must be 0 to 3"):
        one.restore(other, seq_id=4)


def test_without_tokens(filled: Context, make_context: MakeContext) -> None:
    assert SavedState.take(filled).restore(make_context()) == {0: None, 2: None}


def test_tokens_that_are_not_in_memory(filled: Context) -> None:
    with pytest.raises(ValueError, match="8 positions in memory, and 7 tokens"):
        SavedState.take(filled, {0: TEXT[:-1]})
    with pytest.raises(TokenError):
        SavedState.take(filled, {0: [512] * 8})
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        SavedState.take(filled, seq_id=1)
    with pytest.raises(ValueError, match="seq_id must be"):
        SavedState.take(filled, seq_id=4)


def test_in_another_process_and_the_other_way_of_binding(
    saved: SavedState, filled: Context, model_path: Path, tmp_path: Path
) -> None:
    saved.write(tmp_path / "state")
    program = """
        import os, sys
        os.environ["LLAMA_CFFI_BINDING"] = "abi"
        from llama_cffi import Batch, Context, ContextOptions, Model, SavedState
        options = ContextOptions(n_ctx=256, n_batch=64, n_ubatch=64, n_seq_max=4, n_threads=1)
        context = Context(Model(sys.argv[1]), options)
        tokens = SavedState.read(sys.argv[2], lambda header: header.check(context)).restore(context)[0]
        batch, chosen, token = Batch(1), [], 5
        for pos in range(len(tokens), len(tokens) + 12):
            batch.single(token, pos, 0)
            context.decode(batch)
            chosen.append(token := int(context.outputs.logits().argmax()))
        print(*chosen)
    """
    said = run_child(program, model_path, tmp_path / "state")
    assert [int(word) for word in said.split()] == follow(filled, len(TEXT)).argmax(axis=1).tolist()


# -- what does not fit


def refused(saved: SavedState, context: Context, match: str, **options: Any) -> None:
    before = positions(context)
    with pytest.raises(StateMismatchError, match=match):
        saved.restore(context, **options)
    assert positions(context) == before


def test_another_model(saved: SavedState, stories: Model, make_context: MakeContext) -> None:
    other = make_context(stories)
    decode(other, [1, 5])
    refused(saved, other, "another model: n_params")
    with Llama.demo(n_ctx=256, n_threads=1) as llm:
        refused(saved, llm.context, "another model")


def test_other_weights_of_the_same_shape(saved: SavedState, make_context: MakeContext, tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "twin.gguf", weights="f32", seed=1)
    with Model(path) as twin, Model(write_random_model(tmp_path / "same.gguf", weights="f32")) as same:
        refused(saved, make_context(twin), "another model: pieces")
        assert saved.restore(make_context(same))
        path.unlink()
        assert Model(tmp_path / "same.gguf").fingerprint == same.fingerprint


def test_the_pieces_are_those_of_the_file_that_was_loaded(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "gone.gguf", weights="f32")
    with Model(path) as model:
        expected = model.fingerprint.pieces
    with Model(path) as model:
        path.unlink()
        assert model.fingerprint.pieces == expected != ""


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"type_k": "f32"}, "type_k='f16', and the context has 'f32'"),
        ({"type_v": "bf16"}, "type_v"),
        ({"kv_unified": False}, "n_streams=1, and the context has 4"),
        ({"rope_freq_base": 5000.0}, "rope"),
        ({"n_seq_max": 2}, "sequence 2; the context has n_seq_max=2"),
    ],
)
def test_another_memory(saved: SavedState, make_context: MakeContext, options: dict[str, Any], match: str) -> None:
    context = make_context(**options)
    decode(context, [1, 5])
    refused(saved, context, match)


def test_a_smaller_memory(make_context: MakeContext) -> None:
    large, small = make_context(n_ctx=512), make_context()
    for seq_id in range(2):
        for start in range(0, 150, 50):
            decode(large, [300] * 50, start, seq_id)
    refused(SavedState.take(large), small, "300 tokens; the context has room for 256")
    assert SavedState.take(large, seq_id=1).restore(small, seq_id=0) == {0: None}
    for start in range(150, 300, 50):
        decode(large, [300] * 50, start, 1)
    refused(SavedState.take(large, seq_id=1), small, "sequence of 300 tokens; the context has room for 256")


def test_flash_attention(make_context: MakeContext) -> None:
    contexts = {kind: make_context(flash_attn=kind) for kind in ("auto", "enabled", "disabled")}
    states = {}
    for kind, context in contexts.items():
        decode(context, TEXT)
        states[kind] = SavedState.take(context, {0: TEXT})
    refused(states["enabled"], contexts["disabled"], "flash_attn")
    assert states["auto"].restore(contexts["enabled"])
    # What "auto" became only llama.cpp knows, and it compares.
    with pytest.raises(StateError, match="transposition"):
        states["disabled"].restore(contexts["auto"])
    assert positions(contexts["auto"]) == [None] * 4


def test_no_room_beside_others(make_context: MakeContext) -> None:
    context, other = make_context(), make_context()
    for start in range(0, 200, 50):
        decode(context, [300] * 50, start)
        decode(other, [301] * 50, start)
    one = SavedState.take(context, seq_id=0)
    with pytest.raises(StateError, match="available cells"):
        one.restore(other, seq_id=1)
    assert positions(other) == [199, None, None, None]


def test_adapters(filled: Context, make_context: MakeContext) -> None:
    saved = SavedState.take(filled, conditioning=["style.gguf*0.5"])
    assert SavedState.from_bytes(saved.to_bytes()).header.conditioning == ("style.gguf*0.5",)
    context = make_context()
    refused(saved, context, r"adapters \['style.gguf\*0.5'\], and the current adapters are \[\]")
    assert saved.restore(context, conditioning=["style.gguf*0.5"])


def test_another_llama_cpp(saved: SavedState, context: Context) -> None:
    refused(SavedState(replace(saved.header, library="b6301"), saved.payload), context, "llama.cpp b6301, and this is")


def test_a_whole_context_is_no_sequence(saved: SavedState, context: Context) -> None:
    refused(saved, context, "cannot be restored into one sequence", seq_id=1)


def test_a_header_that_lies_about_the_payload(filled: Context, make_context: MakeContext) -> None:
    one = SavedState.take(filled, seq_id=2)
    lie = SavedState(SavedState.take(filled, seq_id=0).header, one.payload)
    context = make_context()
    with pytest.raises(StateFormatError, match="positions of sequence 0 in the state differ"):
        lie.restore(context)
    assert positions(context) == [None] * 4


def test_the_check_comes_before_the_payload(saved: SavedState, tmp_path: Path) -> None:
    path = tmp_path / "state"
    saved.write(path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)

    def check(header: StateHeader) -> None:
        raise StateMismatchError("no")

    with pytest.raises(StateMismatchError, match="no"):
        SavedState.read(path, check)
    with pytest.raises(StateFormatError, match=r"state: the state is damaged"):
        SavedState.read(path)


# -- damage


@pytest.fixture(scope="module")
def whole(model: Model) -> bytes:
    from llama_cffi import ContextOptions

    options = ContextOptions(n_ctx=256, n_batch=64, n_ubatch=64, n_seq_max=4, n_threads=1)
    with Context(model, options) as context:
        decode(context, TEXT)
        return SavedState.take(context, {0: TEXT}).to_bytes()


def header_end(data: bytes) -> int:
    return FRONT + int(struct.unpack_from("<Q", data, 12)[0])


def test_every_kind_of_truncation(whole: bytes, tmp_path: Path) -> None:
    end = header_end(whole)
    path = tmp_path / "state"
    for n in (*range(FRONT + 2), end - 1, end, end + 1, end + 5, len(whole) // 2, len(whole) - 1):
        with pytest.raises(StateFormatError):
            SavedState.from_bytes(whole[:n])
        path.write_bytes(whole[:n])
        for read in (SavedState.read, read_header):
            with pytest.raises(StateFormatError):
                read(path)
    with pytest.raises(StateFormatError, match="is damaged: its header says"):
        SavedState.from_bytes(whole + b"x")


PIECES = 5


@pytest.fixture
def long(whole: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A state that is read in PIECES."""
    monkeypatch.setattr(saved_state, "_READ", checksum.BLOCK)
    payload = np.frombuffer(np.random.default_rng(0).bytes((PIECES - 1) * checksum.BLOCK + 7), dtype=np.uint8)
    return SavedState(SavedState.from_bytes(whole).header, payload).to_bytes()


@pytest.fixture
def no_thread_is_left() -> Callable[[], bool]:
    """Whether there are the same threads as at the beginning of the test."""
    before = set(threading.enumerate())
    return lambda: set(threading.enumerate()) <= before


def test_a_file_of_many_pieces(long: bytes, tmp_path: Path, no_thread_is_left: Callable[[], bool]) -> None:
    path = tmp_path / "state"
    path.write_bytes(long)
    assert SavedState.read(path).to_bytes() == long
    for i in range(PIECES):
        damaged = bytearray(long)
        damaged[header_end(long) + i * checksum.BLOCK] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StateFormatError, match="checksum does not match"):
            SavedState.read(path)
    assert no_thread_is_left()


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_file_that_ends_while_it_is_read(
    error: BaseException | None,
    long: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_thread_is_left: Callable[[], bool],
) -> None:
    path = tmp_path / "state"
    path.write_bytes(long)
    read_all, count = saved_state._read_all, iter(range(PIECES))

    def cut(file: Any, room: memoryview) -> None:
        if next(count) == PIECES - 1:
            if error is not None:
                raise error
            os.truncate(path, file.tell())
        read_all(file, room)

    monkeypatch.setattr(saved_state, "_read_all", cut)
    with pytest.raises(
        StateFormatError if error is None else type(error), match="cut short" if error is None else None
    ):
        SavedState.read(path)
    assert no_thread_is_left()


@given(data=st.data())
def test_every_flipped_byte_is_found(whole: bytes, data: st.DataObject) -> None:
    end = header_end(whole)
    area = data.draw(st.sampled_from([(0, FRONT), (FRONT, end), (end, len(whole))]))
    place = data.draw(st.integers(area[0], area[1] - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[place] ^= flip
    with pytest.raises(StateFormatError):
        SavedState.from_bytes(damaged)


@pytest.mark.parametrize("length", [0, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("place", [12, 20])
def test_lengths_that_lie(whole: bytes, tmp_path: Path, length: int, place: int) -> None:
    damaged = whole[:place] + struct.pack("<Q", length) + whole[place + 8 :]
    with pytest.raises(StateFormatError):
        SavedState.from_bytes(damaged)
    (tmp_path / "state").write_bytes(damaged)
    with pytest.raises(StateFormatError):
        SavedState.read(tmp_path / "state")


def test_other_files(tmp_path: Path, model_path: Path, whole: bytes) -> None:
    with pytest.raises(StateFormatError, match=r"tiny\.gguf: this is not a saved state"):
        SavedState.read(model_path)
    with pytest.raises(StateFormatError, match="format version 9; supported is 1"):
        SavedState.from_bytes(whole[:8] + b"\x09" + whole[9:])
    with pytest.raises(FileNotFoundError):
        SavedState.read(tmp_path / "none")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
def test_headers_that_make_no_sense(whole: bytes, data: st.DataObject) -> None:
    """With right checksums, as only malice makes them: still no other exception."""
    header = json.loads(whole[FRONT : header_end(whole)])
    parts: list[Any] = [header, header["model"], header["memory"], header["sequences"], header["sequences"]["0"]]
    part = data.draw(st.sampled_from(parts))
    part[data.draw(st.sampled_from([*part, "other", "-1", "99"]))] = data.draw(json_values)
    try:
        found = StateHeader.from_json(json.dumps(header).encode())
    except StateFormatError:
        return
    assert StateHeader.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"kind": "context"}', "\xff"])
def test_headers_that_are_none(text: str) -> None:
    with pytest.raises(StateFormatError, match="does not make sense"):
        StateHeader.from_json(text.encode("latin-1"))


@given(st.integers(0, 5 * checksum.BLOCK // 2), st.integers(0, 2**32), st.integers(1, 255))
def test_the_checksum(n: int, seed: int, flip: int) -> None:
    data = np.frombuffer(np.random.default_rng(seed).bytes(n + 1), dtype=np.uint8).copy()

    def digest(*, by: int) -> bytes:
        found = checksum.Checksum()
        for start in range(0, len(data), by):
            found.update(data[start : start + by])
        return found.digest()

    whole = digest(by=len(data))
    assert digest(by=checksum.BLOCK) == whole
    data[seed % len(data)] ^= flip
    assert digest(by=checksum.BLOCK) != whole


def test_the_checksum_finds_swapped_pages() -> None:
    data = np.frombuffer(np.random.default_rng(0).bytes(checksum.BLOCK), dtype=np.uint8).copy()

    def digest() -> bytes:
        found = checksum.Checksum()
        found.update(data)
        return found.digest()

    whole = digest()
    data[:8192] = np.roll(data[:8192], 4096)
    assert digest() != whole


# -- writing


def test_an_interrupted_write_leaves_the_old_file(
    saved: SavedState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    saved.write(path)
    before = path.read_bytes()

    def interrupted(file: object, data: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_state, "_write_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved.write(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_full_disk(model_path: Path, tmp_path: Path) -> None:
    program = """
        import errno, os, resource, signal, sys
        from llama_cffi import Batch, Context, ContextOptions, Llama, Model, PromptCache, SavedState
        from llama_cffi.errors import StateWriteError
        model = Model(sys.argv[1])
        context = Context(model, ContextOptions(n_ctx=256, n_batch=64, n_threads=1))
        batch = Batch(64)
        batch.extend(range(300, 364), 0)
        context.decode(batch)
        folder = sys.argv[2]
        file = os.path.join(folder, "state")
        saved = SavedState.take(context)
        saved.write(file)
        size = os.stat(file).st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for write in (saved.write, context.state.save_file, lambda path: context.state.seq_save_file(0, path)):
            try:
                write(file)
                print("written")
            except StateWriteError as error:
                print(isinstance(error, OSError), error.errno in (errno.EFBIG, None), "cannot write" in str(error))
        print(os.listdir(folder), os.stat(file).st_size == size)
        SavedState.read(file).restore(context)
        llm = Llama(model, n_ctx=256, n_threads=1, prompt_cache=PromptCache(os.path.join(folder, "cache")))
        print(len(llm.generate(list(range(300, 400)), max_tokens=3, temperature=0).tokens))
        print(os.listdir(os.path.join(folder, "cache")))
    """
    said = run_child(program, model_path, tmp_path).splitlines()
    assert said == ["True True True"] * 3 + ["['state'] True", "3", "[]"]


def test_where_nobody_may_write(saved: SavedState, tmp_path: Path) -> None:
    with pytest.raises(StateWriteError, match="No such file") as caught:
        saved.write(tmp_path / "none" / "state")
    assert caught.value.filename == os.fspath(tmp_path / "none" / "state")
    with pytest.raises(StateWriteError):
        saved.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_replacement(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 200)
    with files.replacement(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(FileNotFoundError), files.replacement(path, sync=False) as part:
        part.rename(tmp_path / "away")
    (tmp_path / "away").unlink()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_library_has_a_name() -> None:
    assert state_header.library_name().strip()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("sequences",), {str(2**31): {"n_past": 1, "cells": None, "media": []}}),
        (("sequences", "0", "n_past"), 2**40),
        (("sequences", "0", "cells"), [2**70]),
        (("memory", "n_ctx"), 10**30),
        (("memory", "rope"), [None, [], None]),
        (("memory", "rope"), [7, None, None]),
    ],
)
def test_numbers_that_llama_cpp_cannot_hold(whole: bytes, place: tuple[str, ...], value: Any) -> None:
    header = json.loads(whole[FRONT : header_end(whole)])
    part = header
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(StateFormatError, match="does not make sense"):
        StateHeader.from_json(json.dumps(header).encode())
