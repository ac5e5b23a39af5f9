"""MST and the private baselines: exact inference on trees, the account, conditions, and what privacy costs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipeline.errors import UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema
from pipeline.generators.base import load_generator
from pipeline.generators.gaussian_copula import GaussianCopula
from pipeline.generators.independent import Independent
from pipeline.generators.marginal_tree import MarginalTree, fit_belief_propagation, fit_sinkhorn
from pipeline.generators.mst import MST
from pipeline.privacy.accounting import zcdp_rho
from pipeline.privacy.marginals import pair_table
from pipeline.privacy.spec import TrainingPrivacy

KEY = b"a secret key of thirty-two bytes"
SIZES = [3, 2, 4, 3]
TREE = [(0, 1), (2, 0), (2, 3)]
LEVELS = [5, 4, 4, 3, 3]
PARENTS = [-1, 0, 0, 1, 1]


def random_joint(seed: int) -> NDArray[np.float64]:
    """The joint distribution of a random tree of four columns, cell by cell."""
    rng = np.random.default_rng(seed)
    root = rng.dirichlet(np.ones(4))
    zero, three = rng.dirichlet(np.ones(3), 4), rng.dirichlet(np.ones(3), 4)
    one = rng.dirichlet(np.ones(2), 3)
    return np.einsum("c,ca,cd,ab->abcd", root, zero, three, one)


def margin(joint: NDArray[np.float64], *kept: int) -> NDArray[np.float64]:
    """Margin of the joint over some axes, in the order given."""
    return np.einsum(joint, range(joint.ndim), kept)


def tree_cohort(n: int, seed: int) -> Cohort:
    """Columns that really are a tree: each level copied from the parent's, turned, or drawn at random."""
    rng = np.random.default_rng(seed)
    cells: list[NDArray[np.int64]] = []
    for size, parent in zip(LEVELS, PARENTS, strict=True):
        alone = np.minimum(rng.geometric(0.4, n) - 1, size - 1)
        cells.append(alone if parent < 0 else np.where(rng.random(n) < 0.7, (cells[parent] + 1) % size, alone))
    columns = [
        Column(name=f"c{i}", kind="categorical", dtype="string", levels=[f"l{k}" for k in range(size)])
        for i, size in enumerate(LEVELS)
    ]
    return assemble(TableSchema(columns=columns), {f"c{i}": c for i, c in enumerate(cells)})


