"""The parts of :class:`~llama_cffi.llama.Llama`, one file for each kind of question that can be put to a model."""
