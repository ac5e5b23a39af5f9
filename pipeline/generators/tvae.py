"""TVAE (Xu et al. 2019, "Modeling tabular data using conditional GAN", section 4.4): a VAE on mode-specific numbers.

Network, training and prior are those of `vae.py`; what makes it TVAE is the encoding of numbers (`encoding/modes.py`):
a mode of a Gaussian mixture and a scalar in it. Preset 'paper' is the published model; the default draws levels instead
of taking the likeliest, stops early, and draws latents from where the real rows' latents lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.encoding.mixed import MixedTable
from pipeline.encoding.mode_table import ModeTable
from pipeline.encoding.modes import ModeCodec, fit_modes
from pipeline.generators.vae import VAE
from pipeline.generators.variational.network import Network
from pipeline.generators.variational.settings import VAEConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.tabular import Learned

_MODES = "modes/"


class TVAEConfig(VAEConfig):
    """Settings of TVAE; what differs from the paper was chosen on a part of SUPPORT's training rows."""

    fewest_steps: ClassVar[int] = 8
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "cat_decode": "argmax",
            "prior": "standard",
            "latent_dim": 128,
            "hidden": (128, 128),
            "activation": "relu",
            "dropout": 0.0,
            "learning_rate": 1e-3,
            "weight_decay": 1e-5,
            "batch_size": 500,
            "epochs": 300,
            "beta": 0.5,
            "beta_schedule": "constant",
            "warmup": 0.0,
            "clip": 1e9,
            "patience": 0,
        },
        "quick": {
            "epochs": 40,
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
    numeric_head: Literal["modes", "binned"] = Field(  # type: ignore[assignment]
        default="modes",
        description="'modes': mode-specific normalisation. 'binned': a categorical over pieces of the empirical"
        " distribution, which is what a private training uses.",
    )
    linked: bool = Field(
        default=False, description="Let each column also depend on the columns before it; with binned numbers only."
    )
    cat_decode: Literal["sample", "argmax"] = Field(
        default="sample",
        description="How modes and levels are drawn: from their probabilities, or the likeliest, as published, which"
        " loses rare levels.",
    )
    latent_dim: int = Field(default=32, ge=1, le=512, description="Number of latent variables.")
    hidden: tuple[int, ...] = Field(
        default=(256, 128), min_length=1, description="Widths of the encoder's hidden layers; the decoder mirrors them."
    )
    activation: Literal["relu", "leaky_relu", "elu", "silu", "tanh"] = Field(
        default="silu", description="Nonlinearity of the hidden layers."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of hidden units dropped while training.")
    beta: float = Field(
        default=0.5, ge=0, description="Weight of the KL term; 0.5 is the library's factor of 2 on the reconstruction."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate of AdamW.")
    patience: int = Field(
        default=20,
        ge=0,
        description="Epochs without gain on the tuning rows before training stops; 0 takes all rows and"
        " all epochs, as published.",
    )
    epochs: int = Field(default=300, ge=1, le=100_000, description="Passes over the training rows, at most.")
    batch_size: int = Field(
        default=500, ge=1, description="Rows a step; at most an eighth of the training rows, but at least 32."
    )

    def table(
        self,
        encoder: TableEncoder,
        bins: int,
        first: Sequence[str] = (),
        cuts: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> MixedTable:
        """The table where numbers are no modes."""
        return MixedTable(encoder, numeric="binned", bins=bins, linked=self.linked, first=first, cuts=cuts)


class TVAE(VAE):
    """VAE with mode-specific normalisation; conditions by rejection."""

    name = "tvae"
    title = "TVAE: variational autoencoder on modes of numbers"
    Config = TVAEConfig
    config: TVAEConfig
    code_version = "3"
    _modes: Mapping[str, ModeCodec] | None = None
    _seed = 0

    def _learn(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        self._seed = seed
        return super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)

    def _prepare(self, encoder: TableEncoder, rows: Encoded, cohort: Cohort) -> None:
        super()._prepare(encoder, rows, cohort)
        modes = self.config.numeric_head == "modes"
        self._modes = fit_modes(encoder, rows, pieces=self._bins, seed=self._seed) if modes else None

    def _prepare_private(self, encoder: TableEncoder) -> None:
        # A mixture of the rows would have to be paid for; the private encoder's pieces have been.
        self._modes = None

    def _network(self, encoder: TableEncoder) -> Network:
        if self._modes is None:
            return super()._network(encoder)
        likeliest = self.config.cat_decode == "argmax"
        return Network(ModeTable(encoder, self._modes, likeliest=likeliest, seed=self._seed), self.config.shape())

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors, extra = super()._state()
        names = list(self._modes or {})
        for i, name in enumerate(names):
            assert self._modes is not None
            tensors |= {f"{_MODES}{i:05d}/{k}": v for k, v in self._modes[name].tensors().items()}
        return tensors, {**extra, "modes": None if self._modes is None else names}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        names = extra["modes"]
        self._modes = None
        if names is not None:
            self._modes = {
                name: ModeCodec.restore(
                    {k.rsplit("/", 1)[1]: v for k, v in tensors.items() if k.startswith(f"{_MODES}{i:05d}/")},
                    has_missing=encoder.numbers[name].has_missing,
                )
                for i, name in enumerate(names)
            }
        super()._restore(encoder, tensors, extra)
