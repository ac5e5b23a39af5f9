"""The usual match of a critic and a generator: what a move of each of them computes.

Rows come from a `Teller`, with what is told of them; the generator is told the same, and the critic sees it beside the rows. A
generator with other rules overrides a move, or adds players (`players`). How moves become a training is in `loop.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.generators.adversarial.loop import Move, Player, Streams

if TYPE_CHECKING:
    from pipeline.generators.adversarial.conditions import Teller
    from pipeline.generators.adversarial.losses import Game
    from pipeline.generators.adversarial.networks import Critic, GeneratorNet
    from pipeline.generators.adversarial.settings import AdversarialConfig
    from pipeline.generators.adversarial.vector import RowBlocks, RowTensors


@dataclass
class Match:
    """Two players over the same rows.

    Attributes:
        blocks: The layout of vectors.
        data: The training rows.
        generator: Noise and what is told to outputs.
        critic: Vectors with what is told of them to scores.
        game: The losses.
        teller: Says which rows, and what is told of them.
        streams: The random numbers.
        config: The settings.
        size: Rows a step.
        device: Where everything is.
    """

    blocks: RowBlocks
    data: RowTensors
    generator: GeneratorNet
    critic: Critic
    game: Game
    teller: Teller
    streams: Streams
    config: AdversarialConfig
    size: int
    device: torch.device

    def players(self) -> list[Player]:
        """Who moves, in order; the generator last."""
        config = self.config
        return [
            Player(
                "critic",
                self.critic,
                self.critic_move,
                config.critic_rate,
                config.betas,
                config.weight_decay,
                times=config.critic_steps,
                decides=self.game.decides,
            ),
            Player(
                "generator",
                self.generator,
                self.generator_move,
                config.learning_rate,
                config.betas,
                config.weight_decay,
            ),
        ]

    def critic_move(self, done: float) -> Move:
        """Real rows against rows drawn under the same conditions; no gradient reaches the generator."""
        rows, told = self.teller.batch(self.size, self.streams.order)
        condition = self.told(told)
        with torch.no_grad():
            drawn = self.shown(self.outputs(condition))
        real = self.blocks.real(self.data.take(rows.to(self.device)))
        judged = self.game.critic(
            self.critic, self.beside(real, condition), self.beside(drawn, condition), self.streams.noise
        )
        return Move(judged.loss, judged)

    def generator_move(self, done: float) -> Move:
        """Rows that the critic shall take for real, with the levels that were told."""
        _, told = self.teller.batch(self.size, self.streams.order)
        condition = self.told(told)
        outputs = self.outputs(condition)
        loss = self.game.generator(self.critic(self.beside(self.shown(outputs), condition)))
        if condition.shape[1]:
            loss = loss + self.teller.vector.penalty(self.blocks, outputs, told.to(self.device))
        return Move(loss)

    def outputs(self, condition: Tensor) -> Tensor:
        """(batch, head_width) outputs of the generator for (batch, conditions)."""
        noise = torch.randn(len(condition), self.config.noise, generator=self.streams.noise, device=self.device)
        return self.generator(torch.cat([noise, condition], dim=1))

    def shown(self, outputs: Tensor) -> Tensor:
        """(batch, width) vectors as the critic sees them."""
        if self.config.drawing == "likeliest":
            return self.blocks.activate(outputs, None, tau=1.0)
        return self.blocks.activate(outputs, self.streams.noise, tau=self.config.tau, hard=self.config.hard)

    def told(self, told: Tensor) -> Tensor:
        """(batch, conditions) vectors of what is told."""
        return self.teller.vector.vector(told.to(self.device))

    @staticmethod
    def beside(vectors: Tensor, condition: Tensor) -> Tensor:
        """Rows with what is told of them."""
        return torch.cat([vectors, condition], dim=1) if condition.shape[1] else vectors
