"""A whole cohort to states and uniforms and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pipeline.encoding.encoder import EncodingSettings, LevelCodec, TableEncoder
from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema


def table(n: int = 600) -> Cohort:
    rng = np.random.default_rng(0)
    weight = np.round(rng.normal(70, 10, n), 1)
    weight[::7] = np.nan
    sex = rng.integers(0, 2, n)
    sex[::9] = -1
    schema = TableSchema(
        columns=[
            Column(name="id", kind="identifier", dtype="string", role="id"),
            Column(
                name="weight",
                kind="continuous",
                dtype="float64",
                nullable=True,
                resolution=Resolution(kind="decimals", digits=1),
            ),
            Column(name="visits", kind="count", dtype="int64"),
            Column(name="sex", kind="binary", dtype="string", levels=["f", "m"], nullable=True),
            Column(name="seen", kind="datetime", dtype="timestamp[us]", nullable=False),
        ],
        blocks=[
            CodeBlock(name="codes", kind="binary", vocabulary=["a", "b", "never"]),
            CodeBlock(name="drugs", kind="count", vocabulary=["x", "y"]),
        ],
    )
    present = (rng.random((n, 3)) < [0.5, 0.02, 0.0]).astype(float)
    return assemble(
        schema,
        {
            "weight": weight,
            "visits": rng.poisson(2, n).astype(float),
            "sex": sex,
            "seen": 19_000 + rng.integers(0, 20, n).astype(float),
        },
        blocks={"codes": csr_matrix(present), "drugs": csr_matrix(rng.poisson(1.0, (n, 2)).astype(float))},
    )


def test_round_trip() -> None:
    real = table()
    encoder = TableEncoder.fit(real, EncodingSettings())
    rng = np.random.default_rng(1)
    back, counts = encoder.decode(encoder.encode(real, rng), rng)
    assert counts == {"rare_levels_redrawn": 0}
    assert back.table.schema == real.schema.arrow()
    for name in ("sex",):
        np.testing.assert_array_equal(back.codes(name), real.codes(name))
    for name in ("weight", "visits", "seen"):
        a, b = real.values(name), back.values(name)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        order = np.sort(a[~np.isnan(a)])
        inside = (a > order[5]) & (a < order[-6])
        np.testing.assert_array_equal(a[inside], b[inside])
    assert (back.blocks["codes"] != real.blocks["codes"]).nnz == 0
    assert (back.blocks["drugs"] != real.blocks["drugs"]).nnz <= 20, "only the largest counts are cut"
    assert back.blocks["drugs"].max() <= real.blocks["drugs"].max()


def test_restored_from_tensors_and_json() -> None:
    real = table()
    encoder = TableEncoder.fit(real, EncodingSettings())
    again = TableEncoder.restore(encoder.tensors(), json.loads(json.dumps(encoder.manifest())))
    a = encoder.encode(real, np.random.default_rng(2))
    b = again.encode(real, np.random.default_rng(2))
    for name in a.uniforms:
        np.testing.assert_array_equal(a.uniforms[name], b.uniforms[name])
    first, _ = encoder.decode(a, np.random.default_rng(3))
    second, _ = again.decode(b, np.random.default_rng(3))
    assert first.table.equals(second.table)


def codec(kind: str, levels: list[str], counts: list[int], missing: int = 0, **more: object) -> LevelCodec:
    column = Column(name="c", kind=kind, dtype="string", levels=levels, nullable=missing > 0)
    codes = np.concatenate([np.repeat(np.arange(len(levels)), counts), np.full(missing, -1)])
    subject = more.get("subject", np.arange(len(codes)))
    return LevelCodec.fit(column, codes, np.asarray(subject), 11)


def test_rare_levels_are_pooled_and_redrawn_from_the_others() -> None:
    c = codec("categorical", ["a", "b", "c", "d"], [100, 50, 4, 0], missing=20)
    assert c.kept.tolist() == [0, 1]
    assert c.rare_state == 2
    assert c.missing_state == 3
    codes, redrawn = c.decode(np.full(3000, 2), np.random.default_rng(0))
    assert redrawn == 3000
    assert abs((codes == 0).mean() - 2 / 3) < 0.03
    assert c.encode(np.array([0, 2, -1])).tolist() == [0, 2, 3]


def test_rare_levels_of_one_patient_are_rare_however_many_rows() -> None:
    c = codec("categorical", ["a", "b"], [100, 50], subject=np.r_[np.arange(100), np.full(50, 100)])
    assert c.kept.tolist() == [0]


def test_rare_ordinal_levels_join_the_nearest() -> None:
    c = codec("ordinal", ["0", "1", "2", "3"], [100, 60, 12, 3])
    assert c.rare_state is None
    assert c.encode(np.array([3])).tolist() == [2]
    assert c.frequency.sum() == pytest.approx(1)


def test_a_rare_flag_is_kept() -> None:
    c = codec("binary", ["no", "yes"], [500, 2])
    assert c.kept.tolist() == [0, 1]


def test_a_named_rare_level_takes_the_pool() -> None:
    c = codec("categorical", ["a", "b", "__rare__"], [100, 3, 0])
    codes, redrawn = c.decode(c.encode(np.array([1, 1, 0])), np.random.default_rng(0))
    assert codes.tolist() == [2, 2, 0]
    assert redrawn == 0


def test_a_value_that_is_no_level_is_refused_without_naming_it() -> None:
    column = Column(name="c", kind="categorical", dtype="string", levels=["a"])
    with pytest.raises(ConfigError, match="2 cells") as caught:
        LevelCodec.fit(column, np.array([0, -2, -2]), np.arange(3), 11)
    assert "column 'c'" in str(caught.value)


def test_infinite_numbers_are_refused() -> None:
    schema = TableSchema(columns=[Column(name="x", kind="continuous", dtype="float64")])
    with pytest.raises(ConfigError, match="infinite"):
        TableEncoder.fit(assemble(schema, {"x": np.array([1.0, np.inf])}), EncodingSettings())
