"""Joint fidelity against brute force, closed forms, hand-computed cases and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from toy_people import coded

from pipeline.evaluation.context import EvaluationContext, RealSides, synthetic_side
from pipeline.evaluation.distances import Points
from pipeline.evaluation.fidelity.clusters import expected as expected_u
from pipeline.evaluation.fidelity.clusters import kmeans, log_unevenness
from pipeline.evaluation.fidelity.components import principal, spectra, standardised
from pipeline.evaluation.fidelity.energy import bandwidth, mixture_kernel
from pipeline.evaluation.fidelity.frechet import extrapolated, frechet_distance
from pipeline.evaluation.fidelity.manifold import K, balls, expected_coverage
from pipeline.evaluation.fidelity.projections import density
from pipeline.evaluation.fidelity.propensity import expected as expected_pmse
from pipeline.evaluation.fidelity.propensity import propensity
from pipeline.evaluation.fidelity.random_features import featured
from pipeline.evaluation.fidelity.two_sample import (
    Matrices,
    discrepancy,
    grouped_error,
    mean_error,
    permutation_p,
    squared_distances,
)
from pipeline.evaluation.fidelity.typicality import centre_of, integrated, precision_curve, radii, recall_curve
from pipeline.evaluation.neighbours import knn
from pipeline.evaluation.protocol import compute


def points(x: np.ndarray) -> Points:
    return Points(x.astype(np.float32), x.shape[1])


def matrices(x: np.ndarray, y: np.ndarray, kernel) -> Matrices:
    return Matrices(kernel(x, x), kernel(y, y), kernel(x, y))


def energy_of(x: np.ndarray, y: np.ndarray, metric: str) -> float:
    single = np.arange(len(x)), np.arange(len(y))
    return discrepancy(matrices(x, y, lambda a, b: -cdist(a, b, metric)), *single).value


def test_distances_against_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 6)), rng.random((30, 6))
    assert squared_distances(points(x), points(y), "cpu") == pytest.approx(cdist(x, y, "sqeuclidean") / 6, abs=1e-6)
    codes = [csr_matrix((rng.random((n, 9)) < 0.3).astype(np.float32)) for n in (40, 30)]
    with_codes = [Points(z.astype(np.float32), 6, (c,)) for z, c in zip((x, y), codes, strict=True)]
    apart = cdist(codes[0].toarray() > 0, codes[1].toarray() > 0, "jaccard")
    assert squared_distances(*with_codes, "cpu") == pytest.approx(
        (cdist(x, y, "sqeuclidean") / 6 + apart) / 2, abs=1e-6
    )


def test_energy_by_brute_force_over_all_pairs() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(9, 3)) + 0.5
    d = cdist(np.r_[x, y], np.r_[x, y])
    across = np.mean([d[i, 12 + j] for i in range(12) for j in range(9)])
    inside = [d[i, j] for i in range(12) for j in range(12) if i != j]
    inside_y = [d[12 + i, 12 + j] for i in range(9) for j in range(9) if i != j]
    assert energy_of(x, y, "euclidean") == pytest.approx(2 * across - np.mean(inside) - np.mean(inside_y), abs=1e-12)


def test_root_distance_sees_dependence_and_plain_gower_does_not() -> None:
    """A distance that is a sum over columns has the sum of the columns' energies as its energy."""
    rng = np.random.default_rng(2)
    x, y = (rng.multivariate_normal([0, 0], [[1, 0.95], [0.95, 1]], size=600) for _ in range(2))
    shuffled = np.column_stack([rng.permutation(y[:, 0]), y[:, 1]])
    assert energy_of(x, shuffled, "euclidean") > 10 * abs(energy_of(x, y, "euclidean"))
    assert energy_of(x, shuffled, "cityblock") == pytest.approx(energy_of(x, y, "cityblock"), abs=1e-9)
    assert energy_of(x, 0.5 * y, "euclidean") > 10 * abs(energy_of(x, y, "euclidean"))


