"""Settings of DECAF; the generator is `pipeline/generators/decaf.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.causal.cuts import CausalNotion
from pipeline.causal.learning import MOST_PARENTS
from pipeline.features.causal_spec import CausalSpec
from pipeline.generators.adversarial.named_columns import Undeclared
from pipeline.generators.adversarial.settings import AdversarialConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


class DECAFConfig(AdversarialConfig):
    """Settings of DECAF."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "numbers": "range",
            "pieces": 0,
            "exchange": "each",
            "batch_size": 64,
            "epochs": 50,
            "fewest_steps": 1,
            "loss": "wasserstein",
            "penalty": 10.0,
            "hidden": (200, 200, 200),
            "critic_hidden": (200, 200),
            "learning_rate": 5e-4,
            "critic_rate": 5e-4,
            "betas": (0.5, 0.999),
            "decay": "constant",
            "ema": 0.0,
            "select": "last",
            "margins": False,
        },
        "quick": {"steps": 400, "hidden": (64, 64, 64), "critic_hidden": (64, 64), "noise": 16, "critic_rate": 2e-3},
    }
    causal: CausalSpec = Field(
        default=CausalSpec(),
        description="The graph (`graph`: column to its direct causes), or the tiers that one is learned within (`tiers`)."
        " Default: the cohort's `causal`; else tiers of protected and quasi-identifying columns, the others, the label.",
    )
    most_parents: int = Field(
        default=MOST_PARENTS, ge=1, le=8, description="Direct causes that a column of a learned graph has at most."
    )
    notion: CausalNotion = Field(
        default="parity",
        description="Which edges into the label are cut where rows are drawn: none; the direct ones from protected columns"
        " (ftu); all from columns that go with a protected one (parity); those of them that do otherwise than by way of `given`"
        " (conditional).",
    )
    given: tuple[str, ...] = Field(default=(), description="Of `conditional`: columns that may rightly decide.")
    strict: bool = Field(
        default=False,
        description="Of `conditional`: cut also what `given` brings together with a protected column because both are causes"
        " of it; then label and protected columns are independent among rows that are alike in `given`.",
    )
    children: Literal["cut", "keep"] = Field(
        default="cut",
        description="What becomes of the label's edges to effects that go with a protected column too: cut, so that they do"
        " not give the label's group away; or kept, where effects follow from the label by definition.",
    )
    exchange: Literal["together", "each"] = Field(
        default="together",
        description="Where edges are cut, causes are shown as another drawn row has them: all of one other row, so that they"
        " fit each other; or each of a row of its own, as published.",
    )
    protected: tuple[str, ...] = Field(
        default=(), description="Protected columns, of levels. Empty: those of the cohort's `protected`."
    )
    label: str | None = Field(
        default=None, description="The outcome, a column of levels. None: the label of the cohort's first task."
    )
    undeclared: Undeclared = Field(
        default="refuse",
        description="What is done where neither the settings nor the cohort name label and protected columns: refuse in words,"
        " or guess and say so. `notion: none` needs neither.",
    )
    hidden: tuple[int, ...] = Field(
        default=(128, 128, 128),
        min_length=1,
        description="Hidden layers: the first is each column's own, the others are shared by all columns.",
    )
    critic_hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1, description="Hidden layers of the critic.")
    noise: int = Field(
        default=64, ge=1, le=4096, description="Noise inputs of a column, at most; it has as many as coordinates."
    )
    drawing: Literal["drawn"] = Field(default="drawn", description="States and codes are drawn: causes are whole.")
    hard: Literal[True] = Field(default=True, description="Causes are whole states with the gradient of soft ones.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.notion == "conditional") != bool(self.given):
            raise ValueError("`notion: conditional` and `given: [COLUMN]` belong together")
        return self
