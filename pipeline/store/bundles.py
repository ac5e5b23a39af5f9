"""Model bundles on disk: numbers as safetensors, everything else as canonical JSON. Never pickle.

    <folder>/model.safetensors   the tensors        <folder>/model.json   the manifest, written last

The same tensors and manifest give the same bytes. What a manifest holds is the generator's business.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.disk import make_folders, storage_errors, sync_folder, write_new
from pipeline.store.hashing import canonical_json
from pipeline.store.keys import DRAFT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

TENSORS = "model.safetensors"
MANIFEST = "model.json"
_KINDS = "biuf"


def save_bundle(folder: Path, tensors: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write a bundle into `folder`, which is made if need be; a bundle already there is replaced.

    Args:
        folder: Where to.
        tensors: Arrays of any shape (0-d and empty ones too) with dtype bool, integer or float.
        manifest: A JSON mapping; no times, no absolute paths.

    Raises:
        ConfigError: a tensor of another dtype, or a manifest that is no JSON.
        StoreError: disk full or not writable.
    """
    import numpy as np
    from safetensors.numpy import save

    text = canonical_json(manifest)
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
            raise ConfigError(f"Tensor '{name}' has dtype {array.dtype}, which a bundle cannot hold.")
        # safetensors writes the buffer as it lies in memory: a transposed or big-endian array would come back wrong
        arrays[name] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    with storage_errors(folder.name):
        make_folders(folder)
        _replace(folder / TENSORS, save(arrays))
        _replace(folder / MANIFEST, f"{text}\n".encode())
        sync_folder(folder)


def load_bundle(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors (own, writable arrays) and manifest of the bundle in `folder`.

    Raises:
        NotFoundError: there is no bundle.
        StoreError: it is damaged or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with storage_errors(folder.name):
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            tensors = load((folder / TENSORS).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"There is no model here: it needs {MANIFEST} and {TENSORS}.", where=folder.name
            ) from None
        except (ValueError, SafetensorError) as error:
            raise StoreError("The model bundle is damaged.", where=folder.name, todo="Fit the model again.") from error
    return tensors, manifest


def _replace(path: Path, data: bytes) -> None:
    draft = path.parent / f"{DRAFT}{uuid.uuid4().hex}"
    try:
        write_new(draft, data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
