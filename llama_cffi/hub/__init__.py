"""Models by their name on the Hugging Face hub: downloading them, finding them in the cache, deleting them.

Models by an address of any other server, too: :func:`pull_address`, which needs no other package. The rest needs the
package huggingface_hub (``pip install 'llama-cffi[hub]'``) and uses its cache, which other programs share.
Its environment variables apply: ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

from llama_cffi.hub.address import pull_address
from llama_cffi.hub.cache import CachedModel, cached, remove
from llama_cffi.hub.download import pull, pull_projector
from llama_cffi.hub.name import HubName
from llama_cffi.hub.projector import choose_projector

__all__ = ["CachedModel", "HubName", "cached", "choose_projector", "pull", "pull_address", "pull_projector", "remove"]
