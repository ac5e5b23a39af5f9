"""What generators of plain rows and code blocks share: encoding, refusals, conditions, health checks, save and load.

A subclass says how it learns from encoded rows (`_learn`), how it draws them (`_draw`) and which arrays it is made of
(`_state`, `_restore`); one that can learn under differential privacy says so (`private`, `_learn_private`). Sequences
are not for these generators and are refused in words.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded, EncodingSettings, TableEncoder
from pipeline.encoding.private import private_encoder, private_rows, refusal
from pipeline.errors import ConfigError, InputError, TrainingError, UnsupportedError
from pipeline.generators.base import NO_SEQUENCES, FitReport, Generator, GeneratorConfig, Support, own_bundle
from pipeline.generators.conditions import Fixed, parse_conditions
from pipeline.generators.health import check_health
from pipeline.generators.memory import memory_advice
from pipeline.generators.seeds import stream
from pipeline.privacy.bounding import bounded
from pipeline.privacy.run import PrivateRun
from pipeline.privacy.spec import PrivacySpec, TrainingPrivacy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.generators.base import AskedPrivacy, Conditions, Progress
    from pipeline.generators.checkpoint import Checkpoint
    from pipeline.privacy.dpsgd import PrivateSettings

SMALLEST_COHORT = 10
"""Fewer rows than this are mostly extremes: what would be learned is the patients themselves."""
HEALTH_ROWS = 2000
OUTSIDE = (
    "Outside the privacy guarantee: the health checks of this report and every figure of an evaluation are computed on "
    "real rows. Publish the model and what it draws under the guarantee, not these figures."
)


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
    encoder: TableEncoder | None = None
    """A better encoder than the one given, such as one with margins from the budget of learning; None keeps that one."""


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
    _checkpoint: Checkpoint | None = None
    """Where the running training keeps its state; `_learn` hands it to `train`."""
    not_private: ClassVar[str] = "It has no way to learn from noisy answers alone."
    """Why it does not, in one sentence, where it does not."""

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        """Any table or code blocks with something to model; discrete columns need levels."""
        if schema.events is not None:
            return Support(ok=False, reason=NO_SEQUENCES)
        if not schema.modelled() and not schema.blocks:
            return Support(ok=False, reason="The table has no column to model, only identifiers.")
        bare = [c.name for c in schema.modelled() if c.discrete and c.levels is None]
        if bare:
            return Support(
                ok=False, reason=f"Column '{bare[0]}' is discrete but has no levels; infer the schema first."
            )
        return Support(ok=True, blocks=True, missing=True, conditions=True, dp=cls.private)

    def fit(
        self,
        cohort: Cohort,
        *,
        seed: int,
        device: str = "auto",
        privacy: AskedPrivacy | None = None,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        noise_key: bytes | None = None,
    ) -> FitReport:
        """Learn from all rows given; see `Generator.fit`."""
        with memory_advice(self.name, cohort.n_rows):
            if privacy is not None:
                return self._fit_private(cohort, seed, device, TrainingPrivacy.of(privacy), progress, noise_key)
            return self._fit(cohort, seed, device, progress, checkpoint)

    def noise_settings(self, subjects: int) -> PrivateSettings | None:
        """How DP-SGD would train on so many subjects, for generators that take a noise multiplier; None of the others."""
        return None

    def planned_privacy(self, privacy: AskedPrivacy, subjects: int) -> PrivacySpec:
        """See `Generator.planned_privacy`."""
        asked = TrainingPrivacy.of(privacy)
        settings = self.noise_settings(subjects)
        if asked.noise_multiplier is None or settings is None:
            return super().planned_privacy(asked, subjects)
        from pipeline.privacy.dpsgd import planned_epsilon

        epsilon = planned_epsilon(settings, asked, subjects)
        return PrivacySpec(epsilon=epsilon, delta=asked.resolved_delta(subjects))

    def _fit(
        self,
        cohort: Cohort,
        seed: int,
        device: str,
        progress: Progress | None,
        checkpoint: Path | None,
    ) -> FitReport:
        began = perf_counter()
        self._accept(cohort)
        encoder = TableEncoder.fit(cohort, self.config.encoding())
        rows = encoder.encode(cohort, stream(seed, "encode"))
        self._checkpoint = self._kept_in(checkpoint, encoder, rows, seed)
        learned = self._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        self.encoder = learned.encoder or encoder
        drawn = self._drawn_for_health(min(HEALTH_ROWS, max(200, 2 * cohort.n_rows)), seed)
        health, warnings = check_health(cohort, drawn)
        return FitReport(
            rows=cohort.n_rows,
            seconds=perf_counter() - began,
            parameters=learned.parameters,
            losses=learned.losses,
            health={**learned.facts, **health},
            warnings=[
                *learned.warnings,
                *self._pooling_warnings(encoder),
                *self._lone_levels(encoder, rows),
                *warnings,
            ],
        )

    def _fit_private(
        self,
        cohort: Cohort,
        seed: int,
        device: str,
        asked: TrainingPrivacy,
        progress: Progress | None,
        noise_key: bytes | None,
    ) -> FitReport:
        """Bound what a subject contributes, learn the encoding from a share of the budget, and the rest from the rest."""
        began = perf_counter()
        self._accept_private(cohort, asked)
        run = PrivateRun.begin(
            asked,
            cohort,
            seed=seed,
            key=noise_key,
            what={
                "generator": self.name,
                "code_version": self.code_version,
                "config": self.config.model_dump(mode="json"),
            },
            epsilon=self.planned_privacy(asked, cohort.n_subjects).epsilon,
        )
        part = bounded(cohort, asked.rows_per_subject, run.rng("rows of a subject"))
        encoder = private_encoder(part, self.config.encoding(), run.part(asked.preprocessing_share, "encoding"))
        rows, part = private_rows(encoder, part, run.rng("encode"))
        learned = self._learn_private(
            encoder,
            rows,
            part,
            seed=seed,
            device=device,
            run=run.part(1 - asked.preprocessing_share, "learning"),
            progress=progress,
        )
        self.encoder = learned.encoder or encoder
        drawn = self._drawn_for_health(min(HEALTH_ROWS, max(200, 2 * part.n_rows)), seed)
        health, warnings = check_health(part, drawn)
        return FitReport(
            rows=part.n_rows,
            seconds=perf_counter() - began,
            parameters=learned.parameters,
            losses=learned.losses,
            health={**learned.facts, **health},
            warnings=[*learned.warnings, *run.warnings, *self._pooling_warnings(encoder), *warnings, OUTSIDE],
            privacy=run.report(),
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

    def _drawn_for_health(self, n: int, seed: int) -> Cohort:
        """At most `n` rows to look at after training; fewer, or more quickly drawn ones, where a draw takes hours."""
        return self.sample(n, seed=seed)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json` into `folder`; same model, same bytes."""
        from pipeline.store.bundles import save_bundle

        save_bundle(folder, *self.bundle())

    def bundle(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What is saved: the arrays, and the rest as JSON."""
        encoder = self._fitted()
        tensors, extra = self._state()
        return {**encoder.tensors(), **{f"model/{k}": v for k, v in tensors.items()}}, {
            "generator": self.name,
            "code_version": self.code_version,
            "config": self.config.model_dump(mode="json"),
            "encoder": encoder.manifest(),
            "model": extra,
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model saved in `folder`."""
        tensors, manifest = own_bundle(cls, folder)
        return cls.restored(tensors, manifest)

    @classmethod
    def restored(cls, tensors: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> Self:
        """The model of which `bundle` gave this."""
        model = cls(cls.Config(**manifest["config"]))
        model.encoder = TableEncoder.restore(tensors, manifest["encoder"])
        own = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        model._restore(model.encoder, own, manifest["model"])
        return model

    def _kept_in(self, folder: Path | None, encoder: TableEncoder, rows: Encoded, seed: int) -> Checkpoint | None:
        """The checkpoint of this training in `folder`; None if it keeps none."""
        if folder is None or not self.resumes:
            return None
        from pipeline.generators.checkpoint import Checkpoint, identity_of

        config = self.config.model_dump(mode="json")
        facts = {"generator": self.name, "code_version": self.code_version, "config": config, "seed": seed}
        return Checkpoint(folder, identity_of(rows, encoder.tensors(), facts))

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

    def _learn_private(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        """Learn from encoded rows through the mechanisms of `run` alone; what the encoder holds is private already.

        `cohort` has at most the rows of a subject that were asked for, under the encoder's schema. Nothing may be chosen
        by a look at rows that `run` does not know of: no early stopping, no tuning rows, no statistics.
        """
        raise UnsupportedError(f"'{self.name}' does not train with differential privacy. {self.not_private}")

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

    def _accept_private(self, cohort: Cohort, asked: TrainingPrivacy) -> None:
        """Refuse in words what this generator cannot learn under differential privacy."""
        if not self.private:
            raise UnsupportedError(
                f"'{self.name}' does not train with differential privacy. {self.not_private}",
                todo="Ask for it without epsilon and delta, or use a generator that says `dp`.",
            )
        reason = refusal(cohort.schema, asked.preprocessing)
        if reason:
            raise UnsupportedError(f"'{self.name}' refuses this table under differential privacy: {reason}")
        self._accept(cohort)

    def _accept(self, cohort: Cohort) -> None:
        """Refuse in words what this generator cannot learn."""
        support = self.supports(cohort.schema)
        if not support.ok:
            raise UnsupportedError(f"'{self.name}' refuses this table: {support.reason}")
        if cohort.n_rows < SMALLEST_COHORT:
            raise InputError(
                f"{cohort.n_rows} training rows are too few to learn from: at least {SMALLEST_COHORT} are needed.",
                todo="What a model of so few patients draws would be the patients themselves.",
            )

    def _lone_levels(self, encoder: TableEncoder, rows: Encoded) -> list[str]:
        """Columns of which every level is rare: the commonest is drawn all the same, since some level must be."""
        needed = self.config.rare_level_rows
        lone = [
            name
            for name, level in encoder.levels.items()
            if level.has_rare and len(level.kept) == 1 and (rows.states[name] == 0).sum() < needed
        ]
        if not lone:
            return []
        return [
            f"Every level of {', '.join(lone)} is rarer than {needed} people, and the commonest stands for all of them: group "
            "the levels (ICD chapters instead of codes), or leave the column out."
        ]

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
