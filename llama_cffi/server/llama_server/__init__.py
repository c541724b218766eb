"""llama-server's own API: completion, infill, embedding, rerank, slots, LoRA adapters."""
