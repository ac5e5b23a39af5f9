"""The engine under the metrics: exact neighbours of every kind of distance, and the encodings they rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_distances
from toy_people import coded, people

from pipeline.evaluation import distances, neighbours
from pipeline.evaluation.distances import CityPoints, Counts, EuclidPoints, Points, counts_of
from pipeline.evaluation.encoding import MetricEncoder
from pipeline.evaluation.neighbours import cosine_nearest, knn

if TYPE_CHECKING:
    from pipeline.evaluation.distances import Rows

NEAR = 6


KINDS = ["numbers", "ties", "codes", "mixed", "gower1", "gower1 with levels", "euclid", "cosine"]


def _sparse(rng: np.random.Generator, n: int, codes: int = 40, share: float = 0.06) -> csr_matrix:
    """Short rows: many are equal, many pairs are equally far apart, and some rows are empty."""
    return csr_matrix((rng.random((n, codes)) < share).astype(np.float32))


def _rows(kind: str, n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (n, 4)).astype(np.float32) / 2
    if kind == "numbers":
        return Points(rng.random((n, 7)).astype(np.float32), 7)
    if kind == "ties":
        return Points(coarse, 4)
    if kind == "codes":
        return Points(np.zeros((n, 0), dtype=np.float32), 0, (_sparse(rng, n),))
    if kind == "mixed":
        return Points(coarse, 4, (_sparse(rng, n), _sparse(rng, n, 15, 0.5)))
    if kind == "gower1":
        return CityPoints(np.hstack([coarse, rng.integers(-1, 4, (n, 2)).astype(np.float32)]), 6, (_sparse(rng, n),))
    if kind == "gower1 with levels":
        levels = rng.integers(-2, 4, (n, 2)).astype(np.float32)
        gaps = np.where(rng.random((n, 1)) < 0.2, np.float32(2), rng.random((n, 1)).astype(np.float32))
        return CityPoints(np.hstack([levels, coarse, gaps]), 7, (_sparse(rng, n),), (4, 4, 0, 0, 0, 0, 0))
    if kind == "euclid":
        return EuclidPoints(coarse, 1, (_sparse(rng, n), _sparse(rng, n, 15, 0.5)))
    assert kind == "cosine"
    return counts_of([_sparse(rng, n).multiply(rng.integers(1, 4, (n, 40))).tocsr()])


def _brute(query: Rows, reference: Rows, k: int, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    n, m = len(query), len(reference)
    far = query.exact(reference, np.repeat(np.arange(n), m), np.tile(np.arange(m), n)).reshape(n, m)
    if own is not None:
        far[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
    order = np.lexsort((np.broadcast_to(np.arange(m), far.shape), far), axis=1)[:, :k]
    return query.length(np.take_along_axis(far, order, axis=1)), order


@pytest.mark.parametrize("kind", KINDS)
def test_nearest_rows_are_those_of_a_full_sort_whatever_the_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, reference = _rows(kind, 60, 1), _rows(kind, 120, 2)
    own = np.where(np.arange(60) % 3 > 0, np.arange(60) + 20, -1)
    itself = reference.take(np.arange(20, 80))
    wanted, wanted_self = _brute(query, reference, NEAR, None), _brute(itself, reference, NEAR, own)
    for at_once, budget in ((neighbours.REFERENCE_ROWS, neighbours.BUDGET_BYTES), (64, 64 * 12 * 7), (50, 1)):
        monkeypatch.setattr(neighbours, "REFERENCE_ROWS", at_once)
        found = knn(query, reference, NEAR, budget_bytes=budget)
        found_self = knn(itself, reference, NEAR, own=own, budget_bytes=budget)
        for got, (distance, index) in ((found, wanted), (found_self, wanted_self)):
            np.testing.assert_array_equal(got.distance, distance)
            np.testing.assert_array_equal(got.index, index)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_distances_lie_within_their_slack_of_the_exact_ones(kind: str) -> None:
    query, reference = _rows(kind, 90, 3), _rows(kind, 80, 4)
    fast = query.against(reference.loaded("cpu"), "cpu").numpy()
    exact = query.exact(reference, np.repeat(np.arange(90), 80), np.tile(np.arange(80), 90)).reshape(90, 80)
    assert fast.dtype == np.float32
    assert np.abs(fast - exact).max() <= query.slack(reference)


def test_levels_told_by_one_product_are_as_far_apart_as_cut_differences() -> None:
    """The distances of nominal columns do not depend on how they are found; nor does the plain one on the blocks."""
    query, reference = (_rows("gower1 with levels", n, n) for n in (70, 50))
    plain = [replace(r, levels=()) for r in (query, reference)]
    fast = query.against(reference.loaded("cpu"), "cpu").numpy()
    np.testing.assert_allclose(fast, plain[0].against(plain[1].loaded("cpu"), "cpu").numpy(), atol=1e-6)
    a, b = (_rows("euclid", n, n) for n in (70, 50))
    wide = [Points(np.hstack([r.dense, *(p.toarray() for p in r.presence)]), 1) for r in (a, b)]
    found, wanted = knn(a, b, 3), knn(*wide, 3)
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-12)


def test_rows_that_rounding_cannot_tell_apart_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ by less than a float32 product shows are still ranked; so they are where rounding is worse."""
    base = np.full((400, 3), 0.7, dtype=np.float32)
    base[:, 0] += np.arange(400, 0, -1).astype(np.float32) * np.float32(2e-6)
    query, reference = Points(base[-1:], 3), Points(base, 3)
    fast = query.against(reference.loaded("cpu"), "cpu").numpy()[0]
    assert not (np.argsort(fast, kind="stable")[:NEAR] == np.arange(399, 399 - NEAR, -1)).all()
    assert knn(query, reference, NEAR).index[0].tolist() == list(range(399, 399 - NEAR, -1))
    rows = _rows("mixed", 150, 1), _rows("mixed", 210, 2)
    sure = knn(*rows, NEAR)
    monkeypatch.setattr(distances, "ROUNDING", 1e-3)
    monkeypatch.setattr(neighbours, "PAIRS", 500)
    unsure = knn(*rows, NEAR)
    np.testing.assert_array_equal(unsure.index, sure.index)
    np.testing.assert_array_equal(unsure.distance, sure.distance)


