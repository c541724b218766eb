"""scripts/add_abi.py: reading headers, cutting releases into generations, naming sources."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from _abi.generations import Release, changes, group, lifetimes
from _abi.sources import Source, commit_in_changelog, locate, version_of
from _libllama.report import BuildError
from add_abi import extended
from llama_cffi._native.abi.derive.describe import Description
from llama_cffi._native.abi.derive.headers import read_cdefs, read_headers
from llama_cffi._native.abi.derive.layout import default_bytes, defined_functions, measure, picture
from llama_cffi.errors import LibraryError

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None or shutil.which("c++") is None, reason="no C compiler")

HEADER = """
#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
enum llama_kind { LLAMA_KIND_A = -1, LLAMA_KIND_B = 7 };
typedef bool (*llama_callback)(void * data);
struct llama_model_params {
    int32_t n;
    bool flag;
    void * data;
    union { int64_t i; char c[16]; };
    char name[4 * sizeof(int16_t)];
};
struct llama_context_params { float f; llama_callback call; enum llama_kind kind; };
struct llama_model_quantize_params { uint8_t bytes[24]; };
__attribute__((deprecated("no"))) int llama_old(const struct llama_model_params * params);
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
struct llama_model_quantize_params llama_model_quantize_default_params(void);
static inline int llama_inline(int x) {
    return x;
}
#ifdef __cplusplus
}
#endif
"""
CODE = """
#include "llama.h"
static const int LLAMA_MANY = 3;
llama_model_params llama_model_default_params() {
    llama_model_params result = { LLAMA_MANY, true, nullptr, { 0 }, { 0 } };
#ifdef GGML_USE_METAL
    result.n = 999;
#endif
    return result;
}
struct llama_context_params llama_context_default_params() {
    llama_context_params result = { -1.0f, nullptr, LLAMA_KIND_B };
    return result;
}
llama_model_quantize_params llama_model_quantize_default_params(void) {
    return {};
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "include").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "include" / "llama.h").write_text(HEADER, encoding="utf-8")
    (tmp_path / "src" / "llama.cpp").write_text(CODE, encoding="utf-8")
    return tmp_path


@needs_compiler
def test_headers_give_functions_structs_and_enums(tree: Path) -> None:
    found = read_headers(tree)
    assert found.functions["llama_old"] == "int llama_old(const struct llama_model_params *params)"
    assert found.shapes["llama_old"] == "int32_t llama_old(struct llama_model_params *)"
    assert "llama_inline" not in found.functions
    assert found.enums == {"llama_kind": ["LLAMA_KIND_A", "LLAMA_KIND_B"]}
    assert [name for _, name in found.structs["llama_model_params"].fields] == ["n", "flag", "data", "", "name"]
    assert found.typedefs["llama_callback"] == "typedef bool (*llama_callback)(void *data)"


@needs_compiler
def test_the_compiler_tells_places_and_values(tree: Path) -> None:
    found = read_headers(tree)
    measured = measure(tree, found, ["llama_model_params"], ["LLAMA_KIND_A", "LLAMA_KIND_B"])
    assert measured.values == {"LLAMA_KIND_A": -1, "LLAMA_KIND_B": 7}
    assert measured.places["llama_model_params"] == {
        "": [0, 40],
        "n": [0, 4],
        "flag": [4, 1],
        "data": [8, 8],
        "#3": [16, 16],
        "name": [32, 8],
    }
    assert measured.lengths == {("llama_model_params", "name"): 8}


@needs_compiler
def test_defaults_are_what_the_source_returns(tree: Path) -> None:
    values = default_bytes(tree)
    assert values["llama_model_default_params"][:10] == "????000001"
    assert picture(values["llama_model_default_params"], [[0, 4], [4, 1], [8, 8]])[:16] == "????000001......"
    assert values["llama_context_default_params"].startswith("000080bf")
    assert values["llama_context_default_params"][32:40] == "07000000"
    assert values["llama_model_quantize_default_params"] == "00" * 24


def test_a_declared_function_without_a_definition_is_no_symbol(tree: Path) -> None:
    assert defined_functions(tree, {"llama_old", "llama_model_default_params"}) == {"llama_model_default_params"}


@needs_compiler
def test_a_source_without_defaults_is_refused(tree: Path) -> None:
    (tree / "src" / "llama.cpp").write_text("", encoding="utf-8")
    with pytest.raises(LibraryError, match="llama_model_default_params is not defined once"):
        default_bytes(tree)


def test_trimmed_headers_are_closed_and_read() -> None:
    found = read_cdefs(
        [
            "#define LLAMA_MANY ...\nenum llama_kind { LLAMA_KIND_A, ... };\n"
            "struct llama_x { int n; char name[...]; ...; };\n"
            'extern "Python" bool llama_cffi_call(void * data);\nvoid llama_f(struct llama_x x);'
        ]
    )
    assert found.enums == {"llama_kind": ["LLAMA_KIND_A"]}
    assert [name for _, name in found.structs["llama_x"].fields] == ["n", "name"]
    assert list(found.functions) == ["llama_f"]


def release(name: str, **changed: Any) -> Release:
    facts: dict[str, Any] = {
        "structs": {"llama_x": {"size": 8, "fields": [["int n", "n", 0, 4], ["int m", "m", 4, 4]]}},
        "functions": {"llama_f": "void llama_f(int n)"},
        "shapes": {"llama_f": "void llama_f(int32_t)"},
        "constants": {"LLAMA_A": 1, "LLAMA_COUNT": 2},
        "types": {},
        "legacy": {},
        "symbols": ["llama_f"],
        "images": {},
        "enums": {},
    }
    return Release(Source(Path("."), name), "", Description(**{**facts, **changed}))


