"""The private encoder: nothing that one person alone has comes out, and its budget is spent and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import private_lab as lab
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.encoding.private import private_encoder, private_rows, refusal
from pipeline.encoding.private_domains import (
    FAILURE,
    bounds_from,
    bounds_histogram,
    fullest_bin,
    grid_from,
    grid_histogram,
    within_type,
)
from pipeline.errors import UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.infer import conform, infer_schema
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema
from pipeline.features.schema_union import told_anew, united
from pipeline.features.spec import ColumnSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS = EncodingSettings()
ROWS = 3_000


def planted(n: int = ROWS) -> Cohort:
    """A table whose schema is inferred, and in it one person with a level, numbers and a gap that nobody else has."""
    rng = np.random.default_rng(0)
    ward = rng.choice(["north", "south", "west"], n, p=[0.6, 0.3, 0.1]).astype(object)
    cost = np.round(np.exp(rng.normal(4, 0.5, n)), 2)
    age = rng.integers(30, 80, n).astype(np.int64)
    stage = rng.integers(1, 4, n).astype(np.int64)
    lab_value = np.round(rng.normal(7, 1, n), 1)
    lab_value[rng.random(n) < 0.3] = np.nan
    ward[7], cost[7], age[7], stage[7] = "the king's own", 7_777_777.123456, 141, 9
    table = pa.table({"ward": ward.tolist(), "cost": cost, "age": age, "stage": stage, "lab": lab_value})
    said = {"stage": ColumnSpec(kind="ordinal")}
    schema = infer_schema(table, None, said)
    rows = conform(table, schema)
    return Cohort(rows, schema, np.array([f"p{i}" for i in range(n)]))


def learned(cohort: Cohort, *, epsilon: float = 2.0, key: bytes = lab.KEY, **asked: Any) -> tuple[TableEncoder, Any]:
    run = lab.begin(cohort=cohort, epsilon=epsilon, key=key, **asked)
    return private_encoder(cohort, SETTINGS, run), run


# ---- what is private


def test_what_only_one_person_has_never_comes_out() -> None:
    cohort = planted()
    assert cohort.schema.column("ward").levels is not None
    assert "the king's own" in cohort.schema.column("ward").levels
    assert cohort.schema.column("cost").bounds == (pytest.approx(8, abs=8), 7_777_777.123456)
    for k in range(60):
        encoder, _ = learned(cohort, epsilon=2.0 + k % 3, key=b"key %d" % k)
        told = encoder.schema
        assert "king" not in told.model_dump_json()
        assert set(told.column("ward").levels or []) <= {"north", "south", "west"}
        assert 9 not in (told.column("stage").levels or [])
        assert told.column("cost").bounds[1] <= 2048  # type: ignore[index]
        assert told.column("age").bounds[1] <= 128  # type: ignore[index]
        assert all(c.inferred == () for c in told.columns)
        rows, seen = private_rows(encoder, cohort, np.random.default_rng(0))
        drawn, _ = encoder.decode(rows, np.random.default_rng(0))
        assert drawn.schema == seen.schema == told
        assert float(np.nanmax(drawn.values("cost"))) <= 2048
        assert "7777777" not in drawn.table.to_pandas().to_csv()


def test_common_levels_bounds_grids_and_gaps_are_found() -> None:
    encoder, _ = learned(planted(), epsilon=20.0)
    told = encoder.schema
    assert told.column("ward").levels == ["north", "south", "west"]
    assert told.column("stage").levels == [1, 2, 3]
    assert told.column("cost").resolution == Resolution(kind="decimals", digits=2)
    assert told.column("lab").resolution == Resolution(kind="decimals", digits=1)
    assert told.column("lab").nullable
    assert not told.column("cost").nullable
    assert told.column("age").bounds == (16.0, 128.0)
    assert encoder.numbers["lab"].missing_rate == pytest.approx(0.3, abs=0.03)
    assert encoder.levels["ward"].frequency[:3] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    mean, spread = encoder.numbers["age"].scaler.moments()
    assert (mean, spread) == (pytest.approx(54.5, abs=2), pytest.approx(14.4, rel=0.15))
    draw = encoder.numbers["cost"].scaler.from_uniform(np.random.default_rng(0).random(4000))
    assert np.median(draw) == pytest.approx(np.exp(4), rel=0.2)


def test_the_encoder_spends_its_share_and_no_more() -> None:
    for cohort in (planted(), mixed(1_000), lab.plain_cohort(1_000)):
        for epsilon, most in ((0.9, 1), (9.0, 3)):
            _, run = learned(cohort, epsilon=epsilon, rows_per_subject=most)
            spent = run.report()
            assert spent["epsilon"] == pytest.approx(epsilon, rel=1e-6)
            assert spent["epsilon"] <= epsilon
            assert sum(m.get("delta", 0.0) for m in spent["mechanisms"]) <= spent["delta"]


def test_one_person_more_changes_what_is_measured_by_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sensitivities in the ledger against the exact answers on neighbouring tables."""
    seen: list[list[NDArray[np.float64]]] = []
    monkeypatch.setattr("pipeline.privacy.run.PrivateRun.gaussian", lambda run, values, **_: watch(values))
    monkeypatch.setattr("pipeline.privacy.run.PrivateRun.laplace", lambda run, values, **_: watch(values))

    def watch(values: NDArray[np.float64]) -> NDArray[np.float64]:
        seen[-1].append(np.asarray(values, dtype=np.float64))
        return np.full(len(values), 50.0)  # the same for both, so that what is asked next is the same too

    cohort = mixed(800)
    for rows in (np.arange(800), np.arange(799)):
        seen.append([])
        part = cohort.take(rows)
        private_encoder(part, SETTINGS, lab.begin(cohort=cohort, epsilon=3.0))
    gaps = [np.abs(a - b) for a, b in zip(*seen, strict=True)]
    monkeypatch.undo()
    _, run = learned(cohort, epsilon=3.0)
    ledger = [m for m in run.ledger if m.type in ("gaussian", "laplace")]
    assert len(gaps) == len(ledger)
    for gap, entry in zip(gaps, ledger, strict=True):
        norm = np.sqrt((gap**2).sum()) if entry.type == "gaussian" else gap.sum()
        assert norm <= entry.sensitivity + 1e-9


