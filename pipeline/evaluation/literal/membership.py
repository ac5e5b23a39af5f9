"""Copies, distances and membership as published: ScoEHR, Alaa, Yan, PyHealth, RLSyn, syntheval.

Those of SDMetrics are in `closest_records.py`, the sound versions in `pipeline.evaluation.privacy`. Distances are Gower's
own unless a formula names another; code blocks enter by Jaccard distance, where their authors take every code as a
column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.distances import EuclidPoints
from pipeline.evaluation.intervals import clopper_pearson
from pipeline.evaluation.literal.closest_records import range_of
from pipeline.evaluation.neighbours import knn
from pipeline.evaluation.privacy.attacks import attack
from pipeline.evaluation.privacy.cosine import carries
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published
from pipeline.evaluation.row_hashes import content_hashes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import Cost, MetricResult

CELLS = 4_000_000
SCOEHR_DATA = "MIMIC-III counts, 46,520 x 1,071"
YAN_SHARE = 0.7
"""Share of training people among the targets of Yan's attack (their split is 70/30)."""
YAN_RADII = (5.0, 10.0, 20.0)
HIT = 1 / 30
NO_CODES = "the table has no code block"


def _spec(
    name: str, title: str, caption: str, source: str, flaw: str, *, direction: int, high: float = 1.0,
    published: tuple[Published, ...] = (), cost: Cost = "C", needs: str = "T S",
) -> MetricSpec:  # fmt: skip
    return MetricSpec(
        id=f"lit.{name}",
        family="literal",
        direction=1 if direction > 0 else -1 if direction < 0 else 0,
        range=(0.0, high),
        needs=frozenset(needs.split()),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost=cost,
        flaw=flaw,
        published=published,
    )


COSINE = _spec(
    "scoehr.cosine", "People not protected (ScoEHR)",
    "Share of training people with a synthetic row at a cosine similarity above 0.5. Lower is said to be better.",
    "ScoEHR (Naseer 2023), section 3, Privacy",
    "The cut-off means nothing: in a simulation 87 % of real people have a fresh real neighbour above it.",
    direction=-1, published=(Published("ScoEHR (Naseer 2023)", SCOEHR_DATA, "ScoEHR", 0.0),),
)  # fmt: skip
PAIRED = _spec(
    "scoehr_repro.cosine", "People not protected, paired (ScoEHR reproduction)",
    "Share of test people whose codes have a cosine above 0.5 with the synthetic row of the same number.",
    "ScoEHR reproduction, notebook section Privacy",
    "It pairs row i with row i, which are unrelated, and reads test rows instead of training rows: it says nothing about "
    "anybody who was trained on.",
    direction=-1, needs="H S",
    published=tuple(
        Published("ScoEHR reproduction, section 3, Privacy", SCOEHR_DATA, system, value)
        for system, value in (
            ("autoencoder 64", 0.0223), ("autoencoder 144", 0.0279), ("autoencoder 256", 0.0246), ("no autoencoder", 0.0179),
        )
    ),
)  # fmt: skip
AUTHENTICITY = _spec(
    "alaa.authenticity", "Authenticity (public code)",
    "Share of training rows t, with j the number of the synthetic row nearest to t, for which training row number j lies "
    "nearer to its neighbour than t to synthetic row j. Higher is said to be better.",
    "code released with Alaa et al. 2022, as published metrics use it",
    "It looks up real distances by synthetic row numbers, which have nothing to do with each other: a generator that "
    "repeats 100 training rows scores 0.91 where the formula of the paper gives 0. It needs as many synthetic as "
    "training rows, and higher is not better.",
    direction=1,
    published=tuple(
        Published("Bt-GAN (Ramachandranpillai 2024), table 3", "MIMIC-III", system, value)
        for system, value in (("HealthGAN", 0.91), ("FairGAN", 0.62), ("Bt-GAN-", 0.88), ("Bt-GAN", 0.92))
    ),
)  # fmt: skip
YAN = _spec(
    "yan.mia_f1", "Membership inference F1 (Yan)",
    "F1 of calling a person a member whose squared Euclidean distance to the nearest synthetic row is at most 5 (also 10 "
    "and 20), with 70 % members. Lower is said to be better.",
    "Yan et al. 2022, membership inference",
    "With 70 % members, calling everybody a member gives an F1 of 0.82; without the base rate it says nothing, and a "
    "radius in absolute units calls everybody a member in a narrow table.",
    direction=-1, needs="T H S",
)  # fmt: skip
PYHEALTH = _spec(
    "pyhealth.mia", "Membership inference at the median (PyHealth)",
    "Share of people sorted rightly when the half that is nearer to the synthetic rows is called members; 1/2 is guessing.",
    "PyHealth 2, generative metrics, membership inference",
    "The threshold is always the median, where an attacker is least sure: a few copied people do not show.",
    direction=-1, needs="T H S",
)  # fmt: skip
RLSYN = _spec(
    "rlsyn.mia_auc", "Membership inference AUC (RLSyn)",
    "AUC of telling training people from others by closeness to the nearest synthetic row. 1/2 is guessing.",
    "RLSyn (Espinosa-Dice 2025) prints an AUC without naming the attack",
    "An AUC is an average over everybody: with 2 % of the training rows copied it stays at 1/2. Printed without an "
    "interval, and one attack says nothing about others.",
    direction=-1, needs="T H S", cost="A",
    published=tuple(
        Published("RLSyn (Espinosa-Dice 2025)", data, system, value)
        for data, system, value in (
            ("MIMIC-IV", "RLSyn", 0.50), ("AI-READI", "RLSyn", 0.544), ("AI-READI", "diffusion", 0.601),
        )
    ),
)  # fmt: skip
HITTING = _spec(
    "syntheval.hitting_rate", "Hitting rate (syntheval)",
    "Share of training rows with a synthetic row that has the same levels and codes and no number farther away than a "
    "thirtieth of the range. Lower is said to be better.",
    "syntheval, hitting rate, threshold 1/30",
    "There is no control group: in a table of few levels fresh real people are hit as often.",
    direction=-1,
)  # fmt: skip


