"""What a cohort's file says of tuning: how a generator's settings are searched, and whether its models use the best.

The rest of `cohorts/<name>.yaml` is in `spec.py`; how all this is done in `pipeline/tuning/` and `pipeline/workflow/tuning.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TuningSpec(BaseModel):
    """How one generator of a cohort is tuned (`cohortloom tune`), and which best settings its models take."""

    model_config = ConfigDict(extra="forbid")
    used: bool = Field(
        default=True,
        description="Do the cohort's models take the best settings found: those of the newest tuning of their month or an "
        "earlier one? What the file itself sets under `generators` always wins.",
    )
    settings_from: str | None = Field(
        default=None,
        description="Take the best settings that were found for another cohort, a public one: tuning on private rows is a "
        "query on private rows, and is refused where models must be private.",
    )
    sampler: Literal["tpe", "gp"] = Field(
        default="tpe",
        description="Tree-structured Parzen estimator, or Gaussian process (few settings, mostly numbers).",
    )
    trials: int = Field(default=40, ge=1, le=10_000, description="Settings that are tried.")
    only: list[str] = Field(default_factory=list, description="Search these settings alone.")
    grid: str | None = Field(
        default=None,
        description="YAML file of a study, beside the cohort's file or as it ships: its points instead of a search.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> TuningSpec:
        if self.grid is not None and self.only:
            raise ValueError("`only` is about a search and `grid` is none: leave one out")
        return self
