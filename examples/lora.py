"""LoRA adapters: loaded once, at another scale for each request. This one is made here, of random numbers."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from llama_cffi import GGUFFile, Llama

try:
    import gguf
except ImportError:
    print("this example makes an adapter with the package gguf, which is not installed: pip install gguf")
    sys.exit(0)


def write_adapter(path: Path, model: GGUFFile, rank: int = 4) -> None:
    writer = gguf.GGUFWriter(path, str(model.architecture))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    rng = np.random.default_rng(0)
    for tensor in model.tensors:
        if tensor.name.endswith(("attn_q.weight", "attn_v.weight")):
            n_in, n_out = tensor.shape
            writer.add_tensor(f"{tensor.name}.lora_a", rng.normal(0, n_in**-0.5, (rank, n_in)).astype(np.float32))
            writer.add_tensor(f"{tensor.name}.lora_b", rng.normal(0, 0.3, (n_out, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


with tempfile.TemporaryDirectory() as folder, Llama.demo() as llm:
    path = Path(folder, "adapter.gguf")
    write_adapter(path, GGUFFile(llm.model.path))
    adapter = llm.load_adapter(path)
    for scale in (0.0, 0.5, 1.0):
        text = llm.generate("Once upon a time", adapters={adapter: scale}, temperature=0, max_tokens=20)
        print(f"{scale}: {text}")
