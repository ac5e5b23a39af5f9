"""Seeds derived from names: one independent random stream a purpose, all from one number.

Same parts, same seed, on every machine and Python version (SHA-256, not `hash`). Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) from the parts, in order; the text "1" and the number 1 give different seeds."""
    digest = hashlib.sha256(json.dumps(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator for one purpose of one seed, e.g. `stream(seed, "sample")`."""
    import numpy as np

    return np.random.default_rng(derive_seed(int(seed), *purpose))
