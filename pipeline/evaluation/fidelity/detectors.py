"""Detection by other classifiers than boosting: logistic regression, random forest, a small neural network.

The same rows and the same folds as `detection.py`. A linear detector that finds nothing while boosting finds all says
that columns are right one by one and wrong together; the headline is the most successful of all four.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.components import standardised
from pipeline.evaluation.fidelity.detection import DETECT, FEWEST, FOLDS, against_holdout, assign_folds, kept_together
from pipeline.evaluation.intervals import delong
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.intervals import Auc
    from pipeline.evaluation.results import MetricResult

TREES = 100
SIMULTANEOUS = 2.497705474412374
"""Normal quantile of 1 - 0.05 / (2 · 4): four detectors at once (Bonferroni)."""
MODELS = MetricSpec(
    id="fid.joint.detect_auc_models",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Detection by the best of four classifiers (AUC)",
    caption="The same as detection by gradient boosting, by logistic regression (lr), a random forest (rf) and a neural "
    "network (mlp); the headline is the most successful of the four, its interval widened for the choice. 0.5 is the "
    "null. Lower is better.",
    source="5 folds, DeLong intervals; columns standardised on T",
    cost="C",
)


@metric(MODELS)
def detect_auc_models(ctx: EvaluationContext) -> list[MetricResult]:
    """One row a model (key1), and the best of all."""
    size, boosted = against_holdout(ctx)
    if boosted.result is None:
        return [MODELS.result(None, n=size, null=0.5, note=boosted.reason)]
    rows, labels, hashes, clusters = _both(ctx, size)
    if size < FEWEST or not rows.shape[1]:
        return [MODELS.result(None, n=size, null=0.5, note="no column has spread in the training rows")]
    folds = assign_folds(labels, kept_together(clusters, hashes), ctx.rng(DETECT.id, "folds"))
    found: dict[str, Auc] = {"hgb": boosted.result}
    for name, make in _classifiers().items():
        scores = np.full(len(labels), 0.5)
        for fold in range(FOLDS):
            test, train = folds == fold, folds != fold
            if test.any():
                model = make(int(ctx.rng(MODELS.id, name, fold).integers(2**31)))
                scores[test] = _fitted_scores(model, rows[train], labels[train], rows[test])
        found[name] = delong(scores, labels, clusters)
    best, top = max(found.items(), key=lambda item: item[1].value)
    return [
        MODELS.result(
            top.value, se=top.se, interval=top.interval(SIMULTANEOUS), n=size, null=0.5, note=f"classifier: {best}"
        ),
        *(MODELS.result(a.value, se=a.se, n=size, null=0.5, key1=name) for name, a in found.items()),
    ]


def _both(
    ctx: EvaluationContext, size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint64], NDArray[np.int64]]:
    """Standardised rows, labels, hashes and subjects of exactly the rows that boosting was judged on."""
    real, made = ctx.sides.holdout, ctx.synthetic
    left = ctx.sides.sample(len(real), size, DETECT.id, "real")
    right = ctx.sides.sample(len(made), size, DETECT.id, "synthetic", ctx.replicate)
    own = 0 if made.cohort is real.cohort else len(real)
    return (
        np.concatenate([standardised(ctx, "H")[left], standardised(ctx, "S")[right]]),
        np.repeat([False, True], size),
        np.concatenate([real.hashes[left], made.hashes[right]]),
        np.concatenate([real.clusters[left], made.clusters[right] + own]),
    )


def _classifiers() -> dict[str, Callable[[int], Any]]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    return {
        "lr": lambda _: LogisticRegression(C=1.0, max_iter=500),
        "rf": lambda seed: RandomForestClassifier(TREES, min_samples_leaf=5, random_state=seed),
        "mlp": lambda seed: MLPClassifier((100,), early_stopping=True, max_iter=100, random_state=seed),
    }


def _fitted_scores(
    model: Any, rows: NDArray[np.float32], labels: NDArray[np.bool_], test: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(n,) probability of being synthetic; a model that has not converged is judged as it stands."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, labels).predict_proba(test)[:, 1]
