"""Settings that all adversarial generators share; each has its own defaults and presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.generators.adversarial.conditions import Frequencies
from pipeline.generators.adversarial.losses import LossKind
from pipeline.generators.adversarial.numbers import NumberKind
from pipeline.generators.tabular import TabularConfig


class AdversarialConfig(TabularConfig):
    """How rows are shown to a critic, how the game is played, and which weights are kept."""

    numbers: NumberKind = Field(
        default="even",
        description="How a number is shown: its rank, evenly between -1 and 1 or as a normal score; the number itself"
        " between the column's ends; or a mode of a Gaussian mixture and the place in it, as CTGAN publishes it, of the"
        " numbers, of their normal scores, or of their logarithms where a column has a long tail.",
    )
    pieces: int = Field(
        default=64,
        ge=0,
        le=1000,
        description="Numbers that at least one in so many rows has are states of their own beside the scalar; 0: none"
        " are, unless `numbers` is 'modes'.",
    )
    noise: int = Field(default=64, ge=1, le=4096, description="Noise inputs of the generator.")
    hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1, description="Hidden layers of the generator.")
    critic_hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1, description="Hidden layers of the critic.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the critic's hidden units dropped in training."
    )
    pac: int = Field(
        default=1, ge=1, le=64, description="Rows that the critic judges together, so that it sees rows that are alike."
    )
    loss: LossKind = Field(
        default="logistic",
        description="What is minimised: the Wasserstein distance with a gradient penalty, the logistic loss with R1, or"
        " the boundary-seeking one.",
    )
    penalty: float = Field(default=0.1, ge=0, description="Weight of the gradient penalty (R1: gamma).")
    drawing: Literal["drawn", "likeliest"] = Field(
        default="drawn",
        description="How outputs become states and codes: drawn with noise, which the critic sees too; or shares are shown"
        " to the critic, and the likeliest state and codes above one half are taken, as older models publish it.",
    )
    hard: bool = Field(
        default=True,
        description="Show the critic whole states and codes with the gradient of soft ones; soft ones give drawn rows"
        " away by their edges.",
    )
    tau: float = Field(default=0.2, gt=0, description="Temperature of the Gumbel softmax.")
    frequencies: Frequencies = Field(
        default="true",
        description="How often a level is told in training: as often as rows have it, or by log(1 + count) as published."
        " Rows are drawn under true frequencies either way.",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Steps of the generator. None: as many as `epochs` passes take, but at least `fewest_steps`.",
    )
    fewest_steps: int = Field(
        default=1_500, ge=1, description="Steps, at least, where `steps` is None: of small tables a pass is a step."
    )
    epochs: int = Field(
        default=100, ge=1, le=100_000, description="Passes over the training rows where `steps` is None."
    )
    batch_size: int = Field(
        default=256, ge=1, description="Rows a step; at most half of the training rows, and whole packs."
    )
    critic_steps: int = Field(default=1, ge=1, le=100, description="Steps of the critic for one of the generator.")
    learning_rate: float = Field(default=5e-4, gt=0, description="Learning rate of the generator's Adam.")
    critic_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the critic's Adam.")
    betas: tuple[float, float] = Field(default=(0.0, 0.99), description="Decay of Adam's moments.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of both.")
    decay: Literal["constant", "linear"] = Field(
        default="linear", description="How learning rates fall over the training: not at all, or along a line to 0."
    )
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="Decay of the running mean of the generator's weights; 0 takes the last."
    )
    select: Literal["probe", "last"] = Field(
        default="probe",
        description="Which weights are kept: those whose rows are nearest to the tuning rows in margins and pairs, or the"
        " last ones, trained on all rows.",
    )
    margins: bool = Field(
        default=True,
        description="Begin with the right margins, and bring those of drawn rows back to them after training.",
    )
    verdict_steps: int = Field(
        default=500,
        ge=2,
        description="Steps on end that a critic has to have won or lost completely, or have a loss of zero.",
    )
    recovery: Literal["recover", "report"] = Field(
        default="recover", description="What is done about a verdict: something, or it is only told."
    )
    bfloat16_products: bool = Field(
        default=True,
        description="Round the factors of matrix products to bfloat16 on CPUs with units for it, half the time of a step;"
        " sums stay float32.",
    )
    force_width: bool = Field(
        default=False, description="Take tables with more than 2,000 one-hot coordinates all the same."
    )

    def batch(self, rows: int) -> int:
        """Rows a step of a training on so many: whole packs, never none."""
        return max(1, min(self.batch_size, max(self.pac, rows // 2)) // self.pac) * self.pac

    def all_steps(self, rows: int) -> int:
        """Steps of the generator on so many rows."""
        if self.steps is not None:
            return self.steps
        return max(self.fewest_steps, self.epochs * max(1, rows // self.batch(rows)))
