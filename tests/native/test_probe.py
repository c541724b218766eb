"""Files that lie about what they are: each is refused with its reason, soon, and the host lives on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama_cffi._native import abi, cache, compatibility, probe
from llama_cffi._native.abi.derive import derive
from llama_cffi._native.abi.derive.headers import read_headers
from llama_cffi.cli.library_report import report_library
from llama_cffi.errors import LibraryError
from tests.native.test_abi_data import NPM_LIBRARIES
from tests.support.children import run_child
from tests.support.npm import library_folder
from tests.support.stubs import PINNED, compile_library, images_of, libllama, needs_compiler

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "build" / "libllama" / "include"
LIBRARIES = ROOT / "build" / "libllama" / "lib"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the stubs are ELF files"),
    needs_compiler,
]
needs_headers = pytest.mark.skipif(not (INCLUDE / "llama.h").is_file(), reason="no build/libllama with headers")
needs_libllama = pytest.mark.skipif(not (LIBRARIES / "libllama.so").exists(), reason="no build/libllama")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compatibility.INCLUDE_VAR, raising=False)
    return cache.folder()


@contextmanager
def soon(seconds: float = 10) -> Iterator[None]:
    before = time.monotonic()
    yield
    assert time.monotonic() - before < seconds


def refusal(path: Path) -> str:
    with soon(), pytest.raises(LibraryError) as caught:
        compatibility.check_library(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def changed(function: str, place: int, data: bytes) -> dict[str, bytes]:
    """The pinned defaults with other bytes at one place; behind the end they make the struct longer."""
    images = images_of(PINNED)
    old = images[function]
    return images | {function: old[:place] + data + old[place + len(data) :]}


# -- a stub that tells the truth: what the lies are measured against


def test_an_honest_stub_is_recognized(tmp_path: Path) -> None:
    found = compatibility.check_library(libllama(tmp_path / "libllama.so"))
    assert found.generation is PINNED
    assert (found.doubtful, found.reasons, found.include) == (frozenset(), (), None)


def test_what_a_library_prints_does_not_matter(tmp_path: Path) -> None:
    junk = """
        #include <stdio.h>
        #include <unistd.h>
        __attribute__((constructor)) static void talk(void) {
            printf("{\\"version\\": \\"9\\"}\\n"); fflush(stdout);
            for (int fd = 0; fd < 20; fd++) { write(fd, "junk", 4); }
        }
    """
    assert compatibility.check_library(libllama(tmp_path / "libllama.so", extra=junk)).generation is PINNED


def test_a_version_is_read(tmp_path: Path) -> None:
    extra = 'const char * llama_version(void) { return "0.4.9"; }'
    symbols = PINNED.always - {"llama_version"}
    found = compatibility.check_library(libllama(tmp_path / "libllama.so", extra=extra, symbols=symbols))
    assert found.version == found.fingerprint.version == "0.4.9"


def test_a_release_in_the_name_of_the_file_counts_where_the_library_says_nothing(tmp_path: Path) -> None:
    oldest = abi.generations()[0]
    found = compatibility.check_library(
        libllama(tmp_path / "libllama.b6301.so", images_of(oldest), symbols=oldest.always)
    )
    assert (found.version, found.generation) == ("b6301", oldest)


# -- files that are no library, or none for here


def test_text(tmp_path: Path) -> None:
    file = tmp_path / "libllama.so"
    file.write_text("GROUP ( libllama.so.0 )")
    assert "it is text, not a library: 'GROUP ( libllama.so.0 )'" in refusal(file)


def test_an_empty_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").touch()
    assert "it is empty" in refusal(tmp_path / "libllama.so")
    assert "cannot be read" in refusal(tmp_path)


@needs_libllama
@pytest.mark.parametrize("part", [0.0001, 0.3, 0.9])
def test_a_truncated_library(part: float, tmp_path: Path) -> None:
    data = (LIBRARIES / "libllama.so").read_bytes()
    file = tmp_path / "libllama.so"
    file.write_bytes(data[: int(part * len(data))])
    assert "it is truncated" in refusal(file)


def test_another_architecture(tmp_path: Path) -> None:
    file = libllama(tmp_path / "libllama.so")
    data = bytearray(file.read_bytes())
    data[18:20] = (4711).to_bytes(2, "little")
    file.write_bytes(data)
    assert "it is a library for machine 4711, and this computer is" in refusal(file)


def test_a_library_of_something_else(tmp_path: Path) -> None:
    file = compile_library(tmp_path / "libllama.so", "int add(int a, int b) { return a + b; }")
    assert "is not a libllama: it has none of llama_model_default_params" in refusal(file)


def test_a_library_that_has_only_some_of_the_functions(tmp_path: Path) -> None:
    images = images_of(PINNED)
    del images["llama_context_default_params"]
    text = refusal(libllama(tmp_path / "libllama.so", images))
    assert "llama_context_default_params is missing" in text


@needs_libllama
def test_a_library_whose_companions_are_missing(tmp_path: Path) -> None:
    file = tmp_path / "libllama.so"
    shutil.copyfile(LIBRARIES / "libllama.so", file)
    assert "libggml" in refusal(file)
    assert "cannot open shared object file" in refusal(file)


# -- libraries that misbehave while they are opened


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("abort();", "(SIGABRT)"),
        ("*(volatile int *) 8 = 1;", "(SIGSEGV)"),
        ("__builtin_trap();", "SIGILL"),
        ("exit(0);", "ends the process while it is opened (exit code 0)"),
        ("_exit(3);", "ends the process while it is opened (exit code 3)"),
        ('fprintf(stderr, "no license\\n"); exit(1);', "exit code 1); it said:\n  no license"),
        ("raise(SIGKILL);", "(SIGKILL)"),
    ],
)
def test_a_constructor_that_ends_the_process(body: str, reason: str, tmp_path: Path) -> None:
    headers = "".join(f"#include <{name}.h>\n" for name in ("stdlib", "stdio", "unistd", "signal"))
    extra = f"{headers}__attribute__((constructor)) static void start(void) {{ {body} }}"
    assert reason in refusal(libllama(tmp_path / "libllama.so", extra=extra))


HANG = "#include <unistd.h>\n__attribute__((constructor)) static void start(void) { for (;;) pause(); }"


def test_a_constructor_that_hangs(tmp_path: Path) -> None:
    text = refusal(libllama(tmp_path / "libllama.so", extra=HANG))
    assert f"was not opened within {probe.SECONDS:.0f} seconds" in text


def test_what_a_hanging_library_started_is_ended(tmp_path: Path) -> None:
    forking = """
        #include <stdio.h>
        #include <unistd.h>
        __attribute__((constructor)) static void start(void) {
            if (fork() == 0) { FILE * f = fopen("%s", "w"); fprintf(f, "%%d", getpid()); fclose(f); }
            for (;;) pause();
        }
    """ % (tmp_path / "pid")
    with soon(5), pytest.raises(LibraryError, match="hangs"):
        probe.probe(libllama(tmp_path / "libllama.so", extra=forking), seconds=1.5)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("body", ["*(volatile int *) 8 = 1;", "abort();"])
def test_a_function_that_crashes_when_it_is_asked(body: str, tmp_path: Path) -> None:
    images = images_of(PINNED)
    del images["llama_context_default_params"]
    extra = f"#include <stdlib.h>\nvoid llama_context_default_params(void) {{ {body} }}"
    text = refusal(libllama(tmp_path / "libllama.so", images, extra=extra))
    assert "crashes while it is opened and its defaults are read" in text


# -- libraries with other structs


def test_another_default_is_named_with_its_field(tmp_path: Path) -> None:
    images = changed("llama_context_default_params", 0, (777).to_bytes(4, "little"))
    text = refusal(libllama(tmp_path / "libllama.so", images))
    assert "llama_context_params.n_ctx (uint32_t n_ctx, byte 0): 00 02 00 00 expected, 09 03 00 00 found" in text
    assert "is of no known ABI generation" in text
    assert compatibility.INCLUDE_VAR in text


def test_a_grown_struct_is_named(tmp_path: Path) -> None:
    size = PINNED.structs["llama_context_params"].size
    images = changed("llama_context_default_params", size, (7).to_bytes(8, "little"))
    text = refusal(libllama(tmp_path / "libllama.so", images))
    assert f"struct llama_context_params has at least {size + 8} bytes, not {size}" in text


def test_a_result_that_is_far_too_large(tmp_path: Path) -> None:
    images = images_of(PINNED) | {"llama_context_default_params": bytes([1]) * 40_000}
    assert "is of no known ABI generation" in refusal(libllama(tmp_path / "libllama.so", images))


def test_a_result_in_a_register(tmp_path: Path) -> None:
    images = images_of(PINNED) | {"llama_context_default_params": bytes([1]) * 8}
    assert "llama_context_params.n_ctx" in refusal(libllama(tmp_path / "libllama.so", images))


# -- headers of one's own


def with_new_field(folder: Path, field: str = "uint64_t probe_test;") -> Path:
    """Headers like the pinned ones, except for one more field at the end of llama_context_params."""
    shutil.copytree(INCLUDE, folder)
    text = (folder / "llama.h").read_text(encoding="utf-8")
    before, _, rest = text.partition("struct llama_context_params {")
    body, end, rest = rest.partition("\n    };")
    assert end
    changed_text = f"{before}struct llama_context_params {{{body}\n        {field}{end}{rest}"
    (folder / "llama.h").write_text(changed_text, encoding="utf-8")
    return folder


def grown(path: Path, images: dict[str, bytes] | None = None, *, without: str = "") -> Path:
    """A library with all functions of the pinned headers, whose llama_context_params has one more field."""
    size = PINNED.structs["llama_context_params"].size
    images = images or changed("llama_context_default_params", size, (7).to_bytes(8, "little"))
    return libllama(path, images, symbols=frozenset(read_headers(INCLUDE).llama_functions - images.keys() - {without}))


@needs_headers
def test_headers_beside_the_library_make_a_generation(tmp_path: Path, own_cache: Path) -> None:
    library = grown(tmp_path / "prefix" / "lib" / "libllama.so")
    include = with_new_field(tmp_path / "prefix" / "include")
    found = compatibility.check_library(library)
    size = PINNED.structs["llama_context_params"].size
    struct = found.generation.structs["llama_context_params"]
    assert (struct.size, found.include, found.doubtful) == (size + 8, include, frozenset())
    field = struct.field("probe_test")
    assert field is not None
    assert (field.offset, field.size) == (size, 8)
    assert found.generation.structs["llama_model_params"] == PINNED.structs["llama_model_params"]
    assert found.generation.all_constants == PINNED.all_constants
    assert list((own_cache / "derived").glob("headers-*.json"))


@needs_headers
def test_the_compiler_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = grown(tmp_path / "lib" / "libllama.so")
    include = with_new_field(tmp_path / "headers")
    first = compatibility.check_library(library, include=include)
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setenv(compatibility.INCLUDE_VAR, str(include))
    second = compatibility.check_library(library)
    assert second.cached
    assert second.generation.structs == first.generation.structs
    (include / "llama.h").write_text((include / "llama.h").read_text() + "\n/* changed */\n")
    with pytest.raises(LibraryError, match=r"needs /nowhere/cc, which is not installed"):
        compatibility.check_library(library)


@needs_headers
def test_headers_of_another_build_are_refused(tmp_path: Path) -> None:
    library = grown(tmp_path / "lib" / "libllama.so")
    with pytest.raises(LibraryError) as caught:
        compatibility.check_library(library, include=INCLUDE)
    assert f"the library does not belong to the headers in {INCLUDE}" in str(caught.value)
    assert "struct llama_context_params has at least" in str(caught.value)
    with pytest.raises(LibraryError, match=r"contains no llama\.h"):
        compatibility.check_library(library, include=tmp_path)


@needs_headers
def test_headers_with_fields_at_other_places_are_refused(tmp_path: Path) -> None:
    include = with_new_field(tmp_path / "headers")
    text = (include / "llama.h").read_text(encoding="utf-8")
    start = text.index("struct llama_context_params {")
    swapped = (
        text[start:].replace("n_ctx;", "n_tmp;", 1).replace("n_batch;", "n_ctx;", 1).replace("n_tmp;", "n_batch;", 1)
    )
    (include / "llama.h").write_text(text[:start] + swapped, encoding="utf-8")
    with pytest.raises(LibraryError) as caught:
        compatibility.check_library(grown(tmp_path / "lib" / "libllama.so"), include=include)
    assert "llama_context_params.n_ctx" in str(caught.value)


@needs_headers
def test_headers_that_declare_other_functions_are_refused(tmp_path: Path) -> None:
    include = with_new_field(tmp_path / "headers")
    with pytest.raises(LibraryError, match="llama_get_model is declared, and the library lacks it"):
        compatibility.check_library(grown(tmp_path / "lib" / "libllama.so", without="llama_get_model"), include=include)
    text = (include / "llama.h").read_text(encoding="utf-8").replace("llama_get_model ", "llama_get_other ")
    (include / "llama.h").write_text(text, encoding="utf-8")
    with pytest.raises(LibraryError, match="llama_get_model is in the library, and not declared"):
        compatibility.check_library(grown(tmp_path / "lib" / "libllama.so"), include=include)


@needs_headers
def test_one_changed_default_is_no_other_layout(tmp_path: Path) -> None:
    size = PINNED.structs["llama_context_params"].size
    images = changed("llama_context_default_params", size, (7).to_bytes(8, "little"))
    data = images["llama_context_default_params"]
    include = with_new_field(tmp_path / "headers")
    one = images | {"llama_context_default_params": (777).to_bytes(4, "little") + data[4:]}
    library = grown(tmp_path / "one" / "libllama.so", one)
    assert compatibility.check_library(library, include=include).include == include
    two = images | {"llama_context_default_params": (777).to_bytes(4, "little") * 2 + data[8:]}
    with pytest.raises(LibraryError, match="does not belong to the headers"):
        compatibility.check_library(grown(tmp_path / "two" / "libllama.so", two), include=include)


@needs_headers
@needs_libllama
def test_the_pinned_headers_give_the_pinned_generation(own_cache: Path) -> None:
    fingerprint = probe.probe(LIBRARIES / "libllama.so")
    derived = derive(INCLUDE, fingerprint, own_cache)
    assert derived.structs == PINNED.structs
    assert derived.functions == abi.pinned_functions()
    assert derived.all_constants == PINNED.all_constants
    assert derived.types == PINNED.types


@needs_headers
@needs_libllama
@pytest.mark.parametrize("writable", [True, False])
def test_a_derived_generation_generates(writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library, as if nobody had known it: only its headers say how to call it."""
    program = """
        import sys
        from llama_cffi._native import abi
        abi.match = lambda fingerprint: None
        import llama_cffi
        llama_cffi.use_library(sys.argv[1], include=sys.argv[2])
        with llama_cffi.Llama.demo(n_seq_max=1) as llm:
            text = llm.generate("Once upon a time", max_tokens=20, temperature=0.0).text
        from llama_cffi._native import library_info
        info = library_info()
        print(info.mode, info.generation.startswith("headers-"), len(text) > 20)
    """
    monkeypatch.setenv("LLAMA_CFFI_BINDING", "abi")
    if not writable:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert run_child(program, LIBRARIES, INCLUDE).split() == ["abi", "True", "True"]


