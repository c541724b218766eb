"""The kernels in kernels/: against float64 and against ggml, by two small programs that are compiled here.

Those for CPUs that this machine is not run in emulators (``pytest -m emulated``): Bochs for x86, qemu for ARM.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import llama_cffi
from _libllama import kernels
from llama_cffi import Llama
from llama_cffi._native import library_info
from llama_cffi.core.quantize import QuantizeOptions, quantize

DEMO = Path(llama_cffi.__file__).parent / "models" / "demo.gguf"
LIBRARIES = ("libggml-base", "libggml-cpu", "libggml")

AVX2 = "-mavx2 -mfma -mf16c"
AVX512 = f"{AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl"
EMULATED_X86 = {  # CPUs of tests/kernels/emulator.py, and what they have that the kernels use
    "arrow_lake": f"{AVX2} -mavxvnni",
    "tigerlake": f"{AVX512} -mavx512vnni",
    "sapphire_rapids": f"{AVX512} -mavx512vnni -mavx512bf16",
}
EMULATED_ARM = {  # what the CPU has, the compiler's name for it, and the formats that have kernels
    "neon": ("armv8-a", 7),
    "dotprod": ("armv8.2-a+dotprod", 13),
    "bf16": ("armv8.2-a+dotprod+i8mm+bf16", 13),
}
# A program that ends at the first thing that is undefined: what the sanitizer's library needs, the emulator lacks.
UNDEFINED_ENDS = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


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
    if "__ARM_NEON" not in macros and ("__AVX2__" not in macros or "__FMA__" not in macros):
        pytest.skip("the kernels are for CPUs with AVX2 and FMA, or with NEON")
    return command


def run(command: Sequence[object]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def compile_alone(compiler: Sequence[str], checkout: Path, target: Path, *flags: str) -> Path:
    """The kernels without ggml, and the program that checks them."""
    with_ggml = ("dispatch.cpp", "weights.cpp")
    files = [path for path in sorted((checkout / "kernels").glob("*.cpp")) if path.name not in with_ggml]
    program = checkout / "tests" / "kernels" / "products.cpp"
    run([*compiler, *flags, f"-I{checkout / 'kernels'}", *files, program, "-o", target, "-pthread"])
    return target


def check_alone(command: Sequence[object], formats: int) -> None:
    """Run the program; 7 formats are those of files, others those of ggml's repacked buffers on the CPU."""
    found, right = run(command).strip().split(", ")
    assert right == "0 wrong"
    assert int(found.split()[0]) == formats


@pytest.mark.conformance
@pytest.mark.parametrize("flags", [("-O3",), SANITIZED], ids=["optimized", "sanitized"])
def test_products_are_those_of_float64(
    compiler: list[str], checkout: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    program = compile_alone(compiler, checkout, tmp_path / "products", *flags)
    found, right = run([program, "12"]).strip().split(", ")
    assert right == "0 wrong"
    assert int(found.split()[0]) >= 7  # on ARM it depends on the CPU


@pytest.mark.emulated
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator's program is compiled for x86")
@pytest.mark.parametrize("cpu", EMULATED_X86)
def test_products_are_those_of_float64_on_other_x86(cpu: str, checkout: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("bochscpu") is None:
        pytest.skip("there is no emulator: pip install bochscpu-python==0.4.0")
    folder = checkout / "tests" / "kernels"
    flags = ("-O2", *EMULATED_X86[cpu].split(), *UNDEFINED_ENDS, "-static", "-DONE_THREAD")
    program = compile_alone(("c++", "-std=c++17"), checkout, tmp_path / "products", *flags)
    shim = tmp_path / "emulated_cpu.so"
    run(["cc", "-shared", "-fPIC", folder / "emulated_cpu.c", "-o", shim])
    check_alone([sys.executable, folder / "emulator.py", cpu, shim, program, "1", "5"], 9)


@pytest.mark.emulated
def test_products_with_avx512_read_and_write_what_is_theirs(
    compiler: list[str], checkout: Path, tmp_path: Path
) -> None:
    """The address sanitizer, which the emulator has no memory for, over instructions that SIMDe makes of AVX2's."""
    if not Path("/usr/include/simde/x86/avx512.h").is_file() or platform.machine() != "x86_64":
        pytest.skip("there are no portable instructions: apt-get install libsimde-dev")
    portable = (f"-I{checkout / 'tests' / 'kernels' / 'portable'}", "-include", "immintrin.h")
    flags = ("-O1", "-fsanitize=address", "-march=x86-64", *AVX2.split(), *portable)
    program = compile_alone((compiler[0], "-std=c++17"), checkout, tmp_path / "products", *flags)
    check_alone([program, "3"], 9)


@pytest.mark.emulated
@pytest.mark.parametrize("cpu", EMULATED_ARM)
def test_products_are_those_of_float64_on_arm(cpu: str, checkout: Path, tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("there is no emulator: apt-get install qemu-user-static g++-aarch64-linux-gnu")
    march, formats = EMULATED_ARM[cpu]
    flags = ("-O2", f"-march={march}", *UNDEFINED_ENDS, "-static")
    program = compile_alone((compiler, "-std=c++17"), checkout, tmp_path / "products", *flags)
    check_alone([emulator, "-cpu", "max", program, "2"], formats)


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
    *_, compared, experts, wrong = run([program, str(products)]).splitlines()
    assert wrong == "0 wrong"
    assert int(compared.split()[0]) == products
    # A few sums in another order have other bits: so the kernels were asked.
    if library_info().stamp.get("request", {}).get("kernels") == kernels.digest():
        for line in (compared, experts):
            assert int(line.split()[2]) > int(line.split()[0]) / 3


def test_products_are_those_of_ggml(compiler: list[str], checkout: Path, tmp_path: Path) -> None:
    check_against_ggml(compile_with_ggml(compiler, checkout, tmp_path / "against"), 60)


@pytest.mark.conformance
def test_many_products_are_those_of_ggml(compiler: list[str], checkout: Path, tmp_path: Path) -> None:
    check_against_ggml(compile_with_ggml(compiler, checkout, tmp_path / "against"), 2000)


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
