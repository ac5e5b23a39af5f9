"""Detection as three packages and a paper compute it: against the training rows, to the letter.

The sound versions are in `pipeline.evaluation.fidelity.detection` (holdout, identical rows in one fold, AUC with its
interval). Distances, clusters and likelihoods of the papers are in `joint.py`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.intervals import auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published, TooFew

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

FOLDS = 3
SVC_ROWS = 4_000
FEWEST = 20
NHSX = "NHSX (2022), table 1, mean of 10 runs"
BTGAN = "Bt-GAN (2024), table 3"


def _published(paper: str, data: str, values: dict[str, float]) -> tuple[Published, ...]:
    return tuple(Published(paper, data, system, value) for system, value in values.items())


def _sdv(name: str, model: str, flaw: str, values: dict[str, float]) -> MetricSpec:
    return MetricSpec(
        id=f"lit.sdv.{name}",
        family="literal",
        direction=1,
        range=(0.0, 1.0),
        needs=frozenset({"T", "S"}),
        version="2",
        title=f"SDV {model} detection",
        caption=f"1 - mean over 3 folds of (2 max(1/2, AUC) - 1) for {model} on training against synthetic rows, levels one "
        "by one and missing as one of them. Higher is called better; 1 is the null.",
        source="SDV; NHSX",
        cost="C",
        flaw=flaw,
        published=_published(NHSX, "SUPPORT", values),
    )


LOGISTIC = _sdv(
    "logistic_detection", "logistic regression",
    "A linear classifier is blind to interactions: independent columns score 0.999. Judged against training rows, so "
    "copying them is best.",
    {"Gaussian copula": 0.4457, "CTGAN": 0.5507, "CopulaGAN": 0.5432, "TVAE": 0.3023, "VAE": 0.9282, "Independent": 0.9992},
)  # fmt: skip
SVC = _sdv(
    "svc_detection", "support vector",
    "Judged against training rows, so copying them is best; folding the AUC at 1/2 in every fold biases the score "
    "downwards. At most 4,000 rows a class here (the fit grows with n² to n³).",
    {"Gaussian copula": 0.2687, "CTGAN": 0.3464, "CopulaGAN": 0.3474, "TVAE": 0.0798, "VAE": 0.3555, "Independent": 0.0484},
)  # fmt: skip
BTGAN_DISC = MetricSpec(
    id="lit.btgan.disc",
    family="literal",
    direction=-1,
    range=(0.0, 0.5),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Bt-GAN discriminative score",
    caption="|accuracy - 1/2| of a logistic regression on a fifth of training and synthetic rows. Lower is better; 0 is "
    "the null.",
    source="Bt-GAN, appendix A and table 3",
    cost="C",
    flaw="The appendix describes the classifier's error, of which more would be better, but the table marks it as better "
    "when lower: read as |accuracy - 1/2|. Linear, so blind to interactions.",
    published=_published(BTGAN, "MIMIC-III", {"HealthGAN": 0.31, "FairGAN": 0.46, "Bt-GAN-": 0.35, "Bt-GAN": 0.29}),
)


def _synthcity(name: str, model: str, flaw: str) -> MetricSpec:
    return MetricSpec(
        id=f"lit.synthcity.detection_{name}",
        family="literal",
        direction=-1,
        range=(0.0, 1.0),
        needs=frozenset({"T", "S"}),
        version="1",
        title=f"synthcity detection ({name})",
        caption=f"{model}, training against synthetic rows. Lower is called better; 0.5 is the null.",
        source="synthcity",
        cost="C",
        flaw=flaw,
    )


HARD = (
    "The AUC of predicted labels, not of scores: it is balanced accuracy. The documentation calls 0 indistinguishable; "
    "0.5 is."
)
XGB = _synthcity(
    "xgb", "Mean AUC over 3 folds of boosted trees", HARD + " Our gradient boosting stands in for XGBoost."
)
MLP = _synthcity("mlp", "Mean AUC over 3 folds of a neural network", HARD)
LINEAR = _synthcity("linear", "Mean AUC over 3 folds of a logistic regression", HARD + " Blind to interactions.")
GMM = _synthcity(
    "gmm", "1 - the likelihoods of mixtures of 1, 5 and 10 Gaussians, min-max scaled among the three",
    "No classifier and no AUC: three likelihoods are scaled by themselves, so the value lies between 1/3 and 2/3 whatever "
    "the rows are.",
)  # fmt: skip


@metric(LOGISTIC, floor="")
def sdv_logistic(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic regression, three shuffled folds."""
    from sklearn.linear_model import LogisticRegression

    return [_folded(ctx, LOGISTIC, lambda: LogisticRegression(max_iter=500), ctx.sides.profile.training_rows)]


