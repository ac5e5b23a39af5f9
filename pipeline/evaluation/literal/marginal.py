"""Marginal fidelity as published: divergences, p-values and prevalence distances of the papers, to the letter.

What a paper leaves open (bins, logarithm, which real rows) is settled in the docstring of its formula and said in its
flaw. Papers that compare with what they trained on are given T, the others H. The sound versions are in
`pipeline.evaluation.fidelity.marginal` and `codes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.rules import as_ordered
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

    Shares = NDArray[np.float64]

WIDE_BINS, SYNTHCITY_BINS, MCA_BINS = 20, 10, 20
UNSEEN_SHARE = 1e-6
NO_BLOCK = "the table has no code block"
VAE_PAPER = "VAE framework for Synthea, table 1 and figure 5"
BTGAN_PAPER = "Bt-GAN (Ramachandranpillai 2024), table 3"
NHSX_PAPER = "NHSX SynthVAE report, tables 2 and 5"
SCOEHR_PAPER = "ScoEHR (Naseer 2023)"
REPRODUCTION = "ScoEHR reproduction (Team 97)"


def _spec(
    name: str, title: str, caption: str, source: str, flaw: str, *, needs: str,
    published: tuple[Published, ...] = (), upper: float = np.inf, higher: bool = False,
) -> MetricSpec:  # fmt: skip
    return MetricSpec(
        id=f"lit.{name}",
        family="literal",
        direction=1 if higher else -1,
        range=(0.0, upper),
        needs=frozenset({needs, "S"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        flaw=flaw,
        published=published,
    )


def _printed(paper: str, data: str, values: dict[str, float]) -> tuple[Published, ...]:
    return tuple(Published(paper, data, system, value) for system, value in values.items())


VAE_JSD = _spec(
    "vae.jsd", "Jensen-Shannon divergence (VAE framework)",
    "Mean over columns, bits, training rows against synthetic. Lower is better, 0 is the same; two real samples lie near 0.",
    "VAE framework for Synthea, metrics section",
    "Not reproducible: the paper states neither bins nor whether a root is taken, and prints 0.098 for the configuration "
    "whose single features it gives as 0.24 to 0.53. Hyper-parameters were chosen on the same data. Here: 20 bins of "
    "equal width, no root.",
    needs="T", upper=1.0,
    published=_printed(
        VAE_PAPER, "Synthea",
        {"experiment 1": 0.120, "experiment 2 (chosen)": 0.098, "experiment 3": 0.095, "experiment 4": 0.090,
         "feature 1": 0.24, "feature 5": 0.52, "feature 6": 0.53, "feature 7": 0.45},
    ),
)  # fmt: skip
BTGAN_JSD = _spec(
    "btgan.jsd", "Jensen-Shannon divergence (Bt-GAN)",
    "Mean over columns, nats, training rows against synthetic. Lower is better, 0 is the same; two real samples lie near 0.",
    "Bt-GAN appendix, after Menendez 1997",
    "Unspecified: neither bins nor logarithm are given, and the differences between systems (0.030 to 0.032) are a "
    "tenth of their printed spread. Here: 20 bins of equal width, natural logarithm.",
    needs="T", upper=float(np.log(2)),
    published=_printed(
        BTGAN_PAPER, "MIMIC-III", {"HealthGAN": 0.032, "FairGAN": 0.074, "Bt-GAN-": 0.030, "Bt-GAN": 0.031}
    ),
)  # fmt: skip
SYNTHCITY_JSD = _spec(
    "synthcity.jsd", "Jensen-Shannon distance (synthcity)",
    "Root of the divergence in nats, after 1 is added to every share; mean over columns. Lower is better, 0 is the same.",
    "synthcity, jensenshannon_dist",
    "One is added to shares (not to counts) before they are compared, so that everything looks alike: two columns without "
    "a value in common score 0.12 where the distance is 0.83.",
    needs="H", upper=float(np.sqrt(np.log(2))),
)  # fmt: skip
CSTEST = _spec(
    "sdv.cstest", "CSTest (SDMetrics)",
    "p-value of a chi-squared goodness of fit, mean over discrete columns. Higher is said to be better; real rows give "
    "nearly 1, and so does almost everything else.",
    "SDMetrics CSTest, as NHSX uses it",
    "The test is fed with shares in place of counts, as if there were one row, so that it has no power: 0.50 against 0.40 "
    "gives p = 0.8 at any number of rows, where 8,873 rows make it 2e-52. A p-value is no measure of fit either.",
    needs="T", upper=1.0, higher=True,
    published=_printed(
        NHSX_PAPER, "SUPPORT",
        {"Gaussian copula": 0.9407, "CTGAN": 0.8996, "CopulaGAN": 0.9005, "TVAE": 0.8915, "VAE": 0.9883,
         "Independent": 0.9962, "VAE, epsilon 1": 0.7845, "VAE, epsilon 5": 0.8333, "VAE, no DP": 0.9851},
    ),
)  # fmt: skip
AWD = _spec(
    "yan.awd", "Average Wasserstein distance (Yan)",
    "W1 of each number scaled by the training rows' smallest and largest value, mean over columns. Lower is better.",
    "Yan 2022, absolute Wasserstein distance",
    "Scaled by the two extremes of the training rows, so that one wild value makes every other difference vanish.",
    needs="T",
)  # fmt: skip
YAN_APD = _spec(
    "yan.apd", "Absolute prevalence difference (Yan), per 1,000",
    "Mean absolute difference of the codes' prevalence, training rows against synthetic. Lower is better.",
    "Yan 2022, absolute prevalence difference",
    "Synthetic counts are divided by the number of training rows: a cohort of half the size looks half as ill.",
    needs="T",
)  # fmt: skip
YAN_MCA = _spec(
    "yan.mca", "Medical concept abundance (Yan)",
    "Half the summed differences of a 20-bin histogram of distinct codes a record. Lower is better, 0 is the same.",
    "Yan 2022, medical concept abundance",
    "Synthetic records are put into bins by whole division, forgetting where the histogram begins, and both sides are "
    "divided by the training rows: bins shift wherever nobody has 0 codes, and cohorts of other sizes look different.",
    needs="T",
)  # fmt: skip
DDM = _spec(
    "scoehr.ddm", "Dimensional distribution metric (ScoEHR)",
    "Mean over binary and count columns and codes of the absolute difference of column means. Lower is better.",
    "ScoEHR (Naseer 2023), DWM + DEM over the number of columns",
    "Means on the raw scale: a mean over hundreds of rare codes is near 0 whatever the generator does.",
    needs="H",
    published=_printed(
        SCOEHR_PAPER, "MIMIC-III",
        {"medGAN": 0.0019, "medBGAN": 0.0016, "medWGAN": 0.0025, "ScoEHR": 0.0029, "ScoEHR, no autoencoder": 5.0},
    ),
)  # fmt: skip
DDM_REPRODUCTION = _spec(
    "scoehr_repro.ddm", "Dimensional distribution metric (ScoEHR reproduction)",
    "Absolute differences of row i and row i, averaged over rows, summed over codes, divided by the number of rows. Lower "
    "is said to be better.",
    "ScoEHR reproduction, notebook section 1.1",
    "Rows that have nothing to do with one another are paired, and the sum is divided by rows in place of columns. It "
    "rewards emptiness: a cohort without any code scores better than fresh real patients.",
    needs="H",
    published=_printed(
        REPRODUCTION, "MIMIC-III",
        {"64 features": 0.0023, "144 features": 0.0021, "256 features": 0.0021, "no autoencoder": 0.0025,
         "learning rate 0.00025": 0.0019, "learning rate 0.0005": 0.0022, "learning rate 0.005 (diverged)": 5.4636},
    ),
)  # fmt: skip


@metric(VAE_JSD, floor="")
def vae_jsd(ctx: EvaluationContext) -> list[MetricResult]:
    """Base 2, 20 bins of equal width on T's range, levels as they are."""
    return [_over_columns(ctx, VAE_JSD, lambda p, q: divergence(p, q) / float(np.log(2)))]


