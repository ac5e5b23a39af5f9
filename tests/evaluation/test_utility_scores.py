"""Figures of classifiers, rankings and features against scikit-learn, scipy, by hand, and by brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn import metrics
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from toy_people import TASK

from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.literal.utility import percentile_interval
from pipeline.evaluation.utility import features
from pipeline.evaluation.utility.agreement import agreement, tau_b
from pipeline.evaluation.utility.curves import calibration, precision_recall
from pipeline.evaluation.utility.dimension_wise import PENALTY, leave_one_out
from pipeline.evaluation.utility.features import importance, rank_biased_overlap, top_overlap
from pipeline.evaluation.utility.learners import TrainingRows, fit_learner
from pipeline.evaluation.utility.regimes import best_f1_threshold, subject_folds
from pipeline.evaluation.utility.scoring import at_threshold, average_precision, of_probabilities

if TYPE_CHECKING:
    from pipeline.evaluation.context import RealSides

RNG = np.random.default_rng(11)
TRUTH = RNG.random(700) < 0.2
SCORES = np.round(1 / (1 + np.exp(-(1.5 * TRUTH - 2 + RNG.normal(size=700)))), 2)
"""Rounded, so that there are ties."""
ONES = np.ones((2, 700), dtype=np.float32)


def test_figures_at_a_threshold_against_scikit_learn() -> None:
    found = at_threshold(SCORES, TRUTH, 0.3, ONES)
    called = SCORES >= 0.3
    expected = {
        "accuracy": metrics.accuracy_score(TRUTH, called),
        "precision": metrics.precision_score(TRUTH, called),
        "recall": metrics.recall_score(TRUTH, called),
        "f1": metrics.f1_score(TRUTH, called),
        "macro_f1": metrics.f1_score(TRUTH, called, average="macro"),
        "balanced_accuracy": metrics.balanced_accuracy_score(TRUTH, called),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12)
        assert found[name].draws == pytest.approx([value, value], abs=1e-6)


def test_nothing_called_positive_has_no_precision() -> None:
    """scikit-learn says 0 and warns; a share of nobody is no number."""
    found = at_threshold(SCORES, TRUTH, 2.0, ONES)
    assert found["precision"].value is None
    assert "nothing" in found["precision"].note
    assert found["f1"].value == 0
    assert found["recall"].value == 0


def test_nulls_are_what_calls_without_skill_reach() -> None:
    found = at_threshold(np.full(700, 0.5), TRUTH, 0.4, ONES)
    assert found["f1"].value == pytest.approx(found["f1"].null)
    assert found["precision"].value == pytest.approx(found["precision"].null)
    nobody = at_threshold(np.full(700, 0.5), TRUTH, 0.6, ONES)
    assert nobody["accuracy"].value == pytest.approx(nobody["accuracy"].null)
    assert nobody["macro_f1"].value == pytest.approx(nobody["macro_f1"].null)


def test_average_precision_and_brier_against_scikit_learn() -> None:
    weights = np.vstack([np.ones(700), subject_weights(np.arange(700), 1, RNG)]).astype(np.float32)
    found = average_precision(SCORES, TRUTH, weights)
    assert found.value == pytest.approx(metrics.average_precision_score(TRUTH, SCORES), abs=1e-12)
    for row, draw in zip(weights, found.draws, strict=True):
        assert draw == pytest.approx(metrics.average_precision_score(TRUTH, SCORES, sample_weight=row), abs=1e-6)
    brier = of_probabilities(SCORES, TRUTH, weights)["brier"]
    assert brier.value == pytest.approx(metrics.brier_score_loss(TRUTH, SCORES), abs=1e-12)
    assert brier.draws[1] == pytest.approx(metrics.brier_score_loss(TRUTH, SCORES, sample_weight=weights[1]), abs=1e-6)


def test_calibration_against_unpenalised_logistic_regression() -> None:
    """The slope as scikit-learn fits it; its one-step bootstrap as it comes of fitting every draw again."""
    scores = np.clip(SCORES, 0.01, 0.99)
    logit = np.log(scores / (1 - scores))[:, None]
    weights = subject_weights(np.arange(700), 40, RNG)
    found = of_probabilities(scores, TRUTH, weights)

    def slope(row: np.ndarray) -> float:
        return float(LogisticRegression(C=1e10, tol=1e-10).fit(logit, TRUTH, sample_weight=row).coef_[0, 0])

    assert found["calibration_slope"].value == pytest.approx(slope(np.ones(700)), abs=1e-4)
    again = [slope(row) for row in weights]
    assert found["calibration_slope"].draws == pytest.approx(again, abs=0.03)
    assert found["calibration_slope"].se == pytest.approx(np.std(again, ddof=1), rel=0.15)
    shift = found["calibration_intercept"].value
    assert (1 / (1 + np.exp(-(shift + logit[:, 0])))).sum() == pytest.approx(TRUTH.sum(), abs=1e-6)


def test_right_probabilities_are_called_right() -> None:
    rng = np.random.default_rng(2)
    chance = rng.beta(1, 4, size=4000)
    truth = rng.random(4000) < chance
    weights = subject_weights(np.arange(4000), 200, rng)
    right, extreme = (of_probabilities(s, truth, weights) for s in (chance, 1 / (1 + ((1 - chance) / chance) ** 2)))
    slope = right["calibration_slope"]
    assert abs(slope.value - 1) < 3 * slope.se
    assert abs(right["calibration_intercept"].value) < 3 * right["calibration_intercept"].se
    assert right["ece"].value < 2 * right["ece"].null
    assert extreme["calibration_slope"].value == pytest.approx(slope.value / 2, abs=1e-3)
    assert extreme["ece"].value > 5 * extreme["ece"].null


def test_calibration_error_by_hand() -> None:
    """Two distinct scores, 0.2 (5 rows, 2 positive) and 0.8 (5 rows, 5 positive): (|0.2 - 0.4| + |0.8 - 1|) / 2."""
    scores, truth = np.repeat([0.2, 0.8], 5), np.array([1, 1, 0, 0, 0, 1, 1, 1, 1, 1]) > 0
    found = of_probabilities(scores, truth, np.ones((2, 10), dtype=np.float32))
    assert found["ece"].value == pytest.approx(0.2)
    constant = of_probabilities(np.full(10, 0.7), truth, np.ones((2, 10), dtype=np.float32))
    assert constant["calibration_slope"].value is None
    assert constant["calibration_slope"].note


def test_threshold_is_the_best_of_all_cuts() -> None:
    chosen = best_f1_threshold(SCORES, TRUTH)
    every = [metrics.f1_score(TRUTH, cut <= SCORES) for cut in np.unique(SCORES)]
    assert metrics.f1_score(TRUTH, chosen <= SCORES) == pytest.approx(max(every))
    assert best_f1_threshold(np.array([0.9, 0.4, 0.2]), np.array([True, False, False])) == pytest.approx(0.65)


def test_people_are_not_split_between_folds() -> None:
    people = np.repeat(np.arange(90), 3)
    labels = people % 10 == 0
    folds = subject_folds(people, labels, np.random.default_rng(0))
    assert all(len(set(folds[people == p])) == 1 for p in range(90))
    assert [int(labels[folds == f].sum()) for f in range(3)] == [9, 9, 9]


def test_agreement_of_rankings_by_hand_and_against_scipy() -> None:
    """PATE-GAN's formula on four models: of six pairs one is swapped and one is a tie."""
    real, made = np.array([[0.6, 0.7, 0.8, 0.9]]), np.array([[0.55, 0.5, 0.7, 0.7]])
    assert agreement(real, made)[0] == pytest.approx(4 / 6)
    assert agreement(real, real)[0] == 1
    assert agreement(real, -real)[0] == 0
    a, b = RNG.random((5, 9)), np.round(RNG.random((5, 9)), 1)
    assert tau_b(a, b) == pytest.approx([kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)])
    assert np.isnan(tau_b(a, np.zeros((5, 9)))).all()


