"""Principal components of the mixed table, fitted on the training rows: a frame that is the same for every cohort.

Columns are those of `LinearDesign` (numbers scaled, levels and masks as 0/1, the kept codes). Here are the scores of
rows on the components, which other metrics of joint fidelity stand on, and two metrics of their own: do the
synthetic rows spread along as many directions, and along the same ones? What is drawn of it is in `projections.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.two_sample import grouped_error
from pipeline.evaluation.linear_design import LinearDesign
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

FARTHEST = 8.0
"""Training standard deviations at which a cell is cut, on both sides: with the rare far-off values of a skewed laboratory
value left in, second moments (and third powers, in the kernel distance) of two real samples differ by several of their
standard errors, and a synthetic 1e300 would become an infinity in float32. Tails are judged column by column."""
FLAT = 1e-3
"""Components with less than this share of the mean variance are directions in which T has no spread."""
LEADING = 5
FEWEST = 50
"""Rows a side below which components are not compared."""
EIGEN = MetricSpec(
    id="fid.joint.pca_eigen_rmse",
    family="fidelity",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Spread along principal components (RMSE of eigenvalues)",
    caption="Root mean squared difference between the variances of holdout and synthetic rows along their own principal "
    "components, in units of the training columns' variances. Lower is better; two real samples differ by what the "
    "fresh real rows show.",
    source="eigenvalues of the covariance of columns scaled on T",
)
SUBSPACE = MetricSpec(
    id="fid.joint.pca_subspace",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Leading directions kept (mean cosine)",
    caption="Mean cosine of the principal angles between the five leading directions of the holdout and of the synthetic "
    "rows: 1 means the same directions, 0 none in common. Higher is better; read it against the fresh real rows.",
    source="Björck and Golub 1973, k=5",
)


@dataclass(frozen=True)
class Principal:
    """Principal components of T.

    Attributes:
        design: The columns.
        centre: (p,) mean of T.
        axes: (p, k) unit directions, those of most variance first; k < p where T has no spread in some.
        variance: (k,) variance of T along them.
        explained: (k,) share of T's variance.
    """

    design: LinearDesign
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    variance: NDArray[np.float64]
    explained: NDArray[np.float64]

    def scores(self, rows: NDArray[np.floating], components: int) -> NDArray[np.float32]:
        """(n, k) float32 places of standardised rows along the first components."""
        axes = self.axes[:, :components].astype(np.float32)
        return np.asarray(rows @ axes - (self.centre @ self.axes[:, :components]), dtype=np.float32)

    def whitened(self, rows: NDArray[np.floating], components: int) -> NDArray[np.float32]:
        """The same with variance 1 in T along every component."""
        return np.asarray(self.scores(rows, components) / np.sqrt(self.variance[:components]), dtype=np.float32)


def principal(sides: RealSides) -> Principal:
    """T's components, fitted once."""

    def fit() -> Principal:
        design = _design(sides)
        centre, covariance = moments(standardised_real(sides, "T"))
        variance, axes = np.linalg.eigh(covariance)
        variance, axes = variance[::-1], axes[:, ::-1]
        kept = variance > FLAT * max(float(variance.mean()), 1e-12) if len(variance) else np.zeros(0, dtype=bool)
        total = float(np.maximum(variance, 0.0).sum())
        return Principal(design, centre, axes[:, kept], variance[kept], variance[kept] / max(total, 1e-12))

    return sides.once("joint/principal", fit)


def standardised(ctx: EvaluationContext, name: PartName) -> NDArray[np.float32]:
    """(n, p) float32 columns of a side, scaled on T, cut at 8 standard deviations."""
    if name != "S":
        return standardised_real(ctx.sides, name)
    return ctx.once("joint/standardised/S", lambda: _scaled(ctx.sides, ctx.synthetic))


def standardised_real(sides: RealSides, name: PartName) -> NDArray[np.float32]:
    """The same of a real side."""
    return sides.once(f"joint/standardised/{name}", lambda: _scaled(sides, sides.side(name)))


def moments(rows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(p,) mean and (p, p) covariance (divided by n - 1) in float64, in blocks of rows; needs two rows."""
    n, p = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((p, p))
    for lo in range(0, n, 8_192):
        part = rows[lo : lo + 8_192] - mean
        covariance += part.T @ part
    return mean, covariance / max(n - 1, 1)


@metric(EIGEN)
def pca_eigen_rmse(ctx: EvaluationContext) -> list[MetricResult]:
    """Eigenvalues of both sides on the matched rows."""
    found = _compared(ctx)
    if isinstance(found, str):
        return [EIGEN.result(None, n=ctx.matched_size, note=found)]
    return [EIGEN.result(found.eigen, se=found.eigen_se, n=ctx.matched_size)]


@metric(SUBSPACE)
def pca_subspace(ctx: EvaluationContext) -> list[MetricResult]:
    """Cosines of the principal angles between the leading subspaces."""
    found = _compared(ctx)
    if isinstance(found, str):
        return [SUBSPACE.result(None, n=ctx.matched_size, note=found)]
    share = principal(ctx.sides).explained[:LEADING].sum()
    note = f"these directions hold {share:.0%} of the training rows' variance"
    return [SUBSPACE.result(found.cosine, se=found.cosine_se, n=ctx.matched_size, note=note)]


@dataclass(frozen=True)
class _Compared:
    eigen: float
    eigen_se: float
    cosine: float
    cosine_se: float


def _compared(ctx: EvaluationContext) -> _Compared | str:
    """Both figures, or why there are none; mean over the matched draws, error from the first."""

    def compare() -> _Compared | str:
        if ctx.matched_size < FEWEST:
            return TooFew(ctx.matched_size, FEWEST, "rows a side")
        real, made = standardised(ctx, "H"), standardised(ctx, "S")
        if real.shape[1] < 2:
            return "fewer than two columns with spread"
        values = np.array([spectra(real[d.real], made[d.synthetic]) for d in ctx.matched])
        first = ctx.matched[0]
        left, right = real[first.real], made[first.synthetic]
        errors = grouped_error(
            lambda a, b: np.array(spectra(left[a], right[b])),
            ctx.sides.holdout.clusters[first.real],
            ctx.synthetic.clusters[first.synthetic],
            ctx.rng("fid.joint.pca", "jackknife"),
        )
        mean = values.mean(axis=0)
        errors = np.broadcast_to(errors, (2,))
        return _Compared(float(mean[0]), float(errors[0]), float(mean[1]), float(errors[1]))

    return ctx.once("joint/pca", compare)


def spectra(real: NDArray[np.floating], made: NDArray[np.floating]) -> tuple[float, float]:
    """RMSE of the eigenvalues of two (n, p) samples, and the mean cosine of their five leading directions."""
    (wr, vr), (ws, vs) = (np.linalg.eigh(moments(x)[1]) for x in (real, made))
    k = min(LEADING, len(wr))
    cosines = np.linalg.svd(vr[:, -k:].T @ vs[:, -k:], compute_uv=False)
    return float(np.sqrt(np.mean((wr - ws) ** 2))), float(np.clip(cosines, 0.0, 1.0).mean())


def _design(sides: RealSides) -> LinearDesign:
    return sides.once("joint/design", lambda: LinearDesign(sides.train))


def _scaled(sides: RealSides, side: Side) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rows = _design(sides).transform(side)
    return np.clip(np.nan_to_num(rows, nan=0.0), -FARTHEST, FARTHEST)
