"""Membership inference among those who stand out: unusual people and carriers of rare codes.

A generator that is safe for the average person can still give away the few who lie alone, and they are the ones who
can be recognised. Who stands out is told from all real people alike, without looking at membership.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import clopper_pearson
from pipeline.evaluation.privacy.attacks import TITLES, K, attack, by_person
from pipeline.evaluation.privacy.membership import NEEDED, strongest, widened
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.privacy.attacks import Attacks
    from pipeline.evaluation.results import MetricResult

DECILE = 0.1
FEWEST = 50
"""People a side below which no AUC is given: its 95 % interval would be wider than 0.2."""
AUC = MetricSpec(
    id="priv.mia.outlier_auc",
    family="privacy",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S", "R1"}),
    version="1",
    title="Membership inference among the most unusual tenth (AUC)",
    caption="The best attack on the tenth of real people who lie farthest from all others (and, in a row of its own, on "
    "carriers of the rarest codes), interval widened for the choice. Lower is better; the null is 0.5.",
    source="top decile of the mean distance to 5 neighbours in T and H together; Meeus et al. 2023 (Achilles' heels)",
    cost="B",
)
RATE = MetricSpec(
    id="priv.mia.outlier_tpr",
    family="privacy",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S", "R1"}),
    version="2",
    title="Unusual members found at 1 % false alarms",
    caption="Share of the most unusual tenth of training people whom the best attacker flags at the threshold that wrongly "
    "flags 1 % of all others. Lower is better; the null is the share of unusual people outside training who are flagged.",
    source="the attack of highest AUC over everybody",
    cost="B",
)


@metric(AUC, floor="ref_train")
def outlier_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Best attack among the most unusual tenth, and among carriers of the rarest codes."""
    attacks = attack(ctx)
    unusual = outlierness(ctx)
    if ctx.with_plots:
        _plot_deciles(ctx, attacks, unusual)
    rows = [_best(attacks, unusual >= np.quantile(unusual, 1 - DECILE), "")]
    if ctx.synthetic.presence:
        rows.append(_best(attacks, rarity(ctx), "rare_codes"))
    return rows


@metric(RATE, floor="ref_train")
def outlier_tpr(ctx: EvaluationContext) -> list[MetricResult]:
    """The best attack's threshold at 1 % false alarms over everybody, applied to the most unusual tenth."""
    attacks = attack(ctx)
    others = attacks.people[1]
    best = strongest(attacks.aucs)
    if others < NEEDED[0.01] or best is None:
        return [RATE.underpowered(others, NEEDED[0.01], "people outside training")]
    unusual = outlierness(ctx)
    chosen = unusual >= np.quantile(unusual, 1 - DECILE)
    flagged = flagged_share(attacks.scores[best], attacks.members, 0.01)
    hit, total = float(flagged[chosen & attacks.members].sum()), int((chosen & attacks.members).sum())
    if not total or not (chosen & ~attacks.members).any():
        return [RATE.result(None, n=others, note="all unusual people are on one side")]
    wrong = float(flagged[chosen & ~attacks.members].mean())
    low, high = clopper_pearson(hit, total)
    error = (high - low) / (2 * 1.959964)
    return [RATE.result(hit / total, se=error, interval=(low, high), n=total, null=wrong, note=f"attack: {best}")]


def flagged_share(scores: NDArray[np.floating], members: NDArray[np.bool_], fpr: float) -> NDArray[np.float64]:
    """(n,) how often each person is flagged when so many of those outside training are: 0, 1, or in between.

    Those who score exactly at the threshold are flagged by lot, as on the ROC curve: where many rows are equal, copies
    and strangers who look like them tie at the top, and nobody at all would lie above it.
    """
    others = scores[~members]
    threshold = np.quantile(others, 1 - fpr, method="higher")
    above, tied = float((others > threshold).mean()), float((others == threshold).mean())
    lot = min(1.0, max(0.0, (fpr - above) / tied))
    return np.where(scores > threshold, 1.0, np.where(scores == threshold, lot, 0.0))


def outlierness(ctx: EvaluationContext) -> NDArray[np.float64]:
    """(n people,) mean distance to the five nearest rows of T and H together, of a person's most unusual row."""

    def make() -> NDArray[np.float64]:
        found = []
        for name in ("T", "H"):
            query: PartName = name
            together = np.hstack([ctx.near(query, "T").distance, ctx.near(query, "H").distance])
            found.append(np.sort(together, axis=1)[:, :K].mean(axis=1))
        return by_person(ctx, np.concatenate(found))

    return ctx.sides.once("priv/outlierness", make)


def rarity(ctx: EvaluationContext) -> NDArray[np.bool_]:
    """(n people,) True for the tenth whose rarest code has the fewest carriers in T and H."""

    def make() -> NDArray[np.bool_]:
        rarest: list[NDArray[np.float64]] = []
        sides = {name: (ctx.side(name), ctx.rows(name)) for name in ("T", "H")}
        for block in ctx.sides.encoder.blocks:
            carriers = sum(np.asarray(side.presence[block.name].sum(axis=0)).ravel() for side, _ in sides.values())
            weight = 1.0 / np.maximum(carriers, 1.0)
            found = [side.presence[block.name][rows].multiply(weight).max(axis=1) for side, rows in sides.values()]
            rarest.append(np.concatenate([x.toarray().ravel() for x in found]))
        score = by_person(ctx, np.max(rarest, axis=0))
        return np.asarray((score >= np.quantile(score, 1 - DECILE)) & (score > 0))

    return ctx.sides.once("priv/rarity", make)


def _best(attacks: Attacks, chosen: NDArray[np.bool_], key: str) -> MetricResult:
    members, others = int((chosen & attacks.members).sum()), int((chosen & ~attacks.members).sum())
    everybody = attacks.people[1]
    if min(members, others) < FEWEST:
        needed = ceil(everybody * FEWEST / max(min(members, others), 1))
        return AUC.underpowered(everybody, max(needed, everybody + 1), "people outside training", null=0.5, key1=key)
    there = attacks.among(chosen)
    best = strongest(there.aucs)
    if best is None:
        return AUC.result(None, n=everybody, null=0.5, key1=key, note="too few people for an interval")
    found = there.aucs[best]
    return AUC.result(
        found.value,
        se=found.se,
        interval=widened(there.aucs),
        n=everybody,
        null=0.5,
        key1=key,
        note=f"attack: {best}; {members} members, {others} others",
    )


def _plot_deciles(ctx: EvaluationContext, attacks: Attacks, unusual: NDArray[np.float64]) -> None:
    """AUC of the attack that is best over everybody, in each decile of outlierness."""
    best = strongest(attacks.aucs)
    if best is None:
        return
    edges = np.quantile(unusual, np.linspace(0, 1, 11)[1:-1])
    decile = np.searchsorted(edges, unusual, side="right")
    found = []
    for i in range(10):
        chosen = decile == i
        if min((chosen & attacks.members).sum(), (chosen & ~attacks.members).sum()) < FEWEST:
            continue
        part = attacks.among(chosen).aucs[best]
        low, high = part.interval()
        found.append({"decile": i + 1, "auc": round(part.value, 4), "lo": round(low, 4), "hi": round(high, 4)})
    ctx.plots["outlierness"] = {"attack": TITLES[best], "deciles": found}
