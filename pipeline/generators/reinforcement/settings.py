"""Settings of `rlsyn`: the published configurations, the mended default, and the ablations.

What each field does is in `policy.py` (network), `critic.py` (reward), `update.py` (steps) and `loop.py` (training).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.generators.reinforcement.critic import RewardKind
from pipeline.generators.reinforcement.policy import Dependence, PolicyShape
from pipeline.generators.reinforcement.space import ActionSpace, LevelKind, NumberKind
from pipeline.generators.tabular import TabularConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.encoding.encoder import TableEncoder

WIDE = 200
"""Columns of an action from which its likelihood ratio is clipped by blocks (spec 7.3)."""
PENALTY_ROWS = 4.0
_PUBLISHED: dict[str, Any] = {
    "numbers": "minmax",
    "levels": "bernoulli",
    "dependence": "noise",
    "warm": "none",
    "reward": "sigmoid",
    "ratio": "joint",
    "entropy": "sampled",
    "entropy_weight_end": 1e-3,
    "kl_stop": 0.0,
    "real_target": 1.0,
    "replay": 0.0,
    "instance_noise": 0.0,
    "decay": "constant",
    "ema": 0.0,
    "select": "last",
    "recovery": "report",
    "calibrate": False,
    "critic_warmup": 0,
    "iterations": 30_000,
    "critic_passes": None,
    "states": "standard",
    "r1": 5.0,
}
_MIMIC: dict[str, Any] = {
    **_PUBLISHED,
    "noise": 128,
    "hidden": (128, 128),
    "critic_hidden": (256, 256),
    "batch_size": 3840,
    "learning_rate": 5e-4,
    "critic_rate": 1e-4,
    "ppo_epochs": 2,
    "critic_steps": 3,
}
_AIREADI: dict[str, Any] = {
    **_PUBLISHED,
    "noise": 112,
    "hidden": (128, 128),
    "critic_hidden": (128, 128),
    "batch_size": 384,
    "learning_rate": 2e-4,
    "critic_rate": 5e-5,
    "ppo_epochs": 3,
    "critic_steps": 5,
}


class RLSynConfig(TabularConfig):
    """Settings of the record policy; defaults chosen on the conformance suite's mixed table, not on real data."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "robust": {},
        "paper": _MIMIC,
        "paper_aireadi": _AIREADI,
        "quick": {
            "iterations": 150,
            "warm_epochs": 30,
            "hidden": (64,),
            "noise": 8,
            "critic_hidden": (64, 64),
            "critic_steps": 2,
            "critic_warmup": 50,
            "evaluate_every": 75,
        },
        "margins": {"warm": "margins"},
        "reinforce": {"objective": "reinforce"},
        "gan": {"objective": "gan"},
        "no_value": {"value_head": False},
        "no_entropy": {"entropy_weight": 0.0, "entropy_weight_end": 0.0},
    }
    numbers: NumberKind = Field(
        default="pieces",
        description="What a policy draws for a number: a piece of its distribution (a categorical that sees repeated"
        " values), its normal score, or a min-max number through a hyperbolic tangent (as published).",
    )
    numeric_bins: int = Field(
        default=32,
        ge=2,
        le=512,
        description="About how many pieces a number has; at most one for 40 training rows, but at least 8.",
    )
    levels: LevelKind = Field(
        default="categorical",
        description="One categorical a column, or independent bits for its one-hot, which gives invalid rows (as"
        " published; spec 7.2).",
    )
    dependence: Dependence = Field(
        default="linked",
        description="How columns depend on each other: through the noise alone (as published); numbers also on levels and"
        " codes ('ar2'); each column also on those before it, through a linear map ('linked', with numbers in pieces).",
    )
    scales: Literal["column", "state"] = Field(
        default="column", description="Scales of Gaussians: one a column, or one a column and state."
    )
    noise: int = Field(default=32, ge=1, le=4096, description="Noise inputs, the state of an episode.")
    hidden: tuple[int, ...] = Field(default=(128, 128), min_length=1, description="Hidden layers of the policy.")
    critic_hidden: tuple[int, ...] = Field(
        default=(256, 256), min_length=1, description="Hidden layers of the discriminator."
    )
    warm: Literal["vae", "margins", "none"] = Field(
        default="vae",
        description="Where training by reward starts: from the decoder of a briefly trained autoencoder with the same"
        " heads, from the columns' margins, or from nothing (as published).",
    )
    warm_epochs: int = Field(default=200, ge=1, le=10_000, description="Passes of the warm start 'vae', at most.")
    warm_rate: float = Field(default=2e-3, gt=0, description="Learning rate of the warm start 'vae'.")
    warm_beta: float = Field(
        default=0.25,
        ge=0,
        description="Weight of the KL term of the warm start 'vae'; the mixture that states come from closes the hole that a small"
        " one leaves.",
    )
    states: Literal["mixture", "standard"] = Field(
        default="mixture",
        description="Where the state of an episode comes from: a Gaussian mixture fitted to where the warm start 'vae' puts"
        " the training rows, or N(0, I) (as published, and after any other start).",
    )
    objective: Literal["ppo", "reinforce", "gan"] = Field(
        default="ppo",
        description="Clipped policy gradient; plain REINFORCE; or, as an ablation, no policy gradient at all: gradients"
        " through the discriminator (straight-through where it is discrete).",
    )
    reward: RewardKind = Field(
        default="logit",
        description="Reward of a row: the discriminator's logit, clipped to 5; its sigmoid (as published); its softplus.",
    )
    value_head: bool = Field(default=True, description="Subtract the value of the state from rewards.")
    ratio: Literal["auto", "joint", "block"] = Field(
        default="auto",
        description="Clip the likelihood ratio of whole rows, or of blocks of 32 columns ('auto': from 200 columns on).",
    )
    clip_ratio: float = Field(default=0.1, gt=0, lt=1, description="How far a likelihood ratio may go from 1.")
    ppo_epochs: int = Field(default=3, ge=1, le=100, description="Steps on the same drawn rows, at most.")
    kl_stop: float = Field(
        default=0.02, ge=0, description="Divergence from the policy that drew the rows that ends their steps; 0 never."
    )
    entropy: Literal["analytic", "sampled"] = Field(
        default="analytic",
        description="Entropy bonus in closed form, or minus the mean log-likelihood of the drawn rows, whose gradient"
        " says little (as published; spec 7.2).",
    )
    entropy_weight: float = Field(default=1e-3, ge=0, description="Weight of the entropy at the start.")
    entropy_weight_end: float = Field(default=1e-4, ge=0, description="Weight of the entropy at the end.")
    iterations: int = Field(
        default=1200, ge=1, le=10_000_000, description="Updates of the policy, each on newly drawn rows."
    )
    critic_passes: int | None = Field(
        default=300,
        ge=1,
        description="Times that the discriminator is shown each training row, at most, on average: with few rows iterations"
        " end before it knows them by heart. None: no limit (as published).",
    )
    batch_size: int = Field(default=512, ge=2, description="Rows drawn an iteration, and real rows a step.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Adam's learning rate of the policy.")
    critic_rate: float = Field(default=1e-3, gt=0, description="Adam's learning rate of the discriminator.")
    critic_steps: int = Field(default=3, ge=1, le=100, description="Discriminator steps an iteration.")
    critic_warmup: int = Field(default=200, ge=0, description="Discriminator steps before the first iteration.")
    r1: float | None = Field(
        default=None,
        ge=0,
        description="Weight gamma of the R1 penalty. None: 4 over the training rows, since few rows are soon known by"
        " heart. The published 5 silences a discriminator that starts near the data.",
    )
    real_target: float = Field(
        default=0.9, gt=0.5, le=1, description="Probability that real rows are held against (label smoothing)."
    )
    replay: float = Field(default=0.2, ge=0, lt=1, description="Share of the drawn rows that are from earlier.")
    instance_noise: float = Field(
        default=0.01, ge=0, description="Noise on the numbers that the discriminator sees, falling to 0."
    )
    decay: Literal["cosine", "constant"] = Field(
        default="cosine", description="Learning rates: along a half cosine to a tenth, or constant."
    )
    ema: float = Field(
        default=0.995, ge=0, lt=1, description="Decay of the running mean of weights that is drawn from."
    )
    evaluate_every: int = Field(default=250, ge=1, description="Iterations between two looks at the tuning rows.")
    select: Literal["c2st", "last"] = Field(
        default="c2st",
        description="Weights that are kept: those of the second half (or the warm start) whose rows are told from the"
        " tuning rows worst; or the last.",
    )
    recovery: Literal["recover", "report"] = Field(
        default="recover",
        description="When the discriminator wins or loses completely: slow it, begin it anew, stop; or only say so.",
    )
    verdict_steps: int = Field(
        default=500, ge=2, description="Discriminator steps on end won or lost completely that count as a verdict."
    )
    calibrate: bool = Field(
        default=True, description="Shift the outputs' bias after training until margins are those of the training rows."
    )
    condition_columns: tuple[str, ...] = Field(
        default=(),
        description="Columns that policy and discriminator are told, so that fixing them in a draw needs no rejection.",
    )
    condition_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the drawn rows in training to which a condition is not told."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dependence == "linked" and self.numbers != "pieces":
            raise ValueError("'linked' needs numbers in pieces; use dependence 'ar2' or 'noise'")
        if self.condition_columns and self.levels == "bernoulli":
            raise ValueError("condition_columns need levels as categoricals")
        return self

    def space(self, encoder: TableEncoder, bins: int) -> ActionSpace:
        """The layout of a table's actions."""
        return ActionSpace(encoder, numbers=self.numbers, levels=self.levels, bins=bins)

    def shape(self, conditions: int, first: Sequence[str]) -> PolicyShape:
        """Sizes of the policy."""
        return PolicyShape(self.noise, self.hidden, self.dependence, self.scales, conditions, tuple(first))

    def penalty(self, rows: int) -> float:
        """Weight of the R1 penalty for so many training rows."""
        return PENALTY_ROWS / max(1, rows) if self.r1 is None else self.r1

    def updates(self, rows: int) -> int:
        """Iterations on so many training rows: `iterations`, or what `critic_passes` leaves of them."""
        if self.critic_passes is None:
            return self.iterations
        return min(self.iterations, max(1, self.critic_passes * rows // (self.batch_size * self.critic_steps)))

    def clipped_by_block(self, columns: int) -> bool:
        """Is the ratio of an action with so many columns clipped by blocks?"""
        return self.ratio == "block" or (self.ratio == "auto" and columns > WIDE)
