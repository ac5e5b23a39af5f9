"""VAE-GAN (Larsen, Sønderby, Larochelle and Winther 2016, "Autoencoding beyond pixels using a learned similarity metric").

A variational autoencoder whose rows a discriminator judges too: it is paid for reconstructions whose features lie near those of
the real row, and the decoder for rows that are taken for real. For tables there is the likelihood of every column besides,
without which one-hots are learned badly (spec 3.11); rows are drawn from it. Network, likelihoods, prior and drawing are those
of `vae.py`, the loop is that of `adversarial/`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encoding.mixed import MixedTable
from pipeline.generators.adversarial.features import LayerNormCritic, features_apart
from pipeline.generators.adversarial.fidelity import Fidelity
from pipeline.generators.adversarial.health import collapsed
from pipeline.generators.adversarial.loop import Look, LoopSettings, Move, Player, Streams, Training
from pipeline.generators.adversarial.losses import Judgement
from pipeline.generators.precision import factors_in_bfloat16
from pipeline.generators.training import torch_stream, tuning_rows
from pipeline.generators.vae import VAE
from pipeline.generators.variational.network import Network
from pipeline.generators.variational.settings import VAEConfig
from pipeline.generators.variational.shown_rows import ShownRows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.encoding.mixed import TableTensors
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.tabular import Learned
    from pipeline.generators.training import TrainLog
    from pipeline.generators.variational.schedules import BetaSchedule

LOOKED_AT = 4_096
FEWEST_TUNED = 50
"""Tuning rows below which a look says nothing."""
SPENT = 1e9


class VAEGANConfig(VAEConfig):
    """Settings of VAE-GAN; defaults chosen on a part of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "reconstruction": 0.0,
            "feature": 1.0,
            "game": 1.0,
            "ramp": 0.0,
            "beta": 1.0,
            "beta_schedule": "constant",
            "prior": "standard",
            "latent_dim": 128,
            "hidden": (256, 128),
            "critic_hidden": (256, 128),
            "batch_size": 64,
            "learning_rate": 3e-4,
            "critic_rate": 3e-4,
            # Adam with these is RMSprop, the published optimiser, with the first steps corrected.
            "betas": (0.0, 0.9),
            "steps": 20_000,
            "decay": "constant",
            "ema": 0.0,
            "select": "last",
            "margins": False,
        },
        "quick": {"steps": 400, "hidden": (64,), "critic_hidden": (64, 64), "latent_dim": 8, "prior_components": 4},
    }
    likelihood: Literal["mixed"] = Field(default="mixed", description="A likelihood for each kind of column.")
    numeric_head: Literal["binned", "gaussian"] = Field(
        default="binned",
        description="Likelihood of numeric columns: a categorical over pieces of the empirical distribution, or a Gaussian on"
        " normal scores with a width that is learned a column.",
    )
    linked: Literal[False] = Field(
        default=False, description="Columns are drawn at once, given the latents: a gradient must go through the draw."
    )
    latent_dim: int = Field(default=32, ge=1, le=512, description="Number of latent variables.")
    hidden: tuple[int, ...] = Field(
        default=(128,), min_length=1, description="Widths of the encoder's hidden layers; the decoder mirrors them."
    )
    critic_hidden: tuple[int, ...] = Field(
        default=(128, 64),
        min_length=1,
        description="Hidden layers of the discriminator; the last one is its features.",
    )
    reconstruction: float = Field(
        default=1.0, ge=0, description="Weight of the rows' likelihood; 0, as published, leaves it to the features."
    )
    feature: float = Field(
        default=0.4, ge=0, description="Weight of the distance of a row's features from those of its reconstruction."
    )
    game: float = Field(default=0.1, ge=0, description="Weight of being taken for real, in the decoder's loss alone.")
    ramp: float = Field(
        default=0.3, ge=0, le=1, description="Share of the training over which the game's weight grows from 0."
    )
    equilibrium: float = Field(
        default=0.68, gt=0, description="Cost of a discriminator's side, in nats, that is about a draw (log 2 is one)."
    )
    margin: float = Field(
        default=0.35,
        ge=0,
        description="The discriminator waits while one of its costs is that much below a draw, the decoder's game while one is"
        " that much above.",
    )
    tau: float = Field(default=0.2, gt=0, description="Temperature of the gradient through drawn states and codes.")
    steps: int | None = Field(
        default=2_000, ge=1, le=10_000_000, description="Steps of the training. None: as many as `epochs` passes take."
    )
    batch_size: int = Field(default=256, ge=1, description="Rows a step; at most half of the training rows.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of Adam for encoder and decoder.")
    critic_rate: float = Field(default=2e-4, gt=0, description="Learning rate of the discriminator's Adam.")
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="Decay of Adam's moments.")
    decay: Literal["constant", "linear"] = Field(
        default="linear", description="How learning rates fall over the training: not at all, or along a line to 0."
    )
    ema: float = Field(
        default=0.99, ge=0, lt=1, description="Decay of the running mean of the weights; 0 takes them as they are."
    )
    select: Literal["probe", "last"] = Field(
        default="probe",
        description="Which weights are kept: those whose rows are nearest to the tuning rows in margins and pairs, or the"
        " last ones, trained on all rows.",
    )
    margins: bool = Field(
        default=True, description="Bring the margins of drawn rows back to those of training by the outputs' bias."
    )
    patience: int = Field(default=0, ge=0, description="Without effect: see `select`.")
    clip: float = Field(default=SPENT, gt=0, description="Without effect: gradients are not clipped.")

    def all_steps(self, rows: int) -> int:
        """Steps of a training on so many rows."""
        return self.steps if self.steps is not None else self.epochs * max(1, rows // self.batch(rows))

    def batch(self, rows: int) -> int:
        """Rows a step of a training on so many."""
        return max(1, min(self.batch_size, rows // 2))


def in_balance(real: float, drawn: float, equilibrium: float, margin: float) -> tuple[bool, bool]:
    """Does the discriminator learn, and does the decoder play? At least one of them always (Larsen et al. 2016, code).

    Args:
        real: the discriminator's cost of real rows, -E log D(x).
        drawn: its cost of drawn rows, -E log(1 - D(x)).
        equilibrium: see `VAEGANConfig`.
        margin: see `VAEGANConfig`.
    """
    learns = min(real, drawn) >= equilibrium - margin
    plays = max(real, drawn) <= equilibrium + margin
    return (learns, plays) if learns or plays else (True, True)


@dataclass
class VAEGANMatch:
    """Discriminator against autoencoder over the same rows.

    Attributes:
        network: Encoder and decoder.
        critic: The discriminator.
        shown: The layout of what it sees.
        data: The training rows.
        rows: (m,) rows to learn from.
        schedule: Of the weight of the KL term.
        charged: (batch,) KL term of posterior means and log variances.
        streams: The random numbers.
        config: The settings.
        moves: Steps.
        learns: Of these, those in which the discriminator learned.
        plays: Those in which the decoder played.
        playing: Does the decoder play in this one?
    """

    network: Network
    critic: LayerNormCritic
    shown: ShownRows
    data: TableTensors
    rows: Tensor
    schedule: BetaSchedule
    charged: Callable[[Tensor, Tensor], Tensor]
    streams: Streams
    config: VAEGANConfig
    moves: int = field(default=0, init=False)
    learns: int = field(default=0, init=False)
    plays: int = field(default=0, init=False)
    playing: bool = field(default=True, init=False)

    def players(self) -> list[Player]:
        """Discriminator, autoencoder."""
        config = self.config
        decay = config.weight_decay
        return [
            Player("critic", self.critic, self.critic_move, config.critic_rate, config.betas),
            Player("autoencoder", self.network, self.autoencoder_move, config.learning_rate, config.betas, decay),
        ]

    @property
    def table(self) -> MixedTable:
        """The likelihoods."""
        table = self.network.table
        assert isinstance(table, MixedTable)
        return table

    def batch(self) -> TableTensors:
        """Rows of a step."""
        n = self.config.batch(len(self.rows))
        at = self.rows[torch.randint(len(self.rows), (n,), generator=self.streams.order)]
        return self.data.take(at.to(self.data.scores.device))

    def latents(self, rows: TableTensors) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, latents) draws of the rows' posteriors, their means and log variances."""
        mean, log_var = self.network.encode(self.table.batch(rows).inputs())
        return mean + self.noise(mean) * (0.5 * log_var).exp(), mean, log_var

    def noise(self, like: Tensor) -> Tensor:
        """Standard normals in the shape of another tensor."""
        return torch.randn(like.shape, generator=self.streams.noise, device=like.device)

    def drawn(self, outputs: Tensor) -> Tensor:
        """(batch, width) rows as the discriminator sees them."""
        return self.shown.drawn(self.table, outputs, self.streams.noise, tau=self.config.tau)

    def critic_move(self, done: float) -> Move:
        """Real rows against reconstructions and rows from the prior; it waits where it is far ahead."""
        rows, config = self.batch(), self.config
        with torch.no_grad():
            z, _, _ = self.latents(rows)
            drawn = self.drawn(self.network.decode(torch.cat([z, self.noise(z)])))
            real = self.shown.real(self.table, rows)
        on_real, on_drawn = self.critic(real), self.critic(drawn)
        costs = functional.softplus(-on_real).mean(), functional.softplus(on_drawn).mean()
        # One look at the device for both.
        of_real, of_drawn = torch.stack(costs).detach().tolist()
        learns, self.playing = in_balance(of_real, of_drawn, config.equilibrium, config.margin)
        self.moves, self.learns, self.plays = self.moves + 1, self.learns + learns, self.plays + self.playing
        loss = costs[0] + costs[1]
        return Move(loss, Judgement(loss, on_real.detach(), on_drawn.detach()), waits=not learns)

    def autoencoder_move(self, done: float) -> Move:
        """Likelihood, KL term and features for both halves; the game for the decoder alone."""
        rows, config = self.batch(), self.config
        z, mean, log_var = self.latents(rows)
        outputs = self.network.decode(z)
        loss = self.schedule.at(done) * self.charged(mean, log_var).mean()
        if config.reconstruction:
            loss = loss + config.reconstruction * self.table.loss(outputs, self.table.batch(rows)).mean()
        if config.feature:
            with torch.no_grad():
                wanted = self.critic.features(self.shown.real(self.table, rows))
            loss = loss + config.feature * features_apart(wanted, self.critic.features(self.drawn(outputs))).mean()
        weight = config.game * (min(1.0, done / config.ramp) if config.ramp else 1.0)
        if weight and self.playing:
            # The encoder is not part of the game: its latents come in as they are.
            both = self.network.decode(torch.cat([z.detach(), self.noise(z)]))
            loss = loss + weight * functional.softplus(-self.critic(self.drawn(both))).mean()
        return Move(loss)


class VAEGAN(VAE):
    """Variational autoencoder whose rows a discriminator judges; conditions by rejection."""

    name = "vae_gan"
    title = "VAE-GAN: variational autoencoder with a discriminator"
    Config = VAEGANConfig
    config: VAEGANConfig
    code_version = "1"
    private = False
    not_private = (
        "Two networks see real rows, the discriminator among them, and both are trained without noise; `vae` is the same"
        " without a discriminator, and private."
    )

    _turns: dict[str, float]

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
        learned = super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        learned.facts |= self._turns
        return learned

    def _tuning(self, cohort: Cohort) -> NDArray[np.bool_]:
        tune = tuning_rows(cohort) if self.config.select == "probe" else np.zeros(cohort.n_rows, dtype=bool)
        return tune if tune.sum() >= FEWEST_TUNED else np.zeros(cohort.n_rows, dtype=bool)

    def _train(
        self,
        network: Network,
        data: TableTensors,
        given: Tensor | None,
        tune: NDArray[np.bool_],
        *,
        seed: int,
        place: torch.device,
        progress: Progress | None,
    ) -> TrainLog:
        config, table = self.config, network.table
        assert isinstance(table, MixedTable)
        shown = ShownRows(table).to(place)
        fit_rows = np.flatnonzero(~tune)
        match = VAEGANMatch(
            network=network,
            critic=LayerNormCritic(shown.width, config.critic_hidden).to(place),
            shown=shown,
            data=data,
            rows=torch.as_tensor(fit_rows),
            schedule=config.schedule(blocks=bool(table.encoder.blocks)),
            charged=self._charged,
            streams=Streams.of(seed, place),
            config=config,
        )
        training = Training(
            match.players(),
            match.streams,
            LoopSettings(steps=config.all_steps(len(fit_rows)), ema=config.ema, decay=config.decay),
            look=self._look(match, tune, seed, place) if tune.any() else None,
            facts=(str(len(tune)), *map(str, fit_rows[:: max(1, len(fit_rows) // 1000)])),
        )
        with factors_in_bfloat16() if place.type == "cpu" else nullcontext():
            log = training.run(progress, self._checkpoint)
        turns = {"discriminator_learned": match.learns, "decoder_played": match.plays}
        # A training that had been ended before has no turn to tell of.
        self._turns = {k: v / match.moves for k, v in turns.items()} if match.moves else {}
        return log

    def _look(
        self, match: VAEGANMatch, tune: NDArray[np.bool_], seed: int, place: torch.device
    ) -> Callable[[nn.Module], Look]:
        """Holds rows of a network against tuning rows, with the same noise every time."""
        table, data, config = match.table, match.data, self.config
        held = torch.as_tensor(np.flatnonzero(tune)[:LOOKED_AT], device=place)
        seen = match.rows[torch.randperm(len(match.rows), generator=torch_stream(seed, "look-rows"))[:LOOKED_AT]]
        real = match.shown.real(table, data.take(held))
        fidelity = Fidelity(real)

        def look(network: nn.Module) -> Look:
            assert isinstance(network, Network)
            noise = torch_stream(seed, "look", device=place)
            with torch.no_grad():
                mean, log_var = network.encode(table.batch(data.take(seen.to(place))).inputs())
                chance = torch.randn(mean.shape, generator=noise, device=place)
                # Rows will be drawn from where the latents of real rows are, or from N(0, I).
                z = chance if config.prior == "standard" else mean + chance * (0.5 * log_var).exp()
                drawn = match.shown.drawn(table, network.decode(z), noise, tau=config.tau)
            return Look(fidelity(drawn), collapsed(real, drawn))

        return look

    def _calibrate(self, seed: int) -> None:
        if self.config.margins:
            super()._calibrate(seed)
