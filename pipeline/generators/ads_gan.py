"""ADS-GAN (Yoon, Drumright and van der Schaar 2020, "Anonymization through data synthesis using generative adversarial
networks"): a GAN whose generator is also pushed away from real rows, as far as a measured identifiability asks.

The match is that of `adversarial/`; its own are the distance term and the measurement that sets its weight. That is no
differential privacy: the term is computed on real rows inside the generator's own update. Preset 'paper' draws each row from a
real one and pushes it away from that one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encoding.encoder import Encoded
from pipeline.generators.adversarial.conditions import TellNothing
from pipeline.generators.adversarial.generator import AdversarialGenerator
from pipeline.generators.adversarial.identifiability import column_weights, identifiability, nearest, spacing
from pipeline.generators.adversarial.loop import Look, Move, Player
from pipeline.generators.adversarial.losses import TINY, LossKind
from pipeline.generators.adversarial.margins import counts_of
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.networks import GeneratorNet
from pipeline.generators.adversarial.settings import AdversarialConfig
from pipeline.generators.adversarial.vector import RowTensors
from pipeline.generators.seeds import stream
from pipeline.generators.training import repeatable, torch_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.base import Progress
    from pipeline.generators.tabular import Learned

PACE = 1.5
"""By what the weight of the distance is multiplied or divided at a measurement (spec 3.10)."""
MOST_WEIGHT, LEAST_WEIGHT = 100.0, 1e-4
RECORDS = "records/"


class ADSGANConfig(AdversarialConfig):
    """Settings of ADS-GAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "conditioning": "record",
            "distance": "paired",
            "target": None,
            "numbers": "range",
            "pieces": 0,
            "drawing": "likeliest",
            "hard": False,
            "loss": "wasserstein",
            "penalty": 10.0,
            "noise": 10,
            "hidden": (30, 30, 30),
            "critic_hidden": (30, 30),
            "critic_steps": 5,
            "batch_size": 128,
            "steps": 10_000,
            "learning_rate": 1e-4,
            "critic_rate": 1e-4,
            "betas": (0.5, 0.9),
            "decay": "constant",
            "ema": 0.0,
            "select": "last",
            "margins": False,
        },
        "quick": {
            "steps": 400,
            "hidden": (64, 64),
            "critic_hidden": (64, 64),
            "noise": 32,
            "learning_rate": 1e-3,
            "critic_rate": 1e-3,
        },
    }
    conditioning: Literal["none", "record"] = Field(
        default="none",
        description="What a row is drawn from: noise alone, or noise and a real row, as published. The model then keeps a"
        " drawn row for each real one, and draws from those: no real row is stored.",
    )
    distance: Literal["nn_hinge", "paired"] = Field(
        default="nn_hinge",
        description="What is pushed: drawn rows that are nearer to a real row than real rows are to each other (half of"
        " them, in the median), up to that distance; or each drawn row from the real row that it was drawn from, without"
        " end, as published.",
    )
    distance_weight: float = Field(
        default=0.1, gt=0, le=MOST_WEIGHT, description="Weight of the distance in the generator's loss (lambda)."
    )
    target: float | None = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of real rows that may have a drawn row nearer than any other real row, among equally many rows."
        " Above it the weight of the distance grows by half, below half of it the weight falls. One half is what rows score"
        " that are as good as new real ones: less pushes rows off the population. None: the weight stays.",
    )
    loss: LossKind = Field(
        default="wasserstein",
        description="What is minimised: the Wasserstein distance with a gradient penalty, as published; or the logistic or"
        " boundary-seeking loss with R1.",
    )
    penalty: float = Field(default=10.0, ge=0, description="Weight of the gradient penalty (R1: gamma).")
    critic_steps: int = Field(default=2, ge=1, le=100, description="Steps of the critic for one of the generator.")
    fewest_steps: int = Field(default=2_500, ge=1, description="Steps, at least, where `steps` is None.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Learning rate of the generator's Adam.")
    critic_rate: float = Field(default=5e-4, gt=0, description="Learning rate of the critic's Adam.")
    betas: tuple[float, float] = Field(default=(0.5, 0.9), description="Decay of Adam's moments.")
    measure_every: int = Field(default=250, ge=1, description="Steps between two measurements of identifiability.")
    measured_rows: int = Field(default=5_000, ge=2, description="Real rows of a measurement, at most.")
    reference_rows: int = Field(
        default=1_024,
        ge=2,
        description="Real rows, chosen anew each step, that drawn rows are held against by the hinge.",
    )

    @model_validator(mode="after")
    def _paired_with_something(self) -> ADSGANConfig:
        if self.distance == "paired" and self.conditioning == "none":
            raise ValueError(
                "'paired' is the distance to the real row that a row was drawn from: it needs conditioning 'record'. From a"
                " real row at random it would only spread rows out"
            )
        return self


