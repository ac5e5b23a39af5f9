"""What every registered generator promises, tried on three tables; a new generator passes this by being registered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from generator_tables import FIXTURES, QUICK, mixed_cohort, suited, with_visits

from pipeline.errors import ConfigError, InputError, TrainingError, UnsupportedError
from pipeline.features.resolution import moved
from pipeline.features.visits import Visits
from pipeline.generators.base import FitReport, Generator, PrivacySpec, load_generator
from pipeline.generators.registry import generator_class, generator_names

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.cohort import Cohort

DRAWN = 3000
MARGIN = 0.05
GAUSSIAN_MARGIN = 0.08
GAUSSIAN_NUMBERS = ("synthvae", "tvae")
"""Their numbers are Gaussians given the latents (or a mode), as published: a dozen points are not one."""
FIXED_ROWS = 120
BUDGETS = ("epochs", "iterations", "warm_epochs", "critic_warmup", "steps", "autoencoder_epochs")
Fitted = tuple[Generator, FitReport, "Cohort", "Cohort"]
_fits: dict[tuple[str, str], Fitted] = {}


@pytest.fixture(params=[(g, t) for g in generator_names() for t in FIXTURES], ids=lambda p: f"{p[0]}-{p[1]}")
def fitted(request: pytest.FixtureRequest, cohorts: dict[str, Cohort]) -> Fitted:
    """A generator fitted on a table: (generator, report, real rows, drawn rows); each pair is trained once."""
    name, table = request.param
    if (name, table) not in _fits:
        real = suited(generator_class(name), cohorts[table])
        model = generator_class(name)(QUICK.get(name, {}))
        report = model.fit(real, seed=1, device="cpu")
        _fits[name, table] = (model, report, real, model.sample(DRAWN, seed=2))
    return _fits[name, table]


def test_supports_answers(cohorts: dict[str, Cohort]) -> None:
    for name in generator_names():
        for cohort in cohorts.values():
            kind = generator_class(name)
            answers = [kind.supports(table.schema) for table in (cohort, with_visits(cohort))]
            assert all(answer.ok or answer.reason for answer in answers), f"{name} refuses without a reason"
            assert [answer.ok for answer in answers] == ([False, True] if answers[1].sequences else [True, False])


def test_rows_are_exactly_in_the_schema(fitted: Fitted) -> None:
    _, _, real, drawn = fitted
    assert drawn.n_rows == DRAWN
    assert drawn.table.schema == real.schema.arrow()
    assert drawn.table.column_names == real.schema.names
    assert drawn.split is None
    assert drawn.schema == real.schema
    assert (drawn.events is None) == (real.events is None)
    assert drawn.n_subjects == DRAWN, "every drawn row is a subject of its own"
    for column in real.schema.columns:
        if column.kind == "identifier":
            assert len(set(drawn.table.column(column.name).to_pylist())) == DRAWN
        elif column.discrete:
            codes = drawn.codes(column.name)
            assert (codes != -2).all(), column.name
            assert column.nullable or (codes >= 0).all(), column.name
        else:
            values = drawn.values(column.name)
            assert column.nullable or not np.isnan(values).any(), column.name
            seen = values[~np.isnan(values)]
            if column.bounds is not None:
                assert seen.min() >= column.bounds[0], column.name
                assert seen.max() <= column.bounds[1], column.name
            if column.resolution is not None and column.resolution.kind == "atoms":
                assert np.isin(seen, real.values(column.name)).all(), column.name
            elif column.resolution is not None:
                assert moved(seen, column.resolution, column.dtype) == 0, column.name


def test_no_real_extreme_is_reproduced(fitted: Fitted) -> None:
    model, _, real, drawn = fitted
    if model.copies_patients:
        pytest.skip("this one copies rows, extremes included")
    for column in real.schema.modelled():
        if not column.numeric:
            continue
        values = real.values(column.name)
        out = drawn.values(column.name)
        for extreme in (np.nanmin(values), np.nanmax(values)):
            if (values == extreme).sum() < 5:
                assert not (out == extreme).any(), f"the extreme of '{column.name}' is one patient's own"


def test_who_says_that_rows_are_copied_copies_them(fitted: Fitted) -> None:
    model, _, real, drawn = fitted
    names = [c.name for c in real.schema.modelled()]
    known = {tuple(row.values()) for row in real.table.select(names).to_pylist()} if names else set()
    copied = [tuple(row.values()) in known for row in drawn.table.select(names).slice(0, 300).to_pylist()]
    if model.copies_patients:
        assert all(copied)
    elif len(names) > 5:
        assert np.mean(copied) < 0.02


def test_visits_are_visits(fitted: Fitted) -> None:
    """They can be read back, look like the real ones on average, and hold no real date and nothing that nobody has."""
    model, _, real, drawn = fitted
    if real.events is None:
        assert not model.supports(real.schema).sequences
        return
    made, given = Visits.of(drawn), Visits.of(real)
    assert made.n == DRAWN
    assert abs(made.counts.mean() / given.counts.mean() - 1) < 0.15
    assert abs(made.sizes.mean() / given.sizes.mean() - 1) < 0.15
    assert (made.counts == 0).any()
    share = [np.bincount(v.code, minlength=len(v.vocabulary)) / len(v.day) for v in (made, given)]
    assert np.abs(share[0] - share[1]).max() < 2 * MARGIN
    assert (share[0][share[1] == 0] == 0).all()
    assert made.day.min() > given.day.max(), "synthetic people come in a time of their own"
    later = made.gaps()[made.gaps() >= 0]
    assert later.max() <= given.gaps().max()


def test_margins(fitted: Fitted) -> None:
    model, _, real, drawn = fitted
    for column in real.schema.modelled():
        gone = abs(real.missing(column.name).mean() - drawn.missing(column.name).mean())
        assert gone < 0.02 + 2 * np.sqrt(0.25 / DRAWN), f"{column.name}: share of missing cells off by {gone:.3f}"
        if column.discrete:
            for code in range(len(column.levels or [])):
                off = abs((real.codes(column.name) == code).mean() - (drawn.codes(column.name) == code).mean())
                assert off < MARGIN, f"{model.name}: level {code} of '{column.name}' off by {off:.3f}"
        else:
            a, b = real.values(column.name), drawn.values(column.name)
            a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
            points = np.unique(a)
            ks = np.abs(np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b))
            limit = GAUSSIAN_MARGIN if model.name in GAUSSIAN_NUMBERS else MARGIN
            assert ks.max() < limit, f"{model.name}: distribution of '{column.name}' off by {ks.max():.3f}"
    for block in real.schema.blocks:
        a, b = (np.asarray((x.blocks[block.name] > 0).mean(axis=0)).ravel() for x in (real, drawn))
        assert np.abs(a - b).max() < MARGIN
        assert np.abs(a - b).mean() < 0.02
        if block.kind == "binary":
            assert set(np.unique(drawn.blocks[block.name].data)) <= {1.0}
        else:
            means = [np.asarray(x.blocks[block.name].mean(axis=0)).ravel() for x in (real, drawn)]
            assert np.abs(means[0] - means[1]).max() < 0.2
        never = np.asarray(real.blocks[block.name].sum(axis=0)).ravel() == 0
        assert drawn.blocks[block.name][:, never].nnz == 0


def test_spikes_are_spikes(fitted: Fitted) -> None:
    _, _, real, drawn = fitted
    if "cost" not in real.schema.names:
        pytest.skip("this table has no spike")
    assert abs((real.values("cost") == 0).mean() - (drawn.values("cost") == 0).mean()) < 0.03


def test_same_seed_same_rows_and_same_bytes(fitted: Fitted, tmp_path: Path) -> None:
    model, _, real, drawn = fitted
    again = type(model)(model.config)
    again.fit(real, seed=1, device="cpu")
    assert_same_rows(again.sample(DRAWN, seed=2), drawn)
    for place, which in (("first", model), ("second", again)):
        (tmp_path / place).mkdir()
        which.save(tmp_path / place)
    names = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert names == ["model.json", "model.safetensors"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_another_seed_gives_other_rows(fitted: Fitted) -> None:
    model, _, _, drawn = fitted
    assert not model.sample(DRAWN, seed=3).table.equals(drawn.table)


def test_saved_and_loaded_it_draws_the_same(fitted: Fitted, tmp_path: Path) -> None:
    model, _, _, drawn = fitted
    model.save(tmp_path)
    manifest = json.loads((tmp_path / "model.json").read_text())
    assert manifest["generator"] == model.name
    loaded = load_generator(tmp_path)
    assert loaded.config == model.config
    assert_same_rows(loaded.sample(DRAWN, seed=2), drawn)


def test_conditions_for_all_rows(fitted: Fitted) -> None:
    model, _, real, _ = fitted
    column = next(c for c in real.schema.modelled() if c.discrete and len(c.levels or []) > 1)
    level = (column.levels or [])[0]
    drawn = model.sample(300, seed=5, conditions={column.name: level})
    assert drawn.table.column(column.name).to_pylist() == [level] * 300


def test_conditions_row_by_row(fitted: Fitted) -> None:
    model, _, real, _ = fitted
    discrete = next(c for c in real.schema.modelled() if c.discrete and len(c.levels or []) > 1)
    numeric = next(c for c in real.schema.modelled() if c.numeric)
    # Of real rows: a generator by rejection need not find, in 50 tries a row, what hardly anybody is.
    known = np.flatnonzero(~np.isnan(real.values(numeric.name)) & (real.codes(discrete.name) >= 0))
    known = known[np.argsort(real.values(numeric.name)[known], kind="stable")]
    rows = known[np.linspace(0.05 * len(known), 0.95 * len(known), FIXED_ROWS).astype(int)]
    wanted = pd.DataFrame(
        {
            discrete.name: [(discrete.levels or [])[i] for i in real.codes(discrete.name)[rows]],
            numeric.name: real.values(numeric.name)[rows],
        }
    )
    assert wanted[discrete.name].nunique() > 1
    drawn = model.sample(FIXED_ROWS, seed=6, conditions=wanted)
    assert drawn.table.column(discrete.name).to_pylist() == wanted[discrete.name].tolist()
    np.testing.assert_allclose(drawn.values(numeric.name), wanted[numeric.name])


def test_conditions_that_make_no_sense(fitted: Fitted) -> None:
    model, _, real, _ = fitted
    discrete = next(c for c in real.schema.modelled() if c.discrete)
    with pytest.raises(ConfigError, match="no column"):
        model.sample(5, seed=0, conditions={"agee": 1})
    with pytest.raises(ConfigError, match="None of the column's"):
        model.sample(5, seed=0, conditions={discrete.name: "purple"})
    with pytest.raises(ConfigError, match="rows"):
        model.sample(5, seed=0, conditions=pd.DataFrame({discrete.name: [(discrete.levels or [])[0]] * 4}))


def test_report(fitted: Fitted) -> None:
    model, report, real, _ = fitted
    assert report.rows == real.n_rows
    assert report.parameters > 0
    assert report.privacy is None
    if not model.publishable:
        assert any("never publish" in w for w in report.warnings)
        return
    assert report.health["duplicate_share"] <= 1.5 * report.health["natural_duplicate_share"] + 0.01
    # CPUs with and without bfloat16 units train slightly different models; a collapsed spread is far below.
    assert 0.75 <= report.health["std_ratio_min"] <= report.health["std_ratio_max"] <= 1.3, model.name
    assert not any("collapse" in w for w in report.warnings)


@pytest.mark.parametrize("name", generator_names())
def test_what_is_refused_in_words(name: str) -> None:
    kind = generator_class(name)
    cohort = suited(kind, mixed_cohort(60))
    make = lambda: kind({**QUICK.get(name, {}), **budget(name, 1)})  # noqa: E731
    with pytest.raises(TrainingError, match="not been fitted"):
        make().sample(3, seed=0)
    if not kind.supports(cohort.schema).dp:
        with pytest.raises(UnsupportedError, match="privacy"):
            make().fit(cohort, seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-6))
    if kind.supports(cohort.schema).sequences:
        with pytest.raises(UnsupportedError, match="Declare `events`"):
            make().fit(mixed_cohort(60), seed=0)
    else:
        with pytest.raises(UnsupportedError, match="sequences"):
            make().fit(with_visits(cohort), seed=0)
    for rows in (0, 1):
        with pytest.raises(InputError, match="too few"):
            make().fit(cohort.take(np.arange(rows)), seed=0)
    with pytest.raises(ConfigError, match="no setting"):
        kind({"epoch_number": 3})
    with pytest.raises(ConfigError, match="no preset"):
        kind({"preset": "papr"})


@pytest.mark.parametrize("name", generator_names())
def test_every_setting_is_described(name: str) -> None:
    config = generator_class(name).Config
    assert {"default", "paper", "quick"} <= set(config.presets)
    for preset in config.presets:
        config.build({"preset": preset})
    for field, info in config.model_fields.items():
        assert info.description, f"{name}.{field} has no description"


@pytest.mark.parametrize("name", generator_names())
def test_odd_tables(name: str) -> None:
    """A column without any value, a constant one, a table of one column, a rare binary flag, few rows."""
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import Column, TableSchema

    rng = np.random.default_rng(0)
    n = 80
    columns = [
        Column(name="number", kind="continuous", dtype="float64"),
        Column(name="empty", kind="continuous", dtype="float64", nullable=True),
        Column(name="never", kind="categorical", dtype="string", levels=["x", "y"], nullable=True),
        Column(name="same", kind="count", dtype="int64"),
        Column(name="rare_flag", kind="binary", dtype="bool", levels=[False, True]),
        Column(name="scattered", kind="categorical", dtype="string", levels=[f"l{i}" for i in range(40)]),
        Column(name="few", kind="continuous", dtype="float64", nullable=True),
    ]
    few = np.full(n, np.nan)
    few[:3] = [1.0, 2.0, 3.0]
    cells = {
        "number": rng.normal(size=n),
        "empty": np.full(n, np.nan),
        "never": np.full(n, -1),
        "same": np.full(n, 7.0),
        "rare_flag": (np.arange(n) == 3).astype(int),
        "scattered": np.arange(n) % 40,
        "few": few,
    }
    # Nothing here is declared a label or protected.
    settings = {**budget(name, 2), **{k: v for k, v in QUICK.get(name, {}).items() if k == "undeclared"}}
    model = generator_class(name)(settings)
    model.fit(suited(type(model), assemble(TableSchema(columns=columns), cells)), seed=0, device="cpu")
    drawn = model.sample(500, seed=0)
    assert drawn.missing("empty").all()
    assert drawn.missing("never").all()
    assert (drawn.values("same") == 7).all()
    assert drawn.missing("few").mean() > 0.85
    for column in columns:
        alone = generator_class(name)(settings)
        table = assemble(TableSchema(columns=[column]), {column.name: cells[column.name]})
        alone.fit(suited(type(model), table), seed=0, device="cpu")
        assert alone.sample(50, seed=1).n_rows == 50


def budget(name: str, small: int) -> dict[str, int]:
    """The settings that say how long a generator trains, all set to a small number."""
    return {k: small for k in BUDGETS if k in generator_class(name).Config.model_fields}


def assert_same_rows(a: Cohort, b: Cohort) -> None:
    """Cell by cell the same table and blocks."""
    assert a.table.equals(b.table)
    assert a.blocks.keys() == b.blocks.keys()
    for name, matrix in a.blocks.items():
        assert (matrix != b.blocks[name]).nnz == 0
    assert a.events is None if b.events is None else b.events.equals(a.events)


@pytest.mark.parametrize("name", generator_names())
def test_codes_alone(name: str, tmp_path: Path) -> None:
    """A block of codes and no column; then a block of one code."""
    from scipy.sparse import csr_matrix

    from pipeline.features.cohort import assemble
    from pipeline.features.schema import CodeBlock, TableSchema

    rng = np.random.default_rng(0)
    for codes, kind in ((12, "count"), (1, "binary")):
        counts = (rng.random((150, codes)) < 0.3) * rng.integers(1, 2 if kind == "binary" else 4, (150, codes))
        block = CodeBlock(name="dx", kind=kind, vocabulary=[f"c{i}" for i in range(codes)])
        schema = TableSchema(columns=[], blocks=[block], unit="patient")
        cohort = assemble(schema, {}, blocks={"dx": csr_matrix(counts.astype(float))})
        model = generator_class(name)({**QUICK.get(name, {}), **budget(name, 5)})
        model.fit(suited(type(model), cohort), seed=1)
        model.save(tmp_path / str(codes))
        drawn = load_generator(tmp_path / str(codes)).sample(60, seed=2)
        assert drawn.blocks["dx"].shape == (60, codes)
        assert 0.05 < drawn.blocks["dx"].astype(bool).mean() < 0.7
        assert (drawn.blocks["dx"] != model.sample(60, seed=2).blocks["dx"]).nnz == 0
