"""Settings of the variational autoencoders: the published configurations of the framework paper, and the mended default.

What each field does to the network is in `network.py` and `vae.py`; how it is trained in `training.py`, and under
differential privacy in `privacy/dpsgd.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.encoding.literal import MinMaxTable
from pipeline.encoding.mixed import INPUT_BINS, MixedTable
from pipeline.generators.tabular import TabularConfig
from pipeline.generators.training import TrainSettings
from pipeline.generators.variational.network import NetworkShape
from pipeline.generators.variational.schedules import BetaSchedule
from pipeline.privacy.dpsgd import PrivateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.encoding.encoder import TableEncoder

FEW_ROWS = 20_000
_PAPER: dict[str, Any] = {
    "likelihood": "mse_sigmoid",
    "prior": "standard",
    "warmup": 0.0,
    "free_bits": 0.0,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "epochs": 100,
    # All epochs, the best of which is kept: the paper looks at rows that it does not learn from.
    "patience": 100,
    "clip": 1e9,
}


class VAEConfig(TabularConfig):
    """Settings of the VAE; defaults chosen on a part of SUPPORT's training rows."""

    fewest_steps: ClassVar[int] = 6
    """Steps of a pass over the rows, at least: fewer rows make smaller batches."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "exp1": {**_PAPER, "latent_dim": 2, "hidden": (64, 32), "activation": "relu", "batch_size": 32, "beta": 1.0},
        "exp2": {**_PAPER, "latent_dim": 4, "hidden": (128, 64), "activation": "relu", "batch_size": 32, "beta": 2.0},
        "exp3": {
            **_PAPER,
            "latent_dim": 8,
            "hidden": (256, 128, 64),
            "activation": "leaky_relu",
            "batch_size": 64,
            "beta": 1.5,
        },
        "exp4": {
            **_PAPER,
            "latent_dim": 16,
            "hidden": (512, 256, 128),
            "activation": "elu",
            "batch_size": 64,
            "beta": 1.0,
        },
        "paper": {**_PAPER, "latent_dim": 4, "hidden": (128, 64), "activation": "relu", "batch_size": 32, "beta": 2.0},
        "deep": {"hidden": (256, 128, 64), "batch_size": 512, "learning_rate": 2e-3},
        "quick": {
            "epochs": 20,
            "batch_size": 512,
            "hidden": (64,),
            "latent_dim": 8,
            "prior_components": 4,
            "learning_rate": 3e-3,
            "private_epochs": 5.0,
            "private_hidden": (64,),
            "private_learning_rate": 5e-3,
        },
    }
    likelihood: Literal["mixed", "mse_sigmoid"] = Field(
        default="mixed",
        description="'mixed': a likelihood for each kind of column, drawn from. 'mse_sigmoid': the published squared"
        " error and decoder means, known to collapse (spec 2.2).",
    )
    numeric_head: Literal["binned", "gaussian", "student_t"] = Field(
        default="binned",
        description="Likelihood of numeric columns: a categorical over pieces of the empirical distribution, or a"
        " Gaussian or Student-t on normal scores (spec 0.3).",
    )
    numeric_bins: int = Field(
        default=20,
        ge=2,
        le=512,
        description="About how many pieces a binned column has, besides those cut where levels change; at most one for 40"
        " training rows, but at least 8.",
    )
    input_bins: int = Field(
        default=8,
        ge=1,
        le=512,
        description="About how many pieces of a binned column the encoder and later columns are shown, beside its place"
        " on a normal scale.",
    )
    linked: bool = Field(
        default=True,
        description="Let each column also depend on the columns before it, through one linear map (an autoregressive"
        " decoder); with binned numbers, and unless the table is too wide.",
    )
    latent_dim: int = Field(default=16, ge=1, le=512, description="Number of latent variables (spec 2.1).")
    hidden: tuple[int, ...] = Field(
        default=(64,), min_length=1, description="Widths of the encoder's hidden layers; the decoder mirrors them."
    )
    activation: Literal["relu", "leaky_relu", "elu", "silu", "tanh"] = Field(
        default="silu", description="Nonlinearity of the hidden layers."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of hidden units dropped while training.")
    beta: float | None = Field(
        default=None,
        ge=0,
        description="Weight of the KL term. None: 0.5, whose hole the mixture prior closes; 1 for tables with code blocks,"
        " of which the latents would otherwise store single codes.",
    )
    beta_schedule: Literal["linear", "cyclical", "constant"] = Field(
        default="linear",
        description="'linear': beta grows from 0 over `warmup`; 'cyclical': over the first half of each of"
        " `beta_cycles` cycles (Fu et al. 2019); 'constant'.",
    )
    beta_cycles: int = Field(default=4, ge=1, le=100, description="Cycles of the cyclical schedule.")
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="Share of the training over which beta grows from 0 (spec 2.3)."
    )
    free_bits: float = Field(
        default=0.0, ge=0, description="Nats of KL a latent may use without being charged, in the batch's mean."
    )
    prior: Literal["gmm", "standard"] = Field(
        default="gmm",
        description="Where latents are drawn from: a Gaussian mixture fitted to those of the training rows after"
        " training (spec 2.3), or N(0, I).",
    )
    prior_components: int = Field(
        default=10, ge=1, le=200, description="Components of the mixture, at most one for 100 training rows (spec 2.3)."
    )
    epochs: int = Field(default=200, ge=1, le=100_000, description="Passes over the training rows, at most.")
    batch_size: int = Field(
        default=1536, ge=1, description="Rows a step; at most a sixth of the training rows, but at least 32."
    )
    learning_rate: float = Field(default=6e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(
        default=1e-5, ge=0, description="Weight decay of AdamW (L2 on the weights); with 0 it is Adam."
    )
    clip: float = Field(default=1.0, gt=0, description="Largest norm of a step's gradient.")
    patience: int = Field(
        default=10,
        ge=0,
        description="Epochs without gain on the tuning rows before training stops; 0 learns from"
        " all rows in all epochs and keeps the last weights.",
    )

    def schedule(self, *, blocks: bool) -> BetaSchedule:
        """How the weight of the KL term grows, for a table with or without code blocks."""
        beta = self.beta if self.beta is not None else 1.0 if blocks else 0.5
        return BetaSchedule(beta, self.beta_schedule, self.warmup, self.beta_cycles)

    private_hidden: tuple[int, ...] = Field(
        default=(128, 64),
        min_length=1,
        description="`hidden` under differential privacy: fewer weights, less noise.",
    )
    private_latent_dim: int = Field(default=8, ge=1, le=512, description="`latent_dim` under differential privacy.")
    private_norm: bool = Field(
        default=True, description="A LayerNorm after each layer under differential privacy (spec 3.3)."
    )
    private_bins: int = Field(default=20, ge=2, le=512, description="`numeric_bins` under differential privacy.")
    private_beta: float = Field(
        default=1.0, ge=0, description="`beta` under differential privacy, where latents are drawn from N(0, I)."
    )
    private_epochs: float = Field(
        default=100.0, gt=0, description="Noisy steps under differential privacy, as passes over the subjects."
    )
    private_batch_size: int = Field(
        default=0, ge=0, description="Subjects a noisy step on average; 0: 512, or 2,048 from 20,000 subjects on."
    )
    private_learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate of the noisy steps.")
    private_clip: float = Field(default=1.0, gt=0, description="Largest norm of a subject's gradient.")
    private_ema: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights that a private training ends with.",
    )

    def shape(self, conditions: int = 0, *, private: bool = False) -> NetworkShape:
        """Sizes of the network."""
        if private:
            return NetworkShape(
                self.private_hidden,
                self.private_latent_dim,
                self.activation,
                norm=self.private_norm,
                conditions=conditions,
            )
        return NetworkShape(self.hidden, self.latent_dim, self.activation, self.dropout, conditions=conditions)

    def training(self, rows: int) -> TrainSettings:
        """How to train on so many rows."""
        return TrainSettings(
            epochs=self.epochs,
            batch_size=min(self.batch_size, max(32, -(-rows // self.fewest_steps))),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip=self.clip,
            patience=self.patience,
            settled=self.schedule(blocks=False).settled,
            bfloat16_products=True,
        )

    def private_training(self, subjects: int) -> PrivateSettings:
        """How to train under differential privacy on so many subjects."""
        return PrivateSettings(
            epochs=self.private_epochs,
            expected_batch=self.private_batch_size or (512 if subjects < FEW_ROWS else 2_048),
            clip=self.private_clip,
            learning_rate=self.private_learning_rate,
            ema=self.private_ema,
        )

    def private_table(self, encoder: TableEncoder, bins: int) -> MixedTable:
        """The same under differential privacy: without links, whose masked weights have no per-sample gradients."""
        plain = self.model_copy(update={"linked": False, "likelihood": "mixed", "input_bins": INPUT_BINS})
        table = plain.table(encoder, bins)
        assert isinstance(table, MixedTable)
        return table

    def table(
        self,
        encoder: TableEncoder,
        bins: int,
        first: Sequence[str] = (),
        cuts: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> MixedTable | MinMaxTable:
        """What rows look like to the network, and what its outputs mean.

        Args:
            encoder: the fitted encoder.
            bins: about how many pieces a number has.
            first: columns that are drawn before the others.
            cuts: where numbers are cut besides.
        """
        if self.likelihood == "mse_sigmoid":
            return MinMaxTable(encoder)
        return MixedTable(
            encoder,
            numeric=self.numeric_head,
            bins=bins,
            linked=self.linked,
            first=first,
            cuts=cuts,
            shown=self.input_bins,
        )
