"""What differential privacy is asked of a training, and what a cohort may spend in all.

How spends add up and where they are entered is in `ledger.py`; what a private training draws and says is in `run.py`.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError


class PrivacySpec(BaseModel):
    """(epsilon, delta) differential privacy of one subject (Dwork and Roth 2014, definition 2.4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epsilon: float = Field(gt=0, allow_inf_nan=False, description="Privacy loss; smaller is more private.")
    delta: float = Field(
        gt=0, lt=1, description="Chance that the bound on the loss does not hold; well below 1 over the subjects."
    )


class TrainingPrivacy(BaseModel):
    """What is asked of one training: a privacy loss, or a noise multiplier from which the loss follows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epsilon: float | None = Field(
        default=None, description="Privacy loss of one subject in all; or give `noise_multiplier`."
    )
    delta: float | None = Field(
        default=None,
        description="Chance that the bound does not hold; default the smaller of 1e-5 and 1 / (10 n), n subjects.",
    )
    noise_multiplier: float | None = Field(
        default=None,
        description="Instead of epsilon, for generators that train by DP-SGD: standard deviation of the noise in units "
        "of the clipping norm; epsilon then follows from it.",
    )
    preprocessing: Literal["public", "paid"] = Field(
        default="paid",
        description="'paid': levels, bounds and grids that the schema does not declare are found under privacy, from a "
        "share of epsilon. 'public': a schema that declares too little is refused.",
    )
    preprocessing_share: float = Field(
        default=0.1, description="Share of epsilon and delta for the encoding: domains, frequencies, histograms."
    )
    accountant: Literal["prv", "rdp"] = Field(
        default="prv", description="How the steps of DP-SGD are added up: PRV (tight; RDP where it fails), or RDP."
    )
    allow_weak_delta: bool = Field(
        default=False, description="Take a delta of 1 / n and more, which promises nothing: to mirror publications."
    )
    rows_per_subject: int = Field(
        default=1, description="Rows of a subject that are used at most, chosen at random; noise grows with it."
    )

    @model_validator(mode="after")
    def _possible(self) -> TrainingPrivacy:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("either `epsilon` or `noise_multiplier` is asked for, exactly one of them")
        for name, number in (("epsilon", self.epsilon), ("noise_multiplier", self.noise_multiplier)):
            if number is not None and not 0 < number < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, not {number:g}")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(
                f"delta must lie between 0 and 1, well below 1 over the number of subjects, not {self.delta:g}"
            )
        if not 0 < self.preprocessing_share < 1:
            raise ValueError(f"preprocessing_share must lie between 0 and 1, not {self.preprocessing_share:g}")
        if self.rows_per_subject < 1:
            raise ValueError(f"rows_per_subject must be at least 1, not {self.rows_per_subject}")
        return self

    @classmethod
    def of(cls, privacy: PrivacySpec | TrainingPrivacy) -> TrainingPrivacy:
        """The same, also where a plain (epsilon, delta) is given."""
        return privacy if isinstance(privacy, cls) else cls(**privacy.model_dump())

    def resolved_delta(self, subjects: int) -> float:
        """Delta for `subjects` people.

        Raises:
            ConfigError: it is not below 1 / n (at 1 / n, giving one person's record away whole keeps the promise).
        """
        if subjects < 1:
            raise ConfigError("There is no subject to protect.")
        delta = min(1e-5, 1 / (10 * subjects)) if self.delta is None else self.delta
        if delta >= 1 / subjects and not self.allow_weak_delta:
            raise ConfigError(
                f"delta {delta:g} is not below 1 / n = {1 / subjects:.3g} ({subjects} subjects): publishing one person's "
                "record whole would keep that promise.",
                todo="Leave delta out for the smaller of 1e-5 and 1 / (10 n); `allow_weak_delta` takes it all the same.",
            )
        return delta

    def resolve(self, subjects: int) -> PrivacySpec:
        """(epsilon, delta) for `subjects` people.

        Raises:
            ConfigError: delta is too weak, or a noise multiplier is given, of which only the training knows the epsilon.
        """
        if self.epsilon is None:
            raise ConfigError(
                "Which epsilon a noise multiplier gives depends on the steps of the training.",
                todo="Ask for `epsilon`; a noise multiplier is for generators that train by DP-SGD.",
            )
        return PrivacySpec(epsilon=self.epsilon, delta=self.resolved_delta(subjects))


class PrivacyPolicy(BaseModel):
    """What a cohort asks of its trainings and may spend on them in all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    budget: PrivacySpec | None = Field(
        default=None,
        description="What all trainings of the cohort may spend together, over months, replicates and reruns; a "
        "training that is not private then counts as infinite and is refused. Default: no limit, every spend is kept "
        "in the ledger all the same.",
    )
    trainings: dict[str, TrainingPrivacy] = Field(
        default_factory=dict, description="Generator to what is asked of each of its trainings (a replicate each)."
    )
