"""Distances, clusters and likelihoods of whole rows as the papers compute them, to the letter.

The sound versions are in `pipeline.evaluation.fidelity`: energy distance for the mean Gower distance, log-cluster U,
extrapolated Fréchet distance, likelihood gap. Detection is in `detection.py`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.clusters import restarts
from pipeline.evaluation.fidelity.components import principal, standardised
from pipeline.evaluation.fidelity.frechet import DIMENSIONS, frechet_distance
from pipeline.evaluation.literal.detection import as_read
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

REFITS = 3
MOST_COMPONENTS = 30
FEWEST = 50
REPRODUCTION = "ScoEHR reproduction (2024), MIMIC-III"
RUNS = {
    "autoencoder 64": -3.466517448425293,
    "autoencoder 144": -5.009627819061279,
    "autoencoder 256": -3.68813157081604,
    "no autoencoder": -3.2830593585968018,
    "12 epochs": -6.487917423248291,
    "25 epochs": -4.556731224060059,
    "30 epochs": -5.168017387390137,
    "50 epochs": -3.4607372283935547,
    "75 epochs": -3.354243040084839,
    "100 epochs": -3.966243267059326,
    "learning rate 0.00025": -5.999951362609863,
    "learning rate 0.0005": -3.6509108543395996,
    "learning rate 0.0025": -5.266237258911133,
    "learning rate 0.005 (diverged)": -29748.265625,
}
"""As the reproduction prints them; its own table rounds them."""


def _spec(
    name: str,
    direction: int,
    span: tuple[float, float],
    title: str,
    caption: str,
    source: str,
    flaw: str,
    published: tuple[Published, ...] = (),
) -> MetricSpec:
    return MetricSpec(
        id=f"lit.{name}",
        family="literal",
        direction=1 if direction > 0 else -1,
        range=span,
        needs=frozenset({"T", "S"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost="C",
        flaw=flaw,
        published=published,
    )


GOWER = _spec(
    "nhsx.gower", -1, (0.0, 1.0), "NHSX mean Gower distance",
    "Mean Gower distance over all pairs of a training and a synthetic row. Lower is called better.",
    "NHSX, figure 3; Gower 1971",
    "Minimised by collapse: everyone at the median scores lower than an exact copy. The `gower` package that was used also "
    "mirrors half of the matrix when both sides have equally many rows.",
)  # fmt: skip
U = _spec(
    "scoehr_repro.u", -1, (-np.inf, 0.0), "ScoEHR reproduction's log-cluster U",
    "ln(1/G) times the sum over 20 clusters of (real share - overall share)². Lower is called better, and is worse.",
    "ScoEHR reproduction",
    "Takes the logarithm of the constant 1/G instead of the mean, so better data score higher: the published ranking is "
    "upside down, and the diverged run's -29,748 is beyond what the formula can give.",
    tuple(Published(REPRODUCTION, "MIMIC-III", system, value) for system, value in RUNS.items())
    + tuple(
        Published("ScoEHR (Naseer 2023), by its own formula", "MIMIC-III", system, value)
        for system, value in {
            "medGAN": -2.9, "medBGAN": -3.2, "medWGAN": -5.4, "ScoEHR": -6.0, "ScoEHR, no autoencoder": -1.4,
        }.items()
    ),
)  # fmt: skip
LCA = _spec(
    "yan.lca", -1, (-np.inf, 0.0), "Yan's latent cluster analysis",
    "log2 of the mean over 3 clusters of (real share - 1/2)², on the components that hold 80 % of the variance. Lower is "
    "better; -2 is complete separation.",
    "Yan et al. 2022",
    "Real and synthetic rows are min-max scaled separately, which hides a shift of scale; three clusters are coarse, and the "
    "share is compared with 1/2 even when the sides differ in size.",
)  # fmt: skip
CONTEXT_FID = _spec(
    "btgan.context_fid", -1, (0.0, np.inf), "Bt-GAN context FID",
    "Fréchet distance as it falls out (not extrapolated) in our principal components. Lower is better.",
    "Bt-GAN, table 3",
    "Not comparable: the paper does not name its encoder, and the value of a Fréchet distance depends on it and on the "
    "number of rows (biased upwards by 1/n).",
    tuple(
        Published("Bt-GAN (2024), table 3", "MIMIC-III", system, value)
        for system, value in {"HealthGAN": 0.89, "FairGAN": 3.12, "Bt-GAN-": 0.89, "Bt-GAN": 0.81}.items()
    ),
)  # fmt: skip
GMLL = _spec(
    "sdv.gmll", 1, (-np.inf, np.inf), "SDV Gaussian mixture log-likelihood",
    "Mean log-likelihood of synthetic rows under a diagonal mixture (1 to 30 components by BIC, 3 refits) of the training "
    "rows' numeric columns. Higher is called better.",
    "SDV; NHSX, table 2",
    "Rewards collapse: halving every spread raises it, and in NHSX the generator that is easiest to detect wins. Depends "
    "on the units of the columns.",
    tuple(
        Published("NHSX (2022), table 2, mean of 10 runs", "SUPPORT", system, value)
        for system, value in {
            "Gaussian copula": -34.36, "CTGAN": -34.18, "CopulaGAN": -33.78, "TVAE": -30.91, "VAE": -36.42,
            "Independent": -33.94,
        }.items()
    ),
)  # fmt: skip


@metric(GOWER, floor="")
def nhsx_gower(ctx: EvaluationContext) -> list[MetricResult]:
    """All pairs, without making them: a Gower distance is a mean over columns."""
    value = mean_gower(ctx.sides.train, ctx.synthetic)
    if value is None:
        return [GOWER.result(None, note="no column has a value on both sides")]
    return [GOWER.result(value, n=min(len(ctx.sides.train), len(ctx.synthetic)))]


@metric(U, floor="")
def scoehr_repro_u(ctx: EvaluationContext) -> list[MetricResult]:
    """On the clusters of `fid.joint.log_cluster`, mean over restarts."""
    found = restarts(ctx)
    if isinstance(found, str):
        return [U.result(None, n=ctx.matched_size, note=found)]
    values = np.array([reproduced_u(c.real, c.total, 0.5) for c in found.restarts])
    error = float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else None
    return [U.result(float(values.mean()), se=error, n=ctx.matched_size)]


@metric(LCA, floor="")
def yan_lca(ctx: EvaluationContext) -> list[MetricResult]:
    """Three clusters of the pooled rows, each side scaled by itself."""
    real, made = (x[:, ~np.isnan(x).all(axis=0)] for x in (_read(ctx, "T"), _read(ctx, "S")))
    if real.shape[1] != made.shape[1] or not real.shape[1]:
        return [LCA.result(None, note="a column has no value on one side")]
    if min(len(real), len(made)) < FEWEST:
        return [LCA.result(None, note=f"fewer than {FEWEST} rows on one side")]
    value = latent_clusters(_complete(real), _complete(made), seed=int(ctx.rng(LCA.id).integers(2**31)))
    if value is None:
        return [LCA.result(None, note="every cluster is exactly even, or the rows do not differ")]
    return [LCA.result(value, n=min(len(real), len(made)))]


@metric(CONTEXT_FID, floor="")
def btgan_context_fid(ctx: EvaluationContext) -> list[MetricResult]:
    """Training against synthetic rows, all of them."""
    frame = principal(ctx.sides)
    if frame.axes.shape[1] < 2 or min(len(ctx.sides.train), len(ctx.synthetic)) < FEWEST:
        return [CONTEXT_FID.result(None, note=f"fewer than two components or {FEWEST} rows")]
    real, made = (frame.whitened(standardised(ctx, name), DIMENSIONS) for name in ("T", "S"))
    n = min(len(real), len(made))
    return [CONTEXT_FID.result(frechet_distance(real, made), n=n, note="not comparable with the published figures")]


@metric(GMLL, floor="")
def sdv_gmll(ctx: EvaluationContext) -> list[MetricResult]:
    """Numeric columns in their own units; missing cells at T's mean."""
    names = [c.name for c in ctx.sides.encoder.columns if c.numeric]
    kept = [n for n in names if ctx.sides.encoder.numeric[n].std > 0]
    if not kept or len(ctx.sides.train) < FEWEST:
        return [GMLL.result(None, note=f"no numeric column with spread, or fewer than {FEWEST} training rows")]
    models = ctx.sides.once("lit/gmll", lambda: _mixtures(ctx.sides, kept))
    rows = _numbers(ctx.synthetic, kept)[ctx.rows("S")]
    values = [float(m.score(rows)) for m in models]
    error = float(np.std(values, ddof=1)) / np.sqrt(REFITS)
    return [GMLL.result(float(np.mean(values)), se=error, n=len(rows), note=f"{models[0].n_components} components")]


