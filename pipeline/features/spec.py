"""What is asked for: a cohort (`cohorts/<name>.yaml` with its SQL file), and the book of all cohorts and sources."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError, NotFoundError, nearest
from pipeline.features.block_spec import BlockSpec, EventsSpec, MappingSpec, check_blocks
from pipeline.features.card_spec import CardSpec
from pipeline.features.causal_spec import CausalSpec
from pipeline.features.constraint_spec import FORMS, ConstraintSpec
from pipeline.features.evaluation_spec import EvaluationSpec, GateSpec, TaskSpec
from pipeline.features.fairness_spec import FairnessSpec
from pipeline.features.schema import Column, DType, Kind, Level, Resolution, Role
from pipeline.features.source import SourceSpec
from pipeline.features.told import told_settings
from pipeline.features.tuning_spec import TuningSpec
from pipeline.privacy.spec import PrivacyPolicy

# The same safe subset, parsed by libyaml where it is there: the code location reads thousands of lines when it loads.
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BUILT_IN_COHORTS = Path(__file__).resolve().parents[2] / "cohorts"


class ColumnSpec(BaseModel):
    """What the author of a cohort says of a column; what is left out is inferred from the training rows."""

    model_config = ConfigDict(extra="forbid")
    kind: Kind | None = Field(default=None, description="What the values mean.")
    dtype: DType | None = Field(default=None, description="Arrow type; else what the SQL gives.")
    role: Role = Field(default="feature", description="What the column is for.")
    levels: list[Level] | None = Field(default=None, description="Admissible values of a discrete column.")
    bounds: tuple[float, float] | None = Field(default=None, description="Smallest and largest admissible number.")
    unit: str | None = Field(default=None, description="Unit of measurement.")
    resolution: Resolution | None = Field(default=None, description="Grid of a numeric column.")
    nullable: bool | None = Field(
        default=None, description="May cells be missing? Declared, a private training need not find out."
    )
    description: str = Field(default="", description="For people.")
    source: list[str] = Field(
        default_factory=list, description="'table.column' of the raw tables; drawn as column lineage."
    )


class ReleaseSpec(BaseModel):
    """The candidate that is fixed before it is evaluated."""

    model_config = ConfigDict(extra="forbid")
    generator: str | None = Field(default=None, description="Generator whose candidate would be published.")
    formats: list[Literal["parquet", "csv"]] = Field(default=["parquet", "csv"], description="File formats.")
    rows: int | None = Field(
        default=None,
        ge=1,
        description="Rows to publish, at most as many as were judged (those in training); default all of them.",
    )
    mode: Literal["manual", "auto"] = Field(default="manual", description="Signed by people, or by the gate alone.")
    roles: dict[str, list[str]] = Field(
        default_factory=lambda: dict[str, list[str]](privacy_officer=[]),
        description="Roles that must sign in mode manual, each with the names of those who hold it (empty: anybody "
        "who says so). Several roles are signed by different people.",
    )

    @model_validator(mode="after")
    def _signable(self) -> ReleaseSpec:
        if self.mode == "manual" and not self.roles:
            raise ValueError("mode: manual needs at least one role that signs")
        for role in self.roles:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", role):
                raise ValueError(f"role '{role}' must be lower-case letters, digits and _")
        return self


class ScheduleSpec(BaseModel):
    """What the monthly schedule does with a cohort."""

    model_config = ConfigDict(extra="forbid")
    enabled: bool = Field(default=True, description="Is the cohort made every month?")
    always: bool = Field(default=False, description="Also where its inputs are unchanged since the month made before?")


class CohortSpec(BaseModel):
    """One cohort, from `cohorts/<name>.yaml`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Cohort name; first dimension of its partitions."
    )
    title: str = Field(default="", description="One line for people.")
    enabled: bool = Field(
        default=True,
        description="A retired cohort stays readable; it is not scheduled, nor anything new of it published.",
    )
    source: str = Field(description="Source in sources.yaml.")
    unit: Literal["patient", "stay", "row"] = Field(default="patient", description="What one row is.")
    subject: str = Field(
        description="Column of the SQL that identifies the subject, or 'row' where a row is a subject."
    )
    sql: str = Field(description="SQL file beside the YAML; one SELECT over the raw tables and `events`.")
    columns: dict[str, ColumnSpec] = Field(
        default_factory=dict, description="What is known of the columns; others are inferred."
    )
    blocks: dict[str, BlockSpec] = Field(
        default_factory=dict,
        description="Code blocks beside the table, by name; their vocabularies are told from training.",
    )
    events: EventsSpec | None = Field(
        default=None,
        description="Dated codes of the people, as visits beside the table; what sequences are learned from.",
    )
    tasks: list[TaskSpec] = Field(default_factory=list, description="Prediction tasks for utility.")
    protected: list[str] = Field(default_factory=list, description="Protected attributes for fairness.")
    fairness: FairnessSpec | None = Field(
        default=None, description="A notion of fairness that the synthetic rows are drawn under; see docs/fairness.md."
    )
    causal: CausalSpec | None = Field(
        default=None,
        description="A reviewed graph of causes, or tiers to learn one within; see docs/generators/decaf.md.",
    )
    constraints: list[ConstraintSpec] = Field(default_factory=list, description="Rules that every synthetic row keeps.")
    generators: dict[str, dict[str, Any]] = Field(
        description="Enabled generators and their settings (`preset: NAME` and overrides)."
    )
    tuning: dict[str, TuningSpec] = Field(
        default_factory=dict, description="Generators whose settings are searched, and how; see docs/tuning.md."
    )
    replicates: int = Field(
        default=1, ge=1, le=20, description="Trainings a generator, one a seed; the first is the candidate."
    )
    seed: int = Field(
        default=0,
        description="Base seed; replicate k of a generator uses a hash of seed, cohort, month, generator and k.",
    )
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, description="How thoroughly to judge.")
    gate: GateSpec = Field(default_factory=GateSpec, description="Thresholds of the verdict.")
    release: ReleaseSpec = Field(default_factory=ReleaseSpec, description="The candidate fixed before evaluation.")
    privacy: PrivacyPolicy = Field(
        default_factory=PrivacyPolicy, description="Differential privacy asked of trainings, and the cohort's budget."
    )
    card: CardSpec = Field(
        default_factory=CardSpec, description="What people say of the cohort on the cards that go with its releases."
    )
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="What the monthly schedule does with it.")
    folder: Path = Field(default=Path(), exclude=True, description="Folder of the YAML; set on loading.")

    @model_validator(mode="after")
    def _complete(self) -> CohortSpec:
        if self.subject == "row" and self.unit != "row":
            raise ValueError("subject: row needs unit: row")
        check_blocks(self.blocks, self.subject, list(self.columns))
        if self.events is not None and self.unit != "patient":
            raise ValueError("events need unit: patient, a row with all visits of a person")
        if self.events is not None and "events" in self.blocks:
            raise ValueError("a block cannot be called 'events' beside events")
        for name in [
            *self.privacy.trainings,
            *self.tuning,
            *([self.release.generator] if self.release.generator else []),
            *((self.fairness.generators or []) if self.fairness is not None else []),
        ]:
            if name not in self.generators:
                raise ValueError(
                    f"generator '{name}' is named but not enabled: add it under `generators`, or take it out of release, "
                    "privacy, tuning and fairness"
                )
        if self.fairness is not None:
            try:
                self.fairness.resolved(self.tasks, self.protected)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        # One place for all that read the settings: training, ledger, tuning, shadow models, what is recorded.
        self.generators = {
            name: {**told_settings(name, self.fairness, self.causal), **settings}
            for name, settings in self.generators.items()
        }
        return self

    def fairness_of(self, generator: str) -> FairnessSpec | None:
        """The notion that a generator's rows are drawn under, complete; None where they are drawn as they come."""
        asked = self.fairness
        if asked is None or generator not in (self.generators if asked.generators is None else asked.generators):
            return None
        return asked.resolved(self.tasks, self.protected)

    @property
    def sql_file(self) -> Path:
        """Path of the SQL file."""
        return self.folder / self.sql


