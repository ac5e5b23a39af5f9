"""What is minimised, on which rows; spaces and grids that fit the generators they are about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.generators.gaussian_copula import GaussianCopula, GaussianCopulaConfig
from pipeline.generators.independent import Independent
from pipeline.generators.registry import generator_class, generator_names
from pipeline.tuning.grid import read_grid
from pipeline.tuning.objective import Objective
from pipeline.tuning.spaces import SPACES, Integer, Number, search_space

STUDIES = Path(__file__).resolve().parents[2] / "cohorts" / "studies"


def made_up(n: int = 900, seed: int = 0, *, shift: float = 0.0) -> Cohort:
    """Training rows with dependence, missing cells and codes; a fifth are tuning rows."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) + shift
    y = x + 0.5 * rng.standard_normal(n)
    y[rng.random(n) < 0.1] = np.nan
    schema = TableSchema(
        columns=[
            Column(name="x", kind="continuous", dtype="float64"),
            Column(name="y", kind="continuous", dtype="float64", nullable=True),
            Column(name="sick", kind="binary", dtype="bool", levels=[False, True]),
        ],
        blocks=[CodeBlock(name="codes", kind="binary", vocabulary=["A", "B"])],
    )
    codes = csr_matrix((rng.random((n, 2)) < 0.3).astype(float))
    cohort = assemble(schema, {"x": x, "y": y, "sick": (x > 0.5).astype(int)}, blocks={"codes": codes})
    return replace(cohort, split=np.full(n, "train"), tune=np.arange(n) % 5 == 0)


def test_real_rows_score_best_and_each_part_sees_its_own_fault() -> None:
    objective = Objective(made_up())
    floor = objective.floor()
    shifted = objective.score(made_up(2000, seed=1, shift=1.0))
    fresh = objective.score(made_up(2000, seed=1))
    cut = made_up(2000, seed=2)
    shuffled = cut.table.set_column(0, "x", cut.table.column("x").take(np.random.default_rng(0).permutation(2000)))
    torn = objective.score(replace(cut, table=shuffled.cast(cut.table.schema)))
    assert floor.value == floor.jsd + floor.association
    assert abs(fresh.value - floor.value) < 0.05
    assert shifted.jsd > 3 * fresh.jsd
    assert torn.association > 3 * fresh.association
    assert torn.jsd < 1.5 * fresh.jsd


def test_scores_are_those_of_the_tuning_rows_and_what_is_learned_from_leaves_them_out() -> None:
    cohort = made_up()
    objective = Objective(cohort)
    assert (objective.tuning_rows, objective.learning.n_rows) == (180, 720)
    assert not set(cohort.subject[cohort.tune]) & set(objective.learning.subject)
    other = made_up(900, seed=0, shift=0.0)
    moved = other.values("x").copy()
    moved[other.tune] += 5.0
    import pyarrow as pa

    elsewhere = replace(other, table=other.table.set_column(0, other.table.schema.field(0), pa.array(moved)))
    same_rows = made_up(2000, seed=1)
    assert Objective(elsewhere).score(same_rows).jsd > 2 * objective.score(same_rows).jsd


def test_rows_of_another_part_cannot_be_handed_over() -> None:
    cohort = made_up()
    split = np.where(np.arange(900) == 7, "holdout", "train")
    with pytest.raises(ConfigError, match="the holdout judges"):
        Objective(replace(cohort, split=split))
    with pytest.raises(ConfigError, match="No tuning rows"):
        Objective(replace(cohort, tune=None))
    with pytest.raises(InputError, match="9 of 45"):
        Objective(cohort.take(np.arange(45)))


@pytest.mark.parametrize("name", sorted(set(SPACES) & set(generator_names())))
def test_every_space_fits_its_generator(name: str) -> None:
    kind = generator_class(name)
    space = search_space(kind)
    start = kind.Config.build().model_dump(mode="json")
    assert {n for n, setting in space.items() if not setting.holds(start[n])} == set(), "defaults are tried first"
    for n, setting in space.items():
        ends = (
            [setting.value(label) for label in setting.labels]
            if hasattr(setting, "labels")
            else [setting.low, setting.high]
        )
        for end in ends:
            kind.Config.build({n: end})


def test_no_setting_that_protects_people_is_searched_below_its_default() -> None:
    for name in ("cart", "arf"):
        leaf = SPACES[name]["leaf"]
        assert isinstance(leaf, Integer)
        assert leaf.low >= generator_class(name).Config.build().leaf  # type: ignore[attr-defined]
    for name, space in SPACES.items():
        assert not set(space) & {"rare_level_rows", "atom_rows", "extreme_rows"}, name
        assert not any(setting.startswith("private_") for setting in space), "private rows are not tuned on"


def test_a_config_declares_a_space_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config(GaussianCopulaConfig):
        search_space: ClassVar = {"shrinkage": Number(0.1, 0.2)}

    class Declares(GaussianCopula):
        name = "declares"

    monkeypatch.setattr(Declares, "Config", Config)
    assert list(search_space(Declares)) == ["shrinkage"]
    assert search_space(Declares, pinned=["shrinkage"]) == {}
    assert search_space(Independent) == {}
    with pytest.raises(ConfigError, match="Did you mean 'shrinkage'"):
        search_space(Declares, only=["shrinkages"])
    with pytest.raises(ConfigError, match="the cohort's file sets it"):
        search_space(Declares, only=["shrinkage"], pinned=["shrinkage"])
    monkeypatch.setattr(Config, "search_space", {"shrink": Number(0, 1)})
    with pytest.raises(ConfigError, match="no setting of it"):
        search_space(Declares)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_study_that_ships_is_taken_by_its_generator(path: Path) -> None:
    study = read_grid(path)
    study.check(generator_class(study.generator).Config)
    assert len(study.all_points()) > 4


def test_a_study_that_cannot_be_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("title: t\ngenerator: gaussian_copula\ngrids: [{over: {shrinkage: [0.1, 2.0]}}]\n")
    with pytest.raises(ConfigError, match=r"shrinkage=2.0"):
        read_grid(file).check(GaussianCopula.Config)
    file.write_text("title: t\ngenerator: vae\ngrid: []\n")
    with pytest.raises(ConfigError, match="grid"):
        read_grid(file)
    file.write_text("title: t\ngenerator: vae\n")
    with pytest.raises(ConfigError, match="0 points"):
        read_grid(file).all_points()
