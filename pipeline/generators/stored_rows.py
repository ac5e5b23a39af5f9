"""What the controls that keep the training rows themselves share: which rows fit the conditions, save and load.

Such a model is made of patients: neither it nor what is drawn from it may ever be published. Which rows come out, and
how they are changed, is in `bootstrap.py` and `smote.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UnsupportedError
from pipeline.generators.tabular import TabularGenerator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.conditions import Fixed


class StoredRows(TabularGenerator):
    """A generator that is made of its training rows."""

    publishable = False
    not_private = "It gives training rows back, or mixtures of two, and no noise changes that."
    _rows: int
    _cells: dict[str, NDArray[Any]]
    _blocks: dict[str, Any]

    def _keep(self, encoder: TableEncoder, cohort: Cohort) -> int:
        """Keep the rows; gives how many numbers that are."""
        self._rows = cohort.n_rows
        self._cells = {
            **{name: cohort.codes(name) for name in encoder.levels},
            **{name: cohort.values(name) for name in encoder.numbers},
        }
        self._blocks = {name: matrix.tocsr() for name, matrix in cohort.blocks.items()}
        return sum(int(c.size) for c in self._cells.values()) + sum(int(m.nnz) for m in self._blocks.values())

    def _choose(self, n: int, rng: np.random.Generator, fixed: Fixed) -> NDArray[np.int64]:
        """(n,) positions of training rows; row i has the levels that are fixed for row i."""
        uniform = rng.random(n)
        if not fixed.codes:
            return (uniform * self._rows).astype(np.int64)
        wanted = np.stack([fixed.codes[name] for name in fixed.codes], axis=1)
        held = np.stack([self._cells[name] for name in fixed.codes], axis=1)
        chosen = np.empty(n, dtype=np.int64)
        for levels in np.unique(wanted, axis=0):
            fitting = np.flatnonzero((held == levels).all(axis=1))
            asked = np.flatnonzero((wanted == levels).all(axis=1))
            if not len(fitting):
                raise UnsupportedError(
                    f"No training row has the levels that are asked for of {', '.join(sorted(fixed.codes))}.",
                    todo="Fix fewer columns, or use a generator that learns them.",
                )
            chosen[asked] = fitting[(uniform[asked] * len(fitting)).astype(np.int64)]
        return chosen

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"cells-{i:05d}": values for i, values in enumerate(self._cells.values())}
        for i, matrix in enumerate(self._blocks.values()):
            tensors |= {
                f"block-{i:05d}/data": matrix.data,
                f"block-{i:05d}/indices": matrix.indices,
                f"block-{i:05d}/indptr": matrix.indptr,
            }
        shapes = {name: list(matrix.shape) for name, matrix in self._blocks.items()}
        return tensors, {"rows": self._rows, "cells": list(self._cells), "blocks": shapes}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        from scipy.sparse import csr_matrix

        self._rows = int(extra["rows"])
        self._cells = {name: tensors[f"cells-{i:05d}"] for i, name in enumerate(extra["cells"])}
        self._blocks = {}
        for i, (name, shape) in enumerate(extra["blocks"].items()):
            parts = tuple(tensors[f"block-{i:05d}/{part}"] for part in ("data", "indices", "indptr"))
            self._blocks[name] = csr_matrix(parts, shape=tuple(shape))
