"""FairGAN (Xu et al. 2018, "FairGAN: fairness-aware generative adversarial networks"): rows that do not tell the protected group.

The generator is told the group; a first critic judges rows with their group, a second one reads the group from the rest of drawn
rows, and in the second phase the generator has to keep it from telling. What is fair then is the synthetic table: whoever trains
on it and decides on real people meets rows that still tell their group (spec 3.5, 3.8). The foundation is `adversarial/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.fairness.targets import largest_remainders
from pipeline.generators.adversarial.conditions import UNTOLD, ConditionVector, TellAll, Teller, TellNothing
from pipeline.generators.adversarial.loop import Look, Move, Player
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.named_columns import TellingNet, Undeclared, coordinates_of, protected_of
from pipeline.generators.adversarial.private import PrivateAdversarialGenerator
from pipeline.generators.adversarial.private_settings import PrivateGameConfig
from pipeline.generators.adversarial.subgroups import Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.networks import Critic, GeneratorNet
    from pipeline.generators.adversarial.vector import RowBlocks, RowTensors
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.tabular import Learned
    from pipeline.privacy.dpsgd import PrivateSettings
    from pipeline.privacy.run import PrivateRun


GROUPS_SHARE = 0.05
"""Of a private training's budget for learning, where several protected columns are crossed."""
GROUPS_NOISE = 4.0
"""Groups smaller than so many times the scale of the noise are not told where rows are drawn."""


class FairGANConfig(PrivateGameConfig):
    """Settings of FairGAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "numbers": "range",
            "pieces": 0,
            "noise": 128,
            "hidden": (128, 128),
            "critic_hidden": (256, 128),
            "batch_size": 1000,
            "epochs": 4_000,
            "fewest_steps": 1,
            "critic_steps": 2,
            "learning_rate": 1e-3,
            "critic_rate": 1e-3,
            "betas": (0.9, 0.999),
            "weight_decay": 1e-3,
            "penalty": 0.0,
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
            "critic_rate": 2e-3,
            "private_epochs": 5.0,
        },
    }
    protected: tuple[str, ...] = Field(
        default=(),
        description="Protected columns, of levels; several are crossed. Empty: those of the cohort's `protected`.",
    )
    undeclared: Undeclared = Field(
        default="refuse",
        description="What is done where neither the settings nor the cohort say which column is protected: refuse in words,"
        " or guess (the first column of several levels) and say so.",
    )
    ema: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Decay of the running mean of the generator's weights, short enough to forget the first phase; 0 takes"
        " the last.",
    )
    fairness: float = Field(
        default=1.0, ge=0, description="Weight of what the second critic reads from the rows (lambda of the paper)."
    )
    fair_share: float = Field(
        default=0.5, gt=0, lt=1, description="Share of the steps that is the second phase, in which it is paid."
    )
    reader_hidden: tuple[int, ...] = Field(
        default=(256, 128), min_length=1, description="Hidden layers of the second critic."
    )
    pac: int = Field(default=1, ge=1, le=1, description="Rows are judged one by one.")


class Reader(nn.Module):
    """Logits of groups for vectors of rows without their protected columns: the second critic.

    Args:
        width: of such a vector.
        hidden: widths of the hidden layers.
        groups: how many.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], groups: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([width, *hidden]))
        self.last = nn.Linear(hidden[-1], groups)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, groups) logits."""
        for layer in self.layers:
            rows = functional.leaky_relu(layer(rows), 0.2)
        out: Tensor = self.last(rows)
        return out


@dataclass
class FairMatch(Match):
    """Critic, reader of groups and generator.

    Attributes:
        reader: The second critic; it sees drawn rows alone.
        groups: The protected groups.
        rest: The coordinates of a vector that are no protected column's.
        shares: (groups,) of the training rows: what the reader says of a row that tells nothing.
    """

    config: FairGANConfig
    reader: Reader
    groups: Groups
    rest: Tensor
    shares: Tensor
    done: float = field(default=0.0, init=False)

    @property
    def fair(self) -> bool:
        """Is this the second phase?"""
        return self.done >= 1 - self.config.fair_share

    @staticmethod
    def beside(vectors: Tensor, condition: Tensor) -> Tensor:
        """See `Match.beside`; what is told stands in the vectors."""
        return vectors

    def players(self) -> list[Player]:
        """Critic, reader, generator."""
        first, last = super().players()
        config = self.config
        reader = Player(
            "reader", self.reader, self.reader_move, config.critic_rate, config.betas, times=config.critic_steps
        )
        return [first, reader, last]

    def critic_move(self, done: float) -> Move:
        """See `Match.critic_move`; groups are a part of the vectors."""
        self.done = done
        rows, told = self.teller.batch(self.size, self.streams.order)
        with torch.no_grad():
            drawn = self.shown(self.outputs(self.told(told)))
        real = self.blocks.real(self.data.take(rows.to(self.device)))
        judged = self.game.critic(self.critic, real, drawn, self.streams.noise)
        return Move(judged.loss, judged)

    def reader_move(self, done: float) -> Move:
        """The reader learns the groups of drawn rows; real rows are not shown to it."""
        _, told = self.teller.batch(self.size, self.streams.order)
        with torch.no_grad():
            drawn = self.shown(self.outputs(self.told(told)))
            group = self.groups.ones(drawn, self.blocks).argmax(dim=1)
        return Move(functional.cross_entropy(self.reader(drawn[:, self.rest]), group))

    def generator_move(self, done: float) -> Move:
        """Rows that are taken for real, and of which the reader says no more than the groups' shares."""
        self.done = done
        _, told = self.teller.batch(self.size, self.streams.order)
        drawn = self.shown(self.outputs(self.told(told)))
        loss = self.game.generator(self.critic(drawn))
        if self.fair:
            said = functional.log_softmax(self.reader(drawn[:, self.rest]), dim=1)
            loss = loss - self.config.fairness * (self.shares * said).sum(dim=1).mean()
        return Move(loss)


