"""What a cohort's file says of its evaluation: tasks, analyses, clinical rules, what an attacker knows, thresholds.

The rest of `cohorts/<name>.yaml` is in `spec.py`; how all this is computed in `pipeline/evaluation/`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.features.schema import Level


class TaskSpec(BaseModel):
    """A prediction task: train on synthetic rows, test on real ones."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="Task name.")
    label: str = Field(description="The column to predict (binary).")
    positive: Level | None = Field(
        default=None, description="The label's positive level; default the last of its levels."
    )
    leak: list[str] = Field(default_factory=list, description="Columns that give the label away and are dropped.")
    description: str = Field(default="", description="For people.")


class AnalysisSpec(BaseModel):
    """A prespecified regression, as an epidemiologist would run it on the real rows."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="Name of the analysis.")
    kind: Literal["logistic", "linear", "poisson", "cox"] = Field(description="Which regression.")
    outcome: str = Field(description="Outcome column; for 'cox' the event indicator (binary).")
    positive: Level | None = Field(default=None, description="The outcome's positive level; default its last level.")
    time: str | None = Field(default=None, description="Follow-up time (kind 'cox').")
    covariates: list[str] = Field(min_length=1, description="Columns whose effects are estimated, all at once.")
    contrast: str | None = Field(
        default=None, description="A binary or categorical column within whose levels the first covariate's effect is "
        "estimated again (sub-group contrast)."
    )  # fmt: skip
    description: str = Field(default="", description="For people.")

    @model_validator(mode="after")
    def _timed(self) -> AnalysisSpec:
        if (self.kind == "cox") != (self.time is not None):
            raise ValueError("`time` belongs to kind 'cox', and 'cox' needs it")
        if self.outcome in self.covariates or self.time in self.covariates:
            raise ValueError("the outcome cannot be a covariate")
        return self


class Condition(BaseModel):
    """A comparison of one cell, or the presence of a code."""

    model_config = ConfigDict(extra="forbid")
    column: str | None = Field(default=None, description="Column that is compared.")
    block: str | None = Field(default=None, description="Code block that is looked into.")
    codes: list[str] = Field(
        default_factory=list, description="Codes of the block, any of which must be present; 'O*' stands for all that begin with O."
    )  # fmt: skip
    op: Literal["<", "<=", ">", ">=", "==", "!=", "in", "present", "missing"] = Field(
        default="present", description="Comparison; 'present' and 'missing' take no value."
    )
    value: Level | list[Level] | None = Field(default=None, description="What the cell is compared with.")
    other: str | None = Field(default=None, description="A second column to compare with, in place of a value.")

    @model_validator(mode="after")
    def _one_subject(self) -> Condition:
        if (self.column is None) == (self.block is None):
            raise ValueError("a condition names either a column or a block")
        if self.block is not None and (not self.codes or self.op not in ("present", "missing")):
            raise ValueError("a condition on a block names codes and is 'present' or 'missing'")
        if self.column is not None and self.op not in ("present", "missing"):
            if (self.value is None) == (self.other is None):
                raise ValueError("a comparison needs either a value or another column")
            if (self.op == "in") != isinstance(self.value, list):
                raise ValueError("'in' takes a list of levels, and only 'in' does")
        return self


class RuleSpec(BaseModel):
    """Clinical knowledge: where all of `when` hold, `never` (all of it together) is a violation."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(description="Name of the rule.")
    when: list[Condition] = Field(
        default_factory=list, description="Rows in which the rule can be broken; all rows if empty."
    )
    never: list[Condition] = Field(min_length=1, description="What must not be true there, all of it together.")
    description: str = Field(default="", description="Why, for people.")