def mean_gower(real: Side, made: Side) -> float | None:
    """Mean Gower distance over all pairs: the mean over columns of their mean difference (Gower 1971).

    Numbers: |x - y| over the range of both sides; levels and codes: 1 if they differ. A pair with a missing cell does
    not count for that column. None where no column can be compared.
    """
    found: list[float] = []
    for column in real.encoder.columns:
        if column.discrete:
            a, b = real.codes[column.name], made.codes[column.name]
            levels = len(column.levels or []) + 1
            shares = [np.bincount(np.where(c == -2, levels - 1, c)[c != -1], minlength=levels) for c in (a, b)]
            if shares[0].sum() and shares[1].sum():
                found.append(1 - float((shares[0] / shares[0].sum()) @ (shares[1] / shares[1].sum())))
            continue
        x, y = (s.values[column.name] for s in (real, made))
        x, y = x[~np.isnan(x)], y[~np.isnan(y)]
        if len(x) and len(y):
            low, high = min(x.min(), y.min()), max(x.max(), y.max())
            found.append(mean_difference(x, y) / float(high - low) if high > low else 0.0)
    for name, matrix in real.presence.items():
        p, q = (np.asarray(m.mean(axis=0), dtype=np.float64).ravel() for m in (matrix, made.presence[name]))
        found += (p * (1 - q) + q * (1 - p)).tolist()
    return float(np.mean(found)) if found else None


