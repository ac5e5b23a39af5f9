"""Settings of ScoEHR: what was published, its reproduction and ablations, and the default.

What a field does is in `spaces.py` (the autoencoders) and `noise_model.py` (the diffusion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.generators.denoising.unet import STRIDE
from pipeline.generators.tabular import TabularConfig
from pipeline.generators.train_settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAPER: dict[str, Any] = {
    "space": "published",
    "backbone": "unet",
    "time_scale": 1.0,
    "rate": "late_line",
    "learning_rate": 1e-3,
    "ema": 0.0,
    "patience": 0,
    "sampler": "em",
    "sampling_steps": 1000,
    "sampling_end": 0.0,
    "latent_dim": 144,
    "autoencoder_epochs": 20,
    "epochs": 5,
    "steps": None,
    "batch_size": 256,
}
_REPRODUCTION: dict[str, Any] = {
    **_PAPER,
    "rate": "halving",
    "autoencoder_epochs": 50,
    "epochs": 50,
    "batch_size": 64,
}
LATE = 20
"""Epoch from which the published learning rate falls."""


@dataclass(frozen=True)
class LateLine(TrainSettings):
    """The published learning rate: constant for 20 epochs, then 1 - (epoch - 20) / (epochs - 10) (spec 5.1)."""

    def rate_factor(self, done: float) -> float:
        """See `TrainSettings.rate_factor`."""
        epoch = math.floor(done * self.epochs + 1e-9)
        return 1.0 if epoch <= LATE else max(0.0, 1 - (epoch - LATE) / (self.epochs - 10))


@dataclass(frozen=True)
class Halving(TrainSettings):
    """The reproduction's learning rate: 0.5 exp(-0.1 epoch), half of it every seven epochs (spec 5.2)."""

    def rate_factor(self, done: float) -> float:
        """See `TrainSettings.rate_factor`."""
        return 0.5 * math.exp(-0.1 * math.floor(done * self.epochs + 1e-9))


