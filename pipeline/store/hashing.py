"""Canonical JSON and SHA-256: what two runs are compared by.

The same content always gives the same text and the same digest: keys sorted, no spaces, no times, no paths.
What goes into a version's hash is decided in `version.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def canonical_json(obj: Any) -> str:
    """`obj` as JSON with sorted keys, no spaces and non-ASCII characters as they are.

    Mappings with text keys, sequences, text, finite numbers, booleans and None are taken; numpy scalars become
    plain numbers and tuples become lists.

    Raises:
        ConfigError: anything else, NaN and infinity included (JSON has no word for them); names the place in
            the object, never the value.
    """
    return json.dumps(_plain(obj, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(obj: Any, place: str) -> Any:
    if obj is None or isinstance(obj, bool | int):
        return obj
    if isinstance(obj, str):
        return str(obj)
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ConfigError("NaN and infinity cannot be stored as JSON.", where=place, todo="Store None instead.")
        return float(obj)
    if isinstance(obj, dict) or hasattr(obj, "keys"):
        for key in obj:
            if not isinstance(key, str):
                raise ConfigError(f"A JSON key must be text, not {type(key).__name__}.", where=place)
        return {str(key): _plain(obj[key], f"{place}.{key}") for key in obj}
    if isinstance(obj, list | tuple):
        return [_plain(value, f"{place}[{index}]") for index, value in enumerate(obj)]
    if type(obj).__module__ == "numpy" and getattr(obj, "shape", None) == () and hasattr(obj, "item"):
        return _plain(obj.item(), place)
    raise ConfigError(f"{type(obj).__name__} cannot be stored as JSON.", where=place)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(obj: Any) -> str:
    """SHA-256 of the canonical JSON of `obj`."""
    return sha256_bytes(canonical_json(obj).encode())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