class Keeper(nn.Module):
    """The weight of the distance and the last measurement, kept with the other networks of the match.

    Args:
        weight: to begin with.

    Attributes:
        weight: () of the distance in the generator's loss.
        share: () identifiability at the last measurement.
        steps: () steps so far.
        idle: Nothing is learned here; the loop asks every player for a parameter.
    """

    weight: Tensor
    share: Tensor
    steps: Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("share", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0))
        self.idle = nn.Parameter(torch.zeros(()))

    def measured(self, share: float, target: float | None) -> None:
        """Take in a measurement: the weight follows, within bounds."""
        self.share.fill_(share)
        if target is None or not int(self.steps):
            # What a generator draws before its first step says nothing of its weight.
            return
        if share > target:
            self.weight.mul_(PACE)
        elif share < target / 2:
            self.weight.div_(PACE)
        self.weight.clamp_(LEAST_WEIGHT, MOST_WEIGHT)


@dataclass
class ADSMatch(Match):
    """Critic and generator, and somebody who measures.

    Attributes:
        keeper: The weight of the distance.
        weights: (width,) of coordinates in distances.
        apart: () median distance of a real row to the nearest of `reference_rows` others.
        rows: (m,) training rows.
    """

    config: ADSGANConfig
    keeper: Keeper
    rows: Tensor
    weights: Tensor = field(init=False)
    apart: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.weights = column_weights(self.blocks, self.data.take(self.rows.to(self.device)))
        self.apart = spacing(self.weights * self.some(self.config.reference_rows)).median()

    def players(self) -> list[Player]:
        """Critic, keeper, generator."""
        first, last = super().players()
        return [first, Player("identifiability", self.keeper, self.keeper_move, rate=0.0), last]

    def critic_move(self, done: float) -> Move:
        """Real rows against drawn ones; of a real row that was told, the critic is told nothing."""
        real = self.batch()
        with torch.no_grad():
            drawn = self.shown(self.drawn_from(real))
        judged = self.game.critic(self.critic, real, drawn, self.streams.noise)
        return Move(judged.loss, judged)

    def keeper_move(self, done: float) -> Move:
        """Measure, if it is time, and set the weight of the distance; the last figure stands in the curves."""
        keeper = self.keeper
        if int(keeper.steps) % self.config.measure_every == 0:
            real = self.some(self.config.measured_rows)
            with torch.no_grad():
                drawn = self.blocks.activate(self.drawn_from(real), self.streams.noise, hard=True)
            keeper.measured(identifiability(self.weights * real, self.weights * drawn), self.config.target)
        keeper.steps.add_(1)
        return Move(keeper.share + 0 * keeper.idle)

    def generator_move(self, done: float) -> Move:
        """Rows that the critic shall take for real, and that keep their distance."""
        real = self.batch()
        drawn = self.shown(self.drawn_from(real))
        return Move(self.game.generator(self.critic(drawn)) + self.keeper.weight * self.too_near(drawn, real))

    def too_near(self, drawn: Tensor, records: Tensor) -> Tensor:
        """() what is to be small: mean max(0, m - distance to the nearest real row), or - mean distance to the record."""
        if self.config.distance == "paired":
            return -_distance(drawn, records).mean()
        real = self.weights * self.some(self.config.reference_rows)
        weighted = self.weights * drawn
        return functional.relu(self.apart - _distance(weighted, real[nearest(weighted.detach(), real)])).mean()

    def batch(self) -> Tensor:
        """(size, width) vectors of real rows."""
        rows, _ = self.teller.batch(self.size, self.streams.order)
        return self.blocks.real(self.data.take(rows.to(self.device)))

    def some(self, most: int) -> Tensor:
        """(m, width) vectors of at most so many different real rows."""
        at = torch.randperm(len(self.rows), generator=self.streams.order)[:most]
        return self.blocks.real(self.data.take(self.rows[at].to(self.device)))

    def drawn_from(self, records: Tensor) -> Tensor:
        """(n, head_width) outputs, as many as there are records, and from them where they are told."""
        return self.outputs(records if self.config.conditioning == "record" else records[:, :0])


