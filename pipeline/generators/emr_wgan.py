"""EMR-WGAN (Zhang et al. 2020, "Ensuring electronic medical record simulation through better training"; Yan et al. 2022): residual
generator and critic on raw code vectors, a Wasserstein loss with a gradient penalty, and no autoencoder.

The match is that of `adversarial/`; its own are the networks. Nothing is told of rows, so that conditions are by rejection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.generators.adversarial.losses import LossKind
from pipeline.generators.adversarial.networks import Critic, GeneratorNet, ResidualCritic
from pipeline.generators.adversarial.private import PrivateAdversarialGenerator
from pipeline.generators.adversarial.private_settings import PrivateGameConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.generators.adversarial.vector import RowBlocks


class EMRWGANConfig(PrivateGameConfig):
    """Settings of EMR-WGAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "numbers": "range",
            "drawing": "likeliest",
            "hard": False,
            "batch_size": 1000,
            "epochs": 15_000,
            "steps": None,
            "fewest_steps": 1,
            "learning_rate": 1e-5,
            "critic_rate": 2e-5,
            # Adam with these is RMSprop, the published optimiser, with the first steps corrected.
            "betas": (0.0, 0.99),
            "decay": "constant",
            "ema": 0.0,
            "select": "last",
            "margins": False,
        },
        "quick": {
            "steps": 300,
            "hidden": (128, 128),
            "critic_hidden": (128, 128),
            "learning_rate": 1e-3,
            "critic_rate": 1e-3,
            "noise": 32,
            "private_epochs": 5.0,
        },
    }
    hidden: tuple[int, ...] = Field(
        default=(384,) * 6, min_length=1, description="Hidden layers of the generator; each is added to the one before."
    )
    critic_hidden: tuple[int, ...] = Field(
        default=(384,) * 6, min_length=1, description="Hidden layers of the critic; each is added to the one before."
    )
    steps: int | None = Field(
        default=8_000, ge=1, le=10_000_000, description="Steps of the generator. None: as many as `epochs` passes take."
    )
    noise: int = Field(default=128, ge=1, le=4096, description="Noise inputs of the generator.")
    batch_size: int = Field(default=500, ge=1, description="Rows a step; at most half of the training rows.")
    loss: LossKind = Field(
        default="wasserstein",
        description="What is minimised: the Wasserstein distance with a gradient penalty, as published; or the logistic or"
        " boundary-seeking loss with R1.",
    )
    penalty: float = Field(default=10.0, ge=0, description="Weight of the gradient penalty (R1: gamma).")
    learning_rate: float = Field(default=1e-4, gt=0, description="Learning rate of the generator's Adam.")
    critic_rate: float = Field(default=1e-4, gt=0, description="Learning rate of the critic's Adam.")
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="Decay of Adam's moments.")


class EMRWGAN(PrivateAdversarialGenerator):
    """Residual Wasserstein GAN; conditions by rejection."""

    name = "emr_wgan"
    title = "EMR-WGAN: residual Wasserstein GAN on code vectors"
    Config = EMRWGANConfig
    config: EMRWGANConfig

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        return GeneratorNet(config.noise + conditions, config.hidden, blocks.head_width, build="residual")

    def _critic(self, width: int) -> Critic:
        return ResidualCritic(width, self.config.critic_hidden, pac=self.config.pac)
