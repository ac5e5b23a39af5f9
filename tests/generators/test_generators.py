"""What single generators promise beyond the conformance suite: dependence, exact conditions, the known collapse."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from generator_tables import code_cohort, mixed_cohort

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.generators import smote
from pipeline.generators.gaussian_copula import GaussianCopula
from pipeline.generators.independent import Independent
from pipeline.generators.smote import Smote
from pipeline.generators.vae import VAE

if TYPE_CHECKING:
    from numpy.typing import NDArray


def linked(n: int = 3000, seed: int = 0, d: int = 6) -> Cohort:
    """Numbers, flags and levels that share one factor strongly."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal(n)
    columns: list[Column] = []
    cells: dict[str, NDArray[np.generic]] = {}
    for i in range(d):
        columns.append(Column(name=f"x{i}", kind="continuous", dtype="float64"))
        cells[f"x{i}"] = factor * (-1) ** i + 0.6 * rng.standard_normal(n)
    columns.append(Column(name="flag", kind="binary", dtype="int64", levels=[0, 1]))
    cells["flag"] = (factor + 0.6 * rng.standard_normal(n) > 0.5).astype(int)
    columns.append(Column(name="rank", kind="ordinal", dtype="int64", levels=[0, 1, 2, 3]))
    cells["rank"] = np.clip(np.rint(factor + 1.5 + 0.5 * rng.standard_normal(n)), 0, 3).astype(int)
    return assemble(TableSchema(columns=columns), cells)


def correlations(cohort: Cohort) -> NDArray[np.float64]:
    parts = [cohort.codes(c.name) if c.discrete else cohort.values(c.name) for c in cohort.schema.columns]
    matrix = np.corrcoef(np.stack(parts))
    return matrix[np.triu_indices(len(matrix), 1)]


def rmse(a: Cohort, b: Cohort) -> float:
    return float(np.sqrt(np.mean((correlations(a) - correlations(b)) ** 2)))


def test_dependence_is_lost_by_the_baseline_and_kept_by_the_others() -> None:
    real = linked()
    found = {}
    for model in (Independent(), GaussianCopula(), VAE({"epochs": 60, "patience": 0})):
        model.fit(real, seed=0, device="cpu")
        found[model.name] = rmse(real, model.sample(3000, seed=1))
    assert found["independent"] > 0.2
    assert found["gaussian_copula"] < 0.03
    assert found["vae"] < 0.08


def test_missing_cells_keep_what_they_say() -> None:
    real = mixed_cohort(3000)

    def gap(cohort: Cohort) -> float:
        died = cohort.codes("died") == 1
        gone = cohort.missing("glucose")
        return float(gone[died].mean() - gone[~died].mean())

    model = GaussianCopula()
    model.fit(real, seed=0)
    assert gap(real) > 0.08
    assert abs(gap(model.sample(6000, seed=1)) - gap(real)) < 0.05


def test_copula_conditions_are_exact() -> None:
    real = linked()
    model = GaussianCopula()
    model.fit(real, seed=0)
    drawn = model.sample(4000, seed=1, conditions={"flag": 1, "x0": 1.0})
    near = (real.codes("flag") == 1) & (np.abs(real.values("x0") - 1.0) < 0.25)
    for name in ("x1", "x2"):
        assert abs(drawn.values(name).mean() - real.values(name)[near].mean()) < 0.12
        assert abs(drawn.values(name).std() - real.values(name)[near].std()) < 0.12
    assert (drawn.values("x0") == 1.0).all()
    assert (drawn.codes("flag") == 1).all()


def test_copula_links_codes_with_columns() -> None:
    real = code_cohort(2500)
    model = GaussianCopula()
    model.fit(real, seed=0)
    drawn = model.sample(5000, seed=1)

    def link(cohort: Cohort, code: int) -> float:
        return float(np.corrcoef(cohort.blocks["diagnoses"][:, code].toarray().ravel(), cohort.values("age"))[0, 1])

    assert link(real, 3) > 0.15
    assert abs(link(drawn, 3) - link(real, 3)) < 0.08
    assert abs(link(drawn, 4)) < 0.06


def test_copula_refuses_very_wide_blocks_in_words() -> None:
    wide = TableSchema(
        columns=[], blocks=[CodeBlock(name="b", kind="binary", vocabulary=[str(i) for i in range(3000)])]
    )
    answer = GaussianCopula.supports(wide)
    assert not answer.ok
    assert "3000" in answer.reason
    assert VAE.supports(wide).ok


def test_the_published_vae_collapses_and_says_so() -> None:
    """Regression test of the failure that the publication's own table shows (spec 2.2)."""
    real = linked(2000)
    model = VAE({"preset": "paper", "epochs": 20})
    report = model.fit(real, seed=0, device="cpu")
    assert report.health["std_ratio_max"] < 0.2
    assert any("Known to collapse" in w for w in report.warnings)
    assert any("Variance collapse" in w for w in report.warnings)


def test_the_paper_presets_are_the_published_configurations() -> None:
    config = VAE.Config.build({"preset": "paper"})
    assert (config.latent_dim, config.hidden, config.activation) == (4, (128, 64), "relu")
    assert (config.batch_size, config.beta, config.epochs, config.learning_rate) == (32, 2.0, 100, 1e-3)
    assert (config.likelihood, config.prior) == ("mse_sigmoid", "standard")
    assert config == VAE.Config.build({"preset": "exp2"})


