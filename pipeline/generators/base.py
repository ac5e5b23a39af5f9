"""The contract of a generator: configuration, fit, sample, save and load, and what it says it can do.

Generators see the training rows of a cohort only. Which generators exist is in `registry.py`; the loop that
trains the neural ones in `training.py`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError, nearest
from pipeline.privacy.spec import PrivacySpec, TrainingPrivacy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.generators.catalogue import About
    from pipeline.generators.portrait import Portrait

    AskedPrivacy = PrivacySpec | TrainingPrivacy
    Conditions = Mapping[str, Any] | pd.DataFrame
    Progress = Callable[[int, int, Mapping[str, float]], None]

NO_SEQUENCES = (
    "It models rows, not sequences of events. Use halo_small, or leave `events` out of the cohort and summarise them to "
    "columns and code blocks in its SQL."
)
RULES_FILE = "constraints.json"
"""Stands beside a model that learned under re-expressed rules."""


class GeneratorConfig(BaseModel):
    """Base of every generator's configuration; each field of a subclass carries a description.

    `presets` names published or recommended settings. Three always exist: "default" is the class's own defaults,
    "paper" the published configuration (the defaults where there is none), and "quick" trains a small table within
    seconds: for trying out, backfills and tests, not for release. Where the defaults are that fast, it is them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper": {}, "quick": {}}

    @classmethod
    def build(cls, settings: Mapping[str, Any] | None = None) -> Self:
        """Configuration from plain settings, with `preset: NAME` as the base that they override.

        Raises:
            ConfigError: unknown preset or field (with the nearest name), or a value out of range.
        """
        given = dict(settings or {})
        preset = given.pop("preset", "default")
        if preset not in cls.presets:
            raise ConfigError(f"There is no preset '{preset}'.", todo=nearest(str(preset), list(cls.presets)))
        unknown = sorted(set(given) - set(cls.model_fields))
        if unknown:
            raise ConfigError(f"There is no setting '{unknown[0]}'.", todo=nearest(unknown[0], list(cls.model_fields)))
        try:
            return cls(**{**cls.presets[preset], **given})
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"Setting '{'.'.join(map(str, first['loc']))}': {first['msg']}.") from error


@dataclass(frozen=True)
class Support:
    """Whether a generator takes a schema, and what it can do with it.

    `reason` says in words why not (empty if `ok`). The flags say what works beyond plain rows.
    """

    ok: bool
    reason: str = ""
    blocks: bool = False
    missing: bool = False
    conditions: bool = False
    sequences: bool = False
    dp: bool = False
    repeated_subjects: bool = True


@dataclass
class FitReport:
    """What a training did.

    Attributes:
        rows: training rows used.
        seconds: wall time.
        parameters: number of learned numbers.
        losses: one mapping a log step, e.g. {"step": 100, "train": 3.2, "tune": 3.3}.
        health: numbers of the health checks on freshly drawn rows (spec 0.4), e.g. {"std_ratio_min": 0.97}.
        warnings: sentences for people; no patient data.
        privacy: what was spent (`epsilon`, `delta`) and on what (`PrivateRun.report`), None if the training is not
            private (epsilon is then infinite).
    """

    rows: int
    seconds: float
    parameters: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    health: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    privacy: dict[str, Any] | None = None


