"""Secret randomness for private trainings: streams by purpose from one secret, never from a public seed.

The noise of a mechanism protects as long as nobody can draw it again, so nothing here knows the seed of a training
as its only input. The generators are fast ones (PCG64, Mersenne Twister, Philox), not cryptographic ones; see
docs/differential-privacy.md, "Secure mode".
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.hashing import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from pipeline.features.cohort import Cohort

SECRET_BYTES = 32
_LABEL = b"cohortloom/privacy-noise/v1\0"
_TWISTER_WORDS = 624


def training_key(house_key: bytes, identity: str) -> bytes | None:
    """The key of one training: HMAC-SHA256 of its identity under the house's split key; 32 bytes.

    None where that is the published key, which everybody knows: noise is then fresh each time.

    Args:
        house_key: The installation's own split key.
        identity: What tells the training from all others, data included (`Training.identity`).
    """
    from pipeline.features.split import PUBLISHED_KEY

    if house_key == PUBLISHED_KEY:
        return None
    return hmac.new(house_key, _LABEL + b"training\0" + identity.encode(), hashlib.sha256).digest()


def run_secret(key: bytes | None, what: Mapping[str, object], cohort: Cohort) -> bytes:
    """The secret of one run, 32 bytes: fresh from the system where there is no key.

    With a key it depends on what is done and on the data, cell by cell: two runs under one key that differ in anything
    share no noise, since noise that two releases share can be subtracted.
    """
    if key is None:
        return os.urandom(SECRET_BYTES)
    return hmac.new(key, _LABEL + canonical_json(what).encode() + content_digest(cohort), hashlib.sha256).digest()


def content_digest(cohort: Cohort) -> bytes:
    """SHA-256 over schema, subjects and every cell, the same however the table is chunked or was read."""
    digest = hashlib.sha256(canonical_json(cohort.schema.model_dump(mode="json")).encode())
    digest.update("\0".join(np.asarray(cohort.subject, dtype=str).tolist()).encode("utf-8", "surrogatepass"))
    for column in cohort.schema.modelled():
        cells = cohort.codes(column.name) if column.discrete else cohort.values(column.name)
        # One NaN for all missing cells, and 0.0 for -0.0.
        plain = np.where(np.isnan(cells), np.nan, cells) + 0.0 if cells.dtype.kind == "f" else cells
        digest.update(np.ascontiguousarray(plain).tobytes())
    for name in sorted(cohort.blocks):
        matrix = cohort.blocks[name].sorted_indices()
        for part, kind in ((matrix.indptr, "<i8"), (matrix.indices, "<i8"), (matrix.data, "<f8")):
            digest.update(np.ascontiguousarray(part.astype(kind)).tobytes())
    return digest.digest()


class Secret:
    """Streams by purpose; asking for the same purpose again gives the next stream, never the same."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._asked: dict[tuple[str | int, ...], int] = {}

    def _key(self, purpose: tuple[str | int, ...]) -> bytes:
        number = self._asked.get(purpose, 0)
        self._asked[purpose] = number + 1
        message = canonical_json([list(purpose), number]).encode()
        return hmac.new(self._secret, message, hashlib.sha256).digest()

    def numpy(self, *purpose: str | int) -> np.random.Generator:
        """A numpy generator seeded with 256 secret bits."""
        return np.random.default_rng(int.from_bytes(self._key(("numpy", *purpose)), "big"))

    def torch(self, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch generator.

        On the CPU `manual_seed` keeps 32 bits of its number, which can be tried one by one, so the whole state of the
        Mersenne Twister is filled; on a GPU Philox takes all 64 bits of its seed.
        """
        import torch

        key = self._key(("torch", *purpose))
        generator = torch.Generator(device=device)
        generator.manual_seed(int.from_bytes(key[:8], "big") >> 1)
        if generator.device.type == "cpu":
            state = generator.get_state()
            words = np.frombuffer(hashlib.shake_256(key).digest(4 * _TWISTER_WORDS), dtype="<u4").astype("<u8")
            # PyTorch's state: seed (8 bytes), words left (4), seeded (4), next word (8), then the words as 64 bits each.
            state[24 : 24 + 8 * _TWISTER_WORDS] = torch.from_numpy(words.copy()).view(torch.uint8)
            generator.set_state(state)
        return generator
