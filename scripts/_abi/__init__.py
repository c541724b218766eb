"""Parts of scripts/add_abi.py: where llama.cpp's sources come from, and how releases make generations.

What one release's interface is, the package reads itself (llama_cffi/_native/abi/derive), for headers of its users.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The checkout's own package, installed or not.
if (_ROOT := str(Path(__file__).resolve().parents[2])) not in sys.path:
    sys.path.insert(1, _ROOT)