# ---- what is public


def mixed(n: int = 2_000) -> Cohort:
    """Declared levels and bounds, a rare declared level, a flag, counts and codes."""
    rng = np.random.default_rng(1)
    schema = TableSchema(
        columns=[
            Column(name="sex", kind="categorical", dtype="string", levels=["f", "m", "x"]),
            Column(name="flag", kind="binary", dtype="bool", levels=[False, True]),
            Column(name="grade", kind="ordinal", dtype="int64", levels=[1, 2, 3, 4]),
            Column(name="visits", kind="count", dtype="int64", bounds=(0, 20)),
            Column(name="dose", kind="continuous", dtype="float64", bounds=(0, 10), nullable=True),
        ],
        blocks=[CodeBlock(name="codes", kind="count", vocabulary=[f"c{i}" for i in range(60)])],
    )
    dose = rng.gamma(2.0, 0.5, n).clip(0, 10)
    dose[rng.random(n) < 0.2] = np.nan
    codes = csr_matrix(rng.poisson(np.r_[np.full(5, 0.4), np.full(55, 0.0005)], (n, 60)).astype(float))
    columns = {
        "sex": rng.choice(2, n, p=[0.3, 0.7]),
        "flag": (rng.random(n) < 0.02).astype(int),
        "grade": rng.choice(3, n),
        "visits": rng.poisson(3, n).clip(0, 20).astype(float),
        "dose": dose,
    }
    return assemble(schema, columns, blocks={"codes": codes})


