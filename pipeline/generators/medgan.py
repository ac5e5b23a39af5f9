"""medGAN (Choi et al. 2017, "Generating multi-label discrete patient records using generative adversarial networks"), and medBGAN
and medWGAN (Baowaly et al. 2019, "Synthesizing electronic health records using improved generative adversarial networks").

A generator draws in the latent space of an autoencoder, whose decoder it owns from then on; the critic sees each row beside the
mean of its batch. The three differ in their loss alone. Preset 'paper' is the published training with rounded outputs; the
default draws codes and brings margins back. The networks are in `adversarial/latent.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.generators.adversarial.conditions import TellNothing
from pipeline.generators.adversarial.latent import (
    Encoder,
    LatentNet,
    MeanCritic,
    Squashed,
    counted_coordinates,
    reconstruction,
    rounded_counts,
)
from pipeline.generators.adversarial.losses import LossKind
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.networks import refreshed
from pipeline.generators.adversarial.private import PrivateAdversarialGenerator
from pipeline.generators.adversarial.private_settings import PrivateGameConfig
from pipeline.generators.seeds import derive_seed, stream
from pipeline.generators.train_settings import TrainSettings
from pipeline.generators.training import torch_stream, train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.loop import Move
    from pipeline.generators.adversarial.networks import Critic, GeneratorNet
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.base import Progress
    from pipeline.generators.checkpoint import Checkpoint
    from pipeline.generators.tabular import Learned
    from pipeline.generators.training import TrainLog

UNCLIPPED = 1e9
SETTLE_BATCHES = 100
PAPER: dict[str, Any] = {
    "numbers": "range",
    "pieces": 0,
    "drawing": "likeliest",
    "counts": "rounded",
    "norm_momentum": 0.01,
    "penalty": 0.0,
    "batch_size": 1000,
    "epochs": 1000,
    "fewest_steps": 1,
    "critic_steps": 2,
    "learning_rate": 1e-3,
    "critic_rate": 1e-3,
    "betas": (0.9, 0.999),
    "weight_decay": 1e-3,
    "autoencoder_epochs": 100,
    "autoencoder_batch": 100,
    "autoencoder_steps": 1,
    "decay": "constant",
    "ema": 0.0,
    "select": "last",
    "margins": False,
}
QUICK: dict[str, Any] = {
    "steps": 300,
    "hidden": (64, 64),
    "latents": 64,
    "noise": 64,
    "critic_hidden": (64, 64),
    "autoencoder_steps": 150,
    "autoencoder_epochs": 5,
    "private_epochs": 5.0,
}


class MedGANConfig(PrivateGameConfig):
    """Settings of medGAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper": PAPER, "quick": QUICK}
    latents: int = Field(default=128, ge=1, le=4096, description="Width of the autoencoder's latent space.")
    noise: int = Field(default=128, ge=1, le=4096, description="Noise inputs of the generator.")
    hidden: tuple[int, ...] = Field(
        default=(128, 128), description="Layers of the generator before the latents; each is added to the one before."
    )
    critic_hidden: tuple[int, ...] = Field(default=(256, 128), min_length=1, description="Hidden layers of the critic.")
    pac: int = Field(default=1, ge=1, le=1, description="Rows are judged one by one, beside their mean.")
    norm_momentum: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of a batch in the running statistics that the generator has while the critic learns; with the"
        " published 0.01 they lag, and the critic learns of rows that the generator no longer draws.",
    )
    batch_mean: bool = Field(default=True, description="Show the critic the mean of a batch beside each of its rows.")
    counts: Literal["drawn", "rounded"] = Field(
        default="drawn",
        description="A count is drawn as present or absent and then how often; or a ReLU that is rounded, as published.",
    )
    autoencoder_epochs: int = Field(
        default=30, ge=1, le=100_000, description="Passes of the autoencoder over the training rows."
    )
    autoencoder_batch: int = Field(default=250, ge=1, description="Rows a step of the autoencoder.")
    autoencoder_steps: int = Field(default=1_000, ge=1, description="Steps of the autoencoder, at least.")
    autoencoder_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the autoencoder's AdamW.")
    batch_size: int = Field(default=500, ge=1, description="Rows a step; at most half of the training rows.")

    def _private_rules(self) -> dict[str, Any]:
        # A mean over the batch would tie the rows together, which no clipping of a row's gradient bounds.
        return {**super()._private_rules(), "batch_mean": False}

    def of_autoencoder(self, rows: int) -> TrainSettings:
        """How the autoencoder is trained on so many rows."""
        batch = max(1, min(self.autoencoder_batch, rows // 2))
        return TrainSettings(
            batch_size=batch,
            learning_rate=self.autoencoder_rate,
            # The published L2 is a term of the loss (`MedMatch.reconstructed`).
            weight_decay=0.0,
            clip=UNCLIPPED,
            patience=0,
            plateau=0,
            steps=max(self.autoencoder_steps, self.autoencoder_epochs * -(-rows // batch)),
            bfloat16_products=self.bfloat16_products,
        )


class MedBGANConfig(MedGANConfig):
    """Settings of medBGAN: those of medGAN with the boundary-seeking loss."""

    loss: LossKind = Field(default="boundary", description="What is minimised: the boundary-seeking loss, or another.")


class MedWGANConfig(MedGANConfig):
    """Settings of medWGAN: those of medGAN with the Wasserstein distance."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {**PAPER, "penalty": 10.0},
        "quick": QUICK,
    }
    loss: LossKind = Field(
        default="wasserstein", description="What is minimised: the Wasserstein distance with a penalty, or another."
    )
    penalty: float = Field(default=1.0, ge=0, description="Weight of the gradient penalty; 10 as published.")
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="Decay of Adam's moments.")


@dataclass
class MedMatch(Match):
    """A generator of latents against a critic of batches."""

    config: MedGANConfig

    def critic_move(self, done: float) -> Move:
        """See `Match.critic_move`; the generator is as it will be when rows are drawn."""
        self.generator.eval()
        try:
            return super().critic_move(done)
        finally:
            self.generator.train()

    def shown(self, outputs: Tensor) -> Tensor:
        """See `Match.shown`."""
        vectors = super().shown(outputs)
        return rounded_counts(self.blocks, outputs, vectors) if self.config.counts == "rounded" else vectors

    def reconstructed(self, encoder: Encoder, rows: Tensor) -> Tensor:
        """(batch,) losses of the autoencoder on training rows."""
        vectors = self.blocks.real(self.data.take(rows))
        rounded = self.config.counts == "rounded"
        loss = reconstruction(self.blocks, vectors, encoder(vectors), rounded=rounded)
        if self.config.weight_decay:
            squares = sum((p.square().sum() for p in encoder.parameters()), loss.new_zeros(()))
            loss = loss + self.config.weight_decay / 2 * squares
        return loss


class MedGAN(PrivateAdversarialGenerator):
    """GAN in the latent space of an autoencoder; conditions by rejection."""

    name = "medgan"
    title = "medGAN: a GAN in the latent space of an autoencoder, for codes"
    Config = MedGANConfig
    config: MedGANConfig
    _seed: int
    _pretrained: TrainLog

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
        learned = super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        log = self._pretrained
        learned.warnings = [*(f"Autoencoder: {w}" for w in log.warnings), *learned.warnings]
        learned.facts["autoencoder_loss"] = log.losses[-1].get("train", float("nan")) if log.losses else float("nan")
        if self.config.drawing == "likeliest":
            learned.warnings.append(
                "Published decoding: thresholds and rounding lose rare codes and levels. For comparison, not for use."
            )
        return learned

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        return LatentNet(
            config.noise + conditions,
            config.hidden,
            config.latents,
            blocks.head_width,
            squashed=self._squashed(blocks),
            momentum=config.norm_momentum,
        )

    def _squashed(self, blocks: RowBlocks) -> Squashed:
        """ReLU latents for counts that are rounded, as published; else tanh."""
        return "relu" if self.config.counts == "rounded" and any(blocks.counted) else "tanh"

    def _critic(self, width: int) -> Critic:
        config = self.config
        counted = counted_coordinates(self._blocks) if config.counts == "rounded" else None
        return MeanCritic(width, config.critic_hidden, dropout=config.dropout, mean=config.batch_mean, counted=counted)

    def _match(self, match: Match) -> Match:
        """The game begins with a decoder that can say what rows are."""
        own = MedMatch(**vars(match))
        assert isinstance(own.teller, TellNothing)
        blocks, rows = own.blocks, own.teller.rows.numpy()
        encoder = Encoder(blocks.width, self.config.latents, own.generator.head, squashed=self._squashed(blocks))
        self._pretrained = train(
            encoder.to(own.device),
            lambda at, noise, done: own.reconstructed(encoder, at),
            fit_rows=rows,
            tune_rows=rows[:0],
            settings=self.config.of_autoencoder(len(rows)),
            seed=derive_seed(self._seed, "autoencoder"),
            device=own.device,
            checkpoint=self._stage("autoencoder"),
        )
        return own

    def _private_match(self, match: Match) -> Match:
        """No autoencoder: the decoder is learned through the critic alone, which costs nothing (spec 3.1)."""
        return MedMatch(**vars(match))

    def _stage(self, name: str) -> Checkpoint | None:
        """Where the training of one network keeps its state."""
        return None if self._checkpoint is None else replace(self._checkpoint, stage=name)

    def _settle(self, seed: int, place: torch.device) -> Callable[[nn.Module], None]:
        """See `AdversarialGenerator._settle`; the last weights take fresh statistics too, as published."""
        if self.config.ema:
            return super()._settle(seed, place)

        def settle(network: nn.Module) -> None:
            assert isinstance(network, LatentNet)
            noise, rng = torch_stream(seed, "settle", device=place), stream(seed, "settle")
            size = self.config.batch_size
            refreshed(network, [self._inputs(self._tell(size, rng), noise, place) for _ in range(SETTLE_BATCHES)])

        return settle

    def _activated(self, blocks: RowBlocks, outputs: Tensor, noise: torch.Generator) -> Tensor:
        vectors = super()._activated(blocks, outputs, noise)
        return rounded_counts(blocks, outputs, vectors) if self.config.counts == "rounded" else vectors


class MedBGAN(MedGAN):
    """medGAN with the boundary-seeking loss."""

    name = "medbgan"
    title = "medBGAN: medGAN, boundary-seeking"
    Config = MedBGANConfig
    config: MedBGANConfig


class MedWGAN(MedGAN):
    """medGAN with the Wasserstein distance."""

    name = "medwgan"
    title = "medWGAN: medGAN with the Wasserstein distance"
    Config = MedWGANConfig
    config: MedWGANConfig
    private = False
    not_private = (
        "Its penalty is a gradient of a gradient, of which Opacus has none for single rows, and without its penalty and the"
        " mean of a batch it would be `medgan`, which does."
    )
