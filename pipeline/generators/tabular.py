"""What generators of plain rows and code blocks share: encoding, refusals, conditions, health checks, save and load.

A subclass says how it learns from encoded rows (`_learn`), how it draws them (`_draw`) and which arrays it is made of
(`_state`, `_restore`). Sequences and differential privacy are not for these generators yet and are refused in words.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded, EncodingSettings, TableEncoder
from pipeline.errors import ConfigError, InputError, TrainingError, UnsupportedError
from pipeline.generators.base import FitReport, Generator, GeneratorConfig, Support
from pipeline.generators.conditions import Fixed, parse_conditions
from pipeline.generators.health import check_health
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.generators.base import Conditions, PrivacySpec, Progress

SMALLEST_COHORT = 10
"""Fewer rows than this are mostly extremes: what would be learned is the patients themselves."""
HEALTH_ROWS = 2000


class TabularConfig(GeneratorConfig):
    """How columns are protected when they are learned (spec 0.1 and 0.2); shared by all tabular generators."""

    rare_level_rows: int = Field(
        default=11,
        ge=1,
        description="Subjects that a level of a categorical column needs; rarer levels are pooled and redrawn from the"
        " others (DESIGN section 11). Rarer codes of a block are drawn independently.",
    )
    atom_rows: int = Field(
        default=5,
        ge=1,
        description="Subjects that must share an exact number before it is emitted for its own sake; rarer numbers are"
        " interpolated in groups of at least as many rows (spec 0.2).",
    )
    extreme_rows: int = Field(
        default=5,
        ge=1,
        description="Subjects whose mean replaces the smallest and the largest number of a column (spec 0.2: k=5).",
    )
    max_cells: int = Field(
        default=1000, ge=10, le=100_000, description="Stretches between quantile knots a column may have (spec 0.2)."
    )

    def encoding(self) -> EncodingSettings:
        """The part of the configuration that the encoder takes."""
        return EncodingSettings(self.rare_level_rows, self.atom_rows, self.extreme_rows, self.max_cells)


@dataclass
class Learned:
    """What `_learn` has to say for the report."""

    parameters: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers of the model itself (e.g. active latents), reported with the health checks."""