class ADSGAN(AdversarialGenerator):
    """GAN that keeps its rows apart from real ones; conditions by rejection."""

    name = "ads_gan"
    title = "ADS-GAN: a GAN whose rows keep a distance from real ones"
    Config = ADSGANConfig
    config: ADSGANConfig
    not_private = "Its generator's own update holds the distance to real rows, so that no noise on a critic could make it private."
    _records: RowTensors
    """What rows are drawn from where `conditioning` is 'record': real rows while learning, drawn ones after it."""
    _played: ADSMatch | None = None

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
        if self._played is not None:
            keeper, self._played = self._played.keeper, None
            learned.facts |= {"identifiability": float(keeper.share), "distance_weight": float(keeper.weight)}
            target = self.config.target
            if target is not None and float(keeper.share) > target:
                learned.warnings.append(
                    f"Identifiability was {float(keeper.share):.2f} at the last measurement, above its target of {target:g}:"
                    " raise `distance_weight`, or train for longer."
                )
        if self.config.conditioning == "record":
            self._forget(seed)
            if self.config.margins:
                self._bring_back(counts_of(self._blocks, rows), seed)
        return learned

    def _match(self, match: Match) -> Match:
        assert isinstance(match.teller, TellNothing)
        if self.config.conditioning == "record":
            self._records = match.data.take(match.teller.rows.to(match.device))
        if not match.blocks.width:
            return match
        parts = {f.name: getattr(match, f.name) for f in fields(Match)}
        self._played = ADSMatch(**parts, keeper=Keeper(self.config.distance_weight), rows=match.teller.rows)
        return self._played

    def _look(
        self, blocks: RowBlocks, data: RowTensors, tune: NDArray[np.bool_], seed: int, place: torch.device
    ) -> Callable[[nn.Module], Look]:
        """See `AdversarialGenerator._look`; weights are not chosen while identifiability is above its target."""
        plain = super()._look(blocks, data, tune, seed, place)

        def look(network: nn.Module) -> Look:
            assert self._played is not None
            target = self.config.target
            return replace(plain(network), eligible=target is None or float(self._played.keeper.share) <= target)

        return look

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        told = blocks.width if config.conditioning == "record" else 0
        return GeneratorNet(config.noise + told, config.hidden, blocks.head_width)

    # ---- drawing

    def _inputs(self, told: Tensor, noise: torch.Generator, place: torch.device) -> Tensor:
        """See `AdversarialGenerator._inputs`; beside the noise a record at random, where rows are drawn from records."""
        z = super()._inputs(told, noise, place)
        if self.config.conditioning == "none":
            return z
        at = torch.randint(len(self._records), (len(z),), generator=noise, device=place)
        return torch.cat([z, self._vectors(at).to(place)], dim=1)

    def _vectors(self, at: Tensor) -> Tensor:
        """(n, width) vectors of records, where those are."""
        return self._blocks.real(self._records.take(at.to(self._records.places.device)))

    def _forget(self, seed: int) -> None:
        """Put a row drawn from each record in the place of all of them, in another order."""
        noise, rng = torch_stream(seed, "records"), stream(seed, "records")
        parts = []
        with repeatable(0), torch.no_grad():
            for at in torch.as_tensor(rng.permutation(len(self._records))).split(self._chunk()):
                z = super()._inputs(torch.zeros(len(at), 0, dtype=torch.long), noise, torch.device("cpu"))
                outputs = self._network(torch.cat([z, self._vectors(at).cpu()], dim=1))
                drawn = self._blocks.read(self._activated(self._blocks, outputs, noise), rng, self._margins.amounts)
                self._margins.apply(self._blocks, drawn)
                parts.append(drawn)
        self._records = self._blocks.tensors(Encoded.concatenate(parts), "cpu", rng)

    # ---- what is saved

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, extra = super()._state()
        if self.config.conditioning == "record":
            kept = self._records
            arrays |= {f"{RECORDS}places": kept.places.numpy(), f"{RECORDS}states": kept.states.numpy()}
            arrays |= {f"{RECORDS}codes-{i:05d}": codes.numpy() for i, codes in enumerate(kept.codes)}
        return arrays, extra

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        super()._restore(encoder, tensors, extra)
        if self.config.conditioning == "record":
            kept = {
                k.removeprefix(RECORDS): torch.as_tensor(np.array(v))
                for k, v in tensors.items()
                if k.startswith(RECORDS)
            }
            codes = [kept[f"codes-{i:05d}"] for i in range(len(encoder.blocks))]
            self._records = RowTensors(kept["places"], kept["states"], codes)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """(n,) Euclidean distances, row by row; a gradient at 0 too."""
    return ((a - b).square().sum(dim=1) + TINY).sqrt()