STRUCT = {"llama_x": {"size": 12, "fields": [["int n", "n", 0, 4], ["int m", "m", 4, 4], ["int k", "k", 8, 4]]}}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"structs": STRUCT}, "struct llama_x (8 -> 12 bytes): +k"),
        (
            {"shapes": {"llama_f": "void llama_f(char)"}, "functions": {"llama_f": "void llama_f(char n)"}},
            "function void llama_f(int n) -> void llama_f(char n)",
        ),
        ({"constants": {"LLAMA_A": 2, "LLAMA_COUNT": 2}}, "constant LLAMA_A: 1 -> 2"),
    ],
)
def test_a_change_makes_a_generation(changed: dict[str, Any], reason: str) -> None:
    groups = group([release("b1"), release("b2"), release("b3", **changed)])
    assert [[one.source.name for one in each.releases] for each in groups] == [["b1", "b2"], ["b3"]]
    assert changes(*groups) == [reason]


@pytest.mark.parametrize(
    "changed",
    [
        {"functions": {"llama_f": "void llama_f(int x)"}},
        {"constants": {"LLAMA_A": 1, "LLAMA_B": 5, "LLAMA_COUNT": 3}},
        {"shapes": {}, "functions": {}},
        {"images": {"f": "00"}},
    ],
)
def test_what_is_no_other_interface_joins(changed: dict[str, Any]) -> None:
    assert len(group([release("b1"), release("b2", **changed)])) == 1


def test_lifetimes_name_the_first_and_the_last_release() -> None:
    found = lifetimes([release("b1"), release("b2", structs=STRUCT), release("b3", structs={}, functions={})])
    assert found["since"] == {"llama_x.k": "b2"}
    assert found["until"] == {"llama_f": "b2", "llama_x.k": "b2", "llama_x.m": "b2", "llama_x.n": "b2"}


def test_the_commit_is_the_newest_up_to_the_version() -> None:
    text = (
        "## [0.3.3]\n- update llama.cpp to x/llama.cpp@ccccccc\n## [0.3.2]\n- fix\n## [0.3.1]\n- x/llama.cpp@aaaaaaa\n"
    )
    assert commit_in_changelog(text, "0.3.3") == "ccccccc"
    assert commit_in_changelog(text, "0.3.2") == "aaaaaaa"
    assert commit_in_changelog(text, "9.9.9") == ""


def test_a_new_release_goes_before_the_pinned_one_or_where_it_is_put() -> None:
    new = Source(Path("."), "b5", "b5b5b5b5b", "", "0.9.9")
    entry = {"name": "b5", "commit": "b5b5b5b5b", "source": "0.9.9"}
    known = [{"name": "b1"}, {"name": "b9"}]
    assert extended(list(known), [new], None) == [known[0], entry, known[1]]
    assert extended(list(known), [new], "b9") == [*known, entry]
    with pytest.raises(BuildError, match="no release b7"):
        extended(list(known), [new], "b7")
    with pytest.raises(BuildError, match="already"):
        extended(list(known), [Source(Path("."), "b1")], None)


@pytest.mark.parametrize("text", ["nothing-here", "nothing.tar.gz", "1.2"])
def test_an_argument_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match=r"no folder|no file"):
        locate(text)


def test_a_folder_without_llama_h_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"not a llama\.cpp source tree"):
        read_headers(locate(str(tmp_path)).path)


def test_an_sdist_is_cut_down_to_its_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_abi.sources.CACHE", tmp_path / "cache")
    top = "llama_cpp_python-1.2.3"
    files = {
        "CHANGELOG.md": "## [1.2.3]\n- ggml-org/llama.cpp@0123456789abcdef\n",
        "CMakeLists.txt": "set(LLAMA_VERSION_MAJOR 9)",
        "vendor/llama.cpp/CMakeLists.txt": "".join(
            f"set(LLAMA_VERSION_{part} {value})\n" for part, value in [("MAJOR", 1), ("MINOR", 5), ("PATCH", 2)]
        ),
        "vendor/llama.cpp/include/llama.h": HEADER,
        "vendor/llama.cpp/tools/big.cpp": "not kept",
    }
    sdist = tmp_path / f"{top}.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    source = locate(str(sdist))
    assert (source.name, source.commit, source.date, source.origin) == ("012345678", "012345678", "", "1.2.3")
    assert version_of(source.path) == "1.5.2"
    kept = {path.relative_to(source.path).as_posix() for path in source.path.rglob("*") if path.is_file()}
    assert kept == {"CMakeLists.txt", "COMMIT", "include/llama.h"}


def test_an_sdist_with_its_git_folder_tells_commit_and_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git")
    monkeypatch.setattr("_abi.sources.CACHE", tmp_path / "cache")
    work = tmp_path / "work"
    identity = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    when = {"GIT_COMMITTER_DATE": "2026-03-04T12:00:00Z", "GIT_AUTHOR_DATE": "2026-03-04T12:00:00Z"}
    for command in (["init", "-q", str(work)], ["-C", str(work), *identity, "commit", "-q", "--allow-empty", "-mx"]):
        subprocess.run(["git", *command], check=True, env={**os.environ, **when})
    head = subprocess.check_output(["git", "-C", str(work), "rev-parse", "HEAD"], text=True)
    (work / ".git" / "HEAD").write_text(head, encoding="utf-8")
    sdist = tmp_path / "llama_cpp_python-1.2.4.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(work / ".git", "llama_cpp_python-1.2.4/.git/modules/vendor/llama.cpp")
    source = locate(str(sdist))
    assert (source.commit, source.date) == (head[:9], "2026-03-04")
