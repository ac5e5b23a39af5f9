"""Bt-GAN (Ramachandranpillai et al. 2024, "Bt-GAN: generating fair synthetic healthdata via bias-transforming generative
adversarial networks"): rows whose label does not tell the protected group, with no group out of proportion.

Stage 1 is `triple_gan.py`; in stage 2 the generator pays for the mutual information of drawn labels and groups. By default that
is the information of the label alone, from the table of both, and the shares of groups and labels are met exactly where rows
are drawn. What the paper prints (the information of the whole row, by MINE; training rows weighted by how much their cell is
out of proportion) is the preset 'paper', for ablations: it makes rows fair and models of real people no fairer (spec 3.8).
`bt_gan_minus` is the penalty alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.encoding.encoder import Encoded
from pipeline.fairness.targets import target_shares, whole_rows
from pipeline.generators.adversarial.conditions import ConditionVector
from pipeline.generators.adversarial.fair_match import BtGANConfig, BtMatch, others
from pipeline.generators.adversarial.information import Estimator, Statistic, table_information
from pipeline.generators.adversarial.loop import Look
from pipeline.generators.adversarial.named_columns import label_of, protected_of
from pipeline.generators.adversarial.rejection_filter import RejectionFilter
from pipeline.generators.adversarial.subgroups import (
    SMALL,
    Groups,
    disparities,
    independent,
    information,
    state_names,
    table,
)
from pipeline.generators.adversarial.vector import RowTensors
from pipeline.generators.conditions import Fixed
from pipeline.generators.seeds import stream
from pipeline.generators.training import repeatable, torch_stream
from pipeline.generators.triple_gan import TripleGAN, TripleMatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import nn

    from pipeline.encoding.encoder import TableEncoder
    from pipeline.generators.adversarial.match import Match
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.tabular import Learned

FILTER_ROWS = 10_000
COUNTED = 4_000
"""Rows whose cells are counted in the end."""
MOST_TOLD = 40
"""Cells whose disparity is reported, the farthest out of proportion."""
PASSES, IDLE_PASSES, TRIES = 50, 8, 50
FEWEST_ASKED = 256


class BtGAN(TripleGAN):
    """Triple-GAN with fair labels and groups in proportion; conditions on the label are native, others by rejection."""

    name = "bt_gan"
    title = "Bt-GAN: labels that do not tell the protected group, groups in proportion"
    Config = BtGANConfig
    config: BtGANConfig
    resumes = False
    not_private = "Critic and classifier both see real rows, and rows chosen by what their cell lacks would not be chosen by chance."
    _groups: Groups | None
    _people: NDArray[np.int64]
    lds: Mapping[str, list[dict[str, str | float]]] = {}
    """Stage ("stage 1", "stage 2", "final") to its table of cells: shares and log disparities."""
    _filter: RejectionFilter | None = None
    lacking: int = 0
    """Rows of the last draw that are of another group than asked for, because the generator never drew theirs."""

    # ---- what the foundation asks

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        config = self.config
        label = label_of(encoder, config.label, config.undeclared, self.name)
        columns: list[str] = []
        if label is not None:
            columns = protected_of(
                encoder,
                config.protected,
                config.undeclared,
                self.name,
                instead="without one `triple_gan` remains.",
                but=(label,),
            )
        self._groups, self._filter = Groups.of(encoder, columns) if columns else None, None
        return ConditionVector(encoder, [] if label is None else [label])

    def _triple(self, match: Match) -> TripleMatch:
        if self._groups is None:
            return super()._triple(match)
        states, columns = match.data.states.cpu().numpy(), match.blocks.columns
        group = self._groups.crossed([states[:, columns.index(k)] for k in self._groups.columns], len(states))
        self._people = np.bincount(group, minlength=len(self._groups))
        assert self.label is not None
        labels = self._told.sizes[0]
        cell = (group * labels + states[:, columns.index(self.label)])[self._labelled]
        estimator = None
        if self.config.information == "mine":
            side = labels if self.config.about == "label" else len(others(self._groups, match.blocks, match.device))
            estimator = Estimator(Statistic(side + len(self._groups), self.config.mine_hidden).to(match.device))
        return BtMatch(
            **self._parts(match),
            groups=self._groups,
            real=np.bincount(cell, minlength=len(self._groups) * labels).reshape(-1, labels),
            cell_of=torch.as_tensor(cell),
            labelled=torch.as_tensor(self._labelled, dtype=torch.long),
            estimator=estimator,
        )

    def _look(
        self, blocks: RowBlocks, data: RowTensors, tune: NDArray[np.bool_], seed: int, place: torch.device
    ) -> Callable[[nn.Module], Look]:
        inner = super()._look(blocks, data, tune, seed, place)

        def look(network: nn.Module) -> Look:
            found, match = inner(network), self._played
            if not isinstance(match, BtMatch):
                return found
            # What a label tells counts as it does in training; weights of stage 1 have not paid and are never kept.
            noise, told = torch_stream(seed, "fair look", device=place), self._tell(COUNTED, stream(seed, "fair look"))
            with torch.no_grad():
                drawn = self._activated(blocks, network(self._inputs(told, noise, place)), noise)
                tells = float(table_information(drawn[:, match.label], match.groups.ones(drawn, blocks)))
            return replace(found, distance=found.distance + self.config.alpha * tells, eligible=match.fair)

        return look

    # ---- drawing

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        if fixed or self._groups is None:
            return super()._draw(encoder, n, rng, fixed)
        if self.config.representation == "quota":
            return self._filled(n, rng)
        return self._kept(self._tell(n, rng), torch.Generator().manual_seed(int(rng.integers(2**62))), rng)

    def _kept(self, told: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Rows for these labels; one that the filter rejects is drawn again, at most 50 times."""
        rows = self._rows(told, noise, rng)
        if self._filter is None:
            return rows
        parts, at, order = [], np.arange(len(told)), []
        for tried in range(TRIES):
            good = self._filter.accepted(self._vectors(rows, rng), self._cells(rows), rng) | (tried == TRIES - 1)
            parts.append(rows.take(good))
            order.append(at[good])
            at = at[~good]
            if not len(at):
                break
            rows = self._rows(told[at], noise, rng)
        return Encoded.concatenate(parts).take(np.argsort(np.concatenate(order), kind="stable"))

    def _vectors(self, rows: Encoded, rng: np.random.Generator) -> Tensor:
        """(n, width) vectors of drawn rows, as the critic sees training rows."""
        return self._blocks.real(self._blocks.tensors(rows, "cpu", rng))

    def _cells(self, rows: Encoded) -> NDArray[np.int64]:
        """(n,) cell of group and label of each row."""
        assert self._groups is not None
        assert self.label is not None
        return self._groups.of_rows(rows) * self._told.sizes[0] + rows.states[self.label]

    def _refit(self, encoder: TableEncoder, match: BtMatch, seed: int) -> None:
        """Set the filter up, from the critic of stage 1, on training rows and what is drawn now."""
        assert self._groups is not None
        rng, order = stream(seed, "filter"), torch_stream(seed, "filter")
        critic = match.critic.to("cpu")
        critic.load_state_dict(match.first_critic or critic.state_dict())
        at = match.labelled[torch.randperm(len(match.labelled), generator=order)[:FILTER_ROWS]]
        part = match.data.take(at.to(match.device))
        real = self._blocks.real(RowTensors(part.places.cpu(), part.states.cpu(), [c.cpu() for c in part.codes]))
        drawn = super()._draw(encoder, FILTER_ROWS, rng, Fixed())
        strata = len(self._groups) * self._told.sizes[0]
        with repeatable(seed):
            vectors = self._vectors(drawn, rng)
            self._filter = RejectionFilter.fit(critic, real, vectors, self._cells(drawn), strata, order)

    def _buckets(self) -> NDArray[np.int64]:
        """(groups,) what is filled: a group of its own, or one bucket of all that are too small to be balanced."""
        small = self._people < SMALL
        return np.where(small, np.count_nonzero(~small), np.cumsum(~small) - 1)

    def _filled(self, n: int, rng: np.random.Generator) -> Encoded:
        """`n` rows, p(group) p(label) of them in each cell; the generator's own where it does not draw a cell."""
        assert self._groups is not None
        assert self.label is not None
        bucket, shares = self._buckets(), self._shares()
        people = np.bincount(bucket, weights=self._people)
        need = whole_rows(target_shares(np.outer(people, shares)[None], "parity"), n)[0]
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        parts: list[Encoded] = []
        drawn, idle, kept = 0, 0, 0
        for _ in range(PASSES):
            lacking = int(need.sum())
            if not lacking or idle == IDLE_PASSES or drawn >= TRIES * max(n, FEWEST_ASKED):
                break
            rate = max(0.05, kept / drawn) if drawn else 0.8
            size = min(max(FEWEST_ASKED, int(1.2 * lacking / rate)), 2 * self._chunk())
            wanted = need.sum(axis=0) / lacking
            told = torch.as_tensor(rng.choice(len(wanted), size=size, p=wanted))[:, None]
            rows = self._kept(told, noise, rng)
            cell = bucket[self._groups.of_rows(rows)] * len(shares) + rows.states[self.label]
            chosen = _firsts(cell, need.ravel())
            parts.append(rows.take(chosen))
            need -= np.bincount(cell[chosen], minlength=need.size).reshape(need.shape)
            drawn, kept = drawn + size, kept + len(chosen)
            idle = 0 if len(chosen) else idle + 1
        self.lacking = int(need.sum())
        if self.lacking:
            told = torch.as_tensor(np.repeat(np.arange(len(shares)), need.sum(axis=0)))[:, None]
            parts.append(self._rows(told, noise, rng))
        out = Encoded.concatenate(parts).take(rng.permutation(n))
        level = self._told.encoder.levels[self.label]
        if self.config.unlabelled == "keep" and level.missing_state is not None:
            gone = rng.random(n) < level.frequency[level.missing_state]
            out.states[self.label] = np.where(gone, level.missing_state, out.states[self.label])
        return out

    # ---- what is told and saved

    def _report(self, encoder: TableEncoder, rows: Encoded, learned: Learned, seed: int) -> None:
        super()._report(encoder, rows, learned, seed)
        if self.label is None or self._groups is None:
            self._notes.append("No column is protected: the rows are those of `triple_gan`.")
            return
        declared = [k for k in self._groups.columns if encoder.schema.column(k).role == "protected"]
        if not self.config.protected and not declared:
            self._notes.append(f"Nothing is declared protected: '{self._groups.columns[0]}' was taken for it.")
        match = self._played
        assert isinstance(match, BtMatch)
        if self.config.rejection:
            self._refit(encoder, match, seed)
        final = self._draw(encoder, COUNTED, stream(seed, "cells"), Fixed())
        cell = self._cells(final)
        known = (self._shares() > 0).astype(np.int64)
        drawn = np.bincount(cell, minlength=match.real.size).reshape(match.real.shape)
        # Stage 1 is held against training rows, and what comes after against what it is asked for.
        fair = independent(match.real)
        stages = {
            "stage 1": (match.drawn[0], match.real),
            "stage 2": (match.drawn[1], fair),
            "final": (drawn * known, fair),
        }
        told = [f"{self.label} = {s}" for s in state_names(encoder.levels[self.label])]
        names = [f"{group}, {label}" for group in self._groups.names for label in told]
        self.lds = {stage: table(names, *counts) for stage, counts in stages.items()}
        self._facts(stages, learned)
        learned.facts["label_information_real"] = information(match.real)
        small = [self._groups.names[g] for g in np.flatnonzero((self._people > 0) & (self._people < SMALL))]
        if small:
            self._notes.append(
                f"Groups of fewer than {SMALL} rows are too small to be balanced, and are drawn as they come: "
                + "; ".join(small)
                + "."
            )
        if self.lacking:
            self._notes.append(
                f"{self.lacking} of {COUNTED} rows are of another group than asked for: the generator does not draw theirs."
            )

    def _facts(self, stages: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]], learned: Learned) -> None:
        """Disparities and what a label tells of its group, by stage."""
        for stage, (drawn, wanted) in stages.items():
            if not drawn.sum():
                continue
            key = stage.replace(" ", "_")
            found = disparities(drawn, wanted)[wanted >= SMALL]
            learned.facts[f"lds_max_{key}"] = float(np.abs(found).max(initial=0.0))
            learned.facts[f"label_information_{key}"] = information(drawn)
            far = sorted(self.lds[stage], key=lambda line: -abs(float(line["lds"])))[:MOST_TOLD]
            learned.facts |= {f"lds/{stage}/{line['cell']}": float(line["lds"]) for line in far}

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, extra = super()._state()
        if self._groups is not None:
            arrays["fair/people"] = self._people
        if self._filter is not None:
            arrays |= self._filter.arrays()
        return arrays, {**extra, "lds": dict(self.lds)}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        super()._restore(encoder, tensors, extra)
        self.lds = extra["lds"]
        if self._groups is not None:
            self._people = np.asarray(tensors["fair/people"], dtype=np.int64)
        if "filter/most" in tensors:
            critic = self._critic(self._blocks.width + self._told.width)
            self._filter = RejectionFilter.restore(critic, tensors)


class BtGANMinusConfig(BtGANConfig):
    """Settings of Bt-GAN without the part on representation."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**settings, "representation": "uniform"} if "representation" in settings else settings
        for name, settings in BtGANConfig.presets.items()
    }
    representation: Literal["quota", "uniform", "weights", "adaptive"] = Field(
        default="uniform", description=BtGANConfig.model_fields["representation"].description
    )


class BtGANMinus(BtGAN):
    """Bt-GAN with the penalty alone: no cell is weighted or filled."""

    name = "bt_gan_minus"
    title = "Bt-GAN-: Bt-GAN with the penalty alone"
    Config = BtGANMinusConfig
    config: BtGANMinusConfig


def _firsts(cell: NDArray[np.int64], need: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows to be kept: of each cell the first ones, as many as it needs."""
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    rank = np.arange(len(cell)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < need[ordered]])
