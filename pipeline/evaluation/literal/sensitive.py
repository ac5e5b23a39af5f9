"""Guessing one sensitive column by a model trained on synthetic rows: SDV's numerical privacy, synthcity's data leakage.

Both score people in training and nobody else. The sound metric with a control is in
`pipeline/evaluation/privacy/attributes.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.linear_design import LinearDesign
from pipeline.evaluation.privacy.identity import is_age
from pipeline.evaluation.privacy.secrets import secrets_of
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import Column

MEDIAN, INDEPENDENT = 1 / 12, 1 / 6
"""What a constant guess of the median, and a guess independent of the truth, score on a continuous column."""
ROWS, SVR_ROWS, SECRETS = 5_000, 2_000, 3
NHSX = "NHSX SynthVAE report, table 3"
NHSX_SYSTEMS = ("Gaussian Copula", "CTGAN", "CopulaGAN", "TVAE", "VAE", "Independent")
NUMERICAL_FLAW = (
    "A constant guess of the median scores 1/12 = 0.083 and a guess drawn independently 1/6 = 0.167, so the published "
    "0.074 to 0.108 say that next to nothing was learnt; it is a mean of squares, not the L2 norm that the report writes. "
    "There is no control."
)
LEAKAGE_FLAW = (
    "Accuracy of whoever always guesses the commonest level is high for a skewed column, and there is no control: what "
    "holds for everybody counts as leakage."
)


def _numerical(name: str, model: str, values: tuple[float, ...]) -> MetricSpec:
    return MetricSpec(
        id=f"lit.sdv.numerical_{name}", family="literal", direction=1, range=(0.0, 1.0), needs=frozenset({"T", "S"}),
        version="1", title=f"Numerical privacy, {model} (SDV)",
        caption=f"Mean squared distance, on the scale of the column's distribution function, between a number and its guess "
        f"by {model} trained on synthetic rows with all other columns as keys. Higher is called better; 1/12 is guessing "
        "the median.",
        source="SDMetrics NumericalPrivacyMetric; NHSX SynthVAE report, section 6.1.3", cost="C", flaw=NUMERICAL_FLAW,
        published=tuple(
            Published(NHSX, "SUPPORT, age", s, v) for s, v in zip(NHSX_SYSTEMS, values, strict=True)
        ),
    )  # fmt: skip


def _leakage(name: str, model: str) -> MetricSpec:
    return MetricSpec(
        id=f"lit.synthcity.data_leakage_{name}", family="literal", direction=-1, range=(0.0, 1.0),
        needs=frozenset({"T", "S"}), version="1", title=f"Data leakage, {model} (synthcity)",
        caption=f"Share of training people whose secret level {model} trained on synthetic rows guesses exactly, mean over "
        "secrets. Lower is called better; there is no null.",
        source="synthcity data_leakage", cost="C", flaw=LEAKAGE_FLAW,
    )  # fmt: skip


LR = _numerical("lr", "linear regression", (0.0736, 0.0803, 0.0836, 0.0841, 0.0828, 0.0882))
MLP = _numerical("mlp", "a small neural network", (0.0845, 0.0911, 0.0877, 0.0917, 0.1078, 0.1077))
SVR = _numerical("svr", "support vectors", (0.0749, 0.0841, 0.0869, 0.0880, 0.0987, 0.0987))
LEAK_LINEAR = _leakage("linear", "logistic regression")
LEAK_MLP = _leakage("mlp", "a small neural network")
LEAK_XGB = _leakage("xgb", "gradient boosting")


@metric(LR, floor="")
def numerical_lr(ctx: EvaluationContext) -> list[MetricResult]:
    """Linear regression."""
    from sklearn.linear_model import LinearRegression

    return _numbers(ctx, LR, LinearRegression(), ROWS)


@metric(MLP, floor="")
def numerical_mlp(ctx: EvaluationContext) -> list[MetricResult]:
    """A network with one hidden layer."""
    from sklearn.neural_network import MLPRegressor

    return _numbers(ctx, MLP, MLPRegressor(max_iter=100, early_stopping=True, random_state=ctx.plan.seed), ROWS)


@metric(SVR, floor="")
def numerical_svr(ctx: EvaluationContext) -> list[MetricResult]:
    """Support vectors, on fewer rows."""
    from sklearn import svm

    return _numbers(ctx, SVR, svm.SVR(), SVR_ROWS)


@metric(LEAK_LINEAR, floor="")
def data_leakage_linear(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return _levels(ctx, LEAK_LINEAR, LogisticRegression(max_iter=200))


@metric(LEAK_MLP, floor="")
def data_leakage_mlp(ctx: EvaluationContext) -> list[MetricResult]:
    """A network with one hidden layer."""
    from sklearn.neural_network import MLPClassifier

    return _levels(ctx, LEAK_MLP, MLPClassifier(max_iter=100, early_stopping=True, random_state=ctx.plan.seed))


@metric(LEAK_XGB, floor="")
def data_leakage_xgb(ctx: EvaluationContext) -> list[MetricResult]:
    """Gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=50, early_stopping=False, random_state=ctx.plan.seed)
    return _levels(ctx, LEAK_XGB, model)