def test_a_row_repeated_a_thousand_times_is_searched_once() -> None:
    one = _rows("mixed", 30, 5)
    many = one.take(np.r_[np.zeros(1000, dtype=int), np.arange(30)])
    found = knn(many, many, 3, own=np.arange(len(many)))
    assert (found.distance[:1000] == 0).all()
    assert found.index[0].tolist() == [1, 2, 3]
    assert found.index[999].tolist() == [0, 1, 2]
    assert found.index[1000].tolist() == [0, 1, 2]


def test_gower1_is_the_mean_of_city_block_and_mismatches() -> None:
    train, other = people(300, 1), people(200, 2)
    encoder = MetricEncoder(train)
    a, b = encoder.side(other), encoder.side(train)
    found = knn(a.city_points, b.city_points, 4)
    numeric, nominal = [], []
    for column in encoder.columns:
        if column.numeric:
            rule = encoder.numeric[column.name]
            numeric.append([np.clip((s.values[column.name] - rule.lo) / (rule.hi - rule.lo), 0, 1) for s in (a, b)])
        elif column.kind == "ordinal":
            numeric.append([s.codes[column.name] / (len(column.levels) - 1) for s in (a, b)])
        else:
            nominal.append([s.codes[column.name] for s in (a, b)])
    left, right = (np.stack([pair[i] for pair in numeric], axis=1) for i in (0, 1))
    both = [~np.isnan(x) for x in (left, right)]
    missing = cdist(both[0].astype(float), both[1].astype(float), "cityblock")
    known = sum(
        np.where(both[0][:, j, None] & both[1][None, :, j], cdist(left[:, [j]], right[:, [j]], "cityblock"), 0.0)
        for j in range(left.shape[1])
    )
    levels = [np.stack([pair[i] for pair in nominal], axis=1) for i in (0, 1)]
    mismatches = cdist(*levels, "hamming") * len(nominal)
    full = (known + missing + mismatches) / len(encoder.columns)
    np.testing.assert_allclose(found.distance, np.sort(full, axis=1)[:, :4], atol=1e-6)


def test_jaccard_agrees_with_scipy_where_a_row_has_a_code() -> None:
    """scipy calls two empty rows equal as well since 1.2; before it said nan, which is why they are pinned here."""
    rng = np.random.default_rng(6)
    left, right = _sparse(rng, 80), _sparse(rng, 90)
    points = [Points(np.zeros((m.shape[0], 0), dtype=np.float32), 0, (m,)) for m in (left, right)]
    full = cdist(left.toarray().astype(bool), right.toarray().astype(bool), "jaccard")
    np.testing.assert_allclose(distances.jaccard(left, right), full, atol=1e-6)
    np.testing.assert_allclose(knn(*points, 5).distance, np.sqrt(np.sort(full, axis=1)[:, :5]), atol=1e-12)
    empty = np.flatnonzero(np.diff(left.indptr) == 0)
    assert len(empty)
    assert (np.diff(right.indptr) == 0).any()
    assert (knn(*points, 1).distance[empty] == 0).all()