class _Loader(_BASE):
    """Safe YAML in which no key stands twice: the last one would win without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping; raises `ConstructorError` where a key repeats."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class CohortBook:
    """All cohorts and sources that were found, and the files that could not be read with the reason."""

    cohorts: dict[str, CohortSpec]
    sources: dict[str, SourceSpec]
    broken: dict[str, str] = field(default_factory=dict)

    def cohort(self, name: str) -> CohortSpec:
        """The cohort called `name`; raises `NotFoundError` with the nearest name, or `ConfigError` if its file is broken."""
        if name in self.broken:
            raise ConfigError(self.broken[name], where=f"cohort {name}")
        if name not in self.cohorts:
            raise NotFoundError(f"There is no cohort '{name}'.", todo=nearest(name, list(self.cohorts)))
        return self.cohorts[name]

    def source(self, name: str) -> SourceSpec:
        """The source called `name`; raises `NotFoundError` with the nearest name, or `ConfigError` if it is broken."""
        if (reason := self.broken.get(f"source:{name}")) is not None:
            raise ConfigError(reason, where=f"source {name}")
        if name not in self.sources and (reason := self.broken.get("source:sources.yaml")) is not None:
            raise ConfigError(reason, where=f"source {name}")
        if name not in self.sources:
            raise NotFoundError(f"There is no source '{name}'.", todo=nearest(name, list(self.sources)))
        return self.sources[name]


def cohort_folders() -> list[Path]:
    """The built-in folder and, if set, COHORTLOOM_COHORTS (whose files win over built-in ones of the same name)."""
    extra = os.environ.get("COHORTLOOM_COHORTS")
    return [BUILT_IN_COHORTS, *([Path(extra).expanduser().resolve()] if extra else [])]


def load_book(folders: list[Path] | None = None) -> CohortBook:
    """Read all cohort and source files. A broken cohort file is listed in `broken` and hides no other."""
    from pipeline.generators.registry import generator_names

    generators = generator_names()
    cohorts: dict[str, CohortSpec] = {}
    sources: dict[str, SourceSpec] = {}
    broken: dict[str, str] = {}
    for folder in folders or cohort_folders():
        if not folder.is_dir():
            raise ConfigError(
                "The folder of cohorts does not exist.", where=str(folder), todo="Mend COHORTLOOM_COHORTS."
            )
        listing = folder / "sources.yaml"
        if listing.is_file():
            try:
                listed = _read_yaml(listing) or {}
                if not isinstance(listed, dict):
                    raise ConfigError(
                        "The file of sources must be a mapping: `name: {format: ...}`.", where=str(listing)
                    )
            except ConfigError as error:
                broken["source:sources.yaml"], listed = _sentence(error, listing), {}
            for name, settings in listed.items():
                try:
                    sources[name] = SourceSpec(**{"name": name, **(settings or {})})
                    broken.pop(f"source:{name}", None)
                except (ValidationError, TypeError) as error:
                    sources.pop(name, None)  # one of the same name that is built in is not what was meant
                    broken[f"source:{name}"] = _sentence(error, listing)
        for file in sorted(folder.glob("*.yaml")):
            if file.name == "sources.yaml":
                continue
            broken.pop(file.stem, None)
            cohorts.pop(file.stem, None)
            try:
                cohorts[file.stem] = _load_cohort(file, generators)
            except (ConfigError, ValidationError, TypeError) as error:
                broken[file.stem] = _sentence(error, file)
    for name, spec in list(cohorts.items()):
        if spec.source not in sources:
            near = f"source '{spec.source}' is not in sources.yaml. {nearest(spec.source, list(sources))}"
            broken[name] = f"{spec.folder / (name + '.yaml')}: {broken.get(f'source:{spec.source}', near)}"
            del cohorts[name]
    broken |= _broken_views(folders or cohort_folders())
    return CohortBook(cohorts=cohorts, sources=sources, broken=broken)


def _broken_views(folders: list[Path]) -> dict[str, str]:
    """The user's views that cannot be used, as `view:<file>`. The built-in ones are code, and a test holds them."""
    own = [folder for folder in folders if folder != BUILT_IN_COHORTS and (folder / "views").is_dir()]
    if not own:
        return {}
    from pipeline.ingest.fhir.user_views import load_user_views

    return {f"view:{name}": reason for name, reason in load_user_views(own).broken.items()}


