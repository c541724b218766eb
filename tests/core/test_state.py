"""The state of a Context: llama.cpp's bytes and files, and what comes of damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llama_cffi import Context, Model, State
from llama_cffi._native import abi
from llama_cffi._native.bindings import missing
from llama_cffi.core import state as state_module
from llama_cffi.errors import (
    BusyError,
    ClosedError,
    StaleViewError,
    StateError,
    StateFormatError,
    StateMismatchError,
    StateWriteError,
    UnsupportedError,
)
from tests.support.children import run_child
from tests.support.other_memories import write_windowed_model
from tests.support.states import OTHER, TEXT, decode, follow

if TYPE_CHECKING:
    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models"]


@pytest.fixture
def filled(context: Context) -> Context:
    """TEXT in sequence 0 and OTHER in sequence 2."""
    decode(context, TEXT)
    decode(context, OTHER, seq_id=2)
    return context


# -- what is restored goes on like the original


def test_a_whole_context(filled: Context, make_context: MakeContext) -> None:
    data = filled.state.data()
    assert (data.dtype.name, data.shape) == ("uint8", (filled.state.size,))
    expected = [follow(filled, len(TEXT)), follow(filled, len(OTHER), 2)]
    other = make_context()
    decode(other, OTHER, seq_id=1)
    other.state.set_data(data)
    assert [other.memory.seq_pos_max(i) for i in range(4)] == [len(TEXT) - 1, None, len(OTHER) - 1, None]
    np.testing.assert_array_equal(follow(other, len(TEXT)), expected[0])
    np.testing.assert_array_equal(follow(other, len(OTHER), 2), expected[1])


@pytest.mark.parametrize(
    "options", [{}, {"flash_attn": "disabled"}, {"type_k": "f32", "type_v": "bf16"}, {"kv_unified": False}]
)
def test_one_sequence_under_another_id(make_context: MakeContext, options: dict[str, Any]) -> None:
    context, other = make_context(**options), make_context(**options)
    decode(context, OTHER, seq_id=2)
    decode(context, TEXT, seq_id=1)
    data = context.state.seq_data(1)
    assert len(data) == context.state.seq_size(1)
    expected = follow(context, len(TEXT), 1)
    other.state.seq_set_data(3, data)
    # Other cells, so another order of the same sums.
    np.testing.assert_allclose(follow(other, len(TEXT), 3), expected, atol=1e-3)
    assert other.memory.seq_pos_max(1) is None


def test_the_logits_of_the_last_decode_stay(filled: Context) -> None:
    before, view = filled.outputs.logits(), filled.outputs.logits_view()
    filled.state.data()
    np.testing.assert_array_equal(view.array, before)
    filled.state.set_data(filled.state.data())
    with pytest.raises(StaleViewError):
        view.array  # noqa: B018 - raises


def test_into_a_buffer_and_from_any(filled: Context, make_context: MakeContext) -> None:
    n = filled.state.size
    room = bytearray(n + 10)
    found = filled.state.data(room)
    assert len(found) == n
    assert bytes(room[:n]) == found.tobytes()
    for source in (bytes(found), bytearray(found), memoryview(bytes(found)), found):
        other = make_context()
        other.state.set_data(source)
        assert other.memory.seq_pos_max(0) == len(TEXT) - 1
    with pytest.raises(ValueError, match=f"hold {n} bytes"):
        filled.state.data(bytearray(n - 1))
    with pytest.raises(ValueError, match="writable"):
        filled.state.data(bytes(n))
    small = np.empty(filled.state.seq_size(2), dtype=np.uint8)
    assert filled.state.seq_data(2, small).base is not None


def test_in_another_process(filled: Context, model_path: Path, tmp_path: Path) -> None:
    filled.state.save_file(tmp_path / "session", TEXT)
    program = """
        import sys
        from llama_cffi import Batch, Context, ContextOptions, Model
        model = Model(sys.argv[1])
        context = Context(model, ContextOptions(n_ctx=256, n_batch=64, n_ubatch=64, n_seq_max=4, n_threads=1))
        tokens = context.state.load_file(sys.argv[2])
        batch, chosen, pos, token = Batch(1), [], len(tokens), 5
        for pos in range(len(tokens), len(tokens) + 12):
            batch.single(token, pos, 0)
            context.decode(batch)
            chosen.append(token := int(context.outputs.logits().argmax()))
        print(*chosen)
    """
    said = run_child(program, model_path, tmp_path / "session")
    assert [int(word) for word in said.split()] == follow(filled, len(TEXT)).argmax(axis=1).tolist()


def test_what_stays_on_the_device(filled: Context, make_context: MakeContext) -> None:
    state = filled.state
    small = state.seq_data(0, on_device=True)
    assert len(small) < state.seq_size(0) == state.seq_size(0, on_device=False)
    expected = follow(filled, len(TEXT))
    state.seq_set_data(1, small, on_device=True)
    np.testing.assert_allclose(follow(filled, len(TEXT), 1), expected, atol=1e-3)
    with pytest.raises(StateMismatchError, match="its own context"):
        make_context().state.seq_set_data(0, small, on_device=True)
    with pytest.raises(StateMismatchError):
        state.seq_set_data(1, small, partial=True, on_device=True)
    state.seq_data(0, on_device=True)
    with pytest.raises(StateMismatchError, match="next one"):
        state.seq_set_data(1, small, on_device=True)


def test_partial_is_everything_where_all_can_be_cut(filled: Context, make_context: MakeContext) -> None:
    other = make_context()
    other.state.seq_set_data(0, filled.state.seq_data(0, partial=True), partial=True)
    assert other.memory.seq_pos_max(0) == len(TEXT) - 1


def test_a_window_is_put_back_beside_the_rest(make_context: MakeContext, tmp_path: Path) -> None:
    tokens = [300 + i % 7 for i in range(50)]
    with Model(write_windowed_model(tmp_path / "windowed.gguf")) as model:
        context, other = make_context(model, swa_full=False), make_context(model, swa_full=False)
        decode(context, tokens)
        decode(other, tokens)
        window = context.state.seq_data(0, partial=True)
        assert len(window) < context.state.seq_size(0) // 2
        for pos in range(50, 200):
            decode(context, [5], pos)
        # The layers that see everything can be cut; the others have forgotten what comes before.
        context.memory.seq_rm(0, 50)
        context.state.seq_set_data(0, window, partial=True)
        np.testing.assert_allclose(follow(context, 50), follow(other, 50), atol=1e-3)


def test_what_an_older_library_lacks(filled: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            raise missing(name)

    monkeypatch.setattr(state_module, "lib", Old())
    since = abi.since("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY")
    assert since is not None
    with pytest.raises(UnsupportedError) as caught:
        filled.state.seq_data(0, partial=True)
    assert caught.value.since == since.name
    with pytest.raises(UnsupportedError, match="ON_DEVICE"):
        filled.state.seq_set_data(0, b"x", on_device=True)
    assert len(filled.state.seq_data(0))


# -- llama.cpp's files


def test_session_files(filled: Context, make_context: MakeContext, tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_text("old")
    filled.state.save_file(path, TEXT)
    assert list(tmp_path.iterdir()) == [path]
    expected = follow(filled, len(TEXT))
    other = make_context()
    tokens = other.state.load_file(path)
    assert (tokens.dtype.name, tokens.tolist()) == ("int32", TEXT)
    np.testing.assert_array_equal(follow(other, len(TEXT)), expected)


def test_sequence_files(filled: Context, make_context: MakeContext, tmp_path: Path) -> None:
    path = tmp_path / "sequence"
    filled.state.seq_save_file(2, path)
    expected = follow(filled, len(OTHER), 2)
    other = make_context()
    assert other.state.seq_load_file(1, path).tolist() == []
    np.testing.assert_allclose(follow(other, len(OTHER), 1), expected, atol=1e-3)


def damaged_heads(data: bytes) -> dict[str, bytes]:
    n_tokens = struct.unpack_from("<I", data, 8)[0]
    return {
        "empty": b"",
        "head cut short": data[:11],
        "magic": b"ggml" + data[4:],
        "version": data[:4] + b"\x63" + data[5:],
        "more tokens than bytes": data[:8] + struct.pack("<I", len(data)) + data[12:],
        "most tokens": data[:8] + b"\xff" * 4 + data[12:],
        "cut in the tokens": data[: 12 + 4 * n_tokens - 1],
        "cut after the tokens": data[: 12 + 4 * n_tokens],
    }


@pytest.mark.parametrize("damage", damaged_heads(bytes(100)))
@pytest.mark.parametrize("kind", ["session", "sequence"])
def test_damaged_heads_of_files(filled: Context, tmp_path: Path, damage: str, kind: str) -> None:
    path, state = tmp_path / "file", filled.state
    save: Callable[[], None] = {
        "session": lambda: state.save_file(path, TEXT),
        "sequence": lambda: state.seq_save_file(0, path, TEXT),
    }[kind]
    save()
    path.write_bytes(damaged_heads(path.read_bytes())[damage])
    with pytest.raises(StateFormatError, match="file"):
        state.load_file(path) if kind == "session" else state.seq_load_file(1, path)
    # It was refused before llama.cpp saw it.
    assert filled.memory.seq_pos_max(0) == len(TEXT) - 1


def test_files_that_llama_cpp_refuses(filled: Context, tmp_path: Path) -> None:
    path, state = tmp_path / "file", filled.state
    state.save_file(path, TEXT)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StateError, match=r"llama\.cpp said"):
        state.load_file(path)
    assert filled.memory.seq_pos_max(0) is None
    state.seq_save_file(0, path)
    state.seq_load_file(1, path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(StateFormatError, match="were given"):
        state.seq_load_file(1, path)
    with pytest.raises(FileNotFoundError):
        state.load_file(tmp_path / "none")
    with pytest.raises(StateWriteError, match="No such file") as caught:
        state.save_file(tmp_path / "none" / "file")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == 2


def test_a_session_of_another_model(stories: Model, filled: Context, make_context: MakeContext, tmp_path: Path) -> None:
    # Both are of architecture llama: llama.cpp finds out by the widths of the cells.
    filled.state.save_file(tmp_path / "file", TEXT)
    other = make_context(stories)
    with pytest.raises(StateError):
        other.state.load_file(tmp_path / "file")
    decode(other, [1, 5])


# -- bad input


@pytest.mark.parametrize("seq_id", [-1, 4, 2**31])
def test_sequence_ids(filled: Context, tmp_path: Path, seq_id: int) -> None:
    state, data = filled.state, filled.state.seq_data(0)
    calls: list[Callable[[], object]] = [
        lambda: state.seq_size(seq_id),
        lambda: state.seq_data(seq_id),
        lambda: state.seq_set_data(seq_id, data),
        lambda: state.seq_save_file(seq_id, tmp_path / "file"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="seq_id must be 0 to 3"):
            call()


def test_bytes_that_are_no_state(filled: Context) -> None:
    whole = filled.state.data().tobytes()
    for data in (b"", b"abc", bytes(50), b"\xff" * 50, whole[:6]):
        with pytest.raises(StateFormatError):
            filled.state.set_data(data)
    with pytest.raises(StateMismatchError, match="'lxama'"):
        filled.state.set_data(whole.replace(b"llama", b"lxama", 1))
    assert filled.memory.seq_pos_max(0) == len(TEXT) - 1
    with pytest.raises(StateError, match="refuses"):
        filled.state.set_data(whole[:-1])
    assert filled.memory.seq_pos_max(0) is None
    with pytest.raises(StateFormatError, match="ends after"):
        filled.state.set_data(whole + b"x")
    filled.state.set_data(whole)
    assert filled.memory.seq_pos_max(0) == len(TEXT) - 1


def test_other_types_of_cells(filled: Context, make_context: MakeContext) -> None:
    with pytest.raises(StateError, match="mismatched key type"):
        make_context(type_k="f32").state.set_data(filled.state.data())


def test_closed_and_busy(filled: Context, make_context: MakeContext) -> None:
    import threading

    state, errors = filled.state, []

    def elsewhere() -> None:
        try:
            state.data()
        except BusyError as error:
            errors.append(error)

    with filled.lock():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(errors) == 1
    filled.close()
    for use in (lambda: filled.state, lambda: state.size, lambda: state.set_data(b"\x05\0\0\0llama")):
        with pytest.raises(ClosedError):
            use()
    assert isinstance(state, State)


FLIPS = r"""
import random, sys
from pathlib import Path
import numpy as np
from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi.errors import LlamaCffiError

