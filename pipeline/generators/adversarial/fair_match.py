"""Bt-GAN's settings and its match: Triple-GAN's, in which the generator pays for what drawn labels say of their group.

Stage 2 is the last part of the same training. What is counted of drawn rows, weights of training rows, and MINE's network live
here; quotas and what is reported, in `pipeline/generators/bt_gan.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from pipeline.generators.adversarial.information import Estimator, table_information
from pipeline.generators.adversarial.loop import Move, Player
from pipeline.generators.adversarial.subgroups import Groups, adapted, independent, weights
from pipeline.generators.triple_gan import TRIPLE_PAPER, TripleGANConfig, TripleMatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.adversarial.vector import RowBlocks

ADAPT_EVERY = 200
WARM_UP = 200
"""Steps before stage 2 from which MINE's network learns."""


class BtGANConfig(TripleGANConfig):
    """Settings of Bt-GAN: those of Triple-GAN, and what is to be fair."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            **TRIPLE_PAPER,
            "steps": 13_000,
            "information": "mine",
            "about": "row",
            "alpha": 0.5,
            "representation": "weights",
            "rejection": True,
        },
        "quick": {"steps": 600, "hidden": (64, 64), "critic_hidden": (64, 64), "noise": 32, "critic_rate": 2e-3},
    }
    protected: tuple[str, ...] = Field(
        default=(),
        description="Protected columns, of levels; several are crossed. Empty: those of the cohort's `protected`.",
    )
    ema: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Decay of the running mean of the generator's weights, short enough to forget stage 1; 0 takes the last.",
    )
    fair_share: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the steps that is stage 2, in which the penalty is paid."
    )
    alpha: float = Field(
        default=5.0,
        ge=0,
        description="Weight of the mutual information. That of a label of two levels is a few hundredths of a nat: the"
        " published 0.5 is for estimates by MINE.",
    )
    about: Literal["label", "row"] = Field(
        default="label",
        description="Whose information about the group is paid for: the label's, which carries over to models of real"
        " people; or the whole row's, as the paper has it, which takes the group out of the rows that real people keep.",
    )
    information: Literal["table", "mine"] = Field(
        default="table",
        description="How it is estimated: from the table of label and group, exact; or by a network that bounds it (MINE).",
    )
    anchor: float = Field(
        default=10.0,
        ge=0,
        description="With `about: row`: weight of the divergence of the groups' shares from those of training, without which"
        " minorities vanish.",
    )
    mine_hidden: tuple[int, ...] = Field(
        default=(64, 64, 64), min_length=1, description="Hidden layers of MINE's network."
    )
    mine_steps: int = Field(default=3, ge=1, le=100, description="Steps of MINE's network for one of the generator.")
    mine_rate: float = Field(default=5e-4, gt=0, description="Learning rate of MINE's network.")
    representation: Literal["quota", "uniform", "weights", "adaptive"] = Field(
        default="quota",
        description="How groups come into proportion. quota: rows are drawn until each cell has p(label) p(group) of them;"
        " uniform: not at all; weights: training rows of cells that stage 1 draws too rarely weigh more in stage 2, as the"
        " paper means it; adaptive: these weights follow what is drawn.",
    )
    kappa: float = Field(
        default=1.0, ge=0, description="Of weights: a row weighs exp(-kappa times the log disparity of its cell)."
    )

    rejection: bool = Field(
        default=False,
        description="Keep drawn rows as often as a critic, learned anew on them, finds them short in supply, half of each cell"
        " (discriminator rejection sampling, the third stage of the paper). It cost more in margins than it brought.",
    )

    @model_validator(mode="after")
    def _estimable(self) -> Self:
        if self.about == "row" and self.information == "table":
            raise ValueError("the information of a whole row has no table: `about: row` needs `information: mine`")
        return self


@dataclass
class BtMatch(TripleMatch):
    """The match of `TripleMatch` with the penalty.

    Attributes:
        groups: The protected groups.
        real: (groups, labels) labelled training rows in each cell.
        cell_of: (labelled rows,) cell of each.
        labelled: The labelled rows.
        estimator: MINE; None where the table is used.
        drawn: (2, groups, labels) drawn rows of each cell in the last half of each stage.
        weight: (groups, labels) of training rows; None while all weigh the same.
        first_critic: Weights of the critic at the end of stage 1.
    """

    config: BtGANConfig
    groups: Groups
    real: NDArray[np.int64]
    cell_of: Tensor
    labelled: Tensor
    estimator: Estimator | None
    drawn: NDArray[np.int64] = field(init=False)
    weight: NDArray[np.float64] | None = None
    first_critic: dict[str, Tensor] | None = field(default=None, init=False)
    _recent: NDArray[np.int64] = field(init=False)
    _cumulative: Tensor | None = None

    def __post_init__(self) -> None:
        self.drawn = np.zeros((2, *self.real.shape), dtype=np.int64)
        self._recent = np.zeros(self.real.shape, dtype=np.int64)

    @property
    def fair(self) -> bool:
        """Is this stage 2?"""
        return self.done >= 1 - self.config.fair_share

    def players(self) -> list[Player]:
        """Those of Triple-GAN, and MINE's network before the generator."""
        *others, last = super().players()
        if self.estimator is None:
            return [*others, last]
        config = self.config
        network = self.estimator.statistic
        more = Player(
            "information", network, self.information_move, config.mine_rate, config.betas, times=config.mine_steps
        )
        return [*others, more, last]

    def real_rows(self) -> tuple[Tensor, Tensor]:
        """See `TripleMatch.real_rows`; in stage 2 by the weights of their cells."""
        if self._cumulative is None:
            return super().real_rows()
        chance = torch.rand(self.size, generator=self.streams.order, dtype=torch.float64) * self._cumulative[-1]
        at = torch.searchsorted(self._cumulative, chance).clamp_max(len(self.labelled) - 1)
        return self.labelled[at], (self.cell_of[at] % self.real.shape[1])[:, None]

    def drawn_labels(self, told: Tensor) -> Tensor:
        """See `TripleMatch.drawn_labels`; labels as often as training has them, whatever rows weigh."""
        return told if self._cumulative is None else self.teller.batch(self.size, self.streams.order)[1]

    def seen(self, drawn: Tensor, done: float) -> None:
        """Count the cells of drawn rows, and weigh training rows anew where that is asked for."""
        first = 1 - self.config.fair_share
        stage = int(done >= first)
        half = first / 2 if not stage else 1 - self.config.fair_share / 2
        if stage and self.first_critic is None:
            self.first_critic = {k: v.detach().cpu().clone() for k, v in self.critic.state_dict().items()}
        if self.config.representation in ("weights", "adaptive") and stage:
            self._weigh()
        if done < half and not (stage and self.config.representation == "adaptive"):
            return
        group = self.groups.ones(_whole(drawn, self.groups, self.blocks), self.blocks).argmax(dim=1)
        label = drawn[:, self.label].argmax(dim=1)
        cell = (group * self.real.shape[1] + label).cpu().numpy()
        counts = np.bincount(cell, minlength=self.real.size).reshape(self.real.shape)
        self._recent += counts
        if done >= half:
            self.drawn[stage] += counts

    def besides(self, drawn: Tensor, done: float) -> Tensor:
        """In stage 2, what drawn rows' label, or all of it, says of their group."""
        if done < 1 - self.config.fair_share:
            return drawn.new_zeros(())
        group = self.groups.ones(drawn, self.blocks)
        if self.config.about == "label" and self.estimator is None:
            # Straight-through states: with shares instead of states what is whole would tell what shares do not.
            return self.config.alpha * functional.relu(table_information(drawn[:, self.label], group))
        assert self.estimator is not None
        told = self.estimator.information(self._side(drawn), group, self._torn(group))
        loss = self.config.alpha * told
        if self.config.about == "row" and self.config.anchor:
            share = group.mean(dim=0)
            wanted = torch.as_tensor(self.real.sum(axis=1) / self.real.sum(), dtype=share.dtype, device=share.device)
            at = (share > 0) & (wanted > 0)
            ratio = torch.where(at, share, 1.0) / torch.where(at, wanted, 1.0)
            loss = loss + self.config.anchor * (share * ratio.log() * at).sum()
        return loss

    def information_move(self, done: float) -> Move:
        """MINE's network learns on drawn rows as they are handed out; it rests until stage 2 is near."""
        assert self.estimator is not None
        before = (1 - self.config.fair_share - done) * self.config.all_steps(len(self.labelled))
        if before > WARM_UP:
            return Move(sum((p.sum() * 0.0 for p in self.estimator.statistic.parameters()), torch.zeros(())))
        with torch.no_grad():
            drawn = self.shown(self.outputs(self.told(self.teller.batch(self.size, self.streams.order)[1])))
            group, side = self.groups.ones(drawn, self.blocks), self._side(drawn)
        return Move(self.estimator.loss(side, group, self._torn(group)))

    def _side(self, drawn: Tensor) -> Tensor:
        """What is not to tell the group: the label, or the row without its protected columns."""
        if self.config.about == "label":
            return drawn[:, self.label]
        return drawn[:, others(self.groups, self.blocks, drawn.device)]

    def _torn(self, group: Tensor) -> Tensor:
        order = torch.randperm(len(group), generator=self.streams.order)
        return group[order.to(group.device)]

    def _weigh(self) -> None:
        if self.weight is None:
            self.weight = weights(self.drawn[0], self.real, self.config.kappa)
            self._recent[:] = 0
        elif self.config.representation == "adaptive" and self._recent.sum() >= ADAPT_EVERY * self.size:
            self.weight = adapted(self.weight, self._recent, independent(self.real))
            self._recent[:] = 0
        else:
            return
        self._cumulative = torch.as_tensor(self.weight).flatten()[self.cell_of].cumsum(0)


def others(groups: Groups, blocks: RowBlocks, device: torch.device) -> Tensor:
    """The coordinates of a vector that are no protected column's."""
    kept = torch.ones(blocks.width, dtype=torch.bool)
    for column, size in zip(groups.columns, groups.sizes, strict=True):
        kept[blocks.start(column) : blocks.start(column) + size] = False
    return torch.nonzero(kept)[:, 0].to(device)


def _whole(vectors: Tensor, groups: Groups, blocks: RowBlocks) -> Tensor:
    """Vectors with whole states of the protected columns."""
    out = vectors.clone()
    for column, size in zip(groups.columns, groups.sizes, strict=True):
        at = slice(blocks.start(column), blocks.start(column) + size)
        out[:, at] = functional.one_hot(vectors[:, at].argmax(dim=1), size).to(out.dtype)
    return out