class Generator(ABC):
    """A model of a cohort's rows: fit it, sample from it, save and load it."""

    name: ClassVar[str]
    """The field's standard name; the key in the registry."""
    title: ClassVar[str]
    """One line for people."""
    Config: ClassVar[type[GeneratorConfig]] = GeneratorConfig
    code_version: ClassVar[str] = "1"
    """Raise it when the same settings and seed would give other rows."""
    uses_gpu: ClassVar[bool] = False
    copies_patients: ClassVar[bool] = False
    """Gives training rows back as they are: a baseline that must fail on privacy."""
    publishable: ClassVar[bool] = True
    """False of a control that must fail privacy: nothing that it draws may leave the house."""
    private: ClassVar[bool] = False
    """Can learn under differential privacy; `fit` then takes `privacy`."""
    about: ClassVar[About | None] = None
    """What is told of it before it is chosen; those of this package stand in `catalogue.py`."""
    kinds: ClassVar[tuple[str, ...]] = ("numpy",)
    resumes: ClassVar[bool] = False
    """Takes `fit(checkpoint=...)`: a killed training goes on from the state that it kept there."""

    def __init__(self, config: GeneratorConfig | Mapping[str, Any] | None = None) -> None:
        self.config = config if isinstance(config, GeneratorConfig) else self.Config.build(config)

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        """Does this generator take the schema? Yes with what it can do, or no with a reason in words."""
        if schema.events is not None:
            return Support(ok=False, reason=NO_SEQUENCES)
        return Support(
            ok=bool(schema.modelled() or schema.blocks),
            reason="" if schema.modelled() or schema.blocks else "The table has no column to model.",
        )

    @abstractmethod
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
        """Learn from all rows given (the caller passes the training part; `cohort.tune` marks the tuning rows).

        `checkpoint` is a folder in which one that `resumes` keeps the state of this training, so that the same training
        can be ended after a kill, with the same bytes; the caller removes it. The others ignore it.

        `noise_key` is the secret key of a private training (`privacy/secrets.py: training_key`): with it the same training
        gives the same bytes. Without it noise is fresh each time. The seed is public and never decides any noise.

        Raises:
            UnsupportedError: the schema or the privacy asked for is not supported.
            TrainingError: the training did not end well.
        """

    def planned_privacy(self, privacy: AskedPrivacy, subjects: int) -> PrivacySpec:
        """What a training with these settings would cost each of `subjects` people, told before it begins.

        Raises:
            ConfigError: delta is too weak for so few, or a noise multiplier is asked of a generator that adds none to
                gradients.
        """
        return TrainingPrivacy.of(privacy).resolve(subjects)

    @abstractmethod
    def sample(self, n: int, *, seed: int, conditions: Conditions | None = None) -> Cohort:
        """Draw `n` rows in exactly the training schema; `conditions` fixes columns for all rows or row by row."""

    def draws_given(self, columns: Collection[str]) -> bool:
        """Are rows drawn from the model itself where these columns are fixed, not tried until they fit?"""
        return False

    def portraits(self) -> dict[str, Portrait]:
        """Name to what a trained model shows of itself to people, made of aggregates; same model, same portraits."""
        return {}

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model into an existing folder as safetensors and JSON; same model, same bytes."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """The model saved in `folder`."""


def load_generator(folder: Path) -> Generator:
    """The generator of whichever class was saved in `folder`, with the rules of its cohort where it learned under any.

    Raises:
        NotFoundError: the folder holds no model.
    """
    if (folder / RULES_FILE).is_file():
        from pipeline.generators.constraints.constrained import Constrained

        return Constrained.load(folder)
    return load_inner(folder)


def own_bundle(kind: type[Generator], folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and manifest of the model saved in `folder`; raises `ConfigError` if another generator saved it."""
    from pipeline.store.bundles import load_bundle

    tensors, manifest = load_bundle(folder)
    if manifest["generator"] != kind.name:
        raise ConfigError(
            f"This is a model of '{manifest['generator']}', not of '{kind.name}'.",
            where=str(folder),
            todo="Use load_generator, which asks the model itself.",
        )
    return tensors, manifest


def load_inner(folder: Path) -> Generator:
    """The generator that learned in `folder`, whose rows may be in another schema than the real one (`model.json`)."""
    from pipeline.errors import NotFoundError
    from pipeline.generators.registry import generator_class

    manifest = folder / "model.json"
    if not manifest.is_file():
        first = folder / "replicates" / "replicate-0"
        todo = (
            f"Pass one of its replicates: {first}."
            if first.is_dir()
            else "Pass the folder that `cohortloom fit --out` wrote."
        )
        raise NotFoundError("This folder holds no model.", where=str(folder), todo=todo)
    return generator_class(json.loads(manifest.read_text())["generator"]).load(folder)