def test_discrepancy_against_the_direct_sum_and_its_error_against_leaving_out() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(25, 2)), 1 + rng.normal(size=(20, 2))
    clusters = np.repeat(np.arange(13), 2)[:25], np.arange(20)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.mean([np.exp(-cdist(a, b, "sqeuclidean") / (2 * (w * 1.3) ** 2)) for w in (0.5, 1, 2)], axis=0)

    def direct(a: np.ndarray, b: np.ndarray) -> float:
        n, m = len(a), len(b)
        inside = [(kernel(z, z).sum() - len(z)) / (len(z) * (len(z) - 1)) for z in (a, b)]
        return sum(inside) - 2 * kernel(a, b).sum() / (n * m)

    made = matrices(x, y, lambda a, b: mixture_kernel(cdist(a, b, "sqeuclidean"), 1.3))
    found = discrepancy(made, *clusters)
    assert found.value == pytest.approx(direct(x, y), abs=1e-12)
    left = np.array([direct(x[clusters[0] != c], y) for c in range(13)])
    right = np.array([direct(x, np.delete(y, j, axis=0)) for j in range(20)])
    expected = sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in (left, right))
    assert found.se == pytest.approx(np.sqrt(expected), rel=1e-9)


def test_permutation_p_is_read_off_the_pooled_matrix() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
    clusters = np.arange(40), np.arange(40)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(a, b, "sqeuclidean"))

    far = permutation_p(matrices(x, y + 3, kernel), *clusters, 99, np.random.default_rng(0))
    assert far == 0.01
    found = permutation_p(matrices(x, y, kernel), *clusters, 99, np.random.default_rng(0))
    value = discrepancy(matrices(x, y, kernel), *clusters).value
    pooled, stream, hits = np.r_[x, y], np.random.default_rng(0), 0
    for _ in range(99):
        chosen = np.zeros(80, dtype=bool)
        chosen[stream.permutation(80)[:40]] = True
        hits += discrepancy(matrices(pooled[chosen], pooled[~chosen], kernel), *clusters).value >= value
    assert found == (1 + hits) / 100


def test_errors_of_means() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=400)
    assert mean_error(values, np.arange(400)) == pytest.approx(values.std(ddof=1) / 20)
    twice = np.repeat(values, 2)
    assert mean_error(twice, np.repeat(np.arange(400), 2)) == pytest.approx(values.std(ddof=1) / 20)
    other = rng.normal(size=400)
    found = grouped_error(
        lambda a, b: np.array([values[a].mean() - other[b].mean()]), np.arange(400), np.arange(400), rng
    )
    assert found[0] == pytest.approx(np.sqrt(2) / 20, rel=0.35)