def private_groups(
    encoder: TableEncoder, rows: Encoded, columns: list[str], run: PrivateRun
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(groups, columns) states and (groups,) shares of the crossed groups, from what was paid for.

    Those of one column are in the private encoder; of several, their crossing is counted for a share of what `run` has.
    """
    if len(columns) == 1:
        share = np.asarray(encoder.levels[columns[0]].frequency, dtype=np.float64)
        return np.arange(len(share))[:, None], share / share.sum()
    groups = Groups.of(encoder, columns)
    counts = np.bincount(groups.of_rows(rows), minlength=len(groups)).astype(np.float64)
    part = run.part(GROUPS_SHARE, "groups")
    noisy = part.laplace(counts, l1=1.0, epsilon=part.own_epsilon, what=f"rows of {len(groups)} protected groups")
    # What noise alone explains is no group; the largest always is one.
    kept = noisy >= min(GROUPS_NOISE * run.rows_per_subject / part.own_epsilon, float(noisy.max()))
    share = np.maximum(noisy[kept], 1.0)
    return np.stack(np.unravel_index(np.flatnonzero(kept), groups.sizes), axis=1), share / share.sum()


class FairGAN(PrivateAdversarialGenerator):
    """Rows that do not tell the protected group; conditions on all protected columns are native, others by rejection."""

    name = "fairgan"
    title = "FairGAN: rows that do not tell the protected group"
    Config = FairGANConfig
    config: FairGANConfig
    _joint: NDArray[np.int64]
    _share: NDArray[np.float64]
    _groups: Groups | None
    _played: Match

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
        columns = self._conditions(encoder).columns
        if columns:
            joint, counts = np.unique(np.stack([rows.states[k] for k in columns], axis=1), axis=0, return_counts=True)
            self._joint, self._share = joint, counts / counts.sum()
        learned = super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        return self._said(learned, encoder, columns)

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
        """See `PrivateAdversarialGenerator`; the second critic sees drawn rows alone and is free."""
        columns = self._conditions(encoder).columns
        if columns:
            self._joint, self._share = private_groups(encoder, rows, columns, run)
        learned = super()._learn_private(encoder, rows, cohort, seed=seed, device=device, run=run, progress=progress)
        return self._said(learned, encoder, columns)

    def noise_settings(self, subjects: int) -> PrivateSettings | None:
        """None: what the groups of several protected columns cost is known only when the schema is."""
        return None

    def _own(self, states: Tensor, random: torch.Generator) -> Tensor:
        """All protected columns of a row are told."""
        return states

    def _private_match(self, match: Match) -> Match:
        return self._match(match)

    def _said(self, learned: Learned, encoder: TableEncoder, columns: list[str]) -> Learned:
        """What is to be said of the protected columns, added."""
        del self._played
        declared = [k for k in columns if encoder.schema.column(k).role == "protected"]
        if not columns:
            learned.warnings.append("There is no column that could be protected: rows were learned without one.")
        elif not declared and not self.config.protected:
            learned.warnings.append(f"Nothing is declared protected: '{columns[0]}' was taken for it.")
        return learned

    # ---- what the foundation asks

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        config = self.config
        columns = protected_of(
            encoder, config.protected, config.undeclared, self.name, instead="without one `ctgan` remains."
        )
        self._groups = Groups.of(encoder, columns) if columns else None
        return ConditionVector(encoder, columns)

    def _teller(self, states: NDArray[np.int64], rows: NDArray[np.integer]) -> Teller:
        if not self._told.columns:
            return TellNothing(self._told.encoder, rows)
        return TellAll(self._told, states, rows)

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        return TellingNet(
            config.noise + conditions, config.hidden, blocks.head_width, coordinates_of(blocks, self._told)
        )

    def _critic(self, width: int) -> Critic:
        # The groups are a part of the vectors.
        return super()._critic(width - self._told.width)

    def _match(self, match: Match) -> Match:
        self._played = match
        rest = torch.ones(match.blocks.width, dtype=torch.bool)
        rest[coordinates_of(match.blocks, self._told)] = False
        if self._groups is None or not bool(rest.any()):
            return match
        shares = np.zeros(len(self._groups))
        shares[self._groups.crossed(list(self._joint.T), len(self._joint))] = self._share
        self._played = FairMatch(
            **{f.name: getattr(match, f.name) for f in fields(Match)},
            reader=Reader(int(rest.sum()), self.config.reader_hidden, len(self._groups)).to(match.device),
            groups=self._groups,
            rest=torch.nonzero(rest)[:, 0].to(match.device),
            shares=torch.as_tensor(shares, dtype=torch.float32, device=match.device),
        )
        return self._played

    def _look(
        self, blocks: RowBlocks, data: RowTensors, tune: NDArray[np.bool_], seed: int, place: torch.device
    ) -> Callable[[nn.Module], Look]:
        inner = super()._look(blocks, data, tune, seed, place)

        def look(network: nn.Module) -> Look:
            # Weights that have not paid for fairness, or only began to, are never to be kept.
            match = self._played
            fair = not isinstance(match, FairMatch) or match.done >= 1 - self.config.fair_share / 2
            return replace(inner(network), eligible=fair)

        return look

    # ---- drawing

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`: all protected columns."""
        return bool(self._told.columns) and set(columns) == set(self._told.columns)

    def _tell(self, n: int, rng: np.random.Generator) -> Tensor:
        """(n, columns) groups, as often as rows have them: exact to a row, in random order."""
        if not self._told.columns:
            return super()._tell(n, rng)
        return torch.as_tensor(rng.permutation(np.repeat(self._joint, largest_remainders(self._share, n), axis=0)))

    def _tell_fixed(self, fixed: Fixed, n: int, rng: np.random.Generator) -> Tensor:
        """All that is fixed is told; a group that training does not have is told as far as the caller fixes it."""
        asked = torch.as_tensor(self._told.fixed(fixed, n))
        return torch.where(asked != UNTOLD, asked, self._tell(n, rng))

    # ---- what is saved

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, extra = super()._state()
        if self._told.columns:
            arrays |= {"groups/joint": self._joint, "groups/share": self._share}
        return arrays, extra

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        super()._restore(encoder, tensors, extra)
        if self._told.columns:
            self._joint = np.array(tensors["groups/joint"])
            self._share = np.array(tensors["groups/share"])