@metric(SVC, floor="")
def sdv_svc(ctx: EvaluationContext) -> list[MetricResult]:
    """Support vectors by their decision function (the AUC is of ranks: probabilities would change nothing)."""
    from sklearn import svm

    return [_folded(ctx, SVC, svm.SVC, SVC_ROWS)]


@metric(BTGAN_DISC, floor="")
def btgan_disc(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic regression on four fifths, accuracy on the fifth."""
    from sklearn.linear_model import LogisticRegression

    rows, labels, reason = _rows(ctx, BTGAN_DISC, ctx.sides.profile.training_rows)
    if reason:
        return [BTGAN_DISC.result(None, note=reason)]
    order = ctx.rng(BTGAN_DISC.id).permutation(len(labels))
    test, train = np.array_split(order, [len(order) // 5])
    if len(np.unique(labels[train])) < 2:
        return [BTGAN_DISC.result(None, n=len(labels), note="one side alone among the rows to learn from")]
    model = _prepared(LogisticRegression(max_iter=500)).fit(rows[train], labels[train])
    right = float((model.predict(rows[test]) == labels[test]).mean())
    error = float(np.sqrt(right * (1 - right) / len(test)))
    return [BTGAN_DISC.result(abs(right - 0.5), se=error, n=len(test), null=0.0)]


@metric(XGB, floor="")
def synthcity_xgb(ctx: EvaluationContext) -> list[MetricResult]:
    """Boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return [_hard_labels(ctx, XGB, lambda: HistGradientBoostingClassifier(max_iter=100, max_depth=3, random_state=0))]


@metric(MLP, floor="")
def synthcity_mlp(ctx: EvaluationContext) -> list[MetricResult]:
    """A neural network."""
    from sklearn.neural_network import MLPClassifier

    return [_hard_labels(ctx, MLP, lambda: MLPClassifier((100,), early_stopping=True, max_iter=50, random_state=0))]


@metric(LINEAR, floor="")
def synthcity_linear(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return [_hard_labels(ctx, LINEAR, lambda: LogisticRegression(max_iter=500))]


@metric(GMM, floor="")
def synthcity_gmm(ctx: EvaluationContext) -> list[MetricResult]:
    """Three mixtures of the training rows, scored on the synthetic ones."""
    from sklearn.mixture import GaussianMixture

    rows, labels, reason = _rows(ctx, GMM, ctx.sides.profile.rows)
    if reason:
        return [GMM.result(None, note=reason)]
    rows = _filled(rows, labels)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for components in (1, 5, 10):
            model = GaussianMixture(components, covariance_type="diag", random_state=0)
            scores.append(float(model.fit(rows[~labels]).score(rows[labels])))
    return [GMM.result(self_scaled(scores), n=int(labels.sum()))]


def self_scaled(scores: list[float]) -> float | None:
    """1 - min-max scaled scores, averaged; None where they do not differ."""
    given = np.asarray(scores)
    spread = float(given.max() - given.min())
    return float(np.mean(1 - (given - given.min()) / spread)) if spread > 0 else None


def detection_score(folds: list[float]) -> float:
    """1 - mean over folds of (2 max(1/2, AUC) - 1)."""
    return float(1 - np.mean([2 * max(0.5, a) - 1 for a in folds]))


def as_read(side: Side, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows, p) numbers as they are, NaN where missing, nominal levels one by one, codes as 0/1.

    Made anew for each formula: of a wide cohort all rows would be 50 MB a side.
    """
    features = side.tree_features(rows=rows)
    levels = {c.name: len(c.levels or []) for c in side.encoder.columns if c.discrete}
    parts = []
    for j, (name, nominal) in enumerate(zip(features.names, features.nominal, strict=True)):
        column = features.matrix[:, j]
        if nominal:
            parts += [(column == level).astype(np.float64) for level in range(levels[name])]
        else:
            parts.append(column)
    return np.stack(parts, axis=1) if parts else np.zeros((len(rows), 0))


def every_level(side: Side, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows, p) as `as_read`, but the levels of every discrete column one by one, ordinal ones and missing among them.

    So does SDMetrics; where synthetic rows have a value that is no level of the real rows it gives up, here that value
    is one more level.
    """
    features = side.tree_features(rows=rows)
    levels = {c.name: len(c.levels or []) for c in side.encoder.columns if c.discrete}
    parts = []
    for j, (name, group) in enumerate(zip(features.names, features.groups, strict=True)):
        column = features.matrix[:, j]
        if name == group and name in levels:
            code = np.where(np.isnan(column), levels[name] + 1, column)
            parts += [(code == level).astype(np.float64) for level in range(levels[name] + 2)]
        else:
            parts.append(column)
    return np.stack(parts, axis=1) if parts else np.zeros((len(rows), 0))


def _rows(
    ctx: EvaluationContext,
    spec: MetricSpec,
    most: int,
    read: Callable[[Side, NDArray[np.int64]], NDArray[np.float64]] = as_read,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], str]:
    """Training and then synthetic rows, at most `most` a side; labels; why they cannot be judged."""
    left = ctx.sides.sample(len(ctx.sides.train), most, spec.id, "real")
    right = ctx.sides.sample(len(ctx.synthetic), most, spec.id, "synthetic", ctx.replicate)
    labels = np.repeat([False, True], [len(left), len(right)])
    few = min(len(left), len(right))
    reason = TooFew(few, FEWEST, "rows on the smaller side") if few < FEWEST else ""
    rows = np.concatenate([read(ctx.sides.train, left), read(ctx.synthetic, right)])
    known = ~np.isnan(rows).all(axis=0)
    rows = rows if known.all() else rows[:, known]
    return rows, labels, reason or ("" if known.any() else "no column has a value")


def _prepared(model: Any) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler

    return make_pipeline(SimpleImputer(keep_empty_features=True), RobustScaler(), model)


def _folded(ctx: EvaluationContext, spec: MetricSpec, make: Callable[[], Any], most: int) -> MetricResult:
    from sklearn.model_selection import StratifiedKFold

    rows, labels, reason = _rows(ctx, spec, most, every_level)
    if reason:
        return spec.result(None, null=1.0, note=reason)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=int(ctx.rng(spec.id).integers(2**31)))
    found = []
    for train, test in folds.split(rows, labels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _prepared(make()).fit(rows[train], labels[train])
            scores = (
                model.decision_function(rows[test])
                if hasattr(model, "decision_function")
                else model.predict_proba(rows[test])[:, 1]
            )
        found.append(auc(scores, labels[test]))
    error = 2 * float(np.std(found, ddof=1)) / np.sqrt(FOLDS)
    return spec.result(detection_score(found), se=error, n=int(labels.sum()), null=1.0)


def _hard_labels(ctx: EvaluationContext, spec: MetricSpec, make: Callable[[], Any]) -> MetricResult:
    from sklearn.model_selection import StratifiedKFold

    rows, labels, reason = _rows(ctx, spec, ctx.sides.profile.rows)
    if reason:
        return spec.result(None, null=0.5, note=reason)
    rows = _filled(rows, labels)
    found = []
    for train, test in StratifiedKFold(FOLDS).split(rows, labels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predicted = make().fit(rows[train], labels[train]).predict(rows[test])
        found.append(auc(np.asarray(predicted, dtype=np.float64), labels[test]))
    error = float(np.std(found, ddof=1)) / np.sqrt(FOLDS)
    return spec.result(float(np.mean(found)), se=error, n=int(labels.sum()), null=0.5)


def _filled(rows: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Missing cells at the mean of the real rows (of all rows where no real one has a value)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(rows[~labels], axis=0)
        mean = np.where(np.isnan(mean), np.nanmean(rows, axis=0), mean)
    return np.where(np.isnan(rows), mean, rows)
