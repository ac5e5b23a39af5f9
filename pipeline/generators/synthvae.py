"""SynthVAE of the NHS (NHSX Analytics Unit 2021): Gaussians with a learnable noise a column, softmax levels (spec 3).

Network, training and prior are those of `vae.py`; the likelihood of a number is a Gaussian whose width is learned a
column and drawn from. Preset 'nhsx_report' is the model of the report as it was trained; the default keeps its
likelihood and mends what held it back: standardised numbers, two latents, a prior that leaves a hole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.encoding.standardised import StandardisedTable
from pipeline.generators.training import TrainSettings
from pipeline.generators.vae import VAE
from pipeline.generators.variational.settings import VAEConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import TableEncoder
    from pipeline.encoding.literal import MinMaxTable
    from pipeline.encoding.mixed import MixedTable

_REPORT: dict[str, Any] = {
    "scale": "standard",
    "sampling": "poisson",
    "latent_dim": 2,
    "hidden": (32, 32),
    "activation": "tanh",
    "epochs": 60,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "beta": 1.0,
    "beta_schedule": "constant",
    "prior": "standard",
    "patience": 0,
    "clip": 1e9,
    "private_hidden": (32, 32),
    "private_norm": False,
    "private_latent_dim": 2,
    "private_epochs": 60.0,
    "private_batch_size": 32,
    "private_learning_rate": 1e-3,
    # 10 on gradients that had been divided by the batch of 32 before they were clipped (spec 3.2).
    "private_clip": 0.3125,
    "private_ema": 0.0,
}


class SynthVAEConfig(VAEConfig):
    """Settings of SynthVAE."""

    fewest_steps: ClassVar[int] = 8
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": _REPORT,
        "nhsx_report": _REPORT,
        "quick": {
            "epochs": 20,
            "hidden": (64,),
            "latent_dim": 8,
            "prior_components": 4,
            "learning_rate": 3e-3,
            "private_epochs": 5.0,
            "private_hidden": (64,),
            "private_learning_rate": 5e-3,
        },
    }
    likelihood: Literal["mixed"] = Field(default="mixed", description="A likelihood for each kind of column.")
    numeric_head: Literal["gaussian", "student_t"] = Field(
        default="gaussian",
        description="Likelihood of numeric columns, with a width that is learned a column: Gaussian or Student-t.",
    )
    linked: bool = Field(default=False, description="Without effect: links are for binned numbers.")
    scale: Literal["normal", "standard"] = Field(
        default="normal",
        description="Scale of numbers: normal scores, or minus the mean and over the standard deviation as in the"
        " report, which describes skewed columns badly.",
    )
    sampling: Literal["shuffled", "poisson"] = Field(
        default="shuffled",
        description="Batches: every row once an epoch, or each row by chance with `batch_size` expected, as in the"
        " report. Private trainings always take chance.",
    )
    hidden: tuple[int, ...] = Field(
        default=(128, 64), min_length=1, description="Widths of the encoder's hidden layers; the decoder mirrors them."
    )
    batch_size: int = Field(
        default=512, ge=1, description="Rows a step; at most an eighth of the training rows, but at least 32."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate of AdamW.")
    beta: float = Field(default=0.5, ge=0, description="Weight of the KL term; the mixture prior makes up for it.")

    def training(self, rows: int) -> TrainSettings:
        """How to train on so many rows."""
        settings = super().training(rows)
        # An output is a number here, not one of a few pieces: its products are not rounded.
        return TrainSettings(**{**vars(settings), "poisson": self.sampling == "poisson", "bfloat16_products": False})

    def table(
        self,
        encoder: TableEncoder,
        bins: int,
        first: Sequence[str] = (),
        cuts: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> MixedTable | MinMaxTable:
        """What rows look like to the network, and what its outputs mean."""
        if self.scale == "normal":
            return super().table(encoder, bins, first, cuts)
        return StandardisedTable(encoder, numeric=self.numeric_head, bins=bins)


class SynthVAE(VAE):
    """VAE with a learnable noise a numeric column; conditions by rejection."""

    name = "synthvae"
    title = "SynthVAE of the NHS: Gaussians with learnable noise"
    Config = SynthVAEConfig
    config: SynthVAEConfig
    code_version = "3"
