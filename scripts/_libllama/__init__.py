"""The parts of scripts/build_libllama.py: where llama.cpp comes from, how it is built, what is kept."""
