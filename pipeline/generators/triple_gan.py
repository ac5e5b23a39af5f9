"""Triple-GAN (Li et al. 2017, "Triple generative adversarial nets") for tables: rows whose label is often not known.

The generator draws a row for a label, the classifier a label for a row, and the critic judges pairs of both. Rows without a
label are the classifier's pool; where every label is known there is no classifier, and what is left is a conditional GAN. The
classifier's branch is the exact mean over all labels (spec 3.7). The foundation is `adversarial/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ConfigError
from pipeline.fairness.targets import largest_remainders
from pipeline.generators.adversarial.conditions import ConditionVector, TellAll, Teller, TellNothing
from pipeline.generators.adversarial.generator import AdversarialGenerator
from pipeline.generators.adversarial.loop import Move, Player
from pipeline.generators.adversarial.losses import Judgement
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.named_columns import TellingNet, Undeclared, coordinates_of, known_states, label_of
from pipeline.generators.adversarial.settings import AdversarialConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.networks import Critic, GeneratorNet
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.base import Progress
    from pipeline.generators.tabular import Learned

FEWEST_LABELLED = 10
SCARCE = 0.5
"""Share of known labels below which the critic is also shown rows with the classifier's labels as real ones."""
WARM = 0.3
"""Share of the training after which the classifier is believed."""
RULED_OUT = -1e9

TRIPLE_PAPER: dict[str, Any] = {
    "numbers": "range",
    "pieces": 0,
    "noise": 100,
    "penalty": 1.0,
    "learning_rate": 1e-4,
    "critic_rate": 1e-4,
    "betas": (0.5, 0.9),
    "batch_size": 1024,
    "steps": 10_000,
    "decay": "constant",
    "ema": 0.0,
    "select": "last",
    "margins": False,
}


