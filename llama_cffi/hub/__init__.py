"""Models by their name on the Hugging Face hub: downloading them, finding them in the cache, deleting them.

Models by an address of any other server, too: :func:`pull_address`, :func:`cached_addresses` and
:func:`remove_addresses`, which need no other package. The rest needs the package huggingface_hub
(``pip install 'llama-cffi[hub]'``) and uses its cache, which other programs share. Its environment variables apply:
``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

from llama_cffi.hub.address import pull_address
from llama_cffi.hub.address_cache import CachedAddress, cached_addresses, remove_addresses
from llama_cffi.hub.cache import CachedModel, cached, remove
from llama_cffi.hub.download import pull, pull_projector
from llama_cffi.hub.name import HubName
from llama_cffi.hub.projector import choose_projector

__all__ = [
    "CachedAddress",
    "CachedModel",
    "HubName",
    "cached",
    "cached_addresses",
    "choose_projector",
    "pull",
    "pull_address",
    "pull_projector",
    "remove",
    "remove_addresses",
]
