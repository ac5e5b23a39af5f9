"""Fair decisions: the outcome is changed near the line between yes and no, until a model trained on the rows decides alike.

A model of risk is learned from the generator's own rows. Each group gets the line at which the notion holds; where the
line of all people calls a group's rows otherwise, their outcome is drawn at odds on the other side of it. Everything else
stays: P(x given group) everywhere, P(y given x, group) away from the line. A second model, trained on the rows as they will
be, is held against fresh rows of the generator, and the change grows until the second model keeps the notion. No real row
is looked at, so that what is promised of a private model still holds.

Source: our own; massaging (Kamiran and Calders 2012, section 4.1) changes labels next to the line as well, by hand; the
lines of the groups are those of Hardt, Price and Srebro 2016, without their coin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.encoding import MetricEncoder
from pipeline.evaluation.utility.learners import TrainingRows, fit_learner
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.utility.learners import Learner
    from pipeline.fairness.cells import Cells
    from pipeline.features.cohort import Cohort
    from pipeline.features.fairness_spec import Notion

    Numbers = NDArray[np.float64]

CALIBRATION_ROWS = 40_000
"""Rows of the generator that the change is found on: half for the model of risk, half for the change."""
ROUNDS = 8
MOST_BINS = 20
ROWS_A_BIN = 100
WIDEST = 6.0
"""Largest distance from the line, in log odds, to which rows are moved."""
SLOPE = 0.05
"""Of the order that is left among the rows that are moved."""
FEWEST_CASES = 50
"""Positives, and negatives, that a group needs among the calibration rows."""
EDGE = 1e-4


@dataclass
class Risk:
    """A model of the outcome, learned from rows of a generator.

    Attributes:
        encoder: How rows are read.
        learner: The model.
    """

    encoder: MetricEncoder
    learner: Learner

    @classmethod
    def fit(cls, cells: Cells, rows: Cohort, seed: int, chosen: NDArray[np.int64] | None = None) -> Risk:
        """A model trained on the rows of known outcome, or on chosen ones of all (repeats allowed)."""
        encoder = MetricEncoder(rows)
        side = encoder.side(rows)
        outcome = cells.label.of_rows(rows)[side.order]
        place = np.empty(rows.n_rows, dtype=np.int64)
        place[side.order] = np.arange(rows.n_rows)
        known = np.flatnonzero((outcome >= 0) & (outcome < cells.outcomes - 1)) if chosen is None else place[chosen]
        drop = (cells.label.title, *cells.spec.leak)
        training = TrainingRows(side, known, outcome[known] == cells.positive)
        return cls(encoder, fit_learner("hgb", [training], drop, seed))

    def of(self, rows: Cohort) -> Numbers:
        """(n,) log odds of the positive outcome."""
        side = self.encoder.side(rows)
        chance = np.empty(rows.n_rows)
        chance[side.order] = self.learner.scores(side, np.arange(rows.n_rows))
        chance = np.clip(chance, EDGE, 1 - EDGE)
        return np.log(chance) - np.log1p(-chance)


def lines(
    score: Numbers,
    group: NDArray[np.int64],
    truth: NDArray[np.bool_],
    groups: Sequence[int],
    share: float,
    notion: Notion,
) -> Numbers:
    """(groups,) the score from which each group is called positive, so that the notion holds and `share` are in all.

    Equalised odds cannot be had from lines alone: the groups' lines are those between equal true- and equal false-positive
    rates whose larger difference is smallest.
    """
    mine = [np.sort(score[group == g]) for g in groups]
    if notion == "parity":
        return np.array([_from_top(s, share) for s in mine])
    hits = [np.sort(score[(group == g) & truth]) for g in groups]
    misses = [np.sort(score[(group == g) & ~truth]) for g in groups]
    of_hits = _at_rate(mine, hits, share)
    if notion == "equal_opportunity":
        return of_hits
    of_misses = _at_rate(mine, misses, share)
    best, found = np.inf, of_hits
    for part in np.linspace(0, 1, 21):
        between = part * of_hits + (1 - part) * of_misses
        spread = max(
            float(np.ptp([_above(s, t) for s, t in zip(side, between, strict=True)])) for side in (hits, misses)
        )
        if spread < best:
            best, found = spread, between
    return found


def _from_top(ordered: Numbers, share: float) -> float:
    """The score that `share` of the ordered scores reach."""
    return float(np.quantile(ordered, 1 - np.clip(share, 0, 1)))


def _above(ordered: Numbers, line: float) -> float:
    return 1 - np.searchsorted(ordered, line, side="left") / len(ordered)


def _at_rate(everybody: list[Numbers], among: list[Numbers], share: float) -> Numbers:
    """Lines at which the same rate of `among` is above in each group, the rate such that `share` of everybody is above."""
    low, high, total = 0.0, 1.0, sum(map(len, everybody))
    for _ in range(40):
        rate = (low + high) / 2
        found = np.array([_from_top(s, rate) for s in among])
        called = sum(_above(s, t) * len(s) for s, t in zip(everybody, found, strict=True)) / total
        low, high = (rate, high) if called < share else (low, rate)
    return found


def moved(score: Numbers, line: float, common: float, margin: float) -> Numbers:
    """Log odds after the change: rows between a group's line and the line of all people go beyond that, by `margin`."""
    if line <= common:
        inside = (score >= line) & (score < common + margin)
        return np.where(inside, common + margin + SLOPE * (score - line), score)
    inside = (score < line) & (score > common - margin)
    return np.where(inside, common - margin + SLOPE * (score - line), score)


