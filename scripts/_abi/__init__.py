"""Parts of scripts/add_abi.py: what the binary interface of one llama.cpp release is, read from its source."""
