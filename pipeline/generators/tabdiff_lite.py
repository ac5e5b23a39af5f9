"""TabDiff (Shi et al. 2025) in the shape of the project: noise on numbers and masks on everything discrete, at one time.

Numbers follow the noise levels of Karras et al. 2022, discrete columns are hidden and revealed (absorbing diffusion). Columns
that are given are never noised or hidden, and the network has seen such rows in training: conditions on any columns are
native. What a row is, is in `denoising/split_rows.py`, the network in `denoising/network.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.encoding.encoder import Encoded
from pipeline.generators.denoising.joint_noise import JointNoise, reveal
from pipeline.generators.denoising.known_states import KnownStates
from pipeline.generators.denoising.network import Film, ResMLP
from pipeline.generators.denoising.split_diffusion import SplitDiffusion, SplitDiffusionConfig, SplitNetwork
from pipeline.generators.denoising.split_rows import SplitRows
from pipeline.generators.denoising.state_groups import StateGroups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.training import Loss

TINY = 1e-30


class TabDiffConfig(SplitDiffusionConfig):
    """Settings of `tabdiff_lite`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "spike_share": 2.0,
            "ranks": False,
            "kinds_first": False,
            "fade_numbers": True,
            "width": 512,
            "blocks": 4,
            "film": "full",
            "steps": 20_000,
            "batch_size": 1024,
            "patience": 0,
            "ema": 0.997,
        },
        "quick": {"steps": 400, "learning_rate": 3e-3, "width": 64, "sampling_steps": 30},
    }
    width: int = Field(default=128, ge=4, le=8192, description="Width of the network.")
    blocks: int = Field(default=2, ge=0, le=32, description="Residual blocks of the network.")
    film: Film = Field(
        default="additive", description="How the network is told the time: scale and shift in each block, or one sum."
    )
    kinds_first: bool = Field(
        default=True,
        description="Decide what a number is (regular, a spike, missing) while its value is still lost in noise, instead of"
        " all through: else values that turn out to be no values blur how the others depend on each other.",
    )
    given_rows: float = Field(
        default=0.3, ge=0, le=1, description="Share of training rows of which a random subset of columns is kept clean."
    )
    fade_numbers: bool = Field(
        default=False,
        description="Let the weight of the numbers' loss fall from 1 to 0 over the training, as published for 8,000 epochs;"
        " in the few thousand steps of a CPU numbers are then hardly learned.",
    )
    ema: float = Field(default=0.99, ge=0, lt=1, description="Decay of the running mean of the weights.")
    smallest_noise: float = Field(default=0.002, gt=0, description="Noise level of numbers at time 0.")
    largest_noise: float = Field(default=80.0, gt=0, description="Noise level of numbers at time 1.")
    sampling_steps: int = Field(default=50, ge=1, le=10_000, description="Heun steps from noise to rows.")
    churn: float = Field(
        default=1.0, ge=0, description="Noise that is added back over all steps, as a share of the level."
    )


