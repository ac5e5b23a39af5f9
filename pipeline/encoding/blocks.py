"""Code blocks (sparse counts of clinical codes) for models: what is kept of each code, and how much it may count.

The vocabulary of a block is the schema's; a code that no training row has is never drawn. Columns are in
`encoder.py`; how a model turns codes into latents or logits is the model's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

LARGEST_COUNT = 32_000
"""Counts are stored as int16; no clinical code occurs more often in a row."""


@dataclass(frozen=True)
class BlockCodec:
    """What was learned of a code block.

    Attributes:
        name: Block name.
        binary: True if the block says presence only.
        width: Number of codes in the vocabulary.
        used: (codes used,) vocabulary positions of the codes that some training row has, ascending.
        prevalence: (codes used,) share of the training rows that have the code.
        cap: (codes used,) largest count that is emitted: at least `atom_rows` subjects have as many or more.
        common: (codes used,) True where at least `rare_rows` subjects have the code. Rarer ones are drawn
            independently of everything else: what so few people have in common is noise, and about them.
    """

    name: str
    binary: bool
    width: int
    used: NDArray[np.int64]
    prevalence: NDArray[np.float64]
    cap: NDArray[np.int64]
    common: NDArray[np.bool_]

    @classmethod
    def fit(
        cls,
        name: str,
        matrix: csr_matrix,
        *,
        binary: bool,
        subject: NDArray[np.integer],
        rare_rows: int,
        atom_rows: int,
    ) -> BlockCodec:
        """Learn from an (n, codes) CSR matrix of counts; `subject` are (n,) integers."""
        by_code = matrix.tocsc().sorted_indices()
        by_code.eliminate_zeros()
        stored = np.diff(by_code.indptr)
        used = np.flatnonzero(stored)
        cap = np.ones(len(used), dtype=np.int64)
        common = np.zeros(len(used), dtype=bool)
        for i, code in enumerate(used):
            rows = by_code.indices[by_code.indptr[code] : by_code.indptr[code + 1]]
            common[i] = len(np.unique(subject[rows])) >= rare_rows
            if not binary:
                counts = np.sort(by_code.data[by_code.indptr[code] : by_code.indptr[code + 1]])
                cap[i] = max(1, min(int(counts[-min(atom_rows, len(counts))]), LARGEST_COUNT))
        prevalence = stored[used] / max(1, matrix.shape[0])
        return cls(name, binary, int(matrix.shape[1]), used.astype(np.int64), prevalence, cap, common)

    def dense(self, matrix: csr_matrix) -> NDArray[np.int16]:
        """(n, codes used) counts, capped; 0 and 1 for a binary block."""
        part = matrix.tocsc()[:, self.used].toarray()
        return np.minimum(np.rint(part), self.cap).astype(np.int16)

    def sparse(self, counts: NDArray[np.integer]) -> csr_matrix:
        """The (n, codes) CSR matrix of a whole vocabulary for (n, codes used) counts."""
        from scipy.sparse import csr_matrix

        row, column = np.nonzero(counts)
        data = np.minimum(counts[row, column], self.cap[column]).astype(np.float64)
        matrix = csr_matrix((data, (row, self.used[column])), shape=(counts.shape[0], self.width))
        matrix.sort_indices()
        return matrix

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays to be saved."""
        return {
            "used": self.used,
            "prevalence": self.prevalence,
            "cap": self.cap,
            "common": self.common.astype(np.uint8),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> BlockCodec:
        """The codec back from its tensors and `{"name", "binary", "width"}`."""
        return cls(
            name=str(manifest["name"]),
            binary=bool(manifest["binary"]),
            width=int(manifest["width"]),
            used=np.asarray(tensors["used"], dtype=np.int64),
            prevalence=np.asarray(tensors["prevalence"], dtype=np.float64),
            cap=np.asarray(tensors["cap"], dtype=np.int64),
            common=np.asarray(tensors["common"]).astype(bool),
        )
