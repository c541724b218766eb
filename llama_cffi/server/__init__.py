"""HTTP: one model for clients of OpenAI's API and of llama-server. Needs the extra ``llama-cffi[server]``."""
