"""What is declared of llama.cpp is used: by the package, or by the tests that are named for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_cffi._native import abi, features
from llama_cffi._native.abi import media
from tests.support.used_names import used

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llama_cffi"

# Declared, and in the table of features, ahead of the code that uses them.
AHEAD = {
    "LLAMA_PROCESS_TYPE_DECODE",
    "ggml_threadpool_params_default",
    "ggml_threadpool_params_match",
    "gguf_init_from_buffer",
    "gguf_init_from_file_ptr",
    "llama_adapter_lora_init_from_file_ptr",
    "llama_detach_threadpool",
    "llama_get_sampled_probs_count_ith",
    "llama_get_sampled_probs_ith",
    "llama_get_sampled_token_ith",
    "llama_n_threads",
    "llama_n_threads_batch",
    "llama_process",
}
BATCHES_AHEAD = "llama_batch_ext_"
"""What the names of the functions of a kind of batch begin with that nothing uses yet."""
# Of libmtmd, what the tests compare with.
MEDIA_OF_TESTS = {
    "mtmd_default_marker",
    "mtmd_helper_decode_image_chunk",
    "mtmd_helper_eval_chunk_single",
    "mtmd_tokenize",
}


def _is_generated(path: Path) -> bool:
    return path.parent.name == "abi" and path.name.startswith("_") and path.name != "__init__.py"


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    """The code of the package; the table itself and generated modules mention everything."""
    files = [one for one in PACKAGE.rglob("*") if one.suffix in (".py", ".cpp", ".hpp", ".inc")]
    return [one for one in files if one.name != "features.py" and not _is_generated(one)]


@pytest.fixture(scope="module")
def functions() -> set[str]:
    return set(abi.pinned_functions()) | media.functions()


def test_every_declared_function_is_called(sources: list[Path], functions: set[str]) -> None:
    of_tests = features._OF_TESTS | MEDIA_OF_TESTS
    called = used(functions, sources)
    idle = {name for name in functions - called - of_tests - AHEAD if not name.startswith(BATCHES_AHEAD)}
    assert idle == set(), "nothing calls them: delete their declarations, and filter the data of abi/"
    ahead = {name for name in called if name in AHEAD or name.startswith(BATCHES_AHEAD)}
    assert ahead == set(), "they are called: take them out of what is ahead"
    assert called & of_tests == set(), "the package calls them: they are not of the tests alone"


def test_what_is_declared_for_tests_is_called_by_them() -> None:
    tests = [one for one in (ROOT / "tests").rglob("*.py") if one != Path(__file__)]
    wanted = features._OF_TESTS | MEDIA_OF_TESTS
    assert used(wanted, tests) == wanted


def test_the_features_are_what_is_used(sources: list[Path]) -> None:
    """A row needs nothing that no code uses, and each function that is called has a row."""
    rows = dict(zip((name for name, *_ in features._TABLE), features._needs(), strict=True))
    needs = [need for row in rows.values() for need in row]
    functions = set(abi.pinned_functions())
    called = used(functions, sources) - features._IN_BACKEND
    assert called <= set(needs)
    # A field is set and read by its name; which struct it is of, the compiler checks.
    words = used({need.rpartition(".")[2] for need in needs}, sources)
    idle = {name: [need for need in row if need.rpartition(".")[2] not in words] for name, row in rows.items()}
    for row in idle.values():
        row[:] = [need for need in row if need not in AHEAD and not need.startswith(BATCHES_AHEAD)]
    assert {name: row for name, row in idle.items() if row} == {}
    assert all(rows.values()), "a row that needs nothing says nothing"


def test_a_mention_is_not_a_use(tmp_path: Path) -> None:
    python, cpp = tmp_path / "code.py", tmp_path / "code.cpp"
    python.write_text(
        '"""Wraps llama_docstring."""\n'
        "# llama_comment\n"
        "lib.llama_attribute(1)\n"
        'call("llama_string", b"llama_bytes", f"llama_state_{kind}_size{ext}", "see llama_sentence", f"{kind}_any")\n'
    )
    cpp.write_text("// llama_line\n/* llama_block */ int n = llama_word(3);\n")
    calls = {"llama_attribute", "llama_string", "llama_bytes", "llama_state_seq_size", "llama_state_seq_size_ext"}
    others = {"llama_docstring", "llama_comment", "llama_sentence", "llama_line", "llama_block", "llama_any"}
    assert used(calls | others | {"llama_word"}, [python, cpp]) == calls | {"llama_word"}