def test_what_is_declared_is_kept_as_it_is() -> None:
    cohort = mixed()
    encoder, run = learned(cohort, epsilon=4.0)
    assert encoder.schema == cohort.schema
    assert {m.type for m in run.ledger} <= {"gaussian", "laplace"}
    assert encoder.levels["flag"].states == 2
    assert encoder.numbers["dose"].column.bounds == (0, 10)
    assert refusal(cohort.schema, "public") == ""
    mean, _ = encoder.numbers["dose"].scaler.moments()
    assert mean == pytest.approx(1.0, rel=0.35)
    block = encoder.blocks["codes"]
    assert set(np.flatnonzero(block.common)) <= set(range(len(block.used)))
    assert set(block.used[block.common]) == set(range(5))
    assert block.prevalence[block.common] == pytest.approx(np.full(5, 1 - np.exp(-0.4)), abs=0.06)
    assert block.cap.max() == 10
    rows, _ = private_rows(encoder, cohort, np.random.default_rng(0))
    assert min(int(s.min()) for s in rows.states.values()) >= 0
    assert all(int(s.max()) < encoder.levels[k].states for k, s in rows.states.items())
    assert np.isnan(rows.uniforms["dose"]).mean() == pytest.approx(0.2, abs=0.03)


def test_a_column_without_a_common_level() -> None:
    """Text falls back to one pooled level; of numbers there is none to fall back to, which is said."""
    rng = np.random.default_rng(0)
    words = pa.table({"word": [f"w{i}" for i in rng.integers(0, 200, 2_000)], "x": rng.normal(size=2_000)})
    cohort = Cohort(conform(words, schema := infer_schema(words)), schema, np.arange(2_000).astype(str))
    encoder, _ = learned(cohort, epsilon=0.5)
    assert encoder.schema.column("word").levels == ["__rare__"]
    rows, _ = private_rows(encoder, cohort, rng)
    drawn, _ = encoder.decode(rows, rng)
    assert set(drawn.table.column("word").to_pylist()) == {"__rare__"}
    codes = words.set_column(0, "word", pa.array(rng.integers(0, 200, 2_000)))
    schema = infer_schema(codes, None, {"word": ColumnSpec(kind="ordinal")})
    with pytest.raises(UnsupportedError, match=r"No level of column 'word' is common enough"):
        learned(Cohort(conform(codes, schema), schema, cohort.subject), epsilon=0.5)


def test_public_preprocessing_refuses_what_is_not_declared() -> None:
    with pytest.raises(UnsupportedError, match=r"5 columns have levels, bounds or a grid .* the first is 'ward'"):
        learned(planted(200), preprocessing="public")
    learned(mixed(600), preprocessing="public")
    block = CodeBlock(name="icd", kind="binary", vocabulary=["a"], inferred=("vocabulary",))
    schema = lab.PLAIN.model_copy(update={"blocks": [block]})
    assert "chosen on patients' data" in refusal(schema, "paid")


def test_atoms_are_never_taken_from_the_data() -> None:
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=40) * np.pi
    column = Column(
        name="x", kind="continuous", dtype="float64", bounds=(-9, 9), resolution=Resolution(kind="atoms"), inferred=()
    )
    cohort = assemble(TableSchema(columns=[column]), {"x": rng.choice(atoms, 2_000)})
    encoder, _ = learned(cohort)
    assert encoder.schema.column("x").resolution != Resolution(kind="atoms")
    drawn = encoder.numbers["x"].scaler.from_uniform(rng.random(500))
    assert not np.isin(drawn, atoms).any()


def test_a_schema_tells_what_was_told_from_data() -> None:
    table = pa.table({"sex": ["f", "m"] * 10, "age": np.arange(20.0), "ill": [True, False] * 10})
    inferred = {c.name: c.inferred for c in infer_schema(table).columns}
    assert inferred == {
        "sex": ("kind", "levels", "nullable"),
        "age": ("kind", "bounds", "resolution", "nullable"),
        "ill": ("kind", "nullable"),
    }
    said = {
        "sex": ColumnSpec(kind="binary", levels=["f", "m"]),
        "age": ColumnSpec(kind="continuous", bounds=(0, 120), resolution=Resolution(kind="decimals")),
    }
    declared = infer_schema(table, None, said)
    assert [c.inferred for c in declared.columns[:2]] == [("nullable",), ("nullable",)]
    assert TableSchema.model_validate_json(declared.model_dump_json()) == declared
    assert Column(name="x", kind="count", dtype="int64").inferred == ()