@metric(COSINE, floor="")
def cosine(ctx: EvaluationContext) -> list[MetricResult]:
    """Nearest synthetic row of each training person; somebody without a code is not met."""
    if not ctx.synthetic.counts:
        return [COSINE.not_applicable(NO_CODES)]
    rows = ctx.rows("T")
    met = (1.0 - ctx.near("T", "S", k=1, distance="cosine").distance[:, 0] > 0.5) & carries(ctx.side("T"), rows)
    return [_share(COSINE, int(met.sum()), len(met))]


@metric(PAIRED, floor="")
def cosine_paired(ctx: EvaluationContext) -> list[MetricResult]:
    """Row i of H against row i of S, as far as both go."""
    if not ctx.synthetic.counts:
        return [PAIRED.not_applicable(NO_CODES)]
    n = min(len(ctx.side("H")), len(ctx.synthetic))
    left, right = (side.count_rows.unit[:n] for side in (ctx.side("H"), ctx.synthetic))
    similar = np.asarray(left.multiply(right).sum(axis=1)).ravel()
    return [_share(PAIRED, int((similar > 0.5).sum()), n)]


@metric(AUTHENTICITY, floor="")
def authenticity(ctx: EvaluationContext) -> list[MetricResult]:
    """The mix-up of indices as in the public code; rows are numbered in canonical order."""
    n, m = len(ctx.side("T")), len(ctx.synthetic)
    if n != m:
        return [
            AUTHENTICITY.result(None, n=m, note=f"{m:,} synthetic rows, the code needs {n:,}: as many as training rows")
        ]
    if n < 2 or len(ctx.rows("T", "reference")) < n:
        return [AUTHENTICITY.result(None, n=m, note="not all training rows are compared in this profile")]
    among = ctx.near("T", "T", of="reference", k=1).distance[:, 0]
    found = ctx.near("T", "S", k=1)
    value = index_mixed_authenticity(among, found.distance[:, 0], found.index[:, 0])
    return [_share(AUTHENTICITY, round(value * len(found.distance)), len(found.distance))]


@metric(YAN, floor="")
def mia_f1(ctx: EvaluationContext) -> list[MetricResult]:
    """Scaled columns and presence of codes, squared Euclidean distance, three radii."""
    reference = _euclidean(ctx.synthetic, ctx.rows("S", "reference"))
    nearest = [
        knn(_euclidean(ctx.side(name), ctx.rows(name)), reference, 1, device=ctx.plan.device).distance[:, 0] ** 2
        for name in ("T", "H")
    ]
    rng = ctx.rng("lit.yan.mia_f1")
    rows = []
    for radius in YAN_RADII:
        rates = [float((d <= radius + 1e-6).mean()) for d in nearest]
        drawn = [
            rng.binomial(len(d), rate, ctx.sides.profile.draws) / len(d) for d, rate in zip(nearest, rates, strict=True)
        ]
        ends = np.quantile([f1_of(*pair) for pair in zip(*drawn, strict=True)], [0.025, 0.975])
        key = "" if radius == YAN_RADII[0] else f"radius {radius:g}"
        rows.append(
            YAN.result(
                f1_of(*rates),
                interval=(float(ends[0]), float(ends[1])),
                n=len(nearest[1]),
                null=f1_of(1.0, 1.0),
                key1=key,
            )
        )
    return rows


