"""Dependence as published: divergences of pairs and scores of the papers, to the letter.

What a paper leaves open is settled in the docstring of its formula and said in its flaw; the papers here compare with
what they trained on, so the real rows are T. Distances of correlations are in `correlations.py`, SDMetrics' quality report
in `quality_report.py`, the sound versions in `pipeline.evaluation.fidelity.dependence`, `association` and `pairs`.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

    Matrix = NDArray[np.float64]

KL_BINS, KL_ADDED, KL_UNSEEN = 10, 1e-5, 1e-6
MOST_PAIRS = 2_000
NHSX = "NHSX SynthVAE report, table 2"
RLSYN = "RLSyn (Espinosa-Dice 2025), abstract"


def printed(paper: str, data: str, values: dict[str, float]) -> tuple[Published, ...]:
    """Figures of several systems that a paper prints for the same data."""
    return tuple(Published(paper, data, system, value) for system, value in values.items())


def literal_spec(
    name: str, title: str, caption: str, source: str, flaw: str, *, needs: str, upper: float = np.inf,
    higher: bool = False, published: tuple[Published, ...] = (), cost: str = "A", version: str = "1",
) -> MetricSpec:  # fmt: skip
    """A spec called "lit." + name; `needs` is the real part it is compared with."""
    return MetricSpec(
        id=f"lit.{name}", family="literal", direction=1 if higher else -1, range=(0.0, upper),
        needs=frozenset({needs, "S"}), version=version, title=title, caption=caption, source=source, flaw=flaw,
        published=published, cost="C" if cost == "C" else "A",
    )  # fmt: skip


CONT_KL = literal_spec(
    "sdv.cont_kl", "ContinuousKLDivergence (SDMetrics)",
    "1 / (1 + KL) of 10 x 10 histograms of pairs of numbers, mean over pairs. Higher is better, 1 is the same.",
    "SDMetrics ContinuousKLDivergence, as NHSX uses it",
    "Synthetic values outside the real range are dropped before the histogram is made, so that the worst ones are never "
    "seen; KL(synthetic || real) does not punish what is lost. NHSX describes it as if it were of single variables.",
    needs="T", upper=1.0, higher=True, version="2",
    published=printed(
        NHSX, "SUPPORT",
        {"Gaussian copula": 0.8987, "CTGAN": 0.8864, "CopulaGAN": 0.8998, "TVAE": 0.8254, "VAE": 0.8693,
         "Independent": 0.8444},
    ),
)  # fmt: skip
DISC_KL = literal_spec(
    "sdv.disc_kl", "DiscreteKLDivergence (SDMetrics)",
    "1 / (1 + KL) of the shares of pairs of levels, mean over pairs of discrete columns. Higher is better, 1 is the same.",
    "SDMetrics DiscreteKLDivergence, as NHSX uses it",
    "KL(synthetic || real) does not punish combinations that are lost; one made-up combination of a thousandth counts "
    "more than ten times the same share moved between known ones, because what is unseen is given a count of 1e-6.",
    needs="T", upper=1.0, higher=True, version="2",
    published=printed(
        NHSX, "SUPPORT",
        {"Gaussian copula": 0.7657, "CTGAN": 0.9250, "CopulaGAN": 0.9231, "TVAE": 0.8408, "VAE": 0.9817,
         "Independent": 0.9809},
    ),
)  # fmt: skip
RLSYN_NMI = literal_spec(
    "rlsyn.nmi", "NMI (RLSyn, unverified)",
    "Mean absolute difference of normalised mutual information of pairs of columns, training rows against synthetic. Lower "
    "is better.",
    "RLSyn abstract; no definition is available",
    "Unverified: neither bins, normalisation nor pairs are defined in what is available. Read here as the mean absolute "
    "difference over pairs, in T's deciles.",
    needs="T", upper=1.0,
    published=(
        *printed(RLSYN, "MIMIC-IV", {"RLSyn": 0.001, "EHRDiff": 0.003}),
        *printed(RLSYN, "AI-READI", {"RLSyn": 0.001, "EHRDiff": 0.002}),
    ),
)  # fmt: skip
RLSYN_DWD = literal_spec(
    "rlsyn.dwd", "DWD (RLSyn, unverified), per 1,000",
    "Mean over dimensions of the difference of prevalence or, of a number, the Wasserstein distance on [0, 1], times "
    "1,000; training rows against synthetic. Lower is better.",
    "RLSyn abstract; no definition is available",
    "Unverified: no definition is available. Read here as dimension-wise distance after Yan 2022, by some of the same "
    "authors; the means of their own result files (2.14 and 2.01) do not give the printed order.",
    needs="T", upper=float("inf"),
    published=(
        *printed(RLSYN, "MIMIC-IV", {"RLSyn": 2.07, "EHRDiff": 2.80}),
        *printed(RLSYN, "AI-READI", {"RLSyn": 13.35, "EHRDiff": 16.44}),
    ),
)  # fmt: skip


@metric(CONT_KL, floor="")
def sdv_cont_kl(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over pairs of numbers known on both rows' sides."""
    numbers = [c.name for c in ctx.sides.encoder.columns if c.numeric]
    values = []
    for a, b in drawn_pairs(ctx, numbers, "lit.sdv.cont_kl"):
        real, made = (np.stack([s.values[a], s.values[b]]) for s in (ctx.sides.train, ctx.synthetic))
        values.append(histogram_score(*(x[:, ~np.isnan(x).any(axis=0)] for x in (real, made))))
    known = [v for v in values if v is not None]
    if not known:
        return [CONT_KL.not_applicable("no two numeric columns with values")]
    return [CONT_KL.result(float(np.mean(known)), n=len(ctx.synthetic), null=1.0, note=capped(known))]


