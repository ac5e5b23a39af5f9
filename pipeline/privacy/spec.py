"""What differential privacy is asked of a training, and what a cohort may spend in all.

How spends add up and where they are entered is in `ledger.py`; training under differential privacy belongs to the
generators.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PrivacySpec(BaseModel):
    """(epsilon, delta) differential privacy of one subject (Dwork and Roth 2014, definition 2.4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    epsilon: float = Field(gt=0, allow_inf_nan=False, description="Privacy loss; smaller is more private.")
    delta: float = Field(
        gt=0, lt=1, description="Chance that the bound on the loss does not hold; well below 1 over the subjects."
    )


class PrivacyPolicy(BaseModel):
    """What a cohort asks of its trainings and may spend on them in all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    budget: PrivacySpec | None = Field(
        default=None,
        description="What all trainings of the cohort may spend together, over months, replicates and reruns; a "
        "training that is not private then counts as infinite and is refused. Default: no limit, every spend is kept "
        "in the ledger all the same.",
    )
    trainings: dict[str, PrivacySpec] = Field(
        default_factory=dict, description="Generator to what is asked of each of its trainings (a replicate each)."
    )