def test_overlaps_of_features_by_hand() -> None:
    """Of three features a > b > c against b > a > c; RBO_ext with p = 0.9 by Webber's formula."""
    first, second = np.array([3.0, 2.0, 1.0]), np.array([2.0, 3.0, 1.0])
    by_hand = 3 / 3 * 0.9**3 + 0.1 / 0.9 * (0 / 1 * 0.9 + 2 / 2 * 0.9**2 + 3 / 3 * 0.9**3)
    assert rank_biased_overlap(first, second) == pytest.approx(by_hand)
    assert rank_biased_overlap(first, first) == pytest.approx(1)
    assert top_overlap(np.arange(60.0), np.arange(60.0)) == 1
    assert top_overlap(np.arange(60.0), -np.arange(60.0)) == 0
    shifted = np.roll(np.arange(100.0), 5)
    assert top_overlap(np.arange(100.0), shifted) == pytest.approx(20 / 25)


def test_features_shuffled_together_weigh_what_each_weighs_alone(
    sides: RealSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = sides.holdout.codes[TASK.label] == 1
    rows = np.arange(len(truth))
    learner = fit_learner("hgb", [TrainingRows(sides.holdout, rows, truth)], (TASK.label,), 0)
    together = importance(learner, sides.holdout, rows, truth, 3)
    monkeypatch.setattr(features, "SCORED_AT_ONCE", 1)
    assert importance(learner, sides.holdout, rows, truth, 3) == together
    seen, rng, alone = learner.matrix(sides.holdout, rows), np.random.default_rng(3), []
    for j in range(seen.shape[1]):
        moved = seen.copy()
        moved[:, j] = rng.permutation(seen[:, j])
        alone.append(metrics.roc_auc_score(truth, learner.scores_of(moved)))
    whole = metrics.roc_auc_score(truth, learner.scores_of(seen))
    assert list(together.values()) == pytest.approx(whole - np.array(alone), abs=1e-9)
    assert max(together.values()) > 0.05


def test_one_inversion_gives_every_regression_on_the_others() -> None:
    x = RNG.normal(size=(400, 6)).astype(np.float32)
    x[:, 1] += x[:, 0]
    x[:, 5] -= 0.7 * x[:, 2]
    groups = ["a", "b", "c", "c", "d", "e"]
    found = leave_one_out(x, np.array([1, 2]), groups)
    for column, (target, others) in enumerate([(1, [0, 2, 3, 4, 5]), (2, [0, 1, 4, 5])]):
        direct = Ridge(alpha=PENALTY * 400).fit(x[:, others].astype(float), x[:, target].astype(float))
        assert found[others, column] == pytest.approx(direct.coef_, abs=1e-6)
        assert np.abs(found[[j for j in range(6) if j not in others], column]).max() == 0
    plain = LinearRegression().fit(x[:, [0, 2, 3, 4, 5]], x[:, 1])
    assert found[[0, 2, 3, 4, 5], 0] == pytest.approx(plain.coef_, abs=0.03)


def test_published_curves_hide_small_counts() -> None:
    curve = calibration(SCORES, TRUTH)
    assert len(curve["predicted"]) >= 3
    assert sorted(curve["predicted"]) == curve["predicted"]
    rare = np.arange(700) < 15
    assert len(calibration(RNG.random(700), rare)["predicted"]) <= 1
    assert calibration(RNG.random(30), np.arange(30) < 5) == {"predicted": [], "observed": []}
    assert precision_recall(RNG.random(700), np.arange(700) < 8)["recall"] == []
    found = precision_recall(SCORES, TRUTH)
    precision, recall, _ = metrics.precision_recall_curve(TRUTH, SCORES)
    at_half = found["precision"][found["recall"].index(0.5)]
    assert at_half in {round(float(p), 3) for p, r in zip(precision, recall, strict=True) if r >= 0.5}


def test_percentile_interval_by_hand() -> None:
    assert percentile_interval(np.arange(1001.0)) == (25.0, 975.0)