@pytest.mark.parametrize("head", ["gaussian", "student_t"])
def test_other_numeric_heads_keep_the_spread(head: str) -> None:
    real = mixed_cohort(1500)
    model = VAE({"numeric_head": head, "epochs": 40, "patience": 0, "learning_rate": 2e-3})
    report = model.fit(real, seed=0, device="cpu")
    assert 0.8 <= report.health["std_ratio_min"] <= report.health["std_ratio_max"] <= 1.25
    assert abs(model.sample(2000, seed=0).missing("glucose").mean() - real.missing("glucose").mean()) < 0.04


def test_vae_says_how_rare_a_condition_is() -> None:
    real = mixed_cohort(600)
    model = VAE({"epochs": 3, "patience": 0})
    model.fit(real, seed=0, device="cpu")
    with pytest.raises(UnsupportedError, match=r"acceptance rate \d"):
        model.sample(400, seed=0, conditions={"age": 60.0, "visits": 9, "died": True, "group": "c", "stage": 4})


def test_conditions_take_text_dates_and_missing() -> None:
    real = mixed_cohort(600)
    model = GaussianCopula()
    model.fit(real, seed=0)
    drawn = model.sample(
        20, seed=0, conditions={"died": "true", "age": "50.5", "admitted": "2020-06-01", "stage": None}
    )
    assert drawn.table.column("died").to_pylist() == [True] * 20
    assert drawn.table.column("age").to_pylist() == [50.5] * 20
    assert str(drawn.table.column("admitted")[0].as_py()) == "2020-06-01"
    assert drawn.missing("stage").all()
    # `glucose` has no bounds that would say so of themselves.
    for wrong in ({"age": 200}, {"age": 50.55}, {"age": None}, {"patient": "x"}, {"age": "old"}, {"glucose": np.inf}):
        with pytest.raises(ConfigError):
            model.sample(2, seed=0, conditions=wrong)


def test_a_column_of_rare_levels_alone_is_warned_of() -> None:
    n = 60
    schema = TableSchema(
        columns=[
            Column(name="x", kind="continuous", dtype="float64"),
            Column(name="code", kind="categorical", dtype="string", levels=[f"c{i:02d}" for i in range(n // 2)]),
        ]
    )
    real = assemble(schema, {"x": np.arange(n, dtype=float), "code": np.arange(n) // 2})
    report = Independent().fit(real, seed=0)
    assert any(w.startswith("Every level of code is rarer than 11 people") for w in report.warnings)
    grouped = assemble(schema, {"x": np.arange(n, dtype=float), "code": np.arange(n) // 30})
    assert not any("Every level" in w for w in Independent().fit(grouped, seed=0).warnings)


def test_neighbours_are_the_same_however_many_levels_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of levels as a dense table of indicators would take all memory."""
    rng = np.random.default_rng(0)
    n, names = 300, [f"l{i:03d}" for i in range(40)]
    schema = TableSchema(
        columns=[
            Column(name="x", kind="continuous", dtype="float64"),
            Column(name="place", kind="categorical", dtype="string", levels=names, nullable=True),
        ]
    )
    codes = rng.integers(-1, 40, n)
    codes[-5:] = -1
    real = assemble(schema, {"x": rng.standard_normal(n), "place": codes})
    dense, sparse = Smote(), Smote()
    dense.fit(real, seed=0)
    monkeypatch.setattr(smote, "MANY_LEVELS", 10)
    sparse.fit(real, seed=0)
    assert np.mean(dense._near == sparse._near) > 0.99  # but for ties in single precision
    assert not isinstance(sparse._points(sparse._fitted()), np.ndarray)


def test_gaussian_margins_of_the_nhsx_tables() -> None:
    real = linked()
    model = Independent({"preset": "paper"})
    model.fit(real, seed=0)
    drawn = model.sample(3000, seed=0)
    assert abs(drawn.values("x0").std() - real.values("x0").std()) < 0.06


def test_listing_generators_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.generators.registry import generator_names; from pipeline.generators import seeds;"
        "names = generator_names(); assert {'independent', 'gaussian_copula', 'vae'} <= set(names);"
        "heavy = {'torch', 'sklearn', 'pandas', 'scipy', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numpy_generators_import_no_torch() -> None:
    code = (
        "import sys; from pipeline.generators.registry import generator_class;"
        "generator_class('independent'); generator_class('gaussian_copula'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_copula_keeps_missing_cells_of_ordered_columns_apart_from_their_order() -> None:
    """A missing stage says something of its own; it is not the highest stage."""
    rng = np.random.default_rng(0)
    n = 4000
    z = rng.standard_normal(n)
    stage = np.clip(np.rint(z + 1.5), 0, 3).astype(int)
    stage[(rng.random(n) < 0.4) & (z < -0.5)] = -1
    schema = TableSchema(
        columns=[
            Column(name="x", kind="continuous", dtype="float64"),
            Column(name="stage", kind="ordinal", dtype="int64", levels=[1, 2, 3, 4], nullable=True),
        ]
    )
    real = assemble(schema, {"x": z + 0.5 * rng.standard_normal(n), "stage": stage})
    model = GaussianCopula()
    model.fit(real, seed=0)
    drawn = model.sample(8000, seed=1)

    def means(cohort: Cohort) -> list[float]:
        return [float(cohort.values("x")[cohort.codes("stage") == k].mean()) for k in (-1, 0, 3)]

    np.testing.assert_allclose(means(drawn), means(real), atol=0.25)
