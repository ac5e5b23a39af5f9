"""Where a training keeps its state, so that one that was killed goes on where it was and ends with the same bytes.

One file a training: tensors as safetensors, everything else as JSON in its header, replaced as a whole. It belongs to
exactly one training (`Checkpoint.identity`); another's is left alone and overwritten. What the state is, is said in
`training.py`; who removes the files, by whoever gave the folder: they hold what was learned from patients.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.store.disk import make_folders, storage_errors, write_new
from pipeline.store.hashing import sha256_json
from pipeline.store.keys import DRAFT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.encoding.encoder import Encoded

HEADER = "training"
SUFFIX = ".safetensors"
SAVE_SECONDS = 60.0
"""Seconds of training that a kill may cost; writing the state of these nets takes milliseconds."""


@dataclass(frozen=True)
class Checkpoint:
    """The place of one training's state.

    Attributes:
        folder: Where the file lies; made when it is first written.
        identity: Hash of everything that decides which bytes come of the training.
        seconds: How long to train between two writings, which happen at the end of an epoch.
        stage: Name of the file: a model that is trained in stages has one for each.
    """

    folder: Path
    identity: str
    seconds: float = SAVE_SECONDS
    stage: str = "training"

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.stage}{SUFFIX}"

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Put the state in place of the earlier one; a kill in between leaves the earlier one.

        Args:
            tensors: tensors on any device.
            state: numbers, lists and text; infinite numbers come back as they are.

        Raises:
            StoreError: disk full or not writable.
        """
        from safetensors.torch import save

        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
        header = json.dumps({"identity": self.identity, **state}, sort_keys=True)
        with storage_errors(self.path.name):
            make_folders(self.folder)
            draft = self.folder / f"{DRAFT}{uuid.uuid4().hex}"
            try:
                write_new(draft, save(plain, metadata={HEADER: header}))
                draft.replace(self.path)
            finally:
                draft.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state that was saved last; None if there is none, it is damaged, or it is another training's."""
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                state = json.loads((file.metadata() or {}).get(HEADER, "{}"))
                if state.get("identity") != self.identity:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            # A training that starts anew gives the same bytes: what cannot be read is no reason to stop.
            return None

    def remove(self) -> None:
        """Take the file away, and the folder if nothing else is in it."""
        with storage_errors(self.path.name):
            self.path.unlink(missing_ok=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()


def identity_of(rows: Encoded, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> str:
    """Hash of a training: its encoded rows, the arrays of the encoder, and what else decides its bytes.

    Args:
        rows: the training rows as the model sees them.
        arrays: `TableEncoder.tensors`.
        facts: name, code version, configuration, seed, device, versions; anything that JSON can hold.
    """
    digest = blake2b(digest_size=20)
    parts: dict[str, Mapping[str, NDArray[Any]]] = {
        "states": rows.states,
        "uniforms": rows.uniforms,
        "blocks": rows.blocks,
        "arrays": arrays,
    }
    for kind, members in parts.items():
        for name, array in sorted(members.items()):
            digest.update(f"{kind}/{name}/{array.dtype}/{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return sha256_json({"rows": digest.hexdigest(), **facts})
