"""Our figures beside syntheval's and SDMetrics' on the same 400 rows: the same where they are right, and why not elsewhere.

Frozen values are what syntheval 1.7.3 and SDMetrics 0.32.0 gave (benchmarks/peers/*.txt), made by

    from evaluating.shared_rows import shared_rows, write   # with benchmarks/ on sys.path
    write(shared_rows(400), Path("rows"))
    $COHORTLOOM_SYNTHEVAL_PYTHON benchmarks/evaluating/by_syntheval.py rows "ks"      # and so on

Where the environment variables name the peers' pythons the numbers are made anew.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from evaluating.by_us import figure
from evaluating.shared import SHARED, Shared
from evaluating.shared_rows import only, shared_rows, write
from evaluating.side_by_side import PYTHONS, told

from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Parts, headline, run_evaluation
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, TableSchema

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "evaluating"
N = 400
BY_NAME = {shared.name: shared for shared in SHARED}
SAME = [shared for shared in SHARED if not shared.why]
FROZEN = {
    "ks": 0.94975,
    "tv": 0.95025,
    "chi-squared": 0.9875340005237178,
    "pearson": 0.07083258519149207,
    "spearman": 0.06698300036185627,
    "contingency": 0.9023333333333332,
    "continuous kl": 0.7607200210753766,
    "discrete kl": 0.9540028219267856,
    "copies": 0.02,
    "hitting rate": 0.02,
    "cap": 0.3962315462315462,
    "zero cap": 0.3977409673659673,
    "generalised cap": 0.396096230523862,
    "disclosure": 0.7924630924630924,
    "quality": 0.9118379685108833,
    "dcr overfitting": 0.8,
}
DETECTION = 0.7762
"""LogisticDetection by SDMetrics on `levels_apart`; its folds have no seed, three runs differed by 0.0001."""


@pytest.fixture(scope="module")
def rows() -> dict[str, Cohort]:
    return shared_rows(N)


@pytest.fixture(scope="module")
def ours(rows: dict[str, Cohort]) -> Callable[[Shared], float]:
    found: dict[str, float] = {}

    def value(shared: Shared) -> float:
        if shared.name not in found:
            found[shared.name] = figure(shared, rows)
        return found[shared.name]

    return value


@pytest.mark.parametrize("shared", SAME, ids=lambda s: s.name)
def test_the_number_is_the_peers(shared: Shared, ours: Callable[[Shared], float]) -> None:
    assert ours(shared) == pytest.approx(FROZEN[shared.name], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "peer"),
    [(shared, peer) for shared in SAME for peer in shared.peers],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_the_peer_gives_the_frozen_number(
    shared: Shared, peer: str, rows: dict[str, Cohort], tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = os.environ.get(PYTHONS[peer], "")
    if not python:
        pytest.skip(f"{PYTHONS[peer]} is not set: {peer} runs in an environment of its own (docs/metrics/peers.md)")
    folder = tmp_path_factory.mktemp("peer")
    write(rows, folder)
    theirs = told([python, str(SCRIPTS / f"by_{peer}.py"), str(folder), shared.name])
    assert isinstance(theirs, dict), theirs
    assert theirs["value"] == pytest.approx(FROZEN[shared.name], abs=1e-9)


def four_levels(seed: int, shares: list[float]) -> Cohort:
    """3,000 rows of one column of levels without an order."""
    column = Column(name="x", kind="categorical", dtype="string", levels=list("abcd"))
    codes = np.random.default_rng(seed).choice(4, 3_000, p=shares)
    return assemble(TableSchema(columns=[column]), {"x": codes})


def test_detection_sees_levels_one_by_one() -> None:
    """Levels as one number give more: their order means nothing, and the logistic regression finds less."""
    shared = replace(BY_NAME["logistic detection"], columns="levels")
    assert figure(shared, levels_apart()) == pytest.approx(DETECTION, abs=1e-3)


@pytest.mark.slow
def test_the_peer_detects_levels_as_frozen(tmp_path: Path) -> None:
    python = os.environ.get(PYTHONS["sdmetrics"], "")
    if not python:
        pytest.skip(f"{PYTHONS['sdmetrics']} is not set: SDMetrics runs in an environment of its own")
    write(levels_apart(), tmp_path)
    theirs = told([python, str(SCRIPTS / "by_sdmetrics.py"), str(tmp_path), "logistic detection"])
    assert isinstance(theirs, dict), theirs
    assert theirs["value"] == pytest.approx(DETECTION, abs=1e-3)


def levels_apart() -> dict[str, Cohort]:
    """Shares that no order of the levels explains."""
    real, made = [0.4, 0.3, 0.2, 0.1], [0.5, 0.2, 0.28, 0.02]
    return {"train": four_levels(1, real), "holdout": four_levels(2, real), "synthetic": four_levels(3, made)}


def test_intervals_of_means_overlap_as_in_syntheval_up_to_its_n_minus_1(ours: Callable[[Shared], float]) -> None:
    """syntheval takes the standard error with n - 1 and 1.96; the same intervals otherwise."""
    assert ours(BY_NAME["interval overlap"]) == pytest.approx(0.771564149761181, abs=1 / N)


def test_mutual_information_is_syntheval_s_before_summing_up(rows: dict[str, Cohort]) -> None:
    """syntheval gives the Frobenius norm over both triangles, we the mean absolute difference: one figure is not the
    other, but the matrices of columns of levels are the same (mutual information over the mean of both entropies).
    """
    from pipeline.evaluation.fidelity.pairs import mutual_information

    tables = {}
    for name in ("holdout", "synthetic"):
        cohort = only(rows[name], "levels")
        codes = [np.unique(np.array(c.to_pylist(), dtype=str), return_inverse=True)[1] for c in cohort.table.columns]
        matrix = np.ones((len(codes), len(codes)))
        for i, a in enumerate(codes):
            for j, b in enumerate(codes):
                table = np.zeros((1, a.max() + 1, b.max() + 1))
                np.add.at(table[0], (a, b), 1 / N)
                matrix[i, j] = mutual_information(table)[0][0]
        tables[name] = matrix
    assert np.linalg.norm(tables["holdout"] - tables["synthetic"]) == pytest.approx(0.14143603887060907, abs=1e-9)


def bounded(seed: int) -> Cohort:
    """300 rows of five numbers whose ends many rows share, so that cutting ranges at 0.5-99.5 % changes nothing."""
    x = np.random.default_rng(seed).normal(size=(300, 5))
    x[:, 1] += x[:, 0]
    x = np.clip(x, -1.5, 1.5)
    columns = [Column(name=name, kind="continuous", dtype="float64") for name in "abcde"]
    return assemble(TableSchema(columns=columns), {name: x[:, i] for i, name in enumerate("abcde")})


def test_adversarial_accuracy_is_syntheval_s_where_the_distance_is_the_same() -> None:
    """With nn_distance="euclid", numbers only and ends that many rows share, both measure the same distance.

    By default they do not: syntheval's Gower adds up absolute differences over the full range, ours squares
    differences on the range of 0.5-99.5 %, so that one outlier does not squeeze everybody else together. Frozen:
    SynthEval(train, holdout_dataframe=holdout, cat_cols=[], nn_distance="euclid").evaluate(synthetic, None, nnaa={}).
    """
    parts = Parts.of_two(bounded(1), bounded(2))
    found = run_evaluation(parts, [bounded(3)], EvaluationPlan(profile="standard"), metrics=["priv.nnaa_loss"]).results
    alone, loss = headline(found, "priv.nnaa_loss", key1="AA training"), headline(found, "priv.nnaa_loss")
    assert alone is not None
    assert loss is not None
    assert alone.value == pytest.approx(0.5016666666666667, abs=1e-12)
    assert loss.value == pytest.approx(0.0, abs=1e-12)


def test_overfitting_protection_of_sdmetrics_scales_each_side_by_its_own_range(rows: dict[str, Cohort]) -> None:
    """Its score falls to 0.80 with 2 % of copies: a longer tail in the training rows makes these look nearer.

    So `lit.sdv.dcr_overfitting` says, which is theirs to the letter (FROZEN); here the formula once more by hand.
    """
    levels = [c.name for c in rows["train"].schema.columns if c.discrete]
    numbers = [c.name for c in rows["train"].schema.columns if not c.discrete]
    values = {
        name: {c: np.array(cohort.table.column(c).to_pylist()) for c in levels + numbers}
        for name, cohort in rows.items()
    }

    def nearest(real: str, ranged: str) -> np.ndarray:
        total = np.zeros((N, N))
        for c in numbers:
            width = np.ptp(values[ranged][c])
            total += np.abs(values["synthetic"][c][:, None] - values[real][c][None]) / width
        for c in levels:
            total += values["synthetic"][c][:, None] != values[real][c][None]
        return total.min(axis=1)

    def score(range_of_holdout: str) -> float:
        share = float((nearest("train", "train") < nearest("holdout", range_of_holdout)).mean())
        return min(1.0, 2 * (1 - share))

    assert score("holdout") == pytest.approx(0.80, abs=1e-9)
    assert score("train") > 0.9