class EvaluationSpec(BaseModel):
    """How thoroughly a cohort's generators are judged, and what is asked of them beside the tasks."""

    model_config = ConfigDict(extra="forbid")
    profile: Literal["quick", "standard", "full"] = Field(
        default="standard", description="Caps on rows and bootstrap draws, and which costly metrics are computed."
    )
    seed: int = Field(default=0, description="Seed of every draw made by the evaluation.")
    analyses: list[AnalysisSpec] = Field(
        default_factory=list, description="Prespecified regressions whose effect estimates must survive."
    )
    rules: list[RuleSpec] = Field(default_factory=list, description="Curated clinical rules; others are mined.")
    known: list[str] = Field(
        default_factory=list,
        description="Columns that an attacker knows of a target; default the quasi-identifiers and protected columns.",
    )
    secrets: list[str] = Field(
        default_factory=list, description="Columns whose inference is judged; default all that the attacker does not know."
    )  # fmt: skip
    population: int | None = Field(
        default=None, ge=1, description="People in the population that the cohort was drawn from (identity disclosure)."
    )


class GateSpec(BaseModel):
    """Thresholds of the verdict; each is tested at the pessimistic end of the interval (metrics spec, section 16)."""

    model_config = ConfigDict(extra="forbid")
    seeds_min: int = Field(
        default=1, ge=1, description="Trained seeds that must have been judged; 5 for a release that claims stability."
    )
    exact_unique_matches_max: int = Field(
        default=0, ge=0, description="Copies of a training row that is unique in the real data."
    )
    mia_auc_max: float = Field(default=0.55, description="Membership inference, AUC.")
    mia_tpr_at_1pct_fpr_max: float = Field(
        default=0.03, description="Membership inference, true positives at 1 % false positives."
    )
    mia_outlier_auc_max: float = Field(
        default=0.60, description="Membership inference among the tenth most unusual people, AUC."
    )
    aia_excess_max: float = Field(
        default=0.05, description="Attribute inference: score for training people minus score for others."
    )
    tcap_excess_max: float = Field(
        default=0.05, description="Secrets read off uniform groups: share of training people minus share of others."
    )
    identity_disclosure_max: float = Field(
        default=0.09, description="Meaningful identity disclosure (customary threshold of health-data release)."
    )
    identity_excess_max: float = Field(
        default=0.05,
        description="The same beyond the risk of people outside training: held where even fresh real rows exceed it.",
    )
    nnaa_loss_max: float = Field(default=0.05, description="Nearest-neighbour adversarial accuracy, holdout - train.")
    dcr_share_warn: float = Field(
        default=0.55, description="Share of rows closer to training than to holdout above which a warning is printed."
    )
    clinical_violations_max: float = Field(
        default=0.005, description="Share of broken clinical rules beyond what real rows break."
    )
    jsd_mean_max: float = Field(default=0.05, description="Mean Jensen-Shannon divergence of the columns, bits.")
    variance_collapse: bool = Field(default=False, description="May the variance-collapse alarm be on?")
    dependence_score_min: float = Field(default=0.5, description="Normalised score of the correlation RMSE.")
    code_total_ratio: tuple[float, float] = Field(
        default=(0.9, 1.1), description="Codes a row, synthetic over real: least and most."
    )
    code_abundance_max: float = Field(
        default=0.10, description="Difference of the distributions of distinct codes a row."
    )
    detect_auc_warn: float = Field(
        default=0.90, description="Detection AUC above which a warning is printed (never a fail)."
    )
    utility_ratio_min: float = Field(default=0.90, description="(TSTR - 1/2) / (TRTR - 1/2), AUROC, each task.")
    calibration_slope: tuple[float, float] = Field(
        default=(0.8, 1.25), description="Calibration slope of the model trained on synthetic rows: least and most."
    )
    inference_sign_agreement_min: float = Field(
        default=0.95, description="Share of the analyses' certain effects that keep their sign."
    )
    groups_absent_max: int = Field(
        default=0, ge=0, description="Groups of at least 1 % of real people without a synthetic row."
    )
    delta_auroc_gap_max: float = Field(
        default=0.02, description="Gap in AUROC between groups that training on synthetic rows adds."
    )
    worst_group_ratio_min: float = Field(default=0.85, description="Utility ratio in the group that keeps least of it.")
