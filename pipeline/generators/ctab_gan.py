"""CTAB-GAN (Zhao, Kunar, Birke and Chen 2021, "CTAB-GAN: effective table data synthesizing") and CTAB-GAN+ (2022).

A GAN that is told one state of each row, modes of numbers included; beside the critic's word the generator is paid for the
moments of the critic's features, for the level that was told, and for labels that a classifier of real rows agrees with. Preset
'paper' is CTAB-GAN, 'plus' CTAB-GAN+: convolutions over the row as a square image (`adversarial/images.py`), modes of numbers and
of logarithms of long tails. The default is the same game of perceptrons. Written from the papers; the foundation is
`adversarial/`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pipeline.generators.adversarial.conditions import UNTOLD, ConditionVector, Teller, TellNothing, TellOne
from pipeline.generators.adversarial.features import LeakyFeatureCritic, moments_apart
from pipeline.generators.adversarial.generator import AdversarialGenerator
from pipeline.generators.adversarial.images import ImageCritic, ImageGenerator, ImageNorm
from pipeline.generators.adversarial.loop import Move, Player
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.named_columns import known_states, label_of
from pipeline.generators.adversarial.numbers import NumberKind
from pipeline.generators.adversarial.settings import AdversarialConfig
from pipeline.generators.triple_gan import Classifier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.features import WithFeatures
    from pipeline.generators.adversarial.networks import Critic, GeneratorNet
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.tabular import Learned

PAPER: dict[str, Any] = {
    "layers": "images",
    "loss": "logistic",
    "penalty": 0.0,
    "noise": 100,
    "batch_size": 500,
    "epochs": 150,
    "fewest_steps": 1,
    "learning_rate": 2e-4,
    "critic_rate": 2e-4,
    "classifier_rate": 2e-4,
    "classifier_hidden": (256, 256, 256, 256),
    "betas": (0.5, 0.9),
    "weight_decay": 1e-5,
    "hard": False,
    "frequencies": "log",
    "information": 1.0,
    "classification": 1.0,
    "decay": "constant",
    "ema": 0.0,
    "select": "last",
    "margins": False,
}


class CTABGANConfig(AdversarialConfig):
    """Settings of CTAB-GAN; what differs from the papers was chosen on a part of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": PAPER,
        "plus": {
            **PAPER,
            "loss": "wasserstein",
            "penalty": 10.0,
            "critic_steps": 5,
            "image_norm": "layer",
        },
        "quick": {"steps": 400, "hidden": (64, 64), "critic_hidden": (64, 64), "noise": 32, "critic_rate": 2e-3},
    }
    numbers: NumberKind = Field(
        default="tail_modes",
        description="How a number is shown: as a mode of a Gaussian mixture and the place in it, of its logarithm where the"
        " column has a long tail; or one of the other ways (`ctgan`).",
    )
    layers: Literal["perceptrons", "images"] = Field(
        default="perceptrons",
        description="Generator and critic as perceptrons with `hidden` and `critic_hidden`, or as convolutions over the row as a"
        " square image, as published.",
    )
    channels: int = Field(
        default=64, ge=1, le=1024, description="Channels of the images' widest layers, doubled as sides are halved."
    )
    image_norm: ImageNorm = Field(
        default="batch",
        description="What the critic's convolutions are normalised by: the batch, a row's own image, nothing.",
    )
    told: Literal["levels", "all"] = Field(
        default="all",
        description="What may be told of a row: one of its levels; or one of its modes, repeated numbers and missing cells too.",
    )
    information: float = Field(
        default=0.2,
        ge=0,
        description="Weight of the information loss: means and spreads of the critic's features, real against drawn.",
    )
    classification: float = Field(
        default=0.2,
        ge=0,
        description="Weight of the classification loss: labels of drawn rows that a classifier of real rows would not give.",
    )
    label: str | None = Field(
        default=None,
        description="The label of the classifier, a column of levels. None: that of the cohort's first task; where there is"
        " none, there is no classifier.",
    )
    classifier_hidden: tuple[int, ...] = Field(
        default=(64, 64), min_length=1, description="Hidden layers of the classifier."
    )
    classifier_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the classifier's Adam.")


class StateConditions(ConditionVector):
    """What may be told: any state of any one-hot column, be it a level, a mode or a repeated number.

    Args:
        blocks: the layout, whose one-hot columns are told.
    """

    def __init__(self, blocks: RowBlocks) -> None:
        self.blocks = blocks
        super().__init__(blocks.encoder, blocks.columns)

    def shares(self, column: str) -> NDArray[np.float64]:
        """See `ConditionVector.shares`."""
        number = self.blocks.numbers.get(column)
        return super().shares(column) if number is None else number.shares()

    def states(self, rows: Encoded) -> NDArray[np.int64]:
        """(n, columns) all untold: which mode a number is in is drawn with the rows' vectors (`CTABGAN._match`)."""
        return np.full((rows.n, len(self.columns)), UNTOLD, dtype=np.int64)

    def fixed(self, fixed: Fixed, n: int) -> NDArray[np.int64]:
        """See `ConditionVector.fixed`; of a number, the state that it most often is in."""
        out = super().fixed(fixed, n)
        for i, name in enumerate(self.columns):
            if name in fixed.values:
                scaler, values = self.encoder.numbers[name].scaler, fixed.values[name]
                uniform, seen = np.full(n, np.nan), ~np.isnan(values)
                if seen.any():
                    uniform[seen] = np.mean(scaler.interval(values[seen]), axis=0)
                known = seen | (self.encoder.numbers[name].missing_rate > 0)
                # Which of two modes a number is in is a matter of chance: any seed will do, the same every time.
                states, _ = self.blocks.numbers[name].encode(uniform, np.random.default_rng(0))
                out[:, i] = np.where(known, states, UNTOLD)
        return out


