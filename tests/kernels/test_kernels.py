"""The kernels in kernels/: against float64 and against ggml, by two small programs that are compiled here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import llama_cffi
from llama_cffi import Llama
from llama_cffi._native import library_info
from llama_cffi.core.quantize import QuantizeOptions, quantize

DEMO = Path(llama_cffi.__file__).parent / "models" / "demo.gguf"
LIBRARIES = ("libggml-base", "libggml-cpu", "libggml")


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    """The C++ compiler, with the flags that a native build has."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler (set CXX)")
    command = [*found.split(), "-std=c++17", "-march=native", "-Wall", "-Wextra"]
    macros = subprocess.run(
        [*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=False
    ).stdout
    if "__AVX2__" not in macros or "__FMA__" not in macros:
        pytest.skip("the kernels are for CPUs with AVX2 and FMA")
    return command


def run(command: Sequence[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def compile_alone(compiler: list[str], checkout: Path, target: Path, *flags: str) -> Path:
    """The kernels without ggml, and the program that checks them."""
    kernels = [path for path in sorted((checkout / "kernels").glob("*.cpp")) if path.name != "dispatch.cpp"]
    program = checkout / "tests" / "kernels" / "products.cpp"
    run([*compiler, *flags, f"-I{checkout / 'kernels'}", *kernels, program, "-o", target, "-pthread"])
    return target


@pytest.mark.conformance
@pytest.mark.parametrize(
    "flags",
    [("-O3",), ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")],
    ids=["optimized", "sanitized"],
)
def test_products_are_those_of_float64(
    compiler: list[str], checkout: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    assert run([compile_alone(compiler, checkout, tmp_path / "products", *flags), "12"]).strip() == "0 wrong"


def libraries() -> tuple[Path, Path]:
    """Folders of the headers and of the libraries that the package runs with."""
    folder = Path(library_info().path).parent
    include = folder.parent / "include"
    if not include.is_dir() or not all(list(folder.glob(f"{name}.so*")) for name in LIBRARIES):
        pytest.skip("the library that runs has no headers beside it, or is made of plugins")
    return include, folder


def compile_with_ggml(compiler: list[str], checkout: Path, target: Path) -> Path:
    include, folder = libraries()
    program = checkout / "tests" / "kernels" / "against_ggml.cpp"
    links = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lggml", "-lggml-cpu", "-lggml-base"]
    run([*compiler, "-O1", f"-I{include}", program, "-o", target, *links])
    return target


def check_against_ggml(program: Path, products: int) -> None:
    *_, compared, wrong = run([program, str(products)]).splitlines()
    assert wrong == "0 wrong"
    # A few sums in another order have other bits: so the kernels were asked.
    assert int(compared.split()[0]) == products
    others = int(compared.split()[2])
    if library_info().stamp.get("request", {}).get("kernels"):
        assert others > products / 3


def test_products_are_those_of_ggml(compiler: list[str], checkout: Path, tmp_path: Path) -> None:
    check_against_ggml(compile_with_ggml(compiler, checkout, tmp_path / "against"), 60)


@pytest.mark.conformance
def test_many_products_are_those_of_ggml(compiler: list[str], checkout: Path, tmp_path: Path) -> None:
    check_against_ggml(compile_with_ggml(compiler, checkout, tmp_path / "against"), 3000)


@pytest.mark.conformance
@pytest.mark.parametrize("weights", ["Q8_0", "Q4_0", "F16", "BF16"])
def test_perplexity_is_that_of_one_row_at_a_time(weights: str, tmp_path: Path) -> None:
    model = quantize(DEMO, tmp_path / "model.gguf", weights, QuantizeOptions(allow_requantize=True))

    def perplexity(n_ubatch: int) -> float:
        with Llama(model, n_ctx=256, n_batch=256, n_ubatch=n_ubatch) as llm:
            return llm.perplexity(text, n_ctx=256).value

    with Llama(DEMO) as llm:
        text = " ".join(llm.generate("Once upon a time", max_tokens=250, seed=seed).text for seed in range(2))
    one_row = perplexity(1)
    assert [perplexity(n) for n in (2, 5, 16)] == [pytest.approx(one_row, rel=5e-4)] * 3