class ScoEHRConfig(TabularConfig):
    """Settings of ScoEHR."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": _PAPER,
        "paper_ae64": {**_PAPER, "latent_dim": 64},
        "paper_ae256": {**_PAPER, "latent_dim": 256},
        "paper_no_ae": {**_PAPER, "space": "none"},
        "reproduction": _REPRODUCTION,
        "reproduction_ae64": {**_REPRODUCTION, "latent_dim": 64},
        "reproduction_ae256": {**_REPRODUCTION, "latent_dim": 256},
        "reproduction_no_ae": {**_REPRODUCTION, "space": "none"},
        "quick": {"autoencoder_epochs": 30, "steps": 600, "width": 128, "blocks": 2},
    }
    space: Literal["likelihood", "published", "none"] = Field(
        default="likelihood",
        description="What diffusion works on. 'likelihood': latents of an autoencoder that is decoded by drawing from"
        " likelihoods. 'published': one linear layer each way, decoded by thresholds and rounding, which loses rare"
        " codes. 'none': the rows themselves, the published ablation.",
    )
    latent_dim: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Latent variables, at most four a column and one a code; with the UNet (4k)^2, as published 144.",
    )
    hidden: tuple[int, ...] = Field(
        default=(256,),
        min_length=1,
        description="Widths of the autoencoder's hidden layers ('likelihood'); the decoder mirrors them.",
    )
    latent_beta: float = Field(
        default=0.2,
        ge=0,
        description="Weight of the KL term of the autoencoder ('likelihood'): how far latents of a row may blur, so"
        " that a drawn latent between two rows' is decoded to something between.",
    )
    input_mask: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the autoencoder's inputs that are hidden while it trains."
    )
    numeric_bins: int = Field(
        default=32,
        ge=2,
        le=512,
        description="About how many pieces a numeric column has ('likelihood'); at most one for 40 training rows, but"
        " at least 8.",
    )
    linked: bool = Field(
        default=True,
        description="Let each column also depend on the columns before it ('likelihood'; not where the table is wide).",
    )
    autoencoder_epochs: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Passes of the autoencoder's training, at most, and at most `epochs`.",
    )
    autoencoder_rate: float = Field(default=2e-3, gt=0, description="Learning rate of the autoencoder.")
    backbone: Literal["resmlp", "unet"] = Field(
        default="resmlp",
        description="'resmlp': residual layers on the vector. 'unet': the published convolutions on the vector laid out"
        " as a square, some fifty times slower a pass.",
    )
    width: int = Field(default=256, ge=8, le=4096, description="Units a layer of the 'resmlp'.")
    blocks: int = Field(default=3, ge=1, le=32, description="Residual blocks of the 'resmlp'.")
    unet_channels: int = Field(
        default=128, ge=8, le=512, description="Channels of the UNet's first level; a multiple of 4."
    )
    time_scale: float = Field(
        default=1000.0,
        gt=0,
        description="What t in [0, 1] is multiplied by before its sines are taken; 1 as published, which leaves most of"
        " them constant.",
    )
    epochs: int = Field(default=1000, ge=1, le=100_000, description="Passes of the diffusion's training, at most.")
    steps: int | None = Field(
        default=4000, ge=1, description="Steps of the diffusion's training, at most; None for `epochs` alone."
    )
    batch_size: int = Field(
        default=512, ge=1, description="Rows a step; at most an eighth of the training rows, >= 32."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the diffusion's network.")
    rate: Literal["cosine", "constant", "late_line", "halving"] = Field(
        default="cosine",
        description="How the learning rate falls: along a half cosine, not at all, as published (a line from epoch 20"
        " on), or as in the reproduction (by half every seven epochs).",
    )
    ema: float = Field(
        default=0.995,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights that is drawn from; 0 for none.",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="Rounds without gain on the tuning rows before the diffusion's training stops; 0 trains to the end.",
    )
    sampler: Literal["dpmpp_2m", "ddim", "em"] = Field(
        default="dpmpp_2m", description="How rows come out of noise; 'em' is the published Euler-Maruyama."
    )
    sampling_steps: int = Field(default=20, ge=1, le=10_000, description="Evaluations of the network for a row.")
    sampling_end: float = Field(
        default=1e-3,
        ge=0,
        lt=0.5,
        description="Time at which the rest of the noise is taken away at once; 0 with 'em', as published, leaves the"
        " last step's noise in.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        side = math.isqrt(self.latent_dim)
        if self.backbone == "unet" and self.space == "published" and (side**2 != self.latent_dim or side % STRIDE):
            raise ValueError("the UNet takes 16, 64, 144, 256, ... latents: (4k)^2")
        if self.unet_channels % 4:
            raise ValueError("the UNet's channels are a multiple of 4")
        if self.sampling_end == 0 and self.sampler != "em":
            raise ValueError("only 'em' may go on to time 0, where the others would have to divide by the noise")
        return self

    def of_autoencoder(self, rows: int) -> TrainSettings:
        """How the autoencoder trains on so many rows."""
        if self.space == "published":
            return TrainSettings(
                epochs=self.autoencoder_epochs,
                batch_size=self.batch_size,
                learning_rate=1e-3,
                weight_decay=1e-4,
                clip=1e9,
                patience=0,
                plateau=0,
            )
        return TrainSettings(
            epochs=min(self.autoencoder_epochs, self.epochs),
            batch_size=self._batch(rows),
            learning_rate=self.autoencoder_rate,
            patience=10,
        )

    def of_diffusion(self, rows: int) -> TrainSettings:
        """How the diffusion's network trains on so many rows."""
        batch = self.batch_size if self.backbone == "unet" else self._batch(rows)
        shared: dict[str, Any] = {
            "batch_size": batch,
            "learning_rate": self.learning_rate,
            "weight_decay": 0.0,
            "patience": self.patience,
            "plateau": 0,
            "ema": self.ema,
        }
        if self.rate in ("late_line", "halving"):
            return (LateLine if self.rate == "late_line" else Halving)(epochs=self.epochs, **shared)
        steps = self.epochs * max(1, -(-rows // batch))
        steps = min(steps, self.steps) if self.steps is not None else steps
        return TrainSettings(steps=steps, schedule="cosine" if self.rate == "cosine" else "constant", **shared)

    def _batch(self, rows: int) -> int:
        return max(min(32, self.batch_size), min(self.batch_size, rows // 8))
