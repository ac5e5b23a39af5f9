"""Adversarial generators under differential privacy: the critic learns by noisy steps, the generator from the critic alone.

Real rows are seen by the critic's loss and by nothing else (`PairLoss`): one loss a row, of the row beside rows that the
generator draws under the row's own conditions, clipped and noised row by row (`pipeline/privacy/dpsgd.py`). What the
generator, and every other player, learns from such a critic is post-processing (Dwork and Roth 2014, proposition 2.1), so
their steps are free and they may have any layer. Conditions, margins and grids come from the private encoder. What the
recipe leaves out and why is in spec 1.7: gradient penalties, packs, batch normalisation and means in the critic,
level-balanced batches (subjects of rare levels would come oftener than the accountant knows), early stopping and probes.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.generators.adversarial.conditions import UNTOLD, ConditionVector
from pipeline.generators.adversarial.generator import AdversarialGenerator
from pipeline.generators.adversarial.loop import LoopSettings, Streams, Training
from pipeline.generators.adversarial.losses import game
from pipeline.generators.adversarial.margins import Margins
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.adversarial.private_settings import PrivateGameConfig
from pipeline.generators.adversarial.vector import RowBlocks, RowTensors
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned
from pipeline.generators.training import choose_device, repeatable
from pipeline.privacy.dpsgd import train_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.networks import Critic
    from pipeline.generators.base import Progress
    from pipeline.privacy.dpsgd import PrivateSettings
    from pipeline.privacy.run import PrivateRun

START_SCALE = 0.5


@dataclass
class TellDrawn:
    """What is told where rows are drawn, and no row: the teller of players that may see none.

    Attributes:
        vector: The columns that may be told.
        tell: (n, columns) states for a number of rows, from what was paid for.
    """

    vector: ConditionVector
    tell: Callable[[int, np.random.Generator], Tensor]

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Teller.batch`; the rows are none."""
        return torch.zeros(0, dtype=torch.long), self.drawn(n, _numpy(generator))

    def drawn(self, n: int, rng: np.random.Generator) -> Tensor:
        """See `Teller.drawn`."""
        return self.tell(n, rng)


@dataclass
class PairLoss:
    """The critic's loss of each row: softplus(-D(row)) + mean over drawn rows of softplus(D(drawn)) (spec 1.7).

    A row's loss hangs on that row and on chance: drawn rows are told what the row itself has, and the generator is in eval
    mode, since normalised layers in training would tie them to what other rows are told.

    Attributes:
        match: The game, which holds no real row.
        data: The real rows.
        states: (n, conditions) of them.
        own: What is told of rows, for their states.
        draws: Drawn rows beside each real one.
    """

    match: Match
    data: RowTensors
    states: Tensor
    own: Callable[[Tensor, torch.Generator], Tensor]
    draws: int = 1

    def __call__(self, rows: Tensor, random: torch.Generator, done: float) -> Tensor:
        """(batch,) losses of rows."""
        match = copy(self.match)
        match.streams = Streams(match.streams.order, random)
        condition = match.told(self.own(self.states[rows], random)).repeat_interleave(self.draws, dim=0)
        match.generator.eval()
        with torch.no_grad():
            drawn = match.beside(match.shown(match.outputs(condition)), condition)
        match.generator.train()
        real = match.beside(match.blocks.real(self.data.take(rows)), condition[:: self.draws])
        # The first dimension is the row to clip by, so that Opacus takes a row's pair as one sample.
        pairs = torch.cat([real[:, None], drawn.unflatten(0, (len(rows), self.draws))], dim=1)
        scores = match.critic.apiece(pairs)
        return functional.softplus(-scores[:, 0]) + functional.softplus(scores[:, 1:]).mean(dim=1)


def own_level(states: Tensor, random: torch.Generator) -> Tensor:
    """(n, columns) what is told of rows: of each its own level of one column, every column as likely.

    The columns are not chosen by how often levels are, and rows not by what is told: either would make the chance of a
    subject to be seen hang on the data (spec 1.7).
    """
    if not states.shape[1]:
        return states
    column = torch.randint(states.shape[1], (len(states), 1), generator=random, device=states.device)
    return torch.full_like(states, UNTOLD).scatter_(1, column, states.gather(1, column))


