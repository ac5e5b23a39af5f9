"""Likelihood under a mixture of Gaussians: are synthetic rows as likely as fresh real ones, neither less nor more?

The mixture is fitted to the training rows in their leading principal components. A likelihood alone rewards rows that
all lie where real rows are dense (`lit.sdv.gmll`); the gap to the holdout's likelihood does not, and the reverse fit
asks what the holdout is worth under a mixture of the synthetic rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.components import principal, standardised
from pipeline.evaluation.fidelity.two_sample import mean_error
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.results import MetricResult

DIMENSIONS = 16
CANDIDATES = (1, 2, 4, 8, 16)
FLOOR = 1e-2
"""Least variance of a component, in units of T's along an axis: without it a repeated value is infinitely likely."""
FEWEST = 100
STARTS = 2
REFITS = 4
NOISE = float(np.sqrt(2 / np.pi))
"""Mean size of a difference that is chance alone, in standard errors."""
GMLL_GAP = MetricSpec(
    id="fid.joint.gmll_gap",
    family="fidelity",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Likelihood gap (mixture of Gaussians)",
    caption="How far the mean log-likelihood of synthetic rows lies from that of holdout rows under a mixture fitted to the "
    "training rows ('forward'), plus what that of the holdout loses when the mixture is fitted to the synthetic rows "
    "instead ('reverse'). Lower is better; the null is what chance leaves and is printed.",
    source="difference of lit.sdv.gmll between H and S, mixture chosen by BIC on T",
    cost="B",
)


@dataclass(frozen=True)
class TrainingMixtures:
    """Mixtures of as many training rows as are compared, each of other rows, as far as there are others.

    Attributes:
        models: Fitted mixtures; the first is the one that synthetic rows are scored by.
        holdout: (n) log-likelihood of the compared holdout rows, mean over the mixtures.
        wobble: Standard deviation of the holdout's mean log-likelihood from one mixture to the next.
    """

    models: list[Any]
    holdout: NDArray[np.float64]
    wobble: float


@metric(GMLL_GAP)
def gmll_gap(ctx: EvaluationContext) -> list[MetricResult]:
    """|l(H) - l(S)| under T's mixture (forward) plus what l(H) loses under S's (reverse; 0 where it gains)."""
    size = min(ctx.matched_size, len(ctx.sides.train))
    dimensions = min(DIMENSIONS, principal(ctx.sides).axes.shape[1])
    reason = TooFew(size, FEWEST, "rows") if size < FEWEST else ""
    reason = reason or ("" if dimensions else "no column has spread in the training rows")
    if reason:
        return [GMLL_GAP.result(None, n=size, note=reason)]
    real, made = _places(ctx, "H"), _places(ctx, "S")
    left, right = ctx.rows("H"), ctx.rows("S")
    train = ctx.sides.once(f"joint/mixtures/{size}", lambda: _of_training(ctx, size, real[left]))
    h_clusters, s_clusters = ctx.sides.holdout.clusters[left], ctx.synthetic.clusters[right]
    holdout, synthetic = train.models[0].score_samples(real[left]), train.models[0].score_samples(made[right])
    error = float(np.hypot(mean_error(holdout, h_clusters), mean_error(synthetic, s_clusters)))
    gap = abs(float(holdout.mean() - synthetic.mean()))
    seed = int(ctx.rng("fid.joint.gmll_gap", "reverse").integers(2**31))
    fitted = ctx.rows("S", "matched")[:size]
    lost = train.holdout - fit_mixture(made[fitted], train.models[0].n_components, seed).score_samples(real[left])
    spread = train.wobble * np.sqrt(1 + 1 / len(train.models))
    reverse, reverse_error = max(0.0, float(lost.mean())), float(np.hypot(mean_error(lost, h_clusters), spread))
    both = float(np.hypot(error, reverse_error))
    n = min(len(left), len(right))
    return [
        GMLL_GAP.result(gap + reverse, se=both, n=n, null=NOISE * (error + reverse_error / 2)),
        GMLL_GAP.result(gap, se=error, n=n, null=NOISE * error, key2="forward"),
        GMLL_GAP.result(reverse, se=reverse_error, n=n, null=NOISE * reverse_error / 2, key2="reverse"),
    ]


def fit_mixture(rows: NDArray[np.floating], components: int, seed: int) -> Any:
    """A diagonal Gaussian mixture on (n, k) rows."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    wanted = max(1, min(components, len(np.unique(rows, axis=0))))
    model = GaussianMixture(
        wanted,
        covariance_type="diag",
        reg_covar=FLOOR,
        max_iter=200,
        n_init=STARTS,
        init_params="k-means++",
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(np.asarray(rows, dtype=np.float64))


def _of_training(ctx: EvaluationContext, size: int, holdout: NDArray[np.float32]) -> TrainingMixtures:
    """The number of components is the one that BIC prefers on the first draw.

    How much a mixture hangs on the rows that it was fitted to is read off disjoint parts of T, smaller ones (which errs
    towards caution) where T is less than four times `size`: draws that overlap would be too much alike.
    """
    rows = _places(ctx, "T").astype(np.float64)
    seed = int(ctx.sides.rng("joint/mixtures", "seed").integers(2**31))
    order = ctx.sides.rng("joint/mixtures", "order").permutation(len(rows))
    length = min(size, len(rows) // REFITS)
    parts = [rows[order[r * length : (r + 1) * length]] for r in range(REFITS)]
    draws = parts
    if length < size:
        draws = [rows[ctx.sides.sample(len(rows), size, "joint/mixtures", r)] for r in range(REFITS)]
    first = min((fit_mixture(draws[0], k, seed) for k in CANDIDATES), key=lambda m: m.bic(draws[0]))

    def refitted(samples: list[NDArray[np.float64]]) -> list[Any]:
        return [fit_mixture(d, first.n_components, seed + r) for r, d in enumerate(samples)]

    models = refitted(draws)
    apart = models if length == size else refitted(parts)
    means = [float(m.score_samples(holdout).mean()) for m in apart]
    scores = np.mean([m.score_samples(holdout) for m in models], axis=0)
    return TrainingMixtures(models, scores, float(np.std(means, ddof=1)))


def _places(ctx: EvaluationContext, name: PartName) -> NDArray[np.float32]:
    frame = principal(ctx.sides)
    keeper = ctx if name == "S" else ctx.sides
    return keeper.once(f"joint/whitened16/{name}", lambda: frame.whitened(standardised(ctx, name), DIMENSIONS))