@dataclass
class CTABMatch(Match):
    """Critic, classifier where there is a label, and generator.

    Attributes:
        classifier: Rows to labels; None without a label.
        label: The label's coordinates.
    """

    config: CTABGANConfig
    classifier: Classifier | None
    label: slice

    def players(self) -> list[Player]:
        """Critic, classifier, generator."""
        first, last = super().players()
        if self.classifier is None:
            return [first, last]
        config = self.config
        return [
            first,
            Player("classifier", self.classifier, self.classifier_move, config.classifier_rate, config.betas),
            last,
        ]

    def classifier_move(self, done: float) -> Move:
        """The classifier learns the labels of real rows."""
        rows, _ = self.teller.batch(self.size, self.streams.order)
        return Move(self.disagreement(self.blocks.real(self.data.take(rows.to(self.device)))))

    def generator_move(self, done: float) -> Move:
        """Rows that the critic takes for real, whose features lie as real ones do, with the told level and a likely label."""
        rows, told = self.teller.batch(self.size, self.streams.order)
        condition, config = self.told(told), self.config
        critic = cast("WithFeatures", self.critic)
        outputs = self.outputs(condition)
        drawn = self.shown(outputs)
        found = critic.features(self.beside(drawn, condition))
        loss = self.game.generator(critic.judged(found))
        if condition.shape[1]:
            loss = loss + self.teller.vector.penalty(self.blocks, outputs, told.to(self.device))
        if config.information:
            with torch.no_grad():
                real = self.blocks.real(self.data.take(rows.to(self.device)))
                wanted = critic.features(self.beside(real, condition))
            loss = loss + config.information * moments_apart(wanted, found)
        if self.classifier is not None and config.classification:
            loss = loss + config.classification * self.disagreement(drawn)
        return Move(loss)

    def disagreement(self, vectors: Tensor) -> Tensor:
        """Cross-entropy of the classifier on the rows that have a label; 0 if none has."""
        assert self.classifier is not None
        label = vectors[:, self.label].argmax(dim=1)
        known = self.classifier.possible[label].to(vectors.dtype)
        each = functional.cross_entropy(self.classifier(vectors), label, reduction="none")
        return (each * known).sum() / known.sum().clamp_min(1.0)


class CTABGAN(AdversarialGenerator):
    """Conditional GAN with information and classification losses; conditions on one discrete column are native."""

    name = "ctab_gan"
    title = "CTAB-GAN: conditional GAN that matches features and labels"
    Config = CTABGANConfig
    config: CTABGANConfig
    not_private = (
        "Its critic is trained on real rows without noise, and its generator on the moments of their features."
    )
    _label: str | None

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
        self._label = self._label_of(encoder)
        learned = super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        if self._label is None and self.config.classification:
            learned.warnings.append("No label is declared: rows were learned without a classifier (setting `label`).")
        return learned

    def _label_of(self, encoder: TableEncoder) -> str | None:
        """The label's column; None where nobody says which it is."""
        if self.config.label is None:
            # A declared label of one level is none.
            fit = [k for k, c in encoder.levels.items() if len(known_states(c)) > 1]
            if not any(encoder.schema.column(k).role == "label" for k in fit):
                return None
        return label_of(encoder, self.config.label, "refuse", self.name)

    # ---- what the foundation asks

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        return StateConditions(self._blocks) if self.config.told == "all" else ConditionVector.of(encoder)

    def _teller(self, states: NDArray[np.int64], rows: NDArray[np.integer]) -> Teller:
        # The states of numbers are known once their modes are drawn: see `_match`.
        return TellNothing(self._told.encoder, rows) if self.config.told == "all" else super()._teller(states, rows)

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        if config.layers == "images":
            return ImageGenerator(config.noise + conditions, config.channels, blocks.head_width)
        return super()._generator(blocks, conditions)

    def _critic(self, width: int) -> Critic:
        config = self.config
        if config.layers == "images":
            return ImageCritic(width, config.channels, pac=config.pac, norm=config.image_norm)
        return LeakyFeatureCritic(width, config.critic_hidden, pac=config.pac, dropout=config.dropout)

    def _match(self, match: Match) -> Match:
        """The match with a classifier, and with all states told."""
        if isinstance(match.teller, TellNothing) and self._told.columns:
            states = match.data.states.cpu().numpy().astype(np.int64)
            match.teller = TellOne(self._told, states, match.teller.rows.numpy(), self.config.frequencies)
        classifier, at = None, slice(0, 0)
        if self._label is not None and self.config.classification and self._label in match.blocks.columns:
            level, start = self._told.encoder.levels[self._label], match.blocks.start(self._label)
            at = slice(start, start + level.states)
            possible = torch.zeros(level.states, dtype=torch.bool)
            possible[known_states(level)] = True
            classifier = Classifier(match.blocks.width, self.config.classifier_hidden, at, possible).to(match.device)
        return CTABMatch(**{f.name: getattr(match, f.name) for f in fields(Match)}, classifier=classifier, label=at)

    # ---- drawing

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`: one discrete column; a number's state is told, but not the number."""
        return super().draws_given(columns) and set(columns) <= set(self._told.encoder.levels)
