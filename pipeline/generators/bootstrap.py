"""Training rows drawn with replacement: perfect fidelity, no privacy at all (the planted failure of every comparison).

Whoever is in training comes out as they are, extremes and rare levels included, which is what the other generators take
care to avoid. It shows that the privacy metrics see copies, and what the best figures for fidelity would look like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort, assemble
from pipeline.generators.conditions import Fixed, parse_conditions
from pipeline.generators.seeds import stream
from pipeline.generators.stored_rows import StoredRows
from pipeline.generators.tabular import Learned, TabularConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.base import Conditions, Progress


class BootstrapConfig(TabularConfig):
    """Settings of the bootstrap; those on rare levels and extremes change nothing, since rows are copied."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper": {}, "quick": {}}


class Bootstrap(StoredRows):
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
        numbers = self._keep(encoder, cohort)
        # `sample` needs the encoder's schema, and `fit` sets it only after this.
        self.encoder = encoder
        if progress is not None:
            progress(1, 1, {})
        return Learned(parameters=numbers, warnings=["Copies training rows as they are: never publish what it draws."])

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        return encoder.encode(self._copied(encoder, self._choose(n, rng, fixed), fixed), rng)
