"""The library is bound by the first thing that needs it, and by no import."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from llama_cffi._native import binding, ffi, lib, library_info
from llama_cffi._native.bound import _AtFirstUse

ROOT = Path(__file__).resolve().parents[2]

IMPORT_EVERYTHING = """
import importlib, pkgutil
import llama_cffi

for module in pkgutil.walk_packages(llama_cffi.__path__, "llama_cffi."):
    # Programs, what only the build of the package imports, and the extensions that are linked to a library.
    kinds = ("__main__", "_child", "_build", "._llama", "_native._mtmd")
    if not module.name.endswith(kinds) and ".derive" not in module.name:
        importlib.import_module(module.name)
for name in llama_cffi.__all__:
    getattr(llama_cffi, name)
"""

NOTHING_IS_LOADED = """
import sys
from pathlib import Path

assert "llama_cffi._native._llama" not in sys.modules
assert "llama_cffi._native._mtmd" not in sys.modules
if sys.platform == "linux":
    mapped = Path("/proc/self/maps").read_text()
    assert "libllama" not in mapped and "libggml" not in mapped and "libmtmd" not in mapped
"""

WITHOUT_A_LIBRARY = """
from dataclasses import asdict

from llama_cffi import ContextOptions, LlamaCffiError, ModelOptions, QuantizeOptions, Regex, SamplingParams, Tool
from llama_cffi.core.threads import default_thread_count
from llama_cffi.core.vocab import TokenAttr, VocabType
from llama_cffi.errors import LibraryError, MessageError
from llama_cffi.prompt.messages import check_messages
from llama_cffi.prompt.template import ChatTemplate
from llama_cffi.samplers import Dist, Penalties, Temperature, TopK

template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", controls=["<user>"])
assert template.render([{"role": "user", "content": "a <user> b"}]).text == "<user>a <user> b"
try:
    check_messages([{"role": "user", "content": 5}])
except MessageError as error:
    assert isinstance(error, LlamaCffiError)
else:
    raise AssertionError
assert VocabType.BPE == 2 and TokenAttr.CONTROL | TokenAttr.BYTE
assert asdict(ContextOptions(n_ctx=7))["n_ctx"] == 7 and ModelOptions(vocab_only=True) != ModelOptions()
assert QuantizeOptions().n_threads is None and default_thread_count() > 0
chain = (Penalties(repeat=1.1), TopK(4), Temperature(0.5), Dist(1))
assert SamplingParams(samplers=chain).samplers == chain and SamplingParams(temperature=0.5).temperature == 0.5

def add(a: int, b: int) -> int:
    "Add."
    return a + b

assert Tool.from_function(add).call({"a": 1, "b": 2}) == "3"
assert Regex("a+").pattern == "a+"
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_imports_load_no_library() -> None:
    done = run(IMPORT_EVERYTHING + NOTHING_IS_LOADED)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_needs_no_library_works_without_one() -> None:
    done = run(IMPORT_EVERYTHING + WITHOUT_A_LIBRARY + NOTHING_IS_LOADED, LLAMA_CFFI_LIB="/no/such/libllama.so")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_needs_a_library_says_that_there_is_none() -> None:
    program = """
        from llama_cffi import Batch, GGUFFile, Llama, Model, estimate_memory, features, quantize
        from llama_cffi.core.backend import devices
        from llama_cffi.errors import LibraryError

        path = "llama_cffi/models/demo.gguf"
        uses = [
            lambda: Llama(path),
            lambda: Model(path),
            lambda: GGUFFile(path),
            lambda: features["models"],
            lambda: quantize(path, path + ".new"),
            lambda: estimate_memory(path),
            lambda: devices(),
            lambda: Batch(4),
        ]
        for i, use in enumerate(uses * 2):
            try:
                use()
            except LibraryError as error:
                assert "no such file or folder" in str(error), (i, error)
            else:
                raise AssertionError(i)
    """
    done = run(program, LLAMA_CFFI_LIB="/no/such/libllama.so")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_library_is_chosen_after_the_imports() -> None:
    done = run(
        """
        import sys
        from llama_cffi import GGUFFile, Llama, SamplingParams, use_library
        from llama_cffi._native import library_info
        from llama_cffi.samplers import TopK

        SamplingParams(samplers=None), TopK(3)
        use_library(sys.argv[1])
        assert GGUFFile("llama_cffi/models/demo.gguf").architecture == "llama"
        assert (str(library_info().path), library_info().source) == (sys.argv[1], "explicit")
        """.replace("sys.argv[1]", repr(str(library_info().path))),
        LLAMA_CFFI_LIB="/no/such/libllama.so",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_library_is_chosen_after_the_first_was_not_found() -> None:
    done = run(
        f"""
        from llama_cffi import GGUFFile, use_library
        from llama_cffi.errors import LibraryError

        try:
            GGUFFile("llama_cffi/models/demo.gguf")
        except LibraryError:
            use_library({str(library_info().path)!r})
        assert GGUFFile("llama_cffi/models/demo.gguf").architecture == "llama"
        """,
        LLAMA_CFFI_LIB="/no/such/libllama.so",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_constants_are_those_of_the_library() -> None:
    real = binding.lib
    for name in ("GGML_TYPE_Q8_0", "LLAMA_POOLING_TYPE_RANK", "LLAMA_FLASH_ATTN_TYPE_ENABLED", "GGUF_TYPE_STRING"):
        if binding.has(name):
            assert getattr(lib, name) == getattr(real, name)
    assert not hasattr(lib, "llama_no_such_function")
    assert ffi.NULL == binding.ffi.NULL


def test_an_object_is_made_at_first_use_and_then_costs_an_attribute() -> None:
    made = []

    def make() -> SimpleNamespace:
        made.append(1)
        return SimpleNamespace(one=1, two=2)

    proxy = _AtFirstUse("name", make)
    assert not hasattr(proxy, "__wrapped__")
    assert repr(proxy)
    assert not made
    assert (proxy.one, proxy.one, proxy.one) == (1, 1, 1)
    assert made == [1]
    assert vars(proxy)["one"] == 1  # found without __getattr__ from now on
    with pytest.raises(AttributeError):
        proxy.three  # noqa: B018