class TabularGenerator(Generator):
    """A generator of rows of columns and code blocks.

    Attributes:
        encoder: The shared encoder, after `fit` or `load`.
        sample_counts: What the last `sample` had to do to keep its promises, e.g. {"rare_levels_redrawn": 3}.
    """

    Config = TabularConfig
    config: TabularConfig
    encoder: TableEncoder | None = None
    sample_counts: Mapping[str, int] = {}

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        """Any table or code blocks with something to model; discrete columns need levels."""
        if not schema.modelled() and not schema.blocks:
            return Support(ok=False, reason="The table has no column to model, only identifiers.")
        bare = [c.name for c in schema.modelled() if c.discrete and c.levels is None]
        if bare:
            return Support(
                ok=False, reason=f"Column '{bare[0]}' is discrete but has no levels; infer the schema first."
            )
        return Support(ok=True, blocks=True, missing=True, conditions=True)

    def fit(
        self,
        cohort: Cohort,
        *,
        seed: int,
        device: str = "auto",
        privacy: PrivacySpec | None = None,
        progress: Progress | None = None,
    ) -> FitReport:
        """Learn from all rows given; see `Generator.fit`."""
        began = perf_counter()
        self._accept(cohort, privacy)
        encoder = TableEncoder.fit(cohort, self.config.encoding())
        rows = encoder.encode(cohort, stream(seed, "encode"))
        learned = self._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        self.encoder = encoder
        drawn = self.sample(min(HEALTH_ROWS, max(200, 2 * cohort.n_rows)), seed=seed)
        health, warnings = check_health(cohort, drawn)
        return FitReport(
            rows=cohort.n_rows,
            seconds=perf_counter() - began,
            parameters=learned.parameters,
            losses=learned.losses,
            health={**learned.facts, **health},
            warnings=[*learned.warnings, *self._pooling_warnings(encoder), *warnings],
        )

    def sample(self, n: int, *, seed: int, conditions: Conditions | None = None) -> Cohort:
        """Draw `n` rows; every row is a new subject. See `Generator.sample`.

        Conditions: a mapping fixes columns in all rows, a data frame with `n` rows fixes them row by row. A level is
        given as it is or as text; None and NaN ask for a missing cell.
        """
        encoder = self._fitted()
        if n < 1:
            raise ConfigError(f"{n} rows were asked for.", todo="Ask for at least one.")
        fixed = parse_conditions(conditions, encoder.schema, n)
        rng = stream(seed, "sample")
        rows = self._draw(encoder, n, rng, fixed)
        cohort, counts = encoder.decode(rows, rng, fixed_codes=fixed.codes, fixed_values=fixed.values)
        self.sample_counts = counts
        return cohort

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json` into `folder`; same model, same bytes."""
        from pipeline.store.bundles import save_bundle

        encoder = self._fitted()
        tensors, extra = self._state()
        save_bundle(
            folder,
            {**encoder.tensors(), **{f"model/{k}": v for k, v in tensors.items()}},
            {
                "generator": self.name,
                "code_version": self.code_version,
                "config": self.config.model_dump(mode="json"),
                "encoder": encoder.manifest(),
                "model": extra,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model saved in `folder`."""
        from pipeline.store.bundles import load_bundle

        tensors, manifest = load_bundle(folder)
        if manifest["generator"] != cls.name:
            raise ConfigError(
                f"This is a model of '{manifest['generator']}', not of '{cls.name}'.",
                where=str(folder),
                todo="Use load_generator, which asks the model itself.",
            )
        model = cls(cls.Config(**manifest["config"]))
        model.encoder = TableEncoder.restore(tensors, manifest["encoder"])
        own = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        model._restore(model.encoder, own, manifest["model"])
        return model

    @abstractmethod
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
        """Learn from encoded rows (`cohort` has subjects and the tuning part)."""

    @abstractmethod
    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        """Draw `n` encoded rows; those columns in `fixed` are overwritten afterwards, the others must fit them."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The learned arrays, and what else is needed as JSON."""

    @abstractmethod
    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        """Take back what `_state` gave."""

    def _fitted(self) -> TableEncoder:
        if self.encoder is None:
            raise TrainingError("This generator has not been fitted.", todo="Call fit or load first.")
        return self.encoder

    def _accept(self, cohort: Cohort, privacy: PrivacySpec | None) -> None:
        """Refuse in words what this generator cannot learn."""
        if privacy is not None:
            raise UnsupportedError(
                f"'{self.name}' cannot train with differential privacy yet.",
                todo="Ask for it without epsilon and delta, or use a generator that says `dp`.",
            )
        support = self.supports(cohort.schema)
        if not support.ok:
            raise UnsupportedError(f"'{self.name}' refuses this table: {support.reason}")
        if cohort.events is not None and not support.sequences:
            raise UnsupportedError(
                f"'{self.name}' models rows, not sequences of events.",
                todo="Leave the cohort's events out, or summarise them to columns and code blocks in its SQL.",
            )
        if cohort.n_rows < SMALLEST_COHORT:
            raise InputError(
                f"{cohort.n_rows} training rows are too few to learn from: at least {SMALLEST_COHORT} are needed.",
                todo="What a model of so few patients draws would be the patients themselves.",
            )

    @staticmethod
    def _pooling_warnings(encoder: TableEncoder) -> list[str]:
        pooled = {
            k: int(len(c.to_state) - len(c.kept)) for k, c in encoder.levels.items() if len(c.to_state) > len(c.kept)
        }
        if not pooled:
            return []
        return [
            "Levels that no or too few subjects have are not drawn (columns, and how many levels each): "
            + ", ".join(f"{name} ({count})" for name, count in sorted(pooled.items()))
            + "."
        ]