def with_moments(rng: np.random.Generator, n: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Rows with exactly these moments."""
    x = rng.normal(size=(n, len(mean)))
    x = (x - x.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_against_closed_form_and_scipy() -> None:
    rng = np.random.default_rng(6)
    x = with_moments(rng, 80, np.zeros(3), np.eye(3))
    y = with_moments(rng, 90, np.array([1.0, 0, 2]), 0.25 * np.eye(3))
    assert frechet_distance(x, y) == pytest.approx(5 + 3 * (1 - 0.5) ** 2)
    left, right = (a @ a.T + 0.1 * np.eye(4) for a in rng.normal(size=(2, 4, 4)))
    x, y = with_moments(rng, 60, np.zeros(4), left), with_moments(rng, 70, np.ones(4), right)
    expected = 4 + np.trace(left + right - 2 * np.real(sqrtm(left @ right)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_extrapolation_takes_out_the_bias() -> None:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(12):
        x, y = rng.normal(size=(2, 600, 16))
        found.append((frechet_distance(x, y), extrapolated(x, y, rng)))
    raw, free = np.mean(found, axis=0)
    assert raw > 0.2
    assert abs(free) < 3 * np.std(found, axis=0)[1] / np.sqrt(12)


def test_u_by_hand() -> None:
    """Four real and three synthetic rows in two clusters: shares 3/4 and 1/3 of real rows, c = 4/7."""
    rows = np.array([[0.0], [0.1], [0.2], [9.0], [0.3], [9.1], [9.2]])
    label = kmeans(rows, 2, seed=0)
    real, total = np.bincount(label[:4], minlength=2), np.bincount(label, minlength=2)
    assert sorted(zip(real.tolist(), total.tolist(), strict=True)) == [(1, 3), (3, 4)]
    by_hand = np.log(((3 / 4 - 4 / 7) ** 2 + (1 / 3 - 4 / 7) ** 2) / 2)
    assert log_unevenness(real, total, 4 / 7) == pytest.approx(by_hand)
    assert log_unevenness(np.array([4, 0]), np.array([4, 4]), 0.5) == pytest.approx(np.log(0.25))
    assert log_unevenness(np.array([2, 2]), np.array([4, 4]), 0.5) == -np.inf
    assert log_unevenness(np.array([4, 0, 0]), np.array([4, 4, 0]), 0.5) == pytest.approx(np.log(0.25))
    assert len(np.unique(kmeans(np.repeat([[1.0], [2.0]], 30, axis=0), 20, seed=0))) == 2


def test_expected_u_is_what_chance_gives() -> None:
    rng = np.random.default_rng(8)
    total = rng.integers(80, 200, 20)
    drawn = [log_unevenness(rng.binomial(total, 0.5), total, 0.5) for _ in range(300)]
    assert np.log(np.mean(np.exp(drawn))) == pytest.approx(expected_u(total, 0.5), abs=0.1)


def test_balls_by_brute_force() -> None:
    rng = np.random.default_rng(9)
    x, y = points(rng.integers(0, 3, (60, 3)) / 2), points(rng.integers(0, 3, (50, 3)) / 2)
    radius = [knn(p, p, K, own=np.arange(len(p))).kth(K) for p in (x, y)]
    found = balls(x, y, *radius)
    d = np.sqrt(cdist(x.dense, y.dense, "sqeuclidean") / 3)
    inside, around = d <= radius[0][:, None] + 1e-9, d <= radius[1][None, :] + 1e-9
    assert found.holding.tolist() == inside.sum(axis=0).tolist()
    assert found.held.tolist() == inside.sum(axis=1).tolist()
    assert found.reached.tolist() == around.sum(axis=1).tolist()
    for owner, count, hits in (
        (found.only_held, found.held, inside),
        (found.only_reached, found.reached, around),
        (found.only_holding, found.holding, inside.T),
    ):
        assert all(owner[i] == (np.flatnonzero(hits[i])[0] if count[i] == 1 else -1) for i in range(len(count)))


@pytest.fixture(scope="module")
def gaussian() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(10)
    fresh = rng.normal(size=(3000, 10))
    real = rng.normal(size=(3000, 10))
    return {
        "real": real,
        "fresh": fresh,
        "copy": real[rng.permutation(3000)],
        "half": 0.5 * fresh,
        "wide": 1.5 * fresh,
        "partly": np.r_[fresh[:2700], real[:300]],
    }


def test_neighbourhoods_of_two_gaussian_samples(gaussian: dict[str, np.ndarray]) -> None:
    real, fresh = points(gaussian["real"]), points(gaussian["fresh"])
    radius = [knn(p, p, K, own=np.arange(3000)).kth(K) for p in (real, fresh)]
    found = balls(real, fresh, *radius).figures
    assert found["density"] == pytest.approx(1, abs=0.05)
    assert found["coverage"] == pytest.approx(expected_coverage(3000, 3000), abs=0.01)
    assert expected_coverage(3000, 3000) == pytest.approx(1 - 0.5**5, abs=1e-3)
    # No closed form, but the same by symmetry.
    assert found["precision"] == pytest.approx(found["recall"], abs=0.02)
    assert found["precision"] > 0.9


@pytest.mark.parametrize(
    ("name", "precision", "recall"),
    [("fresh", 0.98, 0.485), ("copy", 1.0, 1.0), ("half", 0.08, 0.36), ("wide", 0.24, 0.16), ("partly", 0.99, 0.556)],
)
def test_typicality_of_gaussian_samples(
    gaussian: dict[str, np.ndarray], name: str, precision: float, recall: float
) -> None:
    """The figures of a simulation of the same layout that was made independently of this code."""
    real, made = points(gaussian["real"]), points(gaussian[name])
    ones = np.ones((1, 3000))
    centre = centre_of(real)
    curve = precision_curve(radii(real, centre, []), radii(made, centre, []), ones, ones)[0]
    near, mate = knn(real, made, 1), knn(real, real, 1, own=np.arange(3000))
    nearest = radii(made, centre_of(made), [])[near.index[:, 0]]
    other = recall_curve(near.kth(1) <= mate.kth(1), nearest, ones)[0]
    assert integrated(curve) == pytest.approx(precision, abs=0.025)
    assert integrated(other) == pytest.approx(recall, abs=0.025)


def test_weighted_curves_are_curves_of_repeated_rows() -> None:
    rng = np.random.default_rng(11)
    real, made = rng.random(40), rng.random(30)
    wr, ws = rng.integers(0, 3, (1, 40)), rng.integers(0, 3, (1, 30))
    again = np.repeat(real, wr[0]), np.repeat(made, ws[0])
    ones = np.ones((1, len(again[0]))), np.ones((1, len(again[1])))
    assert precision_curve(real, made, wr, ws)[0] == pytest.approx(precision_curve(*again, *ones)[0])
    nearer = rng.random(40) < 0.5
    distance = rng.choice(made, 40)
    repeated = recall_curve(np.repeat(nearer, wr[0]), np.repeat(distance, wr[0]), ones[0])
    assert recall_curve(nearer, distance, wr)[0] == pytest.approx(repeated[0])


def test_propensity_against_scikit_learn_and_its_null() -> None:
    rng = np.random.default_rng(12)
    labels = np.repeat([False, True], 200)
    rows = rng.normal(size=(400, 4)) + 0.4 * labels[:, None]
    fitted = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(rows, labels).predict_proba(rows)[:, 1]
    assert propensity(rows, labels).pmse == pytest.approx(np.mean((fitted - 0.5) ** 2), rel=1e-4)
    collinear = np.column_stack([rows, rows[:, 0] + rows[:, 1]])
    assert propensity(collinear, labels).parameters == 5
    assert propensity(collinear, labels).pmse == pytest.approx(propensity(rows, labels).pmse, rel=1e-3)
    ratios = [
        propensity(rng.normal(size=(400, 4)), labels).pmse / expected_pmse(5, 0.5, 400, independent=True)
        for _ in range(150)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=4 * np.std(ratios) / np.sqrt(150))
    apart = rng.normal(size=(400, 2)) + 50 * labels[:, None]
    assert propensity(apart, labels).pmse == pytest.approx(0.25, abs=1e-3)


def test_components_against_scikit_learn(sides: RealSides) -> None:
    frame = principal(sides)
    rows = standardised(EvaluationContext(sides, sides.holdout), "T")
    other = PCA(svd_solver="full").fit(rows)
    assert frame.explained == pytest.approx(other.explained_variance_ratio_[: len(frame.explained)], rel=1e-4)
    assert np.abs((frame.axes[:, :3] * other.components_[:3].T).sum(axis=0)) == pytest.approx(1, abs=1e-3)
    assert frame.whitened(rows, 5).var(axis=0) == pytest.approx(1, abs=1e-3)


def test_spectra_of_equal_rotated_and_shrunk_rows() -> None:
    rng = np.random.default_rng(13)
    x = rng.normal(size=(500, 12)) * np.arange(12, 0, -1)
    rmse, cosine = spectra(x, x[::-1])
    assert (rmse, cosine) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    rmse, cosine = spectra(x, np.roll(x, 6, axis=1))
    assert rmse == pytest.approx(0, abs=1e-9)
    assert cosine < 0.2
    wx = np.linalg.eigvalsh(np.cov(x.T))
    assert spectra(x, x / 2)[0] == pytest.approx(np.sqrt(np.mean((wx - wx / 4) ** 2)))


def test_random_features_are_close_to_the_kernel(sides: RealSides) -> None:
    from toy_people import people

    ctx = EvaluationContext(sides, synthetic_side(sides, people(1500, 5)))
    exact = compute(ctx, ["fid.joint.mmd2"])[0]
    assert featured(ctx, bandwidth(sides)).value == pytest.approx(exact.value, abs=3 * exact.se)
    shuffled = people(1500, 6)
    shuffled = shuffled.take(np.flatnonzero(np.asarray(shuffled.table.column("age")) > 60))
    other = EvaluationContext(sides, synthetic_side(sides, shuffled))
    exact = compute(other, ["fid.joint.mmd2"])[0]
    assert exact.value > 5 * exact.se
    assert featured(other, bandwidth(sides)).value == pytest.approx(exact.value, rel=0.35)


def test_random_features_take_codes(coded_sides: RealSides) -> None:
    ctx = EvaluationContext(coded_sides, synthetic_side(coded_sides, coded(900, 5)))
    found = featured(ctx, bandwidth(coded_sides))
    assert abs(found.value) < 4 * found.se


def test_no_cell_of_the_public_picture_shows_fewer_than_eleven_rows() -> None:
    places = np.r_[np.full((10, 2), 0.25), np.full((11, 2), 0.75), np.full((5, 2), 7.0)]
    edges = [np.array([0.0, 0.5, 1.0])] * 2
    assert density(places, edges, 26) == [[None, 0.0], [0.0, round(11 / 26, 5)]]
