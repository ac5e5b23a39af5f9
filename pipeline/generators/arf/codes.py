"""How a code block takes part in `arf`: a class of the row is a column of the forest, codes follow from the class.

The classes are those of `latent_classes.py`. Codes that are columns of the forest themselves are left to it; those that
too few subjects have are drawn independently of everything (`BlockCodec.common`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.generators.arf.latent_classes import LatentClasses
from pipeline.generators.lone_codes import count_frequencies
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.encoding.encoder import Encoded, TableEncoder


@dataclass(frozen=True)
class BlockClasses:
    """What is known of a block beside the codes that are columns of the forest.

    Attributes:
        common: (common codes,) positions, among the used codes, of those that follow from the class.
        lone: (lone codes,) positions of those drawn independently.
        classes: the classes, over all common codes and those of the forest.
        own: (common codes,) their places among the codes of `classes`.
        known: (codes of classes,) positions of all codes that tell the class.
        chance: (lone codes,) share of rows that have each lone code.
        counts: (used codes, largest count + 1) distribution of each code's count where it is present.
    """

    common: NDArray[np.int64]
    lone: NDArray[np.int64]
    classes: LatentClasses
    own: NDArray[np.int64]
    known: NDArray[np.int64]
    chance: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Number of classes."""
        return len(self.classes.share)

    def classes_of(self, counts: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) classes of rows with (n, used codes) counts."""
        return self.classes.assign(_present(counts[:, self.known]), rng)

    def fill(self, counts: NDArray[np.int16], classes: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Draw the codes that are not the forest's into (n, used codes) counts, for rows of (n,) classes."""
        for places, present in (
            (self.common, self.classes.draw(classes, rng)[:, self.own]),
            (self.lone, rng.random((len(classes), len(self.lone)), dtype=np.float32) < self.chance),
        ):
            row, code = np.nonzero(present)
            edges = np.cumsum(self.counts[places[code]], axis=1)
            drawn = 1 + (edges[:, 1:] <= (rng.random(len(row)) * edges[:, -1])[:, None]).sum(axis=1)
            counts[row, places[code]] = np.minimum(drawn, edges.shape[1] - 1)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays to be saved."""
        return {
            "common": self.common,
            "lone": self.lone,
            "share": self.classes.share,
            "prevalence": self.classes.prevalence,
            "own": self.own,
            "known": self.known,
            "chance": self.chance,
            "counts": self.counts,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]]) -> BlockClasses:
        """What `tensors` gave."""
        return cls(
            common=np.asarray(tensors["common"], dtype=np.int64),
            lone=np.asarray(tensors["lone"], dtype=np.int64),
            classes=LatentClasses(tensors["share"], tensors["prevalence"]),
            own=np.asarray(tensors["own"], dtype=np.int64),
            known=np.asarray(tensors["known"], dtype=np.int64),
            chance=tensors["chance"],
            counts=tensors["counts"],
        )


def fit_blocks(
    encoder: TableEncoder,
    rows: Encoded,
    subject: NDArray[np.integer],
    in_forest: Mapping[str, Sequence[int]],
    most: int,
    seed: int,
) -> tuple[dict[str, BlockClasses], dict[str, NDArray[np.int64]]]:
    """The classes of each block, and the (n,) class of each row in it.

    Args:
        encoder: the fitted encoder.
        rows: the encoded rows.
        subject: (n,) whose each row is, as numbers from 0.
        in_forest: positions, among a block's used codes, of those that are columns of the forest.
        most: classes of a block, at most.
        seed: of starts and of the classes that are drawn.
    """
    blocks: dict[str, BlockClasses] = {}
    classes: dict[str, NDArray[np.int64]] = {}
    for name, codec in encoder.blocks.items():
        counts = rows.blocks[name]
        known = np.flatnonzero(codec.common)
        alone = np.ones(len(codec.used), dtype=bool)
        alone[list(in_forest[name])] = False
        common, lone = np.flatnonzero(codec.common & alone), np.flatnonzero(~codec.common & alone)
        model = LatentClasses.fit(
            _present(counts[:, known]), subject, most if len(common) else 1, stream(seed, "classes", name)
        )
        shares = count_frequencies(counts)
        shares[:, 0] = 0.0
        blocks[name] = BlockClasses(
            common=common,
            lone=lone,
            classes=model,
            own=np.searchsorted(known, common),
            known=known,
            chance=codec.prevalence[lone],
            counts=shares,
        )
        classes[name] = blocks[name].classes_of(counts, stream(seed, "class of a row", name))
    return blocks, classes


def _present(counts: NDArray[np.int16]) -> csr_matrix:
    from scipy.sparse import csr_matrix

    return csr_matrix((counts > 0).astype(np.float32))
