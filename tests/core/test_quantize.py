"""Quantized files: byte for byte those of llama.cpp's tool, or none at all."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llama_cffi import GGUFFile, Llama
from llama_cffi._native import binding, lib
from llama_cffi.core.imatrix import read_imatrix
from llama_cffi.core.quantize import QUANTIZATIONS, QuantizeOptions, quantize
from llama_cffi.errors import ModelFileError, ModelNotFoundError, QuantizeCancelled, QuantizeError, UnsupportedError
from tests.support.children import ROOT, run_child
from tests.support.random_model import Shape, write_random_model

pytest_plugins = ["tests.support.tools"]

SHAPE = Shape(n_layer=2, n_embd=256, n_head=4, n_head_kv=1, n_ff=256, n_vocab=300)
NEED_IMATRIX = {"IQ3_XS", "IQ3_XXS", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"}
ALWAYS = {"F32", "BF16", "Q8_0", "Q4_K_M", "Q4_0", "IQ4_XS", "MXFP4_MOE", "Q2_K", "TQ1_0", "IQ3_XS"}
"""The other types take two minutes together, most of them for tables that llama.cpp computes in each process."""


def types(names: set[str]) -> list[Any]:
    """Parameters of a test over these types, of which only some run always."""
    rare = pytest.mark.skipif(
        "LLAMA_CFFI_TEST_SLOW" not in os.environ, reason="set LLAMA_CFFI_TEST_SLOW=1 for every type"
    )
    return [pytest.param(name, marks=() if name in ALWAYS else rare) for name in sorted(names)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("quantize") / "source.gguf", SHAPE, weights="f16")


@pytest.fixture(scope="module")
def imatrix(source: Path) -> Path:
    """An importance matrix as llama-imatrix would write it, of random numbers."""
    path = source.with_name("imatrix.gguf")
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["first.txt", "second.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for i, tensor in enumerate(gguf.GGUFReader(source).tensors):
        if len(tensor.shape) == 2 and not tensor.name.startswith("token_embd"):
            count = np.array([[0.0 if i == 4 else 100.0 + i]], dtype=np.float32)
            sums = rng.random((1, int(tensor.shape[0])), dtype=np.float32) * 50
            writer.add_tensor(f"{tensor.name}.in_sum2", sums)
            writer.add_tensor(f"{tensor.name}.counts", count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def reference(tool: Path, source: Path, type: str, *options: str | Path) -> bytes:
    """What llama-quantize makes of it."""
    target = source.with_name("reference.gguf")
    subprocess.run([tool, *options, source, target, type], capture_output=True, check=True)
    data = target.read_bytes()
    target.unlink()
    return data


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- what is written


@pytest.mark.parametrize("type", types(QUANTIZATIONS.keys() - NEED_IMATRIX))
def test_every_type_is_what_llama_quantize_writes(
    source: Path, tmp_path: Path, llama_quantize: Path, type: str
) -> None:
    target = quantize(source, tmp_path / "q.gguf", type)
    assert target.read_bytes() == reference(llama_quantize, source, type)
    assert left(tmp_path) == ["q.gguf"]


# Q2_K_S has a name in llama.h and none in the tool.
@pytest.mark.parametrize("type", types(NEED_IMATRIX - {"Q2_K_S"}))
def test_types_that_need_an_importance_matrix(
    source: Path, tmp_path: Path, imatrix: Path, llama_quantize: Path, type: str
) -> None:
    with pytest.raises(QuantizeError, match="imatrix"):
        quantize(source, tmp_path / "q.gguf", type)
    assert left(tmp_path) == []
    target = quantize(source, tmp_path / "q.gguf", type, QuantizeOptions(imatrix=imatrix))
    assert target.read_bytes() == reference(llama_quantize, source, type, "--imatrix", imatrix)


OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "pure": ({"pure": True}, ("--pure",)),
    "output": ({"quantize_output_tensor": False}, ("--leave-output-tensor",)),
    "embedding type": ({"token_embedding_type": "Q8_0"}, ("--token-embedding-type", "q8_0")),
    "output type": ({"output_tensor_type": "q6_K"}, ("--output-tensor-type", "q6_k")),
    "tensor types": (
        {"tensor_types": {"attn_q": "q8_0", r"blk\.1\.ffn": "f16"}},
        ("--tensor-type", "attn_q=q8_0", "--tensor-type", r"blk\.1\.ffn=f16"),
    ),
    "pruned": ({"prune_layers": [1]}, ("--prune-layers", "1")),
    "metadata": (
        {"kv_overrides": {"general.name": "ä", "x.n": 5, "x.f": 0.5, "x.b": True}},
        ("--override-kv", "general.name=str:ä", "--override-kv", "x.n=int:5", "--override-kv", "x.f=float:0.5",
         "--override-kv", "x.b=bool:true"),
    ),
    "buffer": ({"max_buf_size": 2**20}, ("--max-buffer-size", "1")),
    "threads": ({"n_threads": 3}, ()),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_llama_quantize(source: Path, tmp_path: Path, llama_quantize: Path, name: str) -> None:
    options, arguments = OPTIONS[name]
    target = quantize(source, tmp_path / "q.gguf", "q4_k", QuantizeOptions(**options))
    assert target.read_bytes() == reference(llama_quantize, source, "Q4_K_M", *arguments)


def test_a_copy_and_a_requantized_model(source: Path, tmp_path: Path, llama_quantize: Path) -> None:
    copied = quantize(source, tmp_path / "copy.gguf", "F32", QuantizeOptions(copy=True))
    assert copied.read_bytes() == reference(llama_quantize, source, "COPY")
    small = quantize(source, tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(QuantizeError, match="requantizing from type q8_0 is disabled"):
        quantize(small, tmp_path / "q4.gguf", "Q4_0")
    again = quantize(small, tmp_path / "q4.gguf", "Q4_0", QuantizeOptions(allow_requantize=True))
    assert again.read_bytes() == reference(llama_quantize, small, "Q4_0", "--allow-requantize")


def test_the_result_runs(source: Path, tmp_path: Path) -> None:
    target = quantize(source, tmp_path / "q.gguf", "Q5_K_M")
    with Llama(target, n_ctx=64, n_threads=1) as llm:
        assert llm.generate("tana", max_tokens=4, seed=1).usage.completion_tokens == 4
    assert GGUFFile(target).nbytes < 0.4 * GGUFFile(source).nbytes


def test_an_importance_matrix_is_read_as_means(imatrix: Path) -> None:
    matrix = read_imatrix(imatrix)
    assert (matrix.datasets, matrix.n_chunks) == (("first.txt", "second.txt"), 7)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(imatrix).tensors}
    for name, values in matrix.entries.items():
        sums, count = tensors[f"{name}.in_sum2"].reshape(-1), float(tensors[f"{name}.counts"].reshape(-1)[0])
        np.testing.assert_array_equal(values, sums / np.float32(count) if count else np.ones_like(sums))
    with pytest.raises(ModelFileError, match="not an importance matrix"):
        read_imatrix(imatrix.with_name("source.gguf"))


# -- on the way


def test_progress_and_the_log(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[float] = []
    with caplog.at_level(logging.INFO, "llama_cffi.native"):
        quantize(source, tmp_path / "q.gguf", "Q8_0", progress=seen.append)
    # How many steps are seen depends on how many lines of the other process come at once.
    assert seen == sorted(set(seen))
    assert (seen[0] >= 0, seen[-1]) == (True, 1.0)
    lines = [record.message for record in caplog.records]
    assert len([line for line in lines if "converting to q8_0" in line]) == 7 * 2 + 1
    assert any("quant size" in line for line in lines)


@pytest.mark.parametrize("there", [False, True])
def test_a_cancelled_one_leaves_what_was_there(source: Path, tmp_path: Path, there: bool) -> None:
    target = tmp_path / "q.gguf"
    if there:
        target.write_bytes(b"before")
    with pytest.raises(QuantizeCancelled):
        quantize(source, target, overwrite=True, progress=lambda fraction: fraction < 0.4)

    def fail(fraction: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        quantize(source, target, overwrite=True, progress=fail)
    assert left(tmp_path) == ["q.gguf"] * there
    assert not there or target.read_bytes() == b"before"


def test_an_interrupt_ends_the_other_process_too(tmp_path: Path) -> None:
    large = write_random_model(tmp_path / "large.gguf", Shape(n_layer=8, n_embd=512, n_ff=2048), weights="f16")
    program = """
        import sys
        from llama_cffi.core.quantize import quantize
        print("ready", flush=True)
        quantize(sys.argv[1], sys.argv[2], "IQ3_S", progress=lambda fraction: print(fraction, flush=True))
    """
    child = subprocess.Popen(
        [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines()), large, tmp_path / "q.gguf"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert float(child.stdout.readline()) < float(child.stdout.readline()) < 0.5
        assert len(left(tmp_path)) == 2
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.communicate()
    assert child.returncode == -signal.SIGINT
    assert time.monotonic() - start < 3
    assert left(tmp_path) == ["large.gguf"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_a_full_disk(source: Path, tmp_path: Path) -> None:
    out = run_child(
        """
        import resource, sys
        from pathlib import Path
        from llama_cffi.core.quantize import quantize
        from llama_cffi.errors import QuantizeError
        target = Path(sys.argv[2], "q.gguf")
        target.write_bytes(b"before")
        for limit in (1000, 100_000, 500_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                quantize(sys.argv[1], target, "Q8_0", overwrite=True)
            except QuantizeError as error:
                print(error.message)
            assert target.read_bytes() == b"before"
        """,
        source,
        tmp_path,
    )
    assert len(out.splitlines()) == 3
    assert all("writing failed" in line or "not complete" in line for line in out.splitlines())
    assert left(tmp_path) == ["q.gguf"]


# -- what is refused


def test_types_and_options_that_do_not_exist(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    with pytest.raises(ValueError, match=r"type must be one of 'F32', .*, got 'Q9'"):
        quantize(source, target, "q9")
    bad: list[tuple[str, Any]] = [
        ("output_tensor_type", "q9"), ("tensor_types", {"attn": "q9"}), ("n_threads", 0), ("max_buf_size", 0),
        ("prune_layers", [-1]), ("kv_overrides", {"k" * 200: 1}),
    ]  # fmt: skip
    for name, value in bad:
        with pytest.raises(ValueError, match=name):
            quantize(source, target, options=QuantizeOptions(**{name: value}))
    with pytest.raises(ModelNotFoundError):
        quantize(source, target, options=QuantizeOptions(imatrix=tmp_path / "nothing"))
    with pytest.raises(QuantizeError, match=r"failed|ended"):
        quantize(source, target, options=QuantizeOptions(tensor_types={"(": "q8_0"}))
    assert left(tmp_path) == []


def test_sources_and_targets_that_cannot_be(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    with pytest.raises(ModelNotFoundError):
        quantize(tmp_path / "nothing.gguf", target)
    (tmp_path / "text").write_text("no model")
    with pytest.raises(ModelFileError):
        quantize(tmp_path / "text", target)
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "controlvector")
    writer.add_tensor("direction.1", np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(QuantizeError, match="unknown model architecture: 'controlvector'"):
        quantize(tmp_path / "other.gguf", target)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="truncated"):
        quantize(cut, target)
    with pytest.raises(ValueError, match="from itself"):
        quantize(source, source, overwrite=True)
    with pytest.raises(FileNotFoundError):
        quantize(source, tmp_path / "folder" / "q.gguf")
    assert not target.exists()
    target.write_bytes(b"before")
    with pytest.raises(FileExistsError):
        quantize(source, target)
    assert target.read_bytes() == b"before"
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileExistsError, match="is not a file"):
        quantize(source, tmp_path / "folder", overwrite=True)


def test_the_target_has_the_rights_of_any_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    target = quantize(source, tmp_path / "q.gguf", "F16")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_the_names_are_those_of_llama_h() -> None:
    for name in QUANTIZATIONS.values():
        assert binding.has(name)
    assert len({getattr(lib, name) for name in QUANTIZATIONS.values()}) == len(QUANTIZATIONS)


def test_a_library_without_a_type(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = binding.has
    monkeypatch.setattr(binding, "has", lambda name: name != "LLAMA_FTYPE_MOSTLY_Q1_0" and original(name))
    with pytest.raises(UnsupportedError, match="Q1_0"):
        quantize(source, tmp_path / "q.gguf", "Q1_0")