# -- what is remembered


def test_a_second_look_needs_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = libllama(tmp_path / "libllama.so")
    first = compatibility.check_library(library)
    assert not first.cached
    monkeypatch.setattr(probe, "probe", None)
    second = compatibility.check_library(library)
    assert second.cached
    assert (second.generation, second.fingerprint) == (first.generation, first.fingerprint)


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    assert compatibility.check_library(library).generation is PINNED
    status = library.stat()
    images = changed("llama_context_default_params", 0, (777).to_bytes(4, "little"))
    libllama(library, images)
    assert library.stat().st_size == status.st_size
    assert "n_ctx" in refusal(library)


def test_a_changed_companion_is_looked_at_again(tmp_path: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    compatibility.check_library(library)
    (tmp_path / "libggml.so").write_text("new")
    assert not compatibility.check_library(library).cached


@pytest.mark.parametrize("text", ["", "[]", "{", '{"key": 1}', '{"key": null, "match": {}}'])
def test_a_damaged_cache_is_no_error(text: str, tmp_path: Path, own_cache: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    compatibility.check_library(library)
    (file,) = (own_cache / "probes").iterdir()
    file.write_text(text)
    assert not compatibility.check_library(library).cached
    assert compatibility.check_library(library).cached


def test_a_cache_of_another_release_is_no_error(tmp_path: Path, own_cache: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    compatibility.check_library(library)
    (file,) = (own_cache / "probes").iterdir()
    data = json.loads(file.read_text())
    data["match"]["generation"] = "b1"
    file.write_text(json.dumps(data))
    assert compatibility.check_library(library).generation is PINNED


def test_a_verdict_that_another_user_could_have_written_is_not_believed(tmp_path: Path, own_cache: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    compatibility.check_library(library)
    (file,) = (own_cache / "probes").iterdir()
    assert compatibility.check_library(library).cached
    file.chmod(0o666)
    assert not compatibility.check_library(library).cached
    assert compatibility.check_library(library).cached
    file.parent.chmod(0o777)
    assert not compatibility.check_library(library).cached
    assert compatibility.check_library(library).cached


def test_another_file_of_the_same_bytes_is_not_the_one_that_was_checked(tmp_path: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    checked = compatibility.check_library(library)
    checked.verify()
    twin = tmp_path / "twin"
    shutil.copy2(library, twin)
    original = library.rename(tmp_path / "original")
    twin.rename(library)
    with pytest.raises(LibraryError, match=r"libllama\.so was changed after it was checked"):
        checked.verify()
    # As if nothing had been, but for the time at which the name changed.
    library.unlink()
    original.rename(library)
    with pytest.raises(LibraryError, match="was changed after it was checked"):
        checked.verify()
    library.unlink()
    with pytest.raises(LibraryError, match="was removed after it was checked"):
        checked.verify()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    library = libllama(tmp_path / "libllama.so")
    assert not compatibility.check_library(library).cached
    assert not compatibility.check_library(library).cached


def test_a_refusal_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libllama.so"
    crash = '__attribute__((constructor)) static void start(void) { if (getenv("CRASH")) abort(); }'
    libllama(library, extra=f"#include <stdlib.h>\n{crash}")
    monkeypatch.setenv("CRASH", "1")
    assert "SIGABRT" in refusal(library)
    monkeypatch.delenv("CRASH")
    assert compatibility.check_library(library).generation is PINNED


# -- the host


def test_the_host_opens_nothing(tmp_path: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    compatibility.check_library(library)
    assert str(library) not in Path("/proc/self/maps").read_text()


def test_a_python_that_does_not_know_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert "sys.executable is not set" in refusal(libllama(tmp_path / "libllama.so"))


def test_many_at_once(tmp_path: Path) -> None:
    library = libllama(tmp_path / "libllama.so")
    code = (
        "import sys; from pathlib import Path; from llama_cffi._native import compatibility; "
        "print(compatibility.check_library(Path(sys.argv[1])).generation.name)"
    )
    command = [sys.executable, "-c", code, str(library)]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [child.communicate(timeout=60)[0].strip() for child in children] == [PINNED.name] * 4


# -- libraries that nobody here made


def npm_folder(package: str) -> Path:
    return library_folder(package, fetch=False)


@pytest.mark.parametrize(("package", "release"), NPM_LIBRARIES.items())
def test_a_prebuilt_library_is_named_with_its_generation(package: str, release: str) -> None:
    with soon():
        report = report_library(npm_folder(package), None)
    assert report["ok"]
    expected = next(one for one in abi.generations() if release in [each.name for each in one.releases])
    assert report["generation"] == {"name": expected.name, "range": expected.range}
    assert report["version"].removesuffix("-dev").lstrip("v") == release.lstrip("v")
    assert report["doubts"] == []


@pytest.mark.parametrize("package", ["3.6.0", "3.10.0"])
def test_a_prebuilt_library_that_is_too_old_is_refused(package: str) -> None:
    with soon():
        report = report_library(npm_folder(package), None)
    assert not report["ok"]
    assert "is of no known ABI generation; known are b6301 to" in report["problem"]
    assert "It may be older than b6301, the oldest supported release" in report["problem"]
    assert "llama_model_params.use_extra_bufts (bool use_extra_bufts, byte 68): 01 expected" in report["problem"]


TWO = """
    import ctypes, os, sys
    from pathlib import Path
    order, mine, other = sys.argv[1], sys.argv[2], Path(sys.argv[3])

    def by_ctypes():
        names = ("libggml-base.so", "libggml.*so", "libllama.*so")
        paths = [min(other.glob(name)) for name in names]
        return [ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL) for path in paths]

    def works(libraries):
        vector = libraries[0].ggml_type_size  # of the other build's own ggml-base
        return vector(0) == 4 and libraries[2].llama_max_devices() > 0

    if order == "before":
        libraries = by_ctypes()
    import llama_cffi
    llama_cffi.use_library(mine, private=order == "after")

    def text():
        with llama_cffi.Llama.demo(n_seq_max=1) as llm:
            return llm.generate("Once upon a time", max_tokens=16, temperature=0.0).text

    first = text()
    if order == "after":
        libraries = by_ctypes()
    print(works(libraries), text() == first, len(first) > 16)
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize(("mine", "other"), [("3.22.1", "3.18.1"), ("3.12.4", "3.20.0"), ("3.18.1", "3.18.1")])
def test_two_bindings_in_one_process(order: str, mine: str, other: str) -> None:
    """Another llama.cpp whose libggml-base.so has the same name, opened before ours or after it."""
    assert run_child(TWO, order, npm_folder(mine), npm_folder(other)).split() == ["True"] * 3
