"""How a server behaves: names, keys, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.core.media.audio import Audio


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``llama-cffi serve`` is told beside the model."""

    names: tuple[str, ...] = ()
    """What the model is called; the first is its id. By default it is the name of the file."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys of which a client must send one; without any, everybody may ask."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages beside local ones; ``*`` is all."""
    local_pages: bool = True
    """Whether web pages of this machine may ask."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header beside local ones."""
    check_host: bool = True
    """Whether the Host header must name this machine, as it is where only this machine can connect."""
    strict_model: bool = False
    """Whether another name than the model's own is refused."""
    strict_fields: bool = False
    """Whether an unknown field is refused."""
    prefill_assistant: bool = True
    """Whether a last message of the assistant is the beginning of the reply."""
    metrics: bool = True
    vllm_metrics: bool = False
    """Whether ``/metrics`` has vLLM's names, too."""
    public_metrics: bool = False
    """Whether ``/metrics`` needs no key."""
    max_body: int = 16 << 20
    """Bytes."""
    media_hosts: tuple[str, ...] = ()
    """Hosts that images and sounds of requests are fetched from: names, ``*.NAME``, ``*``, addresses with a port."""
    media_seconds: float = 30.0
    """Seconds that one of them may take."""
    max_connections: int = 1024
    """Requests at once, waiting ones included."""
    max_n: int = 16
    max_prompts: int = 64
    max_inputs: int = 2048
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of requests with the values that they have where the client does not say."""
    chat_template: str | None = None
    """The name, the text or the file of the template of conversations; by default the model's own."""
    pooling: str | None = None
    """How the vectors of tokens become one; by default as the model says."""
    voices: Mapping[str, Audio] = field(default_factory=dict)
    """Sounds of voices, by the names with which requests for speech ask for them."""
    tags: tuple[str, ...] = ()
    """Words about the model, which clients are told."""
    api_prefix: str = ""
    """What every path begins with."""
    response_store: int = 0
    """Responses of OpenAI's API that are kept, so that later ones can go on from them."""
    default_max_tokens: int | None = None
    """What is generated at most where the client does not say."""
    ssl_key_file: str | None = None
    ssl_cert_file: str | None = None
    """Files of TLS; both or none."""
    ui: bool = True
    """Whether there is a page for people at ``/``."""
    static_path: Path | None = None
    """The folder whose files are given out in its place, without a key."""
    slots: bool = True
    """Whether ``/slots`` tells what each slot is doing."""
    slot_save_path: Path | None = None
    """The folder of saved slots; None where slots are not to be saved."""
    slot_action_timeout: float = 30.0
    """Seconds that an action waits for its slot."""
    compat: bool = False
    """Whether to do as llama-server where that is less careful: wrong values, slots that there are not, origins."""
    echo_prompt: bool = False
    """Whether answers in llama-server's own form repeat the prompt."""
    spm_infill: bool = False
    """Whether what is behind a gap comes first in its prompt."""
    request_timeout: float = 600.0
    """Seconds of a request, waiting included."""
    drain_timeout: float = 30.0
    """Seconds that running requests have when the server is told to end."""
    ping_interval: float = 30.0
    """Seconds without an event after which a stream gets a comment."""


__all__ = ["Settings"]