@metric(BTGAN_JSD, floor="")
def btgan_jsd(ctx: EvaluationContext) -> list[MetricResult]:
    """Natural logarithm, 20 bins of equal width on T's range, levels as they are."""
    return [_over_columns(ctx, BTGAN_JSD, divergence)]


@metric(SYNTHCITY_JSD, floor="")
def synthcity_jsd(ctx: EvaluationContext) -> list[MetricResult]:
    """10 bins of equal width on H's range, values outside left out."""
    values = [
        synthcity_distance(p, q)
        for p, q in _histograms(ctx.sides.holdout, ctx.synthetic, SYNTHCITY_BINS, inside_only=True)
    ]
    if not values:
        return [SYNTHCITY_JSD.not_applicable("the table has no column with values")]
    return [SYNTHCITY_JSD.result(float(np.mean(values)), n=len(ctx.synthetic), null=0.0)]


@metric(CSTEST, floor="")
def cstest(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean p-value over the discrete columns, missing left out."""
    values = []
    for column in ctx.sides.encoder.columns:
        if not column.discrete:
            continue
        size = len(column.levels or [])
        real, made = (_shares(s.codes[column.name], size) for s in (ctx.sides.train, ctx.synthetic))
        if real.sum() > 0 and made.sum() > 0:
            values.append(shares_p_value(real, made))
    if not values:
        return [CSTEST.not_applicable("no discrete column has values on both sides")]
    return [CSTEST.result(float(np.mean(values)), n=len(ctx.synthetic), null=1.0)]


@metric(AWD, floor="")
def awd(ctx: EvaluationContext) -> list[MetricResult]:
    """W1 after scaling by T's smallest and largest value."""
    from pipeline.evaluation.fidelity.marginal import wasserstein

    values = []
    for column in ctx.sides.encoder.columns:
        if not column.numeric:
            continue
        real, made = ctx.sides.train.values[column.name], ctx.synthetic.values[column.name]
        if np.isnan(real).all() or np.isnan(made).all() or np.nanmax(real) <= np.nanmin(real):
            continue
        values.append(wasserstein(real, made) / float(np.nanmax(real) - np.nanmin(real)))
    if not values:
        return [AWD.not_applicable("no numeric column has values on both sides")]
    return [AWD.result(float(np.mean(values)), n=len(ctx.synthetic))]


@metric(YAN_APD, floor="")
def yan_apd(ctx: EvaluationContext) -> list[MetricResult]:
    """Over the codes of all blocks."""
    sums = [(_carriers(ctx.sides.train, b.name), _carriers(ctx.synthetic, b.name)) for b in ctx.sides.encoder.blocks]
    if not sums:
        return [YAN_APD.not_applicable(NO_BLOCK)]
    real, made = (np.concatenate(x) for x in zip(*sums, strict=True))
    value = 1000 * np.abs(real - made).mean() / len(ctx.sides.train)
    return [YAN_APD.result(float(value), n=len(ctx.synthetic))]


@metric(YAN_MCA, floor="")
def yan_mca(ctx: EvaluationContext) -> list[MetricResult]:
    """Distinct codes of all blocks together."""
    if not ctx.sides.encoder.blocks:
        return [YAN_MCA.not_applicable(NO_BLOCK)]
    real, made = (
        np.sum([np.diff(side.presence[b.name].indptr) for b in ctx.sides.encoder.blocks], axis=0)
        for side in (ctx.sides.train, ctx.synthetic)
    )
    return [YAN_MCA.result(abundance_by_division(real, made), n=len(ctx.synthetic))]


@metric(DDM, floor="")
def ddm(ctx: EvaluationContext) -> list[MetricResult]:
    """Over codes, binary columns (as 0 and 1) and counts."""
    real, made = (_means(side) for side in (ctx.sides.holdout, ctx.synthetic))
    if not len(real):
        return [DDM.not_applicable("the table has no code block, binary or count column")]
    return [DDM.result(float(np.abs(real - made).mean()), n=len(ctx.synthetic))]


@metric(DDM_REPRODUCTION, floor="")
def ddm_reproduction(ctx: EvaluationContext) -> list[MetricResult]:
    """Cells of all blocks; as many rows a side as the smaller one has, paired at random (any order is as arbitrary)."""
    from scipy.sparse import hstack

    names = [b.name for b in ctx.sides.encoder.blocks]
    if not names:
        return [DDM_REPRODUCTION.not_applicable(NO_BLOCK)]
    size = min(len(ctx.sides.holdout), len(ctx.synthetic))
    rng = ctx.rng("lit.scoehr_repro.ddm")
    pair = [rng.permutation(len(side))[:size] for side in (ctx.sides.holdout, ctx.synthetic)]
    real, made = (
        hstack([side.counts[name] for name in names], format="csr")[rows]
        for side, rows in zip((ctx.sides.holdout, ctx.synthetic), pair, strict=True)
    )
    return [DDM_REPRODUCTION.result(float(abs(real - made).sum()) / size / size, n=size)]


def divergence(p: Shares, q: Shares) -> float:
    """Jensen-Shannon divergence of two arrays of shares in nats."""
    middle = (p + q) / 2
    both = [np.sum(x[x > 0] * np.log(x[x > 0] / middle[x > 0])) for x in (p, q)]
    return max(0.0, float(sum(both)) / 2)


def synthcity_distance(p: Shares, q: Shares) -> float:
    """Root of the divergence after 1 has been added to every share."""
    p, q = p + 1, q + 1
    return float(np.sqrt(divergence(p / p.sum(), q / q.sum())))


def shares_p_value(real: Shares, made: Shares) -> float:
    """Chi-squared goodness of fit of the synthetic shares to the real ones, as if shares were counts."""
    from scipy.stats import chi2

    seen = (real > 0) | (made > 0)
    expected = np.where(real[seen] > 0, real[seen], UNSEEN_SHARE)
    if len(expected) < 2:
        return 1.0
    return float(chi2.sf(((made[seen] - expected) ** 2 / expected).sum(), len(expected) - 1))


def abundance_by_division(real: NDArray[np.integer], made: NDArray[np.integer]) -> float:
    """Half the summed differences; real records by the histogram's edges, synthetic ones by whole division."""
    counts, edges = np.histogram(real, bins=MCA_BINS)
    width = max(float(edges[1] - edges[0]), 1e-12)
    number = np.clip((np.asarray(made, dtype=np.float64) / width).astype(np.int64), 0, MCA_BINS - 1)
    return float(np.abs(counts - np.bincount(number, minlength=MCA_BINS)).sum() / (2 * max(len(real), 1)))


def _over_columns(ctx: EvaluationContext, spec: MetricSpec, figure: Callable[[Shares, Shares], float]) -> MetricResult:
    values = [figure(p, q) for p, q in _histograms(ctx.sides.train, ctx.synthetic, WIDE_BINS, inside_only=False)]
    for block in ctx.sides.encoder.blocks:
        p, q = (_carriers(s, block.name) / max(len(s), 1) for s in (ctx.sides.train, ctx.synthetic))
        values += [figure(np.array([a, 1 - a]), np.array([b, 1 - b])) for a, b in zip(p, q, strict=True)]
    if not values:
        return spec.not_applicable("the table has no column with values")
    return spec.result(float(np.mean(values)), n=len(ctx.synthetic), null=0.0)


def _histograms(real: Side, made: Side, bins: int, *, inside_only: bool) -> list[tuple[Shares, Shares]]:
    """Shares of the levels, or of bins of equal width on the real range, of every column with real values.

    What lies outside the real range is left out (`inside_only`) or counted in the end bins.
    """
    found: list[tuple[Shares, Shares]] = []
    p: Shares
    q: Shares
    for column in real.encoder.columns:
        if column.discrete:
            size = len(column.levels or [])
            p, q = (_shares(side.codes[column.name], size) for side in (real, made))
        else:
            a, b = (side.values[column.name] for side in (real, made))
            a, b = a[~np.isnan(a)], b[~np.isnan(b)]
            if not len(a):
                continue
            edges = np.linspace(a.min(), a.max() if a.max() > a.min() else a.min() + 1.0, bins + 1)
            b = b if inside_only else np.clip(b, edges[0], edges[-1])
            p, q = (_of_all(np.histogram(x, edges)[0]) for x in (a, b))
        if p.sum() > 0:
            found.append((p, q))
    return found


def _shares(codes: NDArray[np.int64], size: int) -> Shares:
    return _of_all(np.bincount(codes[codes >= 0], minlength=size))


def _of_all(counts: NDArray[np.integer]) -> Shares:
    return counts / max(int(counts.sum()), 1)


def _carriers(side: Side, block: str) -> NDArray[np.float64]:
    return np.asarray(side.presence[block].sum(axis=0), dtype=np.float64).ravel()


def _means(side: Side) -> NDArray[np.float64]:
    """Means of all codes' cells, of binary columns as 0 and 1, and of counts; 0 where nothing is known."""
    parts = [np.asarray(side.counts[b.name].mean(axis=0), dtype=np.float64).ravel() for b in side.encoder.blocks]
    for column in side.encoder.columns:
        if column.kind not in ("binary", "count"):
            continue
        known: NDArray[np.float64] = as_ordered(side, column.name)
        known = known[~np.isnan(known)]
        parts.append(np.array([known.mean() if len(known) else 0.0]))
    return np.concatenate(parts) if parts else np.array([])