def mean_difference(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Mean of |x_i - y_j| over all pairs, by sorting."""
    ordered = np.sort(x)
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    below = np.searchsorted(ordered, y)
    total = y * below - sums[below] + (sums[-1] - sums[below]) - y * (len(x) - below)
    return float(np.mean(total) / len(x))


def reproduced_u(real: NDArray[np.integer], total: NDArray[np.integer], share: float) -> float:
    """ln(1/G) Σ_j (n_j real / n_j - c)²: the reproduction's formula; an empty cluster counts as even."""
    held = total > 0
    return float(np.log(1 / len(total)) * np.sum((real[held] / total[held] - share) ** 2))


def recovered_u(reported: float, clusters: int = 20) -> float:
    """The U that a figure of the reproduction stands for: ln(reported / (G ln(1/G)))."""
    return float(np.log(reported / (clusters * np.log(1 / clusters))))


def latent_clusters(real: NDArray[np.floating], made: NDArray[np.floating], *, seed: int) -> float | None:
    """log2 of the mean over three clusters of (real share - 1/2)²; None where that is 0 or all rows are the same."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    pooled = np.concatenate([_unit(real), _unit(made)])
    if not pooled.std(axis=0).any():
        return None
    places = PCA(0.8, svd_solver="full").fit_transform(pooled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        label = KMeans(3, n_init=4, random_state=seed).fit(places).labels_
    total = np.bincount(label, minlength=3)
    inside = np.bincount(label[: len(real)], minlength=3)
    held = total > 0
    uneven = float(np.mean((inside[held] / total[held] - 0.5) ** 2))
    return float(np.log2(uneven)) if uneven > 0 else None


def _unit(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    low, high = rows.min(axis=0), rows.max(axis=0)
    return (rows - low) / np.where(high > low, high - low, 1.0)


def _read(ctx: EvaluationContext, name: PartName) -> NDArray[np.float64]:
    return as_read(ctx.side(name), ctx.rows(name))


def _complete(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)


def _numbers(side: Side, names: list[str]) -> NDArray[np.float64]:
    means = {n: side.encoder.numeric[n].mean for n in names}
    return np.stack([np.where(np.isnan(side.values[n]), means[n], side.values[n]) for n in names], axis=1)


def _mixtures(sides: RealSides, names: list[str]) -> list[Any]:
    """Three refits of the mixture that BIC prefers, on at most the profile's rows of T."""
    from sklearn.mixture import GaussianMixture

    rows = _numbers(sides.train, names)[sides.sample(len(sides.train), sides.profile.rows, GMLL.id)]

    def fit(components: int, seed: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GaussianMixture(components, covariance_type="diag", random_state=seed).fit(rows)

    most = min(MOST_COMPONENTS, len(np.unique(rows, axis=0)))
    best = min(range(1, most + 1), key=lambda k: fit(k, 0).bic(rows))
    return [fit(best, 1 + r) for r in range(REFITS)]