def _load_cohort(file: Path, generators: list[str]) -> CohortSpec:
    content = _read_yaml(file)
    if not isinstance(content, dict):
        raise ConfigError("A cohort file must be a mapping.", where=str(file))
    spec = CohortSpec(**{"name": file.stem, **content, "folder": file.parent})
    if spec.name != file.stem:
        raise ConfigError(
            f"The cohort is called '{spec.name}', its file '{file.stem}'.", where=str(file), todo="Make them the same."
        )
    for wanted in [spec.sql, *(name for block in spec.blocks.values() for name in block.files)]:
        if not (spec.folder / wanted).is_file():
            kind = "SQL" if wanted.endswith(".sql") else "mapping"
            raise ConfigError(f"The {kind} file '{wanted}' does not exist.", where=str(file))
    for name in [*spec.generators, *([spec.release.generator] if spec.release.generator else [])]:
        if name not in generators:
            raise ConfigError(f"There is no generator '{name}'.", where=str(file), todo=nearest(name, generators))
    return spec


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(
            f"This is not valid YAML ({getattr(error, 'problem', None) or error}).", where=f"{file}{line}"
        ) from error


def _sentence(error: Exception, file: Path) -> str:
    if isinstance(error, ValidationError):
        # A misspelt key is named first: the one that is missing then follows from it.
        found = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        place = found[0]["loc"]
        if place[:1] == ("constraints",) and len(place) > 2:
            form = FORMS[str(place[2])]  # the form is no key of the file
            place = (*place[:2], *place[3:])
            if found[0]["type"] == "extra_forbidden" and len(place) == 3:
                known = list(form.model_fields)
                return (
                    f"{file}: There is no key '{'.'.join(map(str, place))}'. {nearest(str(place[-1]), known)}".rstrip()
                )
        key = ".".join(map(str, place)) or "file"
        if found[0]["type"] == "extra_forbidden":
            top = SourceSpec if error.title == "SourceSpec" else CohortSpec
            known = _fields_at(top, found[0]["loc"][:-1])
            return f"{file}: There is no key '{key}'. {nearest(str(found[0]['loc'][-1]), known)}".rstrip()
        words = str(found[0]["msg"]).removeprefix("Value error, ")
        return f"{file}: {words}" if key == "file" else f"{file}: {key}: {words}"
    return str(error) if str(file) in str(error) else f"{file}: {error}"


def _fields_at(model: Any, place: tuple[int | str, ...]) -> list[str]:
    """The keys that a model has at a place within it, through lists and mappings of models; none where it has no fields."""
    for part in place:
        fields = getattr(model, "model_fields", None)
        if fields is None:  # a key of a mapping, or a place in a list: its items are the model
            model = next((inner for inner in get_args(model) if hasattr(inner, "model_fields")), None)
        else:
            model = fields[part].annotation if part in fields else None
    if not hasattr(model, "model_fields"):
        model = next((inner for inner in get_args(model) if hasattr(inner, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


__all__ = [
    "BUILT_IN_COHORTS",
    "BlockSpec",
    "CohortBook",
    "CohortSpec",
    "Column",
    "ColumnSpec",
    "ConstraintSpec",
    "EvaluationSpec",
    "GateSpec",
    "MappingSpec",
    "ReleaseSpec",
    "ScheduleSpec",
    "SourceSpec",
    "TaskSpec",
    "cohort_folders",
    "load_book",
]