@metric(DISC_KL, floor="")
def sdv_disc_kl(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over pairs of discrete columns, missing left out."""
    discrete = [c.name for c in ctx.sides.encoder.columns if c.discrete]
    sizes = {c.name: len(c.levels or []) for c in ctx.sides.encoder.columns if c.discrete}
    values = []
    for a, b in drawn_pairs(ctx, discrete, "lit.sdv.disc_kl"):
        real, made = (_two_way(s.codes[a], s.codes[b], sizes[a], sizes[b]) for s in (ctx.sides.train, ctx.synthetic))
        if real.sum() and made.sum():
            values.append(levels_score(real, made))
    if not values:
        return [DISC_KL.not_applicable("no two discrete columns with values")]
    return [DISC_KL.result(float(np.mean(values)), n=len(ctx.synthetic), null=1.0, note=capped(values))]


@metric(RLSYN_NMI, floor="")
def rlsyn_nmi(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean absolute difference over the pairs of `fid.dep.nmi`, on all rows and against T."""
    from pipeline.evaluation.fidelity.pairs import binning_of, columns_of, mutual_information, tables_of

    binning = binning_of(ctx.sides)
    if not len(binning.pairs[0]):
        return [RLSYN_NMI.not_applicable("fewer than two columns that vary")]

    def shared(side: Side) -> NDArray[np.float64]:
        tables = tables_of(columns_of(ctx.sides, side), binning, [np.arange(len(side))])
        shapes = [(1, int(binning.sizes[i]), int(binning.sizes[j])) for i, j in zip(*binning.pairs, strict=True)]
        return np.array(
            [mutual_information(t.reshape(s) / len(side))[0][0] for t, s in zip(tables, shapes, strict=True)]
        )

    real = ctx.sides.once("lit.rlsyn.nmi", lambda: shared(ctx.sides.train))
    return [
        RLSYN_NMI.result(float(np.abs(real - shared(ctx.synthetic)).mean()), n=len(ctx.synthetic), note="unverified")
    ]


@metric(RLSYN_DWD, floor="")
def rlsyn_dwd(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over numbers, levels and codes."""
    from pipeline.evaluation.fidelity.marginal import wasserstein

    real, made = ctx.sides.train, ctx.synthetic
    found: list[float] = []
    for column in ctx.sides.encoder.columns:
        if column.numeric:
            a, b = real.values[column.name], made.values[column.name]
            if not np.isnan(a).all() and not np.isnan(b).all() and np.nanmax(a) > np.nanmin(a):
                found.append(wasserstein(a, b) / float(np.nanmax(a) - np.nanmin(a)))
        else:
            levels = np.arange(len(column.levels or []))[:, None]
            shares = [(x.codes[column.name][None, :] == levels).mean(axis=1) for x in (real, made)]
            found += np.abs(shares[0] - shares[1]).tolist()
    for name, presence in real.presence.items():
        shares = [np.asarray(x.mean(axis=0)).ravel() for x in (presence, made.presence[name])]
        found += np.abs(shares[0] - shares[1]).tolist()
    if not found:
        return [RLSYN_DWD.not_applicable("no column has values on both sides")]
    return [RLSYN_DWD.result(1_000 * float(np.mean(found)), n=len(made), null=0.0, note="unverified")]


def histogram_score(real: Matrix, made: Matrix) -> float | None:
    """1 / (1 + KL(made || real)) of 10 x 10 histograms of (2, n) numbers on the real range; None without any value.

    Values outside the real range are dropped, 1e-5 is added to every count, and both are scaled to 1.
    """
    if not real.shape[1] or not made.shape[1]:
        return None
    counts, rows, columns = np.histogram2d(real[0], real[1], bins=KL_BINS)
    other, _, _ = np.histogram2d(made[0], made[1], bins=(rows, columns))
    return _score(other + KL_ADDED, counts + KL_ADDED)


def levels_score(real: Matrix, made: Matrix) -> float:
    """1 / (1 + KL(made || real)) of two tables of counts; a real count of 1e-6 for what only the made rows have."""
    seen = (made > 0) | (real > 0)
    return _score(made[seen], np.where(real[seen] > 0, real[seen], KL_UNSEEN))


def _score(made: Matrix, real: Matrix) -> float:
    p, q = made / made.sum(), real / real.sum()
    has = p > 0
    return float(1 / (1 + np.sum(p[has] * np.log(p[has] / q[has]))))


def overlap(real: NDArray[np.float64], made: NDArray[np.float64]) -> float:
    """One minus the total variation distance of two arrays of counts of one shape."""
    return float(1 - np.abs(real / real.sum() - made / made.sum()).sum() / 2)


def _two_way(a: NDArray[np.int64], b: NDArray[np.int64], rows: int, columns: int) -> Matrix:
    """(rows, columns) counts of pairs of levels, missing and unknown ones left out."""
    known = (a >= 0) & (b >= 0)
    return (
        np.bincount(a[known] * columns + b[known], minlength=rows * columns).reshape(rows, columns).astype(np.float64)
    )


def drawn_pairs(ctx: EvaluationContext, names: list[str], metric_id: str) -> list[tuple[str, str]]:
    """All pairs of names, or `MOST_PAIRS` of them drawn once."""
    every = list(combinations(names, 2))
    return [every[k] for k in ctx.sides.sample(len(every), MOST_PAIRS, metric_id)]


def capped(values: list[float]) -> str:
    """What a figure over pairs says where not all of them were taken."""
    return f"of {MOST_PAIRS:,} pairs drawn at random" if len(values) == MOST_PAIRS else ""
