"""What a cohort's file says of fairness: who is protected, which outcome, what is to be alike, and within what.

The rows that keep it are drawn in `pipeline/fairness/`; how unfair a model of real people is, is measured in
`pipeline/evaluation/fairness/`. Generators that learn under a notion of fairness read the same class.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError, nearest
from pipeline.features.evaluation_spec import TaskSpec
from pipeline.features.schema import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

Notion = Literal["parity", "equal_opportunity", "equalised_odds", "none"]
SHARES_ADD_UP = 1e-3


class GroupShare(BaseModel):
    """One line of a table of shares: `{levels: {sex: Female}, share: 0.5}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    levels: dict[str, Level | None] = Field(
        min_length=1, description="Column to level (nothing: missing; of a numeric column the name of the piece)."
    )
    share: float = Field(ge=0, le=1, description="Share of the synthetic rows.")


class FairnessSpec(BaseModel):
    """A notion of fairness that synthetic rows are drawn under."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    protected: list[str] = Field(
        default_factory=list,
        description="Columns whose groups (crossed, where there are several) are to be treated alike; default the cohort's "
        "`protected`.",
    )
    label: str | None = Field(default=None, description="The outcome; default the label of the first task.")
    positive: Level | None = Field(
        default=None, description="Its positive level; default that of the task, else the last of its levels."
    )
    leak: list[str] = Field(
        default_factory=list, description="Columns that give the outcome away; default those of the task."
    )
    privileged: dict[str, Level] = Field(
        default_factory=dict,
        description="Level of a protected column that is thought to be favoured: gaps are told as its group minus the others.",
    )
    notion: Notion = Field(
        default="parity",
        description="What is alike in every group: the share of positives (parity), of the true positives that are found "
        "(equal_opportunity), of both true and false positives (equalised_odds), or nothing but the groups' shares (none).",
    )
    aim: Literal["labels", "decisions"] = Field(
        default="labels",
        description="'labels': the outcome of the rows is independent of the group, exactly. 'decisions': the outcome is "
        "changed near the line between yes and no alone, so that a model trained on the rows decides alike.",
    )
    strata: list[str] = Field(
        default_factory=list,
        description="Columns that may rightly decide: labels are then made independent of the group within each of their "
        "cells (conditional parity), and the shares of groups and cells are kept.",
    )
    bins: dict[str, list[float]] = Field(
        default_factory=dict,
        description="Numeric column to the cuts that make groups of it; a cut belongs to the upper piece.",
    )
    shares: Literal["model", "training"] = Field(
        default="model",
        description="Whose shares of outcome and groups are kept: those of the model's own rows, which cost no privacy, or "
        "those of the training rows (refused where the model is private).",
    )
    table: list[GroupShare] = Field(
        default_factory=list,
        description="Shares to be met instead, of groups, strata or outcomes; groups not named get none.",
    )
    rare: Literal["refuse", "pool"] = Field(
        default="refuse", description="Groups of fewer than 11 rows: 'refuse', or 'pool' them into one."
    )
    generators: list[str] | None = Field(
        default=None, description="Generators whose synthetic rows are drawn so; default all that the cohort enables."
    )

    @model_validator(mode="after")
    def _sound(self) -> FairnessSpec:
        if self.notion in ("equal_opportunity", "equalised_odds") and self.aim == "labels":
            raise ValueError(
                f"{self.notion} is a promise about decisions, which no share of labels keeps: write `aim: decisions`"
            )
        if self.notion == "none" and self.aim == "decisions":
            raise ValueError("notion: none asks for nothing of decisions: leave `aim` out")
        if self.aim == "decisions" and (self.strata or self.table):
            raise ValueError("`strata` and `table` belong to aim: labels")
        for what, names in (("protected", self.protected), ("strata", self.strata)):
            if len(set(names)) < len(names):
                raise ValueError(f"`{what}` names a column twice")
        twice = sorted(set(self.protected) & set(self.strata))
        if twice:
            raise ValueError(f"'{twice[0]}' is both protected and a stratum: what may rightly decide is not protected")
        if self.label is not None and self.label in [*self.protected, *self.strata]:
            raise ValueError(f"the label '{self.label}' cannot be protected or a stratum as well")
        for name, cuts in self.bins.items():
            if not cuts or any(a >= b for a, b in pairwise(cuts)):
                raise ValueError(f"bins of '{name}' must be rising cuts, such as [40, 65]")
        self._check_table()
        return self

    def _check_table(self) -> None:
        if not self.table:
            return
        if self.shares == "training":
            raise ValueError("either `table` or `shares: training` says what is to be met, not both")
        keys = {tuple(sorted(line.levels)) for line in self.table}
        if len(keys) > 1:
            raise ValueError("every line of `table` names the same columns")
        if len({str(sorted(line.levels.items())) for line in self.table}) < len(self.table):
            raise ValueError("`table` has two lines for the same group")
        total = sum(line.share for line in self.table)
        if abs(total - 1) > SHARES_ADD_UP:
            raise ValueError(f"the shares of `table` add up to {total:g}, not to 1")

    @property
    def columns(self) -> list[str]:
        """Every column that is spoken of."""
        lines = [n for line in self.table for n in line.levels]
        named = [*self.protected, *self.strata, *self.bins, *self.privileged, *lines]
        return list(dict.fromkeys([*named, *([self.label] if self.label else [])]))

    def resolved(self, tasks: Sequence[TaskSpec] = (), protected: Sequence[str] = ()) -> FairnessSpec:
        """With what was left out taken from a cohort's tasks and protected columns.

        Raises:
            ConfigError: no outcome or no protected column is known.
        """
        task = next((t for t in tasks if self.label in (None, t.label)), None)
        label = self.label or (task.label if task else None)
        names = self.protected or [n for n in protected if n != label and n not in self.strata]
        if label is None:
            raise ConfigError("No outcome is named.", where="fairness", todo="Add `label: COLUMN`, or a task.")
        if not names:
            raise ConfigError("No protected column is named.", where="fairness", todo="Add `protected: [COLUMN]`.")
        more: dict[str, Any] = {"label": label, "protected": names}
        if task is not None and self.positive is None:
            more["positive"] = task.positive
        if task is not None and not self.leak:
            more["leak"] = task.leak
        try:
            return FairnessSpec(**{**self.model_dump(), **more})
        except ValidationError as error:
            raise ConfigError(_words(error), where="fairness") from None


class _FairnessFile(BaseModel):
    """A YAML file with the section, and what a cohort's file says beside it where the section leaves it out."""

    model_config = ConfigDict(extra="forbid")
    fairness: FairnessSpec
    protected: list[str] = Field(default_factory=list, description="Protected columns, as in a cohort's file.")
    tasks: list[TaskSpec] = Field(default_factory=list, description="Tasks, as in a cohort's file.")


def read_fairness(file: Path) -> FairnessSpec:
    """The section `fairness:` of a YAML file, complete; `protected` and `tasks` may stand beside it as in a cohort.

    Raises:
        ConfigError: it cannot be read, or something is wrong or missing in it.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file cannot be read ({type(error).__name__}).", where=str(file)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError("This is not valid YAML.", where=f"{file}{line}") from None
    if not isinstance(content, dict) or not content.get("fairness"):
        raise ConfigError(
            "There is no section `fairness:` in it.",
            where=str(file),
            todo="Write one with `protected: [COLUMN]` and `label: COLUMN`; see docs/fairness.md.",
        )
    try:
        read = _FairnessFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_words(error), where=str(file)) from None
    return read.fairness.resolved(read.tasks, read.protected)


def _words(error: ValidationError) -> str:
    """What is wrong, with its place. A misspelt key is named first: what is missing then follows from it."""
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        fields = _FairnessFile.model_fields if len(first["loc"]) == 1 else FairnessSpec.model_fields
        known = len(first["loc"]) == 1 or (len(first["loc"]), first["loc"][0]) == (2, "fairness")
        return f"There is no key '{place}'. {nearest(str(first['loc'][-1]), list(fields)) if known else ''}".rstrip()
    words = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {words}." if place else f"{words[:1].upper()}{words[1:]}."