chance = random.Random(int(sys.argv[2]))
model = Model(sys.argv[1])
file = Path(sys.argv[3])
seen = {"taken": 0, "refused": 0}
for kind in ({"flash_attn": "enabled"}, {"flash_attn": "disabled", "kv_unified": False}):
    options = ContextOptions(n_ctx=64, n_batch=32, n_ubatch=32, n_seq_max=2, n_threads=1, **kind)

    def decode(context, tokens, pos, seq_id):
        batch = Batch(len(tokens))
        batch.extend(tokens, pos, seq_id, output_last=True)
        context.decode(batch)

    context = Context(model, options)
    for seq_id in range(2):
        decode(context, range(300, 308), 0, seq_id)
    whole, one = context.state.data().tobytes(), context.state.seq_data(1).tobytes()
    context.state.save_file(file, [1, 2, 3])
    session = file.read_bytes()
    for _ in range(150):
        source = chance.choice([whole, one, session])
        data = bytearray(source)
        for _ in range(chance.choice([1, 1, 2, 4])):
            # Lengths, positions and types are in the first few hundred bytes.
            place = chance.randrange(320 if chance.random() < 0.8 else len(data))
            data[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)):]
        try:
            if source is whole:
                context.state.set_data(data)
            elif source is one:
                context.state.seq_set_data(chance.randrange(2), data)
            else:
                file.write_bytes(data)
                context.state.load_file(file)
            seen["taken"] += 1
        except LlamaCffiError:
            seen["refused"] += 1
        for seq_id in range(2):
            try:
                last = context.memory.seq_pos_max(seq_id)
                decode(context, [5, 6], 0 if last is None else last + 1, seq_id)
                context.memory.seq_rm(seq_id, 3, 5)
            except (LlamaCffiError, ValueError, OverflowError):
                pass
    context.memory.clear()
    decode(context, [1, 5, 6], 0, 0)
    assert np.isfinite(context.outputs.logits()).all()
print(seen["taken"] > 20 and seen["refused"] > 20 or seen)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_flipped_bytes_never_end_the_process(model_path: Path, tmp_path: Path, seed: int) -> None:
    assert run_child(FLIPS, model_path, seed, tmp_path / "file").strip() == "True"