def number_cohort(n: int = 1500, seed: int = 0) -> Cohort:
    """Correlated numbers on declared grids, missing cells and a label; everything about the columns is public."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    heart = np.clip(np.rint(90 + 20 * z + 8 * rng.standard_normal(n)), 20, 220)
    lactate = np.round(np.clip(np.exp(0.4 * z + 0.3 * rng.standard_normal(n)), 0, 20), 1)
    lactate[rng.random(n) < 0.2] = np.nan
    schema = TableSchema(
        columns=[
            Column(name="heart_rate", kind="count", dtype="int64", bounds=(0, 300)),
            Column(
                name="lactate",
                kind="continuous",
                dtype="float64",
                nullable=True,
                bounds=(0, 20),
                resolution=Resolution(kind="decimals", digits=1),
            ),
            Column(name="died", kind="binary", dtype="bool", levels=[False, True], role="label"),
            Column(name="ward", kind="categorical", dtype="string", levels=["icu", "medical", "surgical"]),
        ]
    )
    columns = {
        "heart_rate": heart,
        "lactate": lactate,
        "died": (z + rng.standard_normal(n) > 1).astype(int),
        "ward": np.searchsorted([-0.4, 0.6], z + rng.standard_normal(n)),
    }
    return assemble(schema, columns)


def code_cohort(n: int = 800, codes: int = 40, kind: str = "binary") -> Cohort:
    """A public vocabulary, common codes first."""
    rng = np.random.default_rng(1)
    sick = rng.random(n) < 0.4
    chance = 0.5 / np.arange(1, codes + 1) * np.where(sick, 1.6, 0.6)[:, None]
    block = csr_matrix((rng.random((n, codes)) < chance).astype(float))
    schema = TableSchema(
        columns=[Column(name="sick", kind="binary", dtype="bool", levels=[False, True])],
        blocks=[CodeBlock(name="codes", kind=kind, vocabulary=[f"D{i}" for i in range(codes)])],
    )
    return assemble(schema, {"sick": sick.astype(int)}, blocks={"codes": block})


def asked(epsilon: float) -> TrainingPrivacy:
    return TrainingPrivacy(epsilon=epsilon)


def two_way(a: Cohort, b: Cohort) -> float:
    """Mean total variation of all pair tables."""
    out = []
    for i, j in combinations(range(len(LEVELS)), 2):
        tables = [pair_table(x.codes(f"c{i}"), x.codes(f"c{j}"), LEVELS[i], LEVELS[j]) / x.n_rows for x in (a, b)]
        out.append(0.5 * np.abs(tables[0] - tables[1]).sum())
    return float(np.mean(out))


# ---- the tree itself


@pytest.mark.parametrize("fit", [fit_sinkhorn, fit_belief_propagation])
def test_both_fits_are_exact_inference_on_exact_tables(fit: Callable[..., MarginalTree]) -> None:
    joint = random_joint(1)
    margins = [margin(joint, i) for i in range(4)]
    tree = fit(TREE, [margin(joint, *edge) for edge in TREE], margins)
    assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(tree.margins, margins, strict=True))
    drawn = tree.draw(200_000, np.random.default_rng(0))
    for a, b in combinations(range(4), 2):
        table = pair_table(drawn[:, a], drawn[:, b], SIZES[a], SIZES[b]) / len(drawn)
        assert 0.5 * np.abs(table - margin(joint, a, b)).sum() < 0.006, "edges and pairs that are no edge"


def test_belief_propagation_weighs_all_measurements() -> None:
    """Where the margin of a table and a margin disagree, the tree lies between them, nearer to the surer one."""
    table = np.array([[0.3, 0.2], [0.2, 0.3]])
    margins = [np.array([0.7, 0.3]), np.array([0.5, 0.5])]
    found = {
        weight: fit_belief_propagation([(0, 1)], [table], margins, margin_weight=weight).margins[0][0]
        for weight in (0.1, 1.0, 100.0)
    }
    assert 0.5 < found[0.1] < found[1.0] < found[100.0] < 0.7 + 1e-6
    assert found[100.0] > 0.69


@pytest.mark.parametrize("soft", [False, True])
def test_drawing_under_evidence_is_exact(soft: bool) -> None:
    joint = random_joint(2)
    tree = MarginalTree.from_joints(TREE, [margin(joint, *edge) for edge in TREE], [margin(joint, i) for i in range(4)])
    n = 150_000
    likelihood = {1: np.array([0.0, 1.0]), 3: np.array([0.2, 0.0, 0.9] if soft else [0.0, 0.0, 1.0])}
    evidence = {k: np.tile(v, (n, 1)) for k, v in likelihood.items()}
    drawn = tree.draw(n, np.random.default_rng(3), evidence)
    exact = np.einsum("abcd,b,d->abcd", joint, likelihood[1], likelihood[3])
    exact /= exact.sum()
    found = np.bincount(np.ravel_multi_index(tuple(drawn.T), SIZES), minlength=joint.size).reshape(SIZES) / n
    assert 0.5 * np.abs(found - exact).sum() < 0.01
    assert 0.5 * np.abs(joint - exact).sum() > 0.3, "the evidence changes much"


# ---- under privacy


def test_at_large_epsilon_pairs_are_near_the_floor() -> None:
    train, fresh = tree_cohort(3000, 1), tree_cohort(3000, 2)
    floor = two_way(train, fresh)
    for fit in ("sinkhorn", "bp"):
        model = MST({"fit": fit})
        model.fit(train, seed=0, privacy=asked(1e3), noise_key=KEY)
        assert two_way(model.sample(6000, seed=1), fresh) < floor + 0.04
    alone = Independent()
    alone.fit(train, seed=0, privacy=asked(1e3), noise_key=KEY)
    assert two_way(alone.sample(6000, seed=1), fresh) > floor + 0.1


def test_utility_falls_with_epsilon() -> None:
    train = tree_cohort(3000, 1)
    far = []
    for epsilon in (100.0, 1.0, 0.1):
        model = MST()
        model.fit(train, seed=0, privacy=asked(epsilon), noise_key=KEY)
        far.append(two_way(model.sample(6000, seed=1), train))
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize("kind", [MST, Independent, GaussianCopula])
@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_the_account_is_the_whole_budget_and_no_more(kind: type, epsilon: float) -> None:
    model = kind()
    report = model.fit(tree_cohort(2000, 1), seed=0, privacy=asked(epsilon), noise_key=KEY)
    assert report.privacy["epsilon"] <= epsilon * (1 + 1e-9)
    learning = [m for m in report.privacy["mechanisms"] if m["part"] == "learning"]
    delta = report.privacy["delta"] * 0.9
    assert sum(m["rho"] for m in learning) == pytest.approx(zcdp_rho(0.9 * epsilon, delta), rel=1e-6)
    assert {m["sensitivity"] for m in learning if m["type"] == "exponential"} <= {1.0}


def test_no_noise_is_said_aloud() -> None:
    report = MST().fit(tree_cohort(500, 1), seed=0)
    assert report.privacy is None
    assert any("no promise of privacy" in w for w in report.warnings)


def test_small_budgets_switch_to_independent_columns() -> None:
    train = tree_cohort(2000, 1)
    large = MST()
    for settings, epsilon in (({}, 0.02), ({"noise_share": 0.001}, 5.0)):
        said = MST(settings).fit(train, seed=0, privacy=asked(epsilon), noise_key=KEY)
        assert said.health["tree_edges"] == 0
        assert any("drawn independently" in w for w in said.warnings)
        learning = [m for m in said.privacy["mechanisms"] if m["part"] == "learning"]
        assert [m["type"] for m in learning] == ["gaussian", "gaussian"]
        assert sum(m["rho"] for m in learning) == pytest.approx(zcdp_rho(0.9 * epsilon, 0.9 * said.privacy["delta"]))
    report = large.fit(train, seed=0, privacy=asked(5.0), noise_key=KEY)
    assert report.health["tree_edges"] == len(LEVELS) - 1
    assert not any("drawn independently" in w for w in report.warnings)


def test_a_level_of_one_person_is_not_drawn() -> None:
    """Levels told from data: the one that a single person has passes with chance delta, which is never in ten fits."""
    n = 1500
    cells = np.arange(n) % 2
    cells[7] = 2
    columns = [
        Column(
            name="origin",
            kind="categorical",
            dtype="string",
            levels=["here", "there", "island"],
            inferred=("levels",),
        ),
        Column(name="flag", kind="binary", dtype="bool", levels=[False, True]),
    ]
    cohort = assemble(TableSchema(columns=columns), {"origin": cells, "flag": (np.arange(n) % 3 == 0).astype(int)})
    seen = 0
    for seed in range(10):
        model = MST()
        model.fit(cohort, seed=seed, privacy=asked(1.0))
        drawn = model.sample(300, seed=seed)
        assert "island" not in (drawn.schema.column("origin").levels or [])
        seen += "here" in drawn.table.column("origin").to_pylist()
    assert seen > 7, "the common levels come through"


@pytest.mark.parametrize("kind", [MST, GaussianCopula, Independent])
def test_conditions_hold_in_every_row(kind: type, tmp_path: Path) -> None:
    real = number_cohort()
    model = kind()
    model.fit(real, seed=0, privacy=asked(20.0), noise_key=KEY)
    wanted = pd.DataFrame(
        {"heart_rate": np.linspace(60, 120, 400).round(), "died": [True, False] * 200, "lactate": [1.2, None] * 200}
    )
    drawn = model.sample(400, seed=1, conditions=wanted).table
    assert drawn.column("heart_rate").to_pylist() == wanted["heart_rate"].tolist()
    assert drawn.column("died").to_pylist() == wanted["died"].tolist()
    assert drawn.column("lactate").to_pylist() == [1.2, None] * 200
    plain = model.sample(500, seed=3)
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(500, seed=3).table.equals(plain.table)
    if kind is Independent:
        return
    died = [
        np.mean(model.sample(4000, seed=2, conditions={"heart_rate": rate}).table.column("died").to_pylist())
        for rate in (60, 130)
    ]
    heart, real_died = real.values("heart_rate"), real.codes("died")
    near = [real_died[np.abs(heart - rate) < 8].mean() for rate in (60, 130)]
    assert np.abs(np.array(died) - near).max() < 0.12, "the others follow what is fixed"


@pytest.mark.parametrize("kind", [MST, GaussianCopula])
def test_numbers_keep_margins_and_dependence(kind: type) -> None:
    real = number_cohort(3000)
    model = kind()
    model.fit(real, seed=0, privacy=asked(5.0), noise_key=KEY)
    drawn = model.sample(6000, seed=1)
    assert abs(np.isnan(drawn.values("lactate")).mean() - 0.2) < 0.03
    for name in ("heart_rate", "lactate"):
        a, b = (np.sort(x.values(name)[~np.isnan(x.values(name))]) for x in (real, drawn))
        points = np.unique(a)
        apart = np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b)
        assert np.abs(apart).max() < 0.07, name
        assert np.allclose(np.round(b, 1), b)

    def rank(cohort: Cohort) -> float:
        frame = pd.DataFrame({k: cohort.values(k) for k in ("heart_rate", "lactate")})
        return float(frame.corr("spearman").iloc[0, 1])

    assert abs(rank(drawn) - rank(real)) < 0.12


def test_codes_outside_the_tree_are_said_and_drawn() -> None:
    real = code_cohort()
    model = MST({"max_codes": 6})
    report = model.fit(real, seed=0, privacy=asked(20.0), noise_key=KEY)
    assert any("codes are drawn independently" in w for w in report.warnings)
    drawn = model.sample(4000, seed=1)
    shares = [np.asarray((x.blocks["codes"] > 0).mean(axis=0)).ravel() for x in (real, drawn)]
    assert np.abs(shares[0] - shares[1]).max() < 0.06
    sick = [x.codes("sick") == 1 for x in (real, drawn)]
    first = [np.asarray(x.blocks["codes"][:, 0].todense()).ravel() for x in (real, drawn)]
    lift = [f[s].mean() - f[~s].mean() for f, s in zip(first, sick, strict=True)]
    assert abs(lift[0] - lift[1]) < 0.12 < lift[0]


def test_counted_codes_beyond_the_tree_are_refused_under_privacy() -> None:
    with pytest.raises(UnsupportedError, match="more counted codes"):
        MST({"max_codes": 6}).fit(code_cohort(300, kind="count"), seed=0, privacy=asked(20.0), noise_key=KEY)


def test_wide_tables_try_only_pairs_that_are_close() -> None:
    rng = np.random.default_rng(0)
    names = [f"{'ab'[i % 2]}{i}" for i in range(104)]
    columns = [Column(name=k, kind="binary", dtype="bool", levels=[False, True], source=[f"{k[0]}.{k}"]) for k in names]
    columns.append(Column(name="label", kind="binary", dtype="bool", levels=[False, True], role="label"))
    cells = {k: (rng.random(300) < 0.5).astype(int) for k in [*names, "label"]}
    cells["a0"], cells["a2"] = cells["b1"].copy(), cells["a4"].copy()
    model = MST()
    report = model.fit(assemble(TableSchema(columns=columns), cells), seed=0)
    assert report.health["tree_edges"] == 104
    place = [c.name for c in model.columns]
    edges = {frozenset((place[i], place[p])) for i, p in enumerate(model.tree.parent) if p >= 0}
    assert frozenset(("a2", "a4")) in edges
    assert frozenset(("a0", "b1")) not in edges, "of two tables, and none of them a hub"


def test_private_gaussian_margins_keep_mean_and_spread() -> None:
    real = number_cohort(3000)
    model = Independent({"preset": "paper"})
    model.fit(real, seed=0, privacy=asked(5.0), noise_key=KEY)
    a, b = real.values("heart_rate"), model.sample(6000, seed=1).values("heart_rate")
    assert abs(a.mean() - b.mean()) < 2
    assert 0.9 < b.std() / a.std() < 1.1


@pytest.mark.parametrize("kind", [MST, Independent, GaussianCopula])
def test_the_noise_is_of_the_key_and_not_of_the_seed(kind: type) -> None:
    real = tree_cohort(800, 1)

    def drawn(key: bytes | None) -> pa.Table:
        model = kind()
        model.fit(real, seed=0, privacy=asked(1.0), noise_key=key)
        return model.sample(400, seed=1).table

    assert drawn(KEY).equals(drawn(KEY))
    assert not drawn(KEY).equals(drawn(b"another secret key of 32 bytes.."))
    assert not drawn(None).equals(drawn(None))
