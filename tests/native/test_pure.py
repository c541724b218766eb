"""The helpers in Python against the compiled ones: the same names, and the same results."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi._native import helpers, pure
from llama_cffi.errors import LibraryError
from tests.support.children import ROOT

if helpers.KIND == "compiled":
    from llama_cffi._native import compiled
else:
    pytest.skip("there are no compiled helpers to compare with", allow_module_level=True)

KINDS: list[ModuleType] = [compiled, pure]

ONLY_COMPILED = {
    # What C++ asks of Python.
    "lch_abort_signals", "lch_on_fatal", "lch_python_signals", "lch_python_stacks",
    # What Python knows itself.
    "lch_is_main_thread", "lch_main_thread",
}  # fmt: skip

ERROR, WARN, INFO, DEBUG, CONT = 4, 3, 2, 1, 5


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.rpartition(".")[2])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_both_have_the_same_names_and_numbers() -> None:
    names = {name for name in dir(compiled.lib) if name.lower().startswith("lch_")} - ONLY_COMPILED
    assert names
    assert {name for name in names if not hasattr(pure.lib, name)} == set()
    for name in names:
        number = getattr(compiled.lib, name)
        if isinstance(number, int):
            assert getattr(pure.lib, name) == number, name


def test_structs_have_the_same_fields(checkout: Path) -> None:
    text = (checkout / "llama_cffi/_native/helpers/helpers.h").read_text(encoding="utf-8")
    for struct in ("lch_line", "lch_door", "lch_step"):
        fields = {name for name, _ in compiled.ffi.typeof(struct).fields}
        assert struct in text
        twin = getattr(pure.lib, struct)
        assert fields <= {*twin.__annotations__, *getattr(twin, "__slots__", ())}, struct


# -- token selection


def random_row(rng: np.random.Generator) -> Any:
    size = int(rng.choice([1, 3, 40, 511, 512, 513, 1000, 4000, 32000]))
    row = rng.normal(0, rng.choice([0.5, 2, 6]), size)
    match rng.integers(6):
        case 0:
            row[rng.random(size) < 0.8] = -np.inf
            row[0] = 1
        case 1:
            row += 5000
        case 2:
            row = np.round(row)  # many equal ones
        case 3:
            row[rng.integers(size)] += 8
    return row.astype(np.float32)


def random_parameters(rng: np.random.Generator) -> tuple[float, int, float, float, int]:
    return (
        float(rng.choice([0, 1e-8, 0.3, 0.8, 1, 1.7, 50, np.inf])),
        int(rng.choice([0, 0, 1, 2, 40, 300, 2500])),
        float(rng.choice([0, 0.01, 0.5, 0.9, 0.95, 0.999, 1, 1])),
        float(rng.choice([0, 0, 1e-4, 0.05, 0.5, 1])),
        int(rng.integers(2**63)),
    )


@pytest.mark.parametrize("seed", range(150))
def test_the_same_seed_draws_the_same_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row, parameters = random_row(rng), random_parameters(rng)
    drawn = []
    for kind in KINDS:
        one = kind.lib.lch_selector_new(*parameters)
        at = kind.ffi.from_buffer("float[]", row)
        tokens = [kind.lib.lch_select(one, at, len(row)) for _ in range(30)]
        two = kind.lib.lch_selector_clone(one)
        tokens += [kind.lib.lch_select(who, at, len(row)) for who in (one, two)]
        assert tokens[-1] == tokens[-2]
        kind.lib.lch_selector_reset(one)
        assert kind.lib.lch_select(one, at, len(row)) == tokens[0]
        kind.lib.lch_selector_free(one)
        kind.lib.lch_selector_free(two)
        drawn.append(tokens)
    assert drawn[0] == drawn[1], parameters


ODD = [-np.inf, np.inf, np.nan, -3.0, -0.0, 0.0, 2.5, 2.5000002, 3e38, -3e38]


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(ODD), max_size=600),
    st.sampled_from([0.0, 0.7, 1e9]),
    st.sampled_from([0, 3, 100]),
    st.sampled_from([0.5, 1.0]),
)
def test_odd_rows_give_the_same_token_or_error(
    values: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    row = np.array([*values, 0], dtype=np.float32)
    results = []
    for kind in KINDS:
        selector = kind.lib.lch_selector_new(temperature, top_k, top_p, 0.0, 5)
        results.append([kind.lib.lch_select(selector, kind.ffi.from_buffer("float[]", row), n) for n in (len(row), 0)])
        kind.lib.lch_selector_free(selector)
    assert results[0] == results[1]


@pytest.mark.parametrize("seed", range(40))
def test_log_probabilities_agree(seed: int) -> None:
    row = random_row(np.random.default_rng(seed))
    n, k = len(row), min(len(row), 30)
    found = []
    for kind in KINDS:
        at = kind.ffi.from_buffer("float[]", row)
        out, ids, values = kind.ffi.new("double *"), kind.ffi.new("int32_t[]", k), kind.ffi.new("float[]", k)
        assert kind.lib.lch_logprob(at, n, n // 2, out) == 0
        best = kind.lib.lch_top_logprobs(at, n, k, ids, values)
        found.append((list(ids)[:best], [out[0], *list(values)[:best]]))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=5e-6)


@pytest.mark.parametrize("seed", range(20))
def test_doubles_place_a_draw_as_floats_do_or_say_that_they_cannot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    temperature, _, top_p, min_p, _ = random_parameters(rng)
    selector = pure.lib.lch_selector_new(temperature or 0.8, 40, top_p or 0.9, min_p, 0)
    values = np.sort(rng.normal(0, rng.choice([0.1, 3, 300]), 40).astype(np.float32))[::-1]
    draws = [*rng.random(500), 0.0, 1 - 2**-53]
    if seed % 2:
        # As near to the ends of what is drawn as a number can be.
        weights = np.exp((values.astype(np.float64) - values[0]) / selector.temperature)
        draws += (weights.cumsum() / weights.sum()).clip(0, 1 - 2**-53).tolist()
    undecided = 0
    for u in draws:
        place = selector._place_of_few(values.tolist(), values[0], u)
        if place is None:
            undecided += 1
        else:
            assert place == selector._place(values, values[0], u)
    if top_p == 1 and selector.temperature > 0.1 and not seed % 2:
        assert undecided < 10


@pytest.mark.parametrize("seed", range(5))
def test_candidates_agree(seed: int) -> None:
    row = random_row(np.random.default_rng(seed))
    records = [np.full(3 * len(row), np.nan, dtype=np.float32) for _ in KINDS]
    for kind, filled in zip(KINDS, records, strict=True):
        kind.lib.lch_candidates(kind.ffi.from_buffer("float[]", row), len(row), kind.ffi.from_buffer(filled))
    assert records[0].tobytes() == records[1].tobytes()
    assert records[0].view(np.int32)[::3].tolist() == list(range(len(row)))
    np.testing.assert_array_equal(records[0][1::3], row)
    assert not records[0][2::3].any()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_both_see_a_bad_logit(kind: Any, bad: float) -> None:
    rng = np.random.default_rng(1)
    for n in (1, 5, 40, 333):
        # Whatever ids and probabilities look like as logits.
        records = np.full((n, 3), np.nan, dtype=np.float32)
        records[:, 1] = rng.choice([0.0, -np.inf, 3e38, -3e38, 1e-40], n)
        assert kind.lib.lch_sound(kind.ffi.from_buffer(records), n)
        for i in range(n):
            good, records[i, 1] = records[i, 1], bad
            assert not kind.lib.lch_sound(kind.ffi.from_buffer(records), n)
            records[i, 1] = good


# -- the log


LINES = st.lists(
    st.tuples(
        st.sampled_from([DEBUG, INFO, WARN, ERROR, CONT, CONT]),
        st.text("ab\n", max_size=8) | st.integers(400, 1500).map(lambda n: "x" * n + "\n"),
    ),
    max_size=30,
)


@settings(max_examples=100)
@given(LINES)
def test_the_rings_hold_the_same_lines(said: list[tuple[int, str]]) -> None:
    rings = []
    for kind in KINDS:
        place = kind.ffi.new("uint64_t *", kind.lib.lch_log_end())
        # What the last example left unfinished decides about lines that go on.
        kind.lib.lch_log(INFO, b"begin\n", kind.ffi.NULL)
        for level, text in said:
            kind.lib.lch_log(level, text.encode(), kind.ffi.NULL)
        end = kind.lib.lch_log_end()
        line, lines = kind.new("lch_line"), []
        while kind.lib.lch_log_read(place, 1, line):
            lines.append((line.level, kind.ffi.string(line.text)))
        assert place[0] == end
        rings.append(lines)
    assert rings[0] == rings[1]


def test_lines_of_a_thread_that_python_did_not_start(kind: Any) -> None:
    """libc starts it: the log must take lines from threads that have no Python frame."""
    place = kind.ffi.new("uint64_t *", kind.lib.lch_log_end())
    libc, thread = ctypes.CDLL(None), ctypes.c_ulong()
    log = int(kind.ffi.cast("intptr_t", kind.address("lch_log")))
    speak = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(log)
    body = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: speak(ERROR, b"from afar\n", None))
    assert libc.pthread_create(ctypes.byref(thread), None, body, None) == 0
    assert libc.pthread_join(thread, None) == 0
    line = kind.new("lch_line")
    assert kind.lib.lch_log_read(place, 1, line) == 0
    place[0] -= 1
    assert kind.lib.lch_log_read(place, 0, line) == 1
    assert kind.ffi.string(line.text) == b"from afar"


# -- the flag


def asked(kind: Any, state: Any) -> bool:
    """What llama.cpp is told."""
    check = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(
        int(kind.ffi.cast("intptr_t", kind.address("lch_abort_check")))
    )
    return bool(check(int(kind.ffi.cast("intptr_t", kind.pointer(state)))))


def test_the_flag_stops_and_the_deadline_is_apart_from_it(kind: Any) -> None:
    lib, state = kind.lib, kind.new("lch_abort")
    lib.lch_abort_arm(state)
    assert not asked(kind, state)
    lib.lch_abort_set(state, 1)
    assert asked(kind, state)
    assert lib.lch_abort_isset(state)
    lib.lch_abort_deadline(state, 1)
    lib.lch_abort_arm(state)
    lib.lch_abort_set(state, 0)
    lib.lch_abort_arm(state)
    assert asked(kind, state)
    assert not lib.lch_abort_isset(state)
    lib.lch_abort_deadline(state, lib.lch_abort_now() + 10**12)
    lib.lch_abort_arm(state)
    assert not asked(kind, state)
    lib.lch_abort_deadline(state, 1)
    lib.lch_abort_arm(state)
    lib.lch_abort_set(state, 1)
    lib.lch_abort_deadline(state, 0)
    lib.lch_abort_arm(state)
    assert asked(kind, state)


def test_a_computation_that_takes_too_long_is_an_aborted_one_in_python() -> None:
    lib, state = pure.lib, pure.new("lch_abort")

    def compute(seconds: float, status: int = 0) -> int:
        def decode(ctx: Any, batch: Any) -> int:
            time.sleep(seconds)
            return status

        lib.lch_abort_arm(state)
        return int(lib.lch_batch(decode, None, [None], 0))

    assert compute(0.02) == 0
    lib.lch_abort_deadline(state, lib.lch_abort_now() + 10**7)
    assert compute(0.02, status=1) == 1
    assert compute(0.0) == 2
    lib.lch_abort_deadline(state, lib.lch_abort_now() + 10**12)
    assert compute(0.0) == 0
    lib.lch_abort_deadline(state, 1)
    # Who has not armed a flag does not obey one.
    assert lib.lch_batch(lambda ctx, batch: 0, None, [None], 0) == 0


# -- the door


def test_the_door_lets_one_thread_in(kind: Any) -> None:
    lib, door = kind.lib, kind.new("lch_door")
    lib.lch_door_init(door)
    seen: list[int] = []

    def elsewhere() -> int:
        thread = threading.Thread(target=lambda: seen.append(lib.lch_door_enter(door)))
        thread.start()
        thread.join()
        return seen[-1]

    assert lib.lch_door_enter(door) == lib.LCH_DOOR_ENTERED
    assert lib.lch_door_enter(door) == lib.LCH_DOOR_NESTED
    door.computing = 1
    assert lib.lch_door_enter(door) == lib.LCH_DOOR_COMPUTING
    door.computing = 0
    assert elsewhere() == lib.LCH_DOOR_BUSY
    lib.lch_door_leave(door)
    assert elsewhere() == lib.LCH_DOOR_ENTERED
    assert lib.lch_door_enter(door) == lib.LCH_DOOR_BUSY
    lib.lch_door_leave(door)
    lib.lch_door_leave(door)
    assert lib.lch_door_enter(door) == lib.LCH_DOOR_ENTERED
    lib.lch_door_leave(door)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_door_of_the_parent_is_shut_in_the_child(kind: Any) -> None:
    door = kind.new("lch_door")
    kind.lib.lch_door_init(door)
    child = os.fork()
    if not child:
        own = kind.new("lch_door")
        kind.lib.lch_door_init(own)
        result = kind.lib.lch_door_enter(door), kind.lib.lch_door_enter(own)
        os._exit(0 if result == (kind.lib.LCH_DOOR_FORKED, kind.lib.LCH_DOOR_ENTERED) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert kind.lib.lch_door_enter(door) == kind.lib.LCH_DOOR_ENTERED


# -- the choice


def child(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_the_environment_chooses() -> None:
    code = "from llama_cffi._native import helpers; print(helpers.KIND)"
    assert child(code, LLAMA_CFFI_HELPERS="") == "compiled\n"
    assert child(code, LLAMA_CFFI_HELPERS="none") == "python\n"
    assert f"{LibraryError.__name__}: LLAMA_CFFI_HELPERS must be none" in child(code, LLAMA_CFFI_HELPERS="no")


def test_an_extension_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    code = f"""
import llama_cffi._native
llama_cffi._native.__path__.insert(0, {str(tmp_path)!r})
from llama_cffi._native import helpers
"""
    (tmp_path / "_helpers.abi3.so").write_bytes(b"no ELF file")
    assert re.search(
        r"LibraryError: the compiled helpers are installed but cannot be loaded: .*_helpers\.abi3\.so", child(code)
    )


def test_the_tests_of_the_helpers_pass_without_them(checkout: Path) -> None:
    files = [f"tests/native/test_{name}.py" for name in ("abort", "gate", "guard", "log")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=checkout,
        env={**os.environ, "LLAMA_CFFI_HELPERS": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_an_interrupt_in_a_log_line_is_raised_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = pure.log
    handled: list[int] = []

    def interrupted(text: bytes) -> None:
        handled.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "_append", interrupted)

    def line() -> None:
        log.lch_log(ERROR, pure.ffi.new("char[]", b"a line\n"), pure.ffi.NULL)
        for _ in range(3):
            pass

    with pytest.raises(KeyboardInterrupt):
        line()
    assert handled == [1]
    assert capfd.readouterr().err == ""