def test_cosine_agrees_with_scikit_learn_except_for_empty_rows() -> None:
    """scikit-learn puts two empty rows at distance 1; they are equal, so here they are at 0."""
    rng = np.random.default_rng(7)
    counts = [_sparse(rng, n).multiply(rng.integers(1, 5, (n, 40))).tocsr() for n in (70, 110)]
    found = cosine_nearest(counts[0], counts[1], 5)
    full = cosine_distances(*counts)
    empty = [np.diff(c.indptr) == 0 for c in counts]
    assert empty[0].any()
    assert empty[1].any()
    full[np.ix_(*empty)] = 0.0
    np.testing.assert_allclose(found.distance, np.sort(full, axis=1)[:, :5], atol=1e-12)
    odd = counts[0].astype(np.float64)
    odd.data[:2] = np.nan, np.inf
    assert np.isfinite(cosine_nearest(odd, counts[1], 5).distance).all()
    double = counts[0][~empty[0]]
    assert (cosine_nearest(double * 3, double, 1).distance == 0).all()


def test_a_side_gives_rows_for_every_distance() -> None:
    side = MetricEncoder(coded(60, 1)).side(coded(60, 1))
    assert isinstance(side.rows_for("gower1"), CityPoints)
    assert isinstance(side.rows_for("cosine"), Counts)
    assert side.rows_for("gower2") is side.points
    without = MetricEncoder(people(20, 1)).side(people(20, 1))
    assert without.rows_for("cosine").parts == 0


def test_codes_in_another_order_or_beyond_the_vocabulary_are_the_same_rows() -> None:
    from dataclasses import replace

    train, made = coded(100, 1), coded(50, 2)
    block = made.schema.blocks[0]
    order = np.random.default_rng(0).permutation(300)
    vocabulary = [*(block.vocabulary[i] for i in order), "unheard of"]
    matrix = csr_matrix(np.c_[made.blocks["diagnoses"].toarray()[:, order], np.ones(50)])
    schema = made.schema.model_copy(update={"blocks": [block.model_copy(update={"vocabulary": vocabulary})]})
    other = replace(made, schema=schema, blocks={"diagnoses": matrix})
    encoder = MetricEncoder(train)
    assert (encoder.side(other).hashes == encoder.side(made).hashes).all()
    assert (encoder.side(other).counts["diagnoses"] != encoder.side(made).counts["diagnoses"]).nnz == 0


def test_distances_are_computed_where_the_run_is_told_to() -> None:
    from pipeline.errors import ConfigError
    from pipeline.features.spec import load_book
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.judging import plan_of

    cell = Cell.of(load_book(), "support", "2026-01-01")
    assert plan_of(cell, "cpu").device == "cpu"
    assert plan_of(cell, "cpu").profile == cell.spec.evaluation.profile
    with pytest.raises(ConfigError, match="cuda:99"):
        plan_of(cell, "cuda:99")


def test_the_device_is_handed_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.evaluation import context
    from pipeline.evaluation.plan import EvaluationPlan

    asked: list[str] = []

    def search(*rows: Rows, device: str, **options: object) -> neighbours.Neighbours:
        asked.append(device)
        return knn(*rows, device="cpu", **options)

    monkeypatch.setattr(context, "knn", search)
    parts = context.Parts(people(40, 1), people(30, 2), people(5, 3), people(5, 4))
    ctx = context.EvaluationContext.of(parts, people(30, 5), EvaluationPlan(device="cuda:3"))
    first = ctx.near("S", "T")
    assert asked == ["cuda:3"]
    assert (ctx.near("S", "T").distance == first.distance).all()
    assert asked == ["cuda:3"]
    assert (ctx.near("S", "T", distance="gower1").distance != first.distance).any()


@pytest.mark.skipif("not __import__('torch').cuda.is_available()")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_same_bytes(kind: str) -> None:
    query, reference = _rows(kind, 150, 1), _rows(kind, 210, 2)
    here, there = knn(query, reference, NEAR), knn(query, reference, NEAR, device="cuda")
    np.testing.assert_array_equal(here.distance, there.distance)
    np.testing.assert_array_equal(here.index, there.index)