@dataclass
class Change:
    """The cells of risk, group and outcome, and the shares that they are to have.

    Attributes:
        cells: Outcome and groups.
        risk: The model of risk.
        edges: Cuts of the risk of each group; a group that is not changed has none.
        shares: (bins, groups, outcomes) shares of the rows.
        gap_before: Gap of decisions by a model trained on the generator's rows as they are.
        gap_after: The same, trained on the rows as they will be.
        margins: How far rows of each group are moved beyond the line, in log odds.
        left_alone: Groups with too few cases to be judged.
    """

    cells: Cells
    risk: Risk
    edges: list[Numbers]
    shares: Numbers
    gap_before: float
    gap_after: float
    margins: Numbers
    left_alone: list[str] = field(default_factory=list)

    def cell_of(self, rows: Cohort) -> NDArray[np.int64]:
        """(n,) number of each row's cell, (bin * groups + group) * outcomes + outcome; negative for none."""
        return _cell_of(self.cells, rows, self.risk.of(rows), self.edges)


def calibrated(cells: Cells, rows: Cohort, *, size: int, seed: int) -> Change:
    """Find the change on rows of the generator.

    Args:
        cells: Outcome and groups; no strata.
        rows: Rows as the generator draws them, `CALIBRATION_ROWS` of them if it can be.
        size: Rows that will be drawn: a model of fewer rows follows the change less sharply, and the second model is trained
            on as many.
        seed: Of the models and of what they are trained on.

    Raises:
        ConfigError: fewer than two groups have cases enough.
    """
    half = rows.n_rows // 2
    first, second = rows.take(np.arange(half)), rows.take(np.arange(half, rows.n_rows))
    risk = Risk.fit(cells, first, seed)
    score = risk.of(second)
    group, outcome = cells.group_of(second), cells.label.of_rows(second)
    known = (outcome >= 0) & (outcome < cells.outcomes - 1)
    truth = outcome == cells.positive
    counts = cells.counts([second])[0]
    cases = np.minimum(counts[:, cells.positive], counts[:, :-1].sum(axis=1) - counts[:, cells.positive])
    judged = [int(g) for g in np.flatnonzero(cases >= FEWEST_CASES)]
    if len(judged) < 2:
        raise ConfigError(
            f"Fewer than two groups of {', '.join(cells.spec.protected)} have {FEWEST_CASES} positives and negatives among "
            f"{len(second.subject):,} rows of the generator.",
            where="fairness",
            todo="Name coarser groups, or use `aim: labels`.",
        )
    share = float(truth[known].mean())
    notion = cells.spec.notion
    among = np.isin(group, judged) & known
    common = _from_top(np.sort(score[among]), share)
    own = dict(zip(judged, lines(score[among], group[among], truth[among], judged, share, notion), strict=True))
    edges = [_edges(score[group == g], own.get(g), common) for g in range(cells.groups)]
    cell = _cell_of(cells, second, score, edges)
    shape = (1 + max(map(len, edges)), cells.groups, cells.outcomes)
    table = np.bincount(cell[cell >= 0], minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
    audit = _Audit(cells, first, second, cell, judged, share, notion, size)
    before, _ = audit.of(table, table, seed)
    margins, best = np.zeros(cells.groups), (np.inf, table, np.zeros(cells.groups))
    for turn in range(ROUNDS):
        tilt = np.zeros(len(score))
        for g in judged:
            mine = group == g
            tilt[mine] = moved(score[mine], own[g], common, margins[g]) - score[mine]
        wanted = _tilted(table, cell, tilt, cells.positive)
        gap, away = audit.of(table, wanted, seed + 1 + turn)
        if gap < best[0]:
            best = (gap, wanted, margins.copy())
        for g, distance in zip(judged, away, strict=True):
            # How far the second model's line of the group still is from that of all people, in log odds.
            sign = 1.0 if own[g] <= common else -1.0
            margins[g] = float(np.clip(margins[g] + sign * distance, 0.0, WIDEST))
    names = [cells.group_names[g] for g in np.flatnonzero(counts.sum(axis=1) > 0) if g not in judged]
    return Change(cells, risk, edges, best[1] / best[1].sum(), before, best[0], best[2], names)


def _cell_of(cells: Cells, rows: Cohort, score: Numbers, edges: list[Numbers]) -> NDArray[np.int64]:
    group, outcome = cells.group_of(rows), cells.label.of_rows(rows)
    place = np.zeros(len(score), dtype=np.int64)
    for g, cuts in enumerate(edges):
        mine = group == g
        place[mine] = np.searchsorted(cuts, score[mine], side="right")
    number = (place * cells.groups + group) * cells.outcomes + outcome
    return np.where((group < 0) | (outcome < 0), -2, number)


def _edges(score: Numbers, line: float | None, common: float) -> Numbers:
    """Cuts of a group's risk: equally many rows each, and the two lines."""
    if line is None:
        return np.empty(0)
    wanted = int(np.clip(len(score) // ROWS_A_BIN, 2, MOST_BINS))
    return np.unique([*np.quantile(score, np.linspace(0, 1, wanted + 1)[1:-1]), line, common])


def _tilted(table: Numbers, cell: NDArray[np.int64], tilt: Numbers, positive: int) -> Numbers:
    """The table with the odds of the outcome in each bin and group changed by the mean tilt of its rows."""
    flat = table.reshape(-1, table.shape[2])
    inside = cell >= 0
    place = cell[inside] // table.shape[2]
    mean = np.bincount(place, tilt[inside], len(flat)) / np.maximum(np.bincount(place, minlength=len(flat)), 1)
    known = flat[:, :-1].sum(axis=1)
    chance = np.clip(flat[:, positive] / np.maximum(known, 1e-9), EDGE, 1 - EDGE)
    new = 1 / (1 + np.exp(-(np.log(chance) - np.log1p(-chance) + mean)))
    # A bin all of whose rows have one outcome has none of the other to be drawn.
    new = np.where(
        (flat[:, positive] == 0) | (flat[:, positive] == known), flat[:, positive] / np.maximum(known, 1e-9), new
    )
    wanted = flat.copy()
    negative = known - flat[:, positive]
    wanted[:, :-1] *= ((1 - new) * known / np.maximum(negative, 1e-9))[:, None]
    wanted[:, positive] = new * known
    return wanted.reshape(table.shape)


@dataclass
class _Audit:
    """The second model: trained on rows as they will be, held against the first half, as the generator drew it."""

    cells: Cells
    fresh: Cohort
    rows: Cohort
    cell: NDArray[np.int64]
    judged: list[int]
    share: float
    notion: Notion
    size: int

    def of(self, table: Numbers, wanted: Numbers, seed: int) -> tuple[float, Numbers]:
        """The gap of its decisions, and (groups,) how far its line of all people is above that which each group needs."""
        model = Risk.fit(self.cells, self.rows, seed, self._resampled(table, wanted, seed))
        score, group, outcome = (
            model.of(self.fresh),
            self.cells.group_of(self.fresh),
            self.cells.label.of_rows(self.fresh),
        )
        among = np.isin(group, self.judged) & (outcome >= 0) & (outcome < self.cells.outcomes - 1)
        score, group, truth = score[among], group[among], outcome[among] == self.cells.positive
        common = _from_top(np.sort(score), self.share)
        need = lines(score, group, truth, self.judged, self.share, self.notion)
        return gap_of(score >= common, group, truth, self.judged, self.notion), common - need

    def _resampled(self, table: Numbers, wanted: Numbers, seed: int) -> NDArray[np.int64]:
        """Rows of known outcome, so often as the wanted table has them."""
        weight = (wanted / np.maximum(table, 1e-9)).ravel()
        inside = np.flatnonzero((self.cell >= 0) & (self.cell % self.cells.outcomes < self.cells.outcomes - 1))
        often = weight[self.cell[inside]]
        whole = np.floor(often).astype(np.int64)
        rng = stream(seed, "audit")
        whole += rng.random(len(often)) < often - whole
        return rng.permutation(np.repeat(inside, whole))[: self.size]


def gap_of(
    called: NDArray[np.bool_], group: NDArray[np.int64], truth: NDArray[np.bool_], groups: Sequence[int], notion: Notion
) -> float:
    """Largest minus smallest rate over the groups: positives, true positives, or the worse of true and false positives."""
    every = np.ones(len(called), dtype=bool)
    among = {"parity": [every], "equal_opportunity": [truth], "equalised_odds": [truth, ~truth]}[notion]
    return max(float(np.ptp([called[(group == g) & side].mean() for g in groups])) for side in among)
