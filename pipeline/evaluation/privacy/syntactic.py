"""Syntactic checks by exact equivalence classes: rare levels, and groups of people who share what an attacker knows.

They look at the released rows only as a table, not at what can be learnt by attacking; passing them is no protection
by itself. Classes are exact combinations of the known columns (numbers in T's bins), never clusters. No level or code
is named anywhere: counts a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import clopper_pearson
from pipeline.evaluation.privacy.secrets import SMALL, known_to_attacker, secrets_of
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.features.schema import RARE_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult

RARE = MetricSpec(
    id="priv.rare_level",
    family="privacy",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Rare levels and codes that come out",
    caption="How many levels and codes carried by fewer than 11 training people appear among the synthetic rows. Must be "
    "0, unless the training was differentially private.",
    source="customary least cell size of 11 in releases of health data",
    cost="A",
)
K_MAP = MetricSpec(
    id="priv.k_map",
    family="privacy",
    direction=1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Fewest training people behind a synthetic row (k-map)",
    caption="The smallest number of training people who share the known attributes of a synthetic row, among rows that "
    "somebody shares them with. Higher is better; many known attributes make it 1 for any cohort, fresh real rows "
    "included, so read it beside them.",
    source="Sweeney 2001 (k-map); exact equivalence classes",
    cost="A",
)
L_DIV = MetricSpec(
    id="priv.l_div",
    family="privacy",
    direction=1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Fewest values of a secret in a group (l-diversity)",
    caption="The smallest number of different values of a secret among synthetic rows that agree in what is known, "
    "groups that no training person falls into left out. Higher is better; groups of one row make it 1 for any cohort.",
    source="Machanavajjhala et al. 2007 (distinct l-diversity); exact equivalence classes",
    cost="A",
)
DELTA = MetricSpec(
    id="priv.delta_presence",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Presence given away by what is known",
    caption="Share of training people whose combination of known attributes occurs among the synthetic rows, minus the "
    "same share of people outside training: how much the mere occurrence of a combination says about having been in "
    "training. Lower is better; the null is 0.",
    source="after Nergiz et al. 2007 (delta-presence), as a difference to people outside training",
    cost="A",
)


@dataclass(frozen=True)
class Classes:
    """Combinations of known attributes on all sides.

    Attributes:
        synthetic: (synthetic rows,) number of each row's combination.
        people: (combinations,) training people who carry each of them.
        train: (training rows,) whether the row's combination occurs among the synthetic rows.
        holdout: (holdout rows,) the same.
    """

    synthetic: NDArray[np.int64]
    people: NDArray[np.int64]
    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]


@metric(RARE, floor="")
def rare_level(ctx: EvaluationContext) -> list[MetricResult]:
    """Levels and codes of fewer than 11 training people that the synthetic rows carry, in all and by column."""
    train, made = ctx.sides.train, ctx.synthetic
    found: list[tuple[str, int]] = []
    for column in ctx.sides.encoder.columns:
        if column.discrete:
            levels = len(column.levels or [])
            people = _people(train.codes[column.name], train.clusters, levels)
            appears = np.bincount(np.maximum(made.codes[column.name], -1) + 1, minlength=levels + 1)[1:] > 0
            pooled = np.array([level == RARE_LEVEL for level in column.levels or []], dtype=bool)
            found.append((column.name, int((appears & (people < SMALL) & ~pooled).sum())))
    for block in ctx.sides.encoder.blocks:
        rows = np.repeat(np.arange(len(train)), np.diff(train.presence[block.name].indptr))
        codes = train.presence[block.name].indices
        people = _people(codes, train.clusters[rows], len(block.vocabulary))
        appears = np.asarray(made.presence[block.name].sum(axis=0)).ravel() > 0
        pooled = np.array([code == RARE_LEVEL for code in block.vocabulary], dtype=bool)
        found.append((block.name, int((appears & (people < SMALL) & ~pooled).sum())))
    total = float(sum(n for _, n in found))
    where = ", ".join(name for name, n in found if n)
    rows_out = [RARE.result(total, interval=(total, total), n=len(made), null=0.0, note=f"in {where}" if where else "")]
    return rows_out + [
        RARE.result(float(n), interval=(float(n), float(n)), n=len(made), null=0.0, scope="column", key1=name)
        for name, n in found
        if n
    ]


@metric(K_MAP, floor="")
def k_map(ctx: EvaluationContext) -> list[MetricResult]:
    """The smallest class, and the share of synthetic rows whose class has 1 to 10 training people."""
    classes = _classes(ctx)
    if classes is None:
        return [K_MAP.result(None, note="no column is known to the attacker")]
    behind = classes.people[classes.synthetic]
    n = len(behind)
    if not (behind > 0).any():
        return [K_MAP.result(None, n=n, note="no synthetic row agrees with a training person in what is known")]
    smallest = int(behind[behind > 0].min())
    few = (behind > 0) & (behind < SMALL)
    share = float(few.mean())
    return [
        K_MAP.result(float(smallest), n=n, note=f"{share:.1%} of synthetic rows stand for 1 to 10 training people"),
        K_MAP.result(
            share, interval=clopper_pearson(float(few.sum()), n), n=n, key1="share with 1 to 10 people",
            note="share of synthetic rows; here lower is better",
        ),
    ]  # fmt: skip


@metric(L_DIV, floor="")
def l_div(ctx: EvaluationContext) -> list[MetricResult]:
    """The least diverse group over all secrets, the share of matched training people in a uniform group, each secret."""
    classes, secrets = _classes(ctx), [s for s in secrets_of(ctx.sides) if s.column is not None]
    if classes is None or not secrets:
        what = "no column is known to the attacker" if classes is None else "no column is secret"
        return [L_DIV.result(None, note=what)]
    met = classes.people > 0
    if not met.any():
        return [L_DIV.result(None, note="no synthetic row agrees with a training person in what is known")]
    rows: list[MetricResult] = []
    least: list[int] = []
    for secret in secrets:
        assert secret.column is not None
        values = ctx.synthetic.bins(secret.column)[0]
        pairs = np.unique(np.stack([classes.synthetic, values]), axis=1)
        different = np.bincount(pairs[0], minlength=len(met))[met]
        uniform = float(classes.people[met][different == 1].sum() / classes.people[met].sum())
        least.append(int(different.min()))
        rows.append(
            L_DIV.result(
                float(least[-1]), n=int(met.sum()), scope="column", key1=secret.name,
                note=f"{uniform:.1%} of matched training people fall into a group with one value",
            )
        )  # fmt: skip
    return [L_DIV.result(float(min(least)), n=int(met.sum()), note=f"{len(secrets)} secrets"), *rows]


@metric(DELTA, floor="ref_train")
def delta_presence(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of training people whose combination occurs, minus the share of others."""
    classes = _classes(ctx)
    if classes is None:
        return [DELTA.result(None, null=0.0, note="no column is known to the attacker")]
    means, variances = [], []
    for occurs, side in ((classes.train, ctx.sides.train), (classes.holdout, ctx.sides.holdout)):
        mean = float(occurs.mean())
        sums = np.bincount(side.clusters, weights=occurs - mean)
        means.append(mean)
        variances.append(float((sums**2).sum()) / len(occurs) ** 2)
    return [
        DELTA.result(
            means[0] - means[1], se=float(np.sqrt(sum(variances))), n=len(classes.holdout), null=0.0,
            note=f"{means[0]:.1%} of training people, {means[1]:.1%} of others",
        )
    ]  # fmt: skip


def _classes(ctx: EvaluationContext) -> Classes | None:
    """The combinations; None where no column is known."""

    def make() -> Classes | None:
        knowledge = known_to_attacker(ctx.sides)
        if not knowledge.columns:
            return None
        keys = ctx.sides.once(
            "disclosure/keys", lambda: [knowledge.groups(s) for s in (ctx.sides.train, ctx.sides.holdout)]
        )
        distinct, synthetic = np.unique(knowledge.groups(ctx.synthetic), return_inverse=True)
        train, holdout = (np.isin(k, distinct) for k in keys)
        place = np.searchsorted(distinct, keys[0][train])
        people = _people(place, ctx.sides.train.clusters[train], len(distinct))
        return Classes(synthetic, people, train, holdout)

    return ctx.once("disclosure/classes", make)


def _people(values: NDArray[np.integer], clusters: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) how many distinct people carry each value; values below 0 count for none."""
    known = values >= 0
    pairs = np.unique(np.stack([values[known].astype(np.int64), clusters[known]]), axis=1)
    return np.bincount(pairs[0], minlength=count)