class TripleGANConfig(AdversarialConfig):
    """Settings of Triple-GAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": TRIPLE_PAPER,
        "quick": {"steps": 400, "hidden": (64, 64), "critic_hidden": (64, 64), "noise": 32, "critic_rate": 2e-3},
    }
    label: str | None = Field(
        default=None,
        description="The label, a column of levels whose missing cells are rows not labelled. None: the label of the"
        " cohort's first task.",
    )
    undeclared: Undeclared = Field(
        default="refuse",
        description="What is done where neither the settings nor the cohort say which column is meant: refuse in words, or"
        " guess (the last column of two levels is the label) and say so.",
    )
    unlabelled: Literal["label", "keep"] = Field(
        default="label",
        description="Drawn rows all have a label, or the label is as often missing as in training.",
    )
    branch: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Weight of the classifier's pairs among those that are not real (lambda of the paper).",
    )
    classifier_hidden: tuple[int, ...] = Field(
        default=(64, 64), min_length=1, description="Hidden layers of the classifier."
    )
    classifier_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the classifier's Adam.")
    classifier_game: float = Field(
        default=0.03,
        ge=0,
        description="Weight of what the critic says of the classifier's pairs in its own loss, from a third of the training on.",
    )
    pseudo_real: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Where fewer than half of the labels are known: share of the critic's real pairs that are rows of the"
        " pool with the classifier's label, from a third of the training on.",
    )
    pac: int = Field(default=1, ge=1, le=1, description="Pairs are judged one by one.")
    loss: Literal["logistic"] = Field(default="logistic", description="What is minimised: the logistic loss with R1.")


class Classifier(nn.Module):
    """Logits of labels for vectors of rows; what the vectors say of the label is not looked at.

    Args:
        width: of a vector.
        hidden: widths of the hidden layers.
        label: the coordinates of the label.
        possible: (states,) states that are labels.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], label: slice, possible: Tensor) -> None:
        super().__init__()
        sizes = [width, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], len(possible))
        self.label = label
        self.possible: Tensor
        self.register_buffer("possible", possible)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, states) logits."""
        x = vectors.clone()
        x[:, self.label] = 0.0
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
        out: Tensor = self.last(x)
        return out.masked_fill(~self.possible, RULED_OUT)


@dataclass
class TripleMatch(Match):
    """Critic, classifier and generator over rows that are partly labelled.

    Attributes:
        label: The coordinates of the label.
        pool: Rows whose label is not known.
        classifier: Rows to labels; None where all labels are known.
        scarce: Are most labels not known?
    """

    config: TripleGANConfig
    label: slice
    pool: Tensor
    classifier: Classifier | None
    scarce: bool
    done: float = field(default=0.0, init=False)

    def players(self) -> list[Player]:
        """Critic, classifier where there is a pool, generator."""
        first, last = super().players()
        if self.classifier is None:
            return [first, last]
        config = self.config
        player = Player(
            "classifier", self.classifier, self.classifier_move, config.classifier_rate, config.betas, weight_decay=1e-4
        )
        return [first, player, last]

    def critic_move(self, done: float) -> Move:
        """Labelled rows against drawn pairs, and against rows of the pool with the classifier's labels."""
        self.done = done
        rows, told = self.real_rows()
        real = self._vectors(rows)
        with torch.no_grad():
            drawn = self.shown(self.outputs(self.told(self.drawn_labels(told))))
        self.seen(drawn, done)
        share = 0.0 if self.classifier is None else self.config.branch
        if self.classifier is not None and self.scarce and done > WARM:
            real = self._with_pool(real)
        judged = self.game.critic(self.critic, real, drawn, self.streams.noise)
        if not share:
            return Move(judged.loss, judged)
        pairs, chance = self._pairs(self._pool_rows())
        loss = judged.loss - share * functional.softplus(self.critic(drawn)).mean()
        loss = (
            loss + share * (chance.detach() * functional.softplus(self.critic(pairs)).view(chance.shape)).sum(1).mean()
        )
        return Move(loss, Judgement(loss, judged.real, judged.drawn))

    def classifier_move(self, done: float) -> Move:
        """Cross-entropy on labelled rows, and a little of what the critic says of the pairs."""
        assert self.classifier is not None
        rows, told = self.real_rows()
        loss = functional.cross_entropy(self.classifier(self._vectors(rows)), told[:, 0].to(self.device))
        ramp = min(1.0, max(0.0, (done - WARM) / WARM))
        if self.config.classifier_game and ramp:
            pairs, chance = self._pairs(self._pool_rows())
            with torch.no_grad():
                said = functional.softplus(-self.critic(pairs)).view(chance.shape)
            loss = loss + self.config.classifier_game * ramp * (chance * said).sum(dim=1).mean()
        return Move(loss)

    def generator_move(self, done: float) -> Move:
        """Pairs that the critic shall take for real, and what a subclass asks of them besides."""
        self.done = done
        _, told = self.teller.batch(self.size, self.streams.order)
        condition = self.told(told)
        drawn = self.shown(self.outputs(condition))
        return Move(self.game.generator(self.critic(drawn)) + self.besides(drawn, done))

    # ---- what a subclass says

    def real_rows(self) -> tuple[Tensor, Tensor]:
        """(size,) labelled rows, and (size, 1) their labels."""
        return self.teller.batch(self.size, self.streams.order)

    def drawn_labels(self, told: Tensor) -> Tensor:
        """(size, 1) labels of rows that are drawn for the critic; those of the real rows."""
        return told

    def seen(self, drawn: Tensor, done: float) -> None:
        """Called with the rows that the critic is shown."""

    def besides(self, drawn: Tensor, done: float) -> Tensor:
        """What is added to the generator's loss."""
        return drawn.new_zeros(())

    # ---- pairs

    def _vectors(self, rows: Tensor) -> Tensor:
        return self.blocks.real(self.data.take(rows.to(self.device)))

    def _pool_rows(self) -> Tensor:
        at = torch.randint(len(self.pool), (self.size,), generator=self.streams.order)
        return self._vectors(self.pool[at])

    def _with_pool(self, real: Tensor) -> Tensor:
        """Some of the rows replaced by rows of the pool with the classifier's label."""
        assert self.classifier is not None
        count = int(len(real) * self.config.pseudo_real)
        if not count:
            return real
        rows = self._pool_rows()[:count]
        with torch.no_grad():
            likeliest = self.classifier(rows).argmax(dim=1)
        rows[:, self.label] = functional.one_hot(likeliest, self.label.stop - self.label.start).to(rows.dtype)
        return torch.cat([rows, real[count:]])

    def _pairs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(n * labels, width) each row with each label, and (n, labels) how likely the classifier thinks each."""
        assert self.classifier is not None
        at = torch.nonzero(self.classifier.possible)[:, 0]
        chance = torch.softmax(self.classifier(rows), dim=1)[:, at]
        pairs = rows.repeat_interleave(len(at), dim=0)
        ones = functional.one_hot(at, self.label.stop - self.label.start).to(pairs.dtype)
        pairs[:, self.label] = ones.repeat(len(rows), 1)
        return pairs, chance


class TripleGAN(AdversarialGenerator):
    """Generator, classifier and critic; conditions on the label are native, others by rejection."""

    name = "triple_gan"
    title = "Triple-GAN: partly labelled rows, by generator, classifier and critic"
    Config = TripleGANConfig
    config: TripleGANConfig
    not_private = "Critic and classifier both see real rows, and their training without noise is what makes it work."
    _notes: list[str]
    _pool: NDArray[np.integer]
    _labelled: NDArray[np.integer]
    _played: Match

    @property
    def label(self) -> str | None:
        """The label's column, once fitted; None where a guess found none."""
        return self._told.columns[0] if self._told.columns else None

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
        self._notes = []
        learned = super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        self._report(encoder, rows, learned, seed)
        del self._played
        learned.warnings = [*self._notes, *learned.warnings]
        return learned

    def _report(self, encoder: TableEncoder, rows: Encoded, learned: Learned, seed: int) -> None:
        """What there is to be said after training."""
        guessed = self.config.label is None and self.config.undeclared == "guess"
        if self.label is None:
            self._notes.append("There is no column that could be a label: rows were learned without one.")
        elif guessed and encoder.schema.column(self.label).role != "label":
            self._notes.append(f"No label is declared: '{self.label}' was taken for it.")
        if len(self._pool) and self.label is not None:
            share = len(self._pool) / (len(self._pool) + len(self._labelled))
            learned.facts["unlabelled_share"] = share
            kept = "as many drawn rows have none" if self.config.unlabelled == "keep" else "every drawn row has one"
            self._notes.append(f"The label '{self.label}' is missing in {share:.0%} of the rows; {kept}.")

    # ---- what the foundation asks

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        label = label_of(encoder, self.config.label, self.config.undeclared, self.name)
        return ConditionVector(encoder, [] if label is None else [label])

    def _teller(self, states: NDArray[np.int64], rows: NDArray[np.integer]) -> Teller:
        self._pool, self._labelled = rows[:0], rows
        if self.label is None:
            return TellNothing(self._told.encoder, rows)
        missing = self._told.encoder.levels[self.label].missing_state
        known = np.ones(len(rows), dtype=bool) if missing is None else states[rows, 0] != missing
        self._pool, self._labelled = rows[~known], rows[known]
        if len(self._labelled) < FEWEST_LABELLED:
            raise ConfigError(
                f"The label '{self.label}' is known of {len(self._labelled)} training rows; {FEWEST_LABELLED} are needed.",
                where=self.name,
                todo="Choose another label, or a generator that takes a missing label as a level (ctgan).",
            )
        return TellAll(self._told, states, self._labelled)

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        return TellingNet(
            config.noise + conditions, config.hidden, blocks.head_width, coordinates_of(blocks, self._told)
        )

    def _critic(self, width: int) -> Critic:
        # The label is a part of the vectors.
        return super()._critic(width - self._told.width)

    def _match(self, match: Match) -> Match:
        self._played = match if self.label is None else self._triple(match)
        return self._played

    def _triple(self, match: Match) -> TripleMatch:
        return TripleMatch(**self._parts(match))

    def _parts(self, match: Match) -> dict[str, Any]:
        """What a `TripleMatch` is made of."""
        assert self.label is not None
        level, start = self._told.encoder.levels[self.label], match.blocks.start(self.label)
        at = slice(start, start + level.states)
        possible = torch.zeros(level.states, dtype=torch.bool)
        possible[known_states(level)] = True
        classifier = Classifier(match.blocks.width, self.config.classifier_hidden, at, possible)
        return {f.name: getattr(match, f.name) for f in fields(Match)} | {
            "label": at,
            "pool": torch.as_tensor(self._pool, dtype=torch.long),
            "classifier": classifier.to(match.device) if len(self._pool) else None,
            "scarce": len(self._labelled) < SCARCE * (len(self._labelled) + len(self._pool)),
        }

    # ---- drawing

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`: the label."""
        return set(columns) == set(self._told.columns)

    def _shares(self) -> NDArray[np.float64]:
        """(states,) share of each label among the rows that have one."""
        assert self.label is not None
        level = self._told.encoder.levels[self.label]
        share = np.zeros(level.states)
        share[known_states(level)] = level.frequency[known_states(level)]
        return np.asarray(share / share.sum())

    def _tell(self, n: int, rng: np.random.Generator) -> Tensor:
        """(n, 1) labels, as often as rows have them: exact to a row, in random order."""
        if self.label is None:
            return super()._tell(n, rng)
        share, level = self._shares(), self._told.encoder.levels[self.label]
        if self.config.unlabelled == "keep":
            share = level.frequency
        return torch.as_tensor(rng.permutation(np.repeat(np.arange(level.states), largest_remainders(share, n))))[
            :, None
        ]

    def _inputs(self, told: Tensor, noise: torch.Generator, place: torch.device) -> Tensor:
        """See `AdversarialGenerator._inputs`; a row to be drawn without a label is drawn for one, which is then taken away."""
        if self.label is not None and (missing := self._told.encoder.levels[self.label].missing_state) is not None:
            share = torch.as_tensor(self._shares(), dtype=torch.float32, device=place)
            free = torch.multinomial(share, len(told), replacement=True, generator=noise)[:, None]
            told = torch.where(told.to(place) == missing, free, told.to(place))
        return super()._inputs(told, noise, place)
