"""One class per noun of llama.h; each owns its native object."""