class Unmasker(SplitNetwork):
    """What is trained: the network inside Karras's preconditioning, and what its outputs mean.

    Args:
        split: rows as scores and states.
        config: sizes and noise levels.
    """

    def __init__(self, split: SplitRows, config: TabDiffConfig) -> None:
        super().__init__()
        self.config, self.numbers = config, len(split.numbers)
        self.groups = StateGroups(split.sizes)
        self.width = self.numbers + self.groups.width
        self.noise = JointNoise(config.smallest_noise, config.largest_noise)
        # Beside its coordinates a column says whether it is hidden (the mask level), a number whether it is given.
        inputs = self.width + self.numbers + self.groups.columns
        self.network = ResMLP(inputs, max(1, self.width), config.width, config.blocks, config.film)
        places = [split.numbers.index(k) if k in split.numbers else -1 for k in split.names]
        self.number_of: Tensor
        self.register_buffer("number_of", torch.tensor(places, dtype=torch.long), persistent=False)
        early = torch.zeros(len(split.sizes), dtype=torch.bool)
        early[: len(split.kind_names)] = config.kinds_first
        self.early: Tensor
        self.register_buffer("early", early, persistent=False)

    def start(self, split: SplitRows) -> None:
        """Untrained, hidden states are drawn with their shares."""
        with torch.no_grad():
            self.network.last.bias[self.numbers : self.width] = self.groups.start_bias(split.shares())

    def look(
        self, x: Tensor, states: Tensor, hidden: Tensor, given: Tensor, time: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What is said of a noisy row.

        Args:
            x: (batch, numbers) scores at their noise level, clean where given.
            states: (batch, columns).
            hidden: (batch, columns) True where a state is masked.
            given: (batch, numbers) True where a score is clean.
            time: (batch, 1).

        Returns:
            The network's word on the scores, (batch, numbers) E[x_0 | x_t], and (states, batch, columns) probabilities a
            group.
        """
        level = torch.where(given, torch.zeros_like(time), self.noise.level(time))
        into, skip, out = (level**2 + 1).rsqrt(), 1 / (level**2 + 1), level * (level**2 + 1).rsqrt()
        shown = torch.cat([into * x, self.groups.shown(states, hidden), given.float(), hidden.float()], dim=1)
        outputs = self.network(shown, 1000 * time[:, 0])
        said = outputs[:, : self.numbers]
        return said, skip * x + out * said, self.groups.chances(outputs[:, self.numbers : self.width])

    def losses(self, scores: Tensor, states: Tensor, noise: torch.Generator, done: float) -> Tensor:
        """(batch,) weighted cross-entropies of hidden states plus squared errors of numbers, whose weight fades."""
        n, device = len(states), states.device
        place = torch.randperm(n, generator=noise, device=device) + torch.rand(n, generator=noise, device=device)
        time = (place / n).unsqueeze(1)
        given, clear = self._given(states, noise)
        level = self.noise.level(time)
        x = scores + torch.where(given, 0.0, level) * torch.randn(scores.shape, generator=noise, device=device)
        hidden = (
            torch.rand(states.shape, generator=noise, device=device) < self.noise.hidden(time, self.early)
        ) & ~clear
        said, _, chances = self.look(x, states, hidden, given, time)
        total = scores.new_zeros(n)
        if self.numbers:
            # The weight (s^2 + 1) / s^2 of the squared error of E[x_0] makes it that of the network's own output.
            target = scores * (level**2 + 1).sqrt() / level - x / (level * (level**2 + 1).sqrt())
            wrong = torch.where(given, 0.0, (said - target) ** 2)
            total = total + wrong.mean(dim=1) * (1 - done if self.config.fade_numbers else 1.0)
        if self.groups.columns:
            weight = self.groups.split(self.noise.rate(time, self.early) * hidden / self.groups.columns)
            for chance, own, wanted in zip(chances, self.groups.split(states), weight, strict=True):
                right = chance.gather(0, own.unsqueeze(0)).squeeze(0).clamp_min(TINY)
                total = total - (right.log() * wanted).sum(dim=1)
        return total

    def _given(self, states: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which scores and states of a batch are kept clean: a random share of the columns in some of the rows.

        Codes are never kept: only columns can be fixed.
        """
        device, n, names = states.device, len(states), len(self.number_of)
        some = torch.rand(n, 1, generator=noise, device=device) < self.config.given_rows
        share = torch.rand(n, 1, generator=noise, device=device)
        numbers = some & (torch.rand(n, self.numbers, generator=noise, device=device) < share)
        columns = some & (torch.rand(n, names, generator=noise, device=device) < share)
        # A number and its kind are one column: both are given, or none.
        own = torch.cat([numbers, columns.new_zeros(n, 1)], dim=1)[:, self.number_of]
        columns = torch.where(self.number_of >= 0, own, columns)
        rest = columns.new_zeros(n, states.shape[1] - names)
        return numbers, torch.cat([columns, rest], dim=1)


class TabDiffLite(SplitDiffusion[Unmasker]):
    """Noise on numbers, masks on the rest; conditions native on any columns."""

    name = "tabdiff_lite"
    title = "TabDiff, light: noised numbers and masked levels"
    Config = TabDiffConfig
    config: TabDiffConfig

    def _network(self) -> Unmasker:
        return Unmasker(self._split, self.config)

    def _loss(self, model: Unmasker, rows: Encoded, place: torch.device) -> Loss:
        split = self._split
        data = split.tensors(rows, place)

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            scores, states = split.batch(data, at, noise)
            # Tuning rows are judged by both parts: at the end the weight of numbers would be 0.
            return model.losses(scores, states, noise, done if model.training else 0.0)

        return loss

    def _chunk(self, known: KnownStates, noise: torch.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows from noise: given cells stand from the start and are never touched."""
        model, config = self._model, self.config
        given = known.numbers.expand(known.n, -1)

        def denoiser(x: Tensor, states: Tensor, hidden: Tensor, time: float) -> tuple[Tensor, list[Tensor]]:
            t = torch.full((known.n, 1), time)
            _, clean, chances = model.look(x, states, hidden, given, t)
            return clean, chances

        x, states = reveal(
            denoiser,
            model.noise,
            model.groups,
            known,
            noise,
            numbers=model.numbers,
            early=model.early,
            steps=config.sampling_steps,
            churn=config.churn,
        )
        return x.numpy(), states.numpy()
