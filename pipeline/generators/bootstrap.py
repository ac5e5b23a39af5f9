"""Training rows drawn with replacement: perfect fidelity, no privacy at all (the planted failure of every comparison).

Whoever is in training comes out as they are, extremes and rare levels included, which is what the other generators take
care to avoid. It shows that the privacy metrics see copies, and what the best figures for fidelity would look like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.generators.conditions import Fixed, parse_conditions
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.base import Conditions, Progress


class BootstrapConfig(TabularConfig):
    """Settings of the bootstrap; those on rare levels and extremes change nothing, since rows are copied."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper": {}, "quick": {}}


class Bootstrap(TabularGenerator):
    """Copies training rows, each drawn with replacement (Efron 1979). Never to be published."""

    name = "bootstrap"
    title = "Bootstrap: copies of training rows (planted privacy failure)"
    Config = BootstrapConfig
    config: BootstrapConfig
    kinds = ("numpy",)
    copies_patients = True

    def sample(self, n: int, *, seed: int, conditions: Conditions | None = None) -> Cohort:
        """Copy `n` training rows drawn with replacement; conditions choose among the rows that have these levels.

        A fixed number is written over the copied one.

        Raises:
            ConfigError: `n` below 1, or conditions that do not fit the schema.
            UnsupportedError: no training row has the levels asked for.
        """
        encoder = self._fitted()
        if n < 1:
            raise ConfigError(f"{n} rows were asked for.", todo="Ask for at least one.")
        fixed = parse_conditions(conditions, encoder.schema, n)
        self.sample_counts = {}
        return self._copied(encoder, self._choose(n, stream(seed, "sample"), fixed), fixed)

    def _copied(self, encoder: TableEncoder, rows: NDArray[np.int64], fixed: Fixed) -> Cohort:
        """The training rows at these positions, with the fixed cells written over them."""
        cells = {name: values[rows] for name, values in self._cells.items()}
        blocks = {name: matrix[rows] for name, matrix in self._blocks.items()}
        return assemble(encoder.schema, {**cells, **fixed.codes, **fixed.values}, blocks=blocks)

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

    def _learn(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        self._rows = cohort.n_rows
        self._cells: dict[str, NDArray[Any]] = {
            **{name: cohort.codes(name) for name in encoder.levels},
            **{name: cohort.values(name) for name in encoder.numbers},
        }
        self._blocks = {name: matrix.tocsr() for name, matrix in cohort.blocks.items()}
        # `sample` needs the encoder's schema, and `fit` sets it only after this.
        self.encoder = encoder
        if progress is not None:
            progress(1, 1, {})
        numbers = sum(c.size for c in self._cells.values()) + sum(m.nnz for m in self._blocks.values())
        return Learned(
            parameters=int(numbers), warnings=["Copies training rows as they are: never publish what it draws."]
        )

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        return encoder.encode(self._copied(encoder, self._choose(n, rng, fixed), fixed), rng)

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