# ---- questions


def test_bounds_are_powers_of_two_around_all_but_a_few() -> None:
    rng = np.random.default_rng(0)
    counts = bounds_histogram(np.r_[rng.normal(112, 11, 5_000), -0.3, 1e30, np.nan])
    assert counts.sum() == 5_002
    assert bounds_from(counts, 5.0, gaussian=True) == (64.0, 256.0)
    assert bounds_from(bounds_histogram(np.r_[np.zeros(900), -np.full(900, 3.0)]), 5.0, gaussian=False) == (-4.0, 0.0)
    noise_alone = rng.normal(0, 5, 129)
    assert bounds_from(noise_alone, 5.0, gaussian=True) is None
    low, high = fullest_bin(noise_alone)
    assert low < high
    # Noise alone passes with chance 1e-8 in all.
    assert FAILURE == 1e-8
    for gaussian in (True, False):
        noise = rng.normal(0, 5, (300, 129)) if gaussian else rng.laplace(0, 5 / np.sqrt(2), (300, 129))
        noise[:, 70] += 1_000
        ends = {bounds_from(row, 5.0, gaussian=gaussian) for row in noise}
        assert len(ends) == 1


def test_a_grid_is_found_from_how_many_it_would_move() -> None:
    column = Column(name="x", kind="continuous", dtype="float64")
    x = np.round(np.random.default_rng(0).normal(50, 9, 3_000), 1)
    x[5] = 1.23456
    assert grid_from(grid_histogram(x, column), column, 2.0) == Resolution(kind="decimals", digits=1)
    assert grid_from(grid_histogram(np.random.default_rng(0).normal(size=3_000), column), column, 2.0) is None
    times = Column(name="t", kind="datetime", dtype="timestamp[us]")
    found = grid_from(grid_histogram(np.arange(2_000) / 24, times), times, 2.0)
    assert found == Resolution(kind="step", step=1 / 24)


def test_replicates_that_found_different_domains_are_of_one_table() -> None:
    cohort = planted()
    told = [learned(cohort, epsilon=20.0, key=b"key %d" % k)[0].schema for k in range(2)]
    told.append(learned(cohort, epsilon=1.0)[0].schema)
    assert all(told_anew(schema, cohort.schema) for schema in told)
    whole = united(told)
    assert whole.column("ward").levels == ["north", "south", "west"]
    bounds = [schema.column("cost").bounds for schema in told]
    assert whole.column("cost").bounds == (min(b[0] for b in bounds if b), max(b[1] for b in bounds if b))
    assert united([cohort.schema]) == cohort.schema
    declared = mixed(300).schema
    changed = declared.model_copy(update={"columns": [declared.columns[0], *declared.columns[1:]]})
    other = declared.columns[0].model_copy(update={"levels": ["f", "m"]})
    changed = declared.model_copy(update={"columns": [other, *declared.columns[1:]]})
    assert not told_anew(changed, declared)  # what was declared may not change


def test_bounds_that_noise_chose_stay_within_what_the_type_can_hold() -> None:
    day = Column(name="day", kind="datetime", dtype="date32[day]")
    assert within_type((2.0**39, 2.0**40), day) == (-719_162.0, 2_932_896.0)
    assert within_type((16_384.0, 32_768.0), day) == (16_384.0, 32_768.0)
    whole = Column(name="whole", kind="count", dtype="int32")
    assert within_type((0.0, 2.0**33), whole) == (0.0, 2.0**31 - 1)
    assert within_type((0.0, 2.0**33), Column(name="any", kind="continuous", dtype="float64")) == (0.0, 2.0**33)