@metric(PYHEALTH, floor="")
def mia_median(ctx: EvaluationContext) -> list[MetricResult]:
    """Targets in equal parts; a distance of exactly the median counts as near."""
    near = [ctx.near(name, "S", k=1, distance="gower1").distance[:, 0] for name in ("T", "H")]
    threshold = np.median(np.concatenate(near))
    right = int((near[0] <= threshold).sum() + (near[1] > threshold).sum())
    return [_share(PYHEALTH, right, len(near[0]) + len(near[1]), null=0.5)]


@metric(RLSYN, floor="")
def rlsyn_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """The nearest-row attack."""
    found = attack(ctx)
    area = found.aucs["nn"]
    return [RLSYN.result(area.value, se=area.se, n=found.people[1], null=0.5)]


@metric(HITTING, floor="")
def hitting_rate(ctx: EvaluationContext) -> list[MetricResult]:
    """Training rows that a synthetic row hits."""
    hit = hits(ctx.side("T"), ctx.rows("T"), ctx.synthetic, ctx.rows("S", "reference"))
    return [_share(HITTING, int(hit.sum()), len(hit))]


def index_mixed_authenticity(
    spacing: NDArray[np.float64], distance: NDArray[np.float64], nearest: NDArray[np.int64]
) -> float:
    """mean(spacing[nearest] < distance).

    Args:
        spacing: (n,) distance of each training row to its nearest other training row.
        distance: (q,) distance of training rows to their nearest synthetic row.
        nearest: (q,) numbers of these synthetic rows, below n.
    """
    return float((spacing[nearest] < distance).mean())


def f1_of(true_rate: float, false_rate: float, share: float = YAN_SHARE) -> float:
    """F1 where this share of the targets are members; 0 where nobody is called one."""
    called = share * true_rate + (1 - share) * false_rate
    return 2 * share * true_rate / (share + called) if called else 0.0


def hits(real: Side, rows: NDArray[np.int64], synthetic: Side, pool: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(rows,) whether any row of the pool has the same levels, codes and gaps, and numbers within 1/30 of T's range."""
    kind, other = _kind(real, rows), _kind(synthetic, pool)
    order = np.argsort(other, kind="stable")
    start, end = (np.searchsorted(other[order], kind, side=side) for side in ("left", "right"))
    found = np.zeros(len(rows), dtype=bool)
    # Rows of one kind are few unless the table has few levels: so many rows at a time that the pairs fit.
    for some in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(np.cumsum(end - start) // CELLS)) + 1):
        sizes = (end - start)[some]
        left = np.repeat(some, sizes)
        right = order[np.arange(len(left)) + np.repeat(start[some] - np.cumsum(sizes) + sizes, sizes)]
        for column in real.encoder.columns:
            if column.numeric:
                low, high = range_of(real.values[column.name])
                x, y = real.values[column.name][rows[left]], synthetic.values[column.name][pool[right]]
                near = (np.abs(x - y) <= HIT * (high - low)) | np.isnan(x)
                left, right = left[near], right[near]
        found[left] = True
    return found


def _kind(side: Side, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(rows,) equal for rows of the same levels, codes and gaps."""
    columns = [
        side.codes[c.name][rows] if c.discrete else np.isnan(side.values[c.name][rows]) for c in side.encoder.columns
    ]
    levels = np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(rows), 0), dtype=np.float32)
    return content_hashes(levels, [matrix[rows] for matrix in side.presence.values()])


def _share(spec: MetricSpec, count: int, n: int, *, null: float | None = None) -> MetricResult:
    low, high = clopper_pearson(count, n)
    return spec.result(count / n, se=(high - low) / (2 * 1.959964), interval=(low, high), n=n, null=null)


def _euclidean(side: Side, rows: NDArray[np.int64]) -> EuclidPoints:
    """Scaled numbers, levels and codes side by side: squared distance = squares + differing levels + differing codes."""
    return EuclidPoints(side.points.dense[rows], 1, tuple(matrix[rows] for matrix in side.presence.values()))