class PrivateAdversarialGenerator(AdversarialGenerator):
    """A generator whose critic can learn by noisy steps; base of those of the family that train under privacy.

    A subclass with players of its own says how they play where no real row may be seen (`_private_match`); one whose
    conditions are not one column a row says what is told of a row (`_own`) and how groups are drawn (`_tell`).
    """

    Config = PrivateGameConfig
    config: PrivateGameConfig
    private = True
    _private = False

    def _private_match(self, match: Match) -> Match:
        """The match that is played in a private training; it holds no row and must look at none."""
        return match

    def _own(self, states: Tensor, random: torch.Generator) -> Tensor:
        """(n, conditions) what is told of rows with these states, each for itself."""
        return own_level(states, random)

    def noise_settings(self, subjects: int) -> PrivateSettings | None:
        """How the critic is trained on so many subjects."""
        return self.config.private_training(subjects)

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
        self._private = False
        return super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)

    def _learn_private(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        """Turns of some noisy steps of the critic and some free ones of the generator, as many as were fixed beforehand."""
        self._private = True
        with self._private_settings():
            return self._play(encoder, rows, cohort, seed, device, run, progress)

    def _play(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        place, config = choose_device(device), self.config
        settings = config.private_training(run.subjects)
        self._blocks = RowBlocks(
            encoder, fit_numbers(encoder, config.numbers, config.pieces), forced=config.force_width
        )
        self._told = self._conditions(encoder)
        with repeatable(seed):
            blocks = self._blocks.to(place)
            data = blocks.tensors(rows, place, stream(seed, "modes"))
            network = self._generator(blocks, self._told.width).to(place)
            if config.margins:
                network.start(blocks.start_bias(), START_SCALE)
            match = self._private_match(
                Match(
                    blocks=blocks,
                    data=data.take(torch.zeros(0, dtype=torch.long, device=place)),
                    generator=network,
                    critic=self._critic(blocks.width + self._told.width).to(place),
                    game=game(config.loss, config.penalty),
                    teller=TellDrawn(self._told, self._tell),
                    # Free players need no secret; the batches, the noise and what stands beside rows come from the run.
                    streams=Streams.of(seed, place),
                    config=config,
                    size=config.batch(run.subjects),
                    device=place,
                )
            )
            critic, *others = match.players()
            others[-1].times = config.private_generator_steps
            steps = settings.all_steps(run.subjects)
            free = Training(
                others,
                match.streams,
                LoopSettings(steps=max(1, steps // config.private_critic_steps), ema=config.ema, decay=config.decay),
                settle=self._settle(seed, place),
            )
            states = torch.as_tensor(self._told.states(rows), device=place)
            if blocks.width:
                train_private(
                    match.critic,
                    PairLoss(match, data, states, self._own, config.private_draws),
                    rows=rows.n,
                    settings=settings,
                    run=run,
                    init_seed=seed,
                    device=place,
                    subject=np.unique(cohort.subject, return_inverse=True)[1],
                    after=_turns(match.critic, free, config.private_critic_steps),
                    progress=progress,
                )
            log = free.finish()
            self._network = network.to("cpu").eval()
            self._blocks = blocks.to("cpu")
        self._margins = Margins()
        if config.margins:
            self._bring_back({}, seed)
        parameters = sum(p.numel() for player in (critic, *others) for p in player.network.parameters())
        return Learned(parameters=parameters, warnings=log.warnings)

    # ---- settings

    @contextmanager
    def _private_settings(self) -> Iterator[None]:
        """Inside, the settings are those of a private game."""
        asked = self.config
        self.config = asked.privately()
        try:
            yield
        finally:
            self.config = asked

    # ---- what is saved

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, extra = super()._state()
        return arrays, extra | ({"private": True} if self._private else {})

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._private = bool(extra.get("private", False))
        if not self._private:
            super()._restore(encoder, tensors, extra)
            return
        with self._private_settings():
            super()._restore(encoder, tensors, extra)


def _turns(critic: Critic, free: Training, critic_steps: int) -> Callable[[int], None]:
    """Gives the free players their turn after every so many noisy steps."""

    def after(step: int) -> None:
        if step % critic_steps or free.at.step >= free.settings.steps:
            return
        trained = [p for p in critic.parameters() if p.requires_grad]
        for p in trained:
            p.requires_grad_(False)
        free.turn()
        for p in trained:
            p.requires_grad_(True)

    return after


def _numpy(generator: torch.Generator) -> np.random.Generator:
    """Random numbers for numpy that follow from the state of a torch generator."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