def squared_distance(
    guess: NDArray[np.floating], real: NDArray[np.floating], train: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(n,) (F(guess) - F(real))^2, F the distribution function of the training values (half a step at each of them)."""
    ordered = np.sort(train)

    def share(x: NDArray[np.floating]) -> NDArray[np.float64]:
        return (np.searchsorted(ordered, x, side="left") + np.searchsorted(ordered, x, side="right")) / (
            2 * len(ordered)
        )

    return (share(guess) - share(real)) ** 2


def _numbers(ctx: EvaluationContext, spec: MetricSpec, model: Any, most: int) -> list[MetricResult]:
    """The score of a number: the age where there is one, else the first secret number, else the first number."""
    column = _sensitive(ctx)
    if column is None:
        return [spec.result(None, note="there is no number to guess")]
    values = ctx.synthetic.values[column.name]
    usable = np.flatnonzero(~np.isnan(values))
    rows = usable[ctx.sides.sample(len(usable), most, "lit", "numerical")]
    known = np.flatnonzero(~np.isnan(ctx.sides.train.values[column.name]))
    targets = known[ctx.sides.sample(len(known), ROWS, "lit", "numerical", "T")]
    if len(rows) < 20 or not len(targets):
        return [spec.result(None, n=len(rows), note="too few synthetic rows with this number to learn from")]
    design = LinearDesign(ctx.synthetic, rows, drop=[column.name])
    if not design.names:
        return [spec.result(None, n=len(rows), note="the keys have no spread")]
    centre, spread = float(values[rows].mean()), float(values[rows].std()) or 1.0
    model.fit(design.transform(ctx.synthetic)[rows], (values[rows] - centre) / spread)
    guess = model.predict(design.transform(ctx.sides.train)[targets]) * spread + centre
    real = ctx.sides.train.values[column.name]
    each = squared_distance(guess, real[targets], real[known])
    value, error = _mean(each, ctx.sides.train.clusters[targets])
    note = (
        f"{column.name} from all other columns; the median scores {MEDIAN:.3f}, an independent guess {INDEPENDENT:.3f}"
    )
    return [
        spec.result(value, se=error, n=len(targets), null=MEDIAN, note=note),
        spec.result(
            1 - value / MEDIAN, se=error / MEDIAN, interval=(1 - (value + 1.96 * error) / MEDIAN, 1 - (value - 1.96 * error) / MEDIAN),
            n=len(targets), null=0.0, key1="share learnt",
            note="1 - 12 x score: how it is better read",
        ),
    ]  # fmt: skip


def _sensitive(ctx: EvaluationContext) -> Column | None:
    numbers = [c for c in ctx.sides.encoder.columns if c.numeric]
    secret = {s.name for s in secrets_of(ctx.sides)}
    ages = [c for c in numbers if is_age(c)]
    return next(iter([*ages, *(c for c in numbers if c.name in secret), *numbers]), None)


def _levels(ctx: EvaluationContext, spec: MetricSpec, model: Any) -> list[MetricResult]:
    """Exact-match accuracy of up to three secret columns with levels."""
    columns = [s.column for s in secrets_of(ctx.sides) if s.column is not None and s.column.discrete][:SECRETS]
    rows, values, errors = [], [], []
    for column in columns:
        codes = ctx.synthetic.codes[column.name]
        usable = np.flatnonzero(codes >= 0)
        chosen = usable[ctx.sides.sample(len(usable), ROWS, "lit", "leakage")]
        targets = ctx.sides.sample(len(ctx.sides.train), ROWS, "lit", "leakage", "T")
        design = LinearDesign(ctx.synthetic, chosen, drop=[column.name]) if len(chosen) else None
        if design is None or not design.names or np.bincount(codes[chosen]).max() > len(chosen) - 20:
            continue
        kept = np.isin(codes[chosen], np.flatnonzero(np.bincount(codes[chosen]) >= 2))
        model.fit(design.transform(ctx.synthetic)[chosen[kept]], codes[chosen[kept]])
        guess = model.predict(design.transform(ctx.sides.train)[targets])
        right = (guess == ctx.sides.train.codes[column.name][targets]).astype(np.float64)
        value, error = _mean(right, ctx.sides.train.clusters[targets])
        values.append(value)
        errors.append(error)
        rows.append(spec.result(value, se=error, n=len(targets), scope="column", key1=column.name))
    if not rows:
        return [spec.result(None, note="no secret column with levels can be learnt from the synthetic rows")]
    # Secrets of one person go together: the mean of the errors bounds the error of the mean.
    return [
        spec.result(float(np.mean(values)), se=float(np.mean(errors)), n=rows[0].n, note=f"{len(rows)} secrets"),
        *rows,
    ]


def _mean(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> tuple[float, float]:
    """Mean over rows and its standard error over subjects."""
    mean = float(values.mean())
    return mean, float(np.sqrt((np.bincount(clusters, weights=values - mean) ** 2).sum()) / len(values))
