"""Fréchet and kernel distance in a frozen embedding: our "FID", with its bias in the number of rows taken out.

The embedding is either T's 32 leading principal components, whitened on T (`components.py`), or the bottleneck of an
autoencoder that is trained on T (`autoencoder.py`), whitened likewise. The Fréchet distance is extrapolated to
infinitely many rows; the kernel distance is unbiased as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.components import moments, principal, standardised
from pipeline.evaluation.fidelity.two_sample import PAIR_ROWS, Matrices, discrepancy, grouped_error, small_draws
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.results import MetricResult

DIMENSIONS = 32
ROWS_A_DIMENSION = 20
LEAST = 4 * ROWS_A_DIMENSION
PARTS = 5
"""Sizes that the extrapolation looks at: n, n/2, ... n/5."""


def _spec(name: str, title: str, caption: str, source: str, cost: str = "B") -> MetricSpec:
    return MetricSpec(
        id=f"fid.joint.{name}",
        family="fidelity",
        direction=-1,
        range=(-np.inf, np.inf),
        needs=frozenset({"T", "H", "S"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost="C" if cost == "C" else "B",
    )


FRECHET = _spec(
    "frechet", "Fréchet distance (principal components)",
    "Distance between the means and covariances of holdout and synthetic rows in a frame fixed by the training rows, "
    "extrapolated to infinitely many rows. Lower is better; the null is 0, and slightly below is noise.",
    "Heusel et al. 2017; extrapolation of Chong and Forsyth 2020; 32 whitened components of T",
)  # fmt: skip
FRECHET_AE = _spec(
    "frechet_ae", "Fréchet distance (autoencoder)",
    "The same in the bottleneck of an autoencoder trained on the training rows: it also sees what is not linear. Lower "
    "is better; the null is 0.",
    "autoencoder 256-64-32 fitted on T, fixed seed", "C",
)  # fmt: skip
KID = _spec(
    "kid", "Kernel distance (principal components)",
    "Squared discrepancy under a cubic kernel in the same frame as the Fréchet distance: unbiased, so that any number of "
    "rows can be compared. Lower is better; the null is 0, and slightly below is noise.",
    "Bińkowski et al. 2018, (x·y/d + 1)³, unbiased",
)  # fmt: skip


@metric(FRECHET)
def frechet(ctx: EvaluationContext) -> list[MetricResult]:
    """In T's principal components."""
    return [_extrapolated(ctx, FRECHET, _embedded(ctx, "H"), _embedded(ctx, "S"))]


@metric(FRECHET_AE)
def frechet_ae(ctx: EvaluationContext) -> list[MetricResult]:
    """In the bottleneck of an autoencoder."""
    from pipeline.evaluation.fidelity.autoencoder import Encoder, encoder

    reason = _too_small(ctx.matched_size, principal(ctx.sides).axes.shape[1], needed=LEAST)
    if reason:
        return [FRECHET_AE.result(None, n=ctx.matched_size, null=0.0, note=reason)]
    made: Encoder = encoder(ctx.sides)
    real = ctx.sides.once("joint/autoencoded/H", lambda: made.encode(standardised(ctx, "H")))
    return [_extrapolated(ctx, FRECHET_AE, real, made.encode(standardised(ctx, "S")))]


@metric(KID)
def kid(ctx: EvaluationContext) -> list[MetricResult]:
    """Cubic kernel in T's principal components, mean over the matched draws."""
    size = min(ctx.matched_size, PAIR_ROWS)
    real, made = _embedded(ctx, "H"), _embedded(ctx, "S")
    reason = _too_small(size, real.shape[1], needed=20)
    if reason:
        return [KID.result(None, n=size, null=0.0, note=reason)]
    found = []
    for left, right in small_draws(ctx):
        x, y = real[left].astype(np.float64), made[right].astype(np.float64)
        kernel = Matrices(*(_cubic(a, b) for a, b in ((x, x), (y, y), (x, y))))
        found.append(discrepancy(kernel, ctx.sides.holdout.clusters[left], ctx.synthetic.clusters[right]))
    return [KID.result(float(np.mean([f.value for f in found])), se=found[0].se, n=size, null=0.0)]


def frechet_distance(real: NDArray[np.floating], made: NDArray[np.floating]) -> float:
    """Squared Fréchet distance of the Gaussians with the moments of two (n, k) samples; biased upwards by O(1/n).

    ‖μ - ν‖² + tr(Σ + Ω - 2 (Σ^½ Ω Σ^½)^½), roots by symmetric eigendecomposition (Dowson and Landau 1982).
    """
    (a, left), (b, right) = moments(real), moments(made)
    values, vectors = np.linalg.eigh(left)
    half = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = np.linalg.eigvalsh(half @ right @ half)
    shared = float(np.sqrt(np.maximum(middle, 0.0)).sum())
    return float(((a - b) ** 2).sum() + np.trace(left) + np.trace(right) - 2 * shared)


def extrapolated(real: NDArray[np.floating], made: NDArray[np.floating], rng: np.random.Generator) -> float:
    """The Fréchet distance at infinitely many rows: intercept of a line in 1/n through five sizes.

    At size n/j the mean over j disjoint parts is taken, so that every size rests on all rows: against drawing subsets
    (Chong and Forsyth 2020) this halves the noise of the intercept.
    """
    n = min(len(real), len(made))
    left, right = real[rng.permutation(len(real))[:n]], made[rng.permutation(len(made))[:n]]
    inverse, values = [], []
    for parts in range(1, PARTS + 1):
        size = n // parts
        cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
        values.append(np.mean([frechet_distance(left[c], right[c]) for c in cuts]))
        inverse.append(1 / size)
    return float(np.polyfit(inverse, values, 1)[1])


def _extrapolated(
    ctx: EvaluationContext, spec: MetricSpec, real: NDArray[np.float32], made: NDArray[np.float32]
) -> MetricResult:
    """Mean over the matched draws; as many dimensions as the rows allow (20 rows a dimension)."""
    size = ctx.matched_size
    reason = _too_small(size, real.shape[1], needed=LEAST)
    if reason:
        return spec.result(None, n=size, null=0.0, note=reason)
    k = min(real.shape[1], size // ROWS_A_DIMENSION)
    note = f"{k} of {real.shape[1]} dimensions, for want of rows" if k < real.shape[1] else ""
    real, made = real[:, :k], made[:, :k]
    values = [
        extrapolated(real[d.real], made[d.synthetic], ctx.sides.rng(spec.id, "parts", r))
        for r, d in enumerate(ctx.matched)
    ]
    first = ctx.matched[0]
    left, right = real[first.real], made[first.synthetic]
    errors = grouped_error(
        lambda a, b: np.array([frechet_distance(left[a], right[b])]),
        ctx.sides.holdout.clusters[first.real],
        ctx.synthetic.clusters[first.synthetic],
        ctx.rng(spec.id, "jackknife"),
    )
    return spec.result(float(np.mean(values)), se=float(errors[0]), n=size, null=0.0, note=note)


def _too_small(size: int, dimensions: int, needed: int) -> str:
    if dimensions < 2:
        return "fewer than two directions in which the training rows spread"
    return TooFew(size, needed, "rows a side") if size < needed else ""


def _embedded(ctx: EvaluationContext, name: PartName) -> NDArray[np.float32]:
    frame = principal(ctx.sides)
    keeper = ctx if name == "S" else ctx.sides
    return keeper.once(f"joint/whitened/{name}", lambda: frame.whitened(standardised(ctx, name), DIMENSIONS))


def _cubic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x @ y.T / x.shape[1] + 1.0) ** 3
