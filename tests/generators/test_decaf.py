"""DECAF: what a cut edge changes and what not, on people of a linear world; notions, conditions, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort, stay_cohort

from pipeline.causal.graph import CausalGraph
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.adversarial.structural import Step, StructuralNet, slots_of
from pipeline.generators.adversarial.structural_rows import Exchange, Fitting, exchanges
from pipeline.generators.base import PrivacySpec, load_generator
from pipeline.generators.decaf import DECAF

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

TINY = {"preset": "quick", "steps": 12}
GRAPH = {"job": ["group"], "ill": ["group", "job", "x"], "seen": ["ill", "group"]}
DRAWN = 20_000


def world(n: int = 2500, *, roles: bool = True, missing: float = 0.0, few: bool = False, seed: int = 0) -> Cohort:
    """group -> job, group -> ill, job -> ill, x -> ill, ill -> seen, group -> seen; `far` hangs on nothing."""
    rng = np.random.default_rng(seed)
    group = (rng.random(n) < 0.4).astype(int)
    if few:
        group = (np.arange(n) < 2).astype(int)
    job = np.where(rng.random(n) < 0.8, group, 1 - group)
    x = rng.standard_normal(n)
    ill = (rng.random(n) < 1 / (1 + np.exp(-(1.2 * x + 1.7 * group + 1.6 * job - 1.6)))).astype(int)
    seen = (rng.random(n) < np.where(ill == 1, 0.8, 0.2) + 0.15 * group).astype(int)
    ill[rng.random(n) < missing] = -1
    flag = {"kind": "binary", "dtype": "bool", "levels": [False, True]}
    columns = [
        Column(name="seen", **flag),  # type: ignore[arg-type]
        Column(name="ill", nullable=missing > 0, role="label" if roles else "feature", **flag),  # type: ignore[arg-type]
        Column(name="x", kind="continuous", dtype="float64"),
        Column(name="job", **flag),  # type: ignore[arg-type]
        Column(name="group", role="protected" if roles else "feature", **flag),  # type: ignore[arg-type]
        Column(name="far", kind="count", dtype="int64"),
    ]
    cells = {"seen": seen, "ill": ill, "x": np.round(x, 2), "job": job, "group": group, "far": rng.poisson(3.0, n)}
    return assemble(TableSchema(columns=columns), {k: np.asarray(v, dtype=float) if k in ("x", "far") else v for k, v in cells.items()})  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> tuple[DECAF, Cohort]:
    real = world()
    model = DECAF({"preset": "quick", "causal": {"graph": GRAPH}, "learning_rate": 1e-3})
    report = model.fit(real, seed=0, device="cpu")
    assert any("does not name far" in w for w in report.warnings)
    assert report.health["label_information_drawn/group"] < 1e-3 < report.health["label_information_real/group"]
    return model, real


def rates(rows: Cohort, what: str, *by: str) -> NDArray[np.float64]:
    """Share of `what` in each cell of binary columns."""
    cell = sum(2**i * rows.codes(name) for i, name in enumerate(by))
    return np.array([rows.codes(what)[cell == c].mean() for c in range(2 ** len(by))])


def gap(rows: Cohort, what: str = "ill") -> float:
    """|P(what | group) - P(what | not group)|."""
    low, high = rates(rows, what, "group")
    return float(abs(high - low))


# ---- notions


def test_without_a_notion_the_tables_of_causes_are_those_of_the_rows(trained: tuple[DECAF, Cohort]) -> None:
    model, real = trained
    drawn = model.under("none").sample(DRAWN, seed=1)
    assert gap(real) > 0.4
    assert abs(gap(drawn) - gap(real)) < 0.1
    for effect, causes in (("job", ("group",)), ("ill", ("group", "job")), ("seen", ("ill", "group"))):
        assert np.abs(rates(drawn, effect, *causes) - rates(real, effect, *causes)).max() < 0.12, effect
    ill = drawn.codes("ill") == 1
    assert drawn.values("x")[ill].mean() - drawn.values("x")[~ill].mean() > 0.3
    assert abs(np.corrcoef(drawn.values("far"), drawn.codes("group"))[0, 1]) < 0.03


def test_parity_makes_the_label_independent_and_keeps_its_share(trained: tuple[DECAF, Cohort]) -> None:
    model, real = trained
    drawn = model.sample(DRAWN, seed=1)
    assert model.config.notion == "parity"
    assert model.cuts == {"ill": ("job", "group"), "seen": ("ill",)}
    assert gap(drawn) < 0.025
    assert abs(drawn.codes("ill").mean() - real.codes("ill").mean()) < 0.03
    ill = drawn.codes("ill") == 1
    assert drawn.values("x")[ill].mean() - drawn.values("x")[~ill].mean() > 0.3, "what may decide goes on deciding"


def test_ftu_takes_the_direct_effect_alone(trained: tuple[DECAF, Cohort]) -> None:
    model, _ = trained
    free, drawn = model.under("none").sample(DRAWN, seed=1), model.under("ftu").sample(DRAWN, seed=1)
    direct = [np.diff(rates(rows, "ill", "group", "job").reshape(2, 2), axis=1).ravel() for rows in (free, drawn)]
    assert np.abs(direct[0]).min() > 0.1
    assert np.abs(direct[1]).max() < 0.05, "among people of one job the group tells nothing more"
    assert gap(drawn) > 0.08, "by way of the job it does"
    assert model.under("conditional", ["job"]).cuts["ill"] == ("group",)


# ---- what a cut changes


def test_a_cut_changes_nothing_but_what_comes_after_it(trained: tuple[DECAF, Cohort]) -> None:
    model, _ = trained
    free, fair = model.under("none").sample(3000, seed=4), model.sample(3000, seed=4)
    for name in ("x", "job", "group", "far"):
        assert free.table.column(name).equals(fair.table.column(name)), name
    assert not free.table.column("ill").equals(fair.table.column("ill"))
    kept = model.under("parity", children="keep")
    assert kept.cuts == {"ill": ("job", "group")}
    told = kept.sample(DRAWN, seed=4)
    assert abs(np.corrcoef(told.codes("seen"), told.codes("ill"))[0, 1]) > 0.3
    cut = model.sample(DRAWN, seed=4)
    assert abs(np.corrcoef(cut.codes("seen"), cut.codes("ill"))[0, 1]) < 0.05


def test_what_is_shown_instead_are_drawn_rows(trained: tuple[DECAF, Cohort]) -> None:
    model, _ = trained
    blocks, order = model._blocks, torch.Generator().manual_seed(0)
    drawn = torch.arange(50.0)[:, None] + torch.arange(blocks.width) / 1000
    slots = slots_of(blocks)
    together = exchanges(blocks, model.cuts, "together", 50, order)["ill"](drawn)
    at = [*slots["job"].vector, *slots["group"].vector]
    rest = [i for i in range(blocks.width) if i not in at]
    whose = together[:, at[0]].floor()
    assert torch.equal(together[:, rest], drawn[:, rest])
    assert sorted(whose.tolist()) == list(range(50))
    assert whose.tolist() != list(range(50))
    assert torch.equal(together[:, at].floor(), whose[:, None].expand(-1, len(at))), "all of one other row"
    each = exchanges(blocks, model.cuts, "each", 50, order)["ill"]
    assert isinstance(each, Exchange)
    assert len(each.moved) == 2
    assert not torch.equal(each(drawn)[:, at[0]].floor(), each(drawn)[:, at[-1]].floor())


def test_nothing_but_drawn_causes_is_an_input() -> None:
    """The vector begins as zeros, and the outputs of a column do not move with what is no cause of it."""
    model = DECAF({**TINY, "causal": {"graph": GRAPH}})
    model.fit(world(200), seed=0, device="cpu")
    network, slots = model._network, slots_of(model._blocks)
    seen: list[torch.Tensor] = []
    first = Step.first

    def spy(step: Step, vector: torch.Tensor, *more: object) -> torch.Tensor:
        seen.append(vector.clone())
        return first(step, vector, *more)  # type: ignore[arg-type]

    noise = network.noise(9, torch.Generator().manual_seed(0), torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "first", spy)
        network(noise)
    assert not seen[0].any()
    done: list[str] = []
    for step, vector in zip(network.steps, seen, strict=True):
        assert isinstance(step, Step)
        undrawn = [i for name, slot in slots.items() if name not in done for i in slot.vector]
        assert not vector[:, undrawn].any()
        done += step.names
    assert done.index("ill") > done.index("job") > done.index("group")
    step = next(s for s in network.steps if isinstance(s, Step) and "ill" in s.names)
    i = step.names.index("ill")
    assert set(step.seen[i][step.seen[i] < network.width].tolist()) == {
        v for c in GRAPH["ill"] for v in slots[c].vector
    }


def test_computed_at_once_as_one_by_one() -> None:
    """Grouped columns give what each alone gives, and chunks what the whole gives."""
    model = DECAF({**TINY, "undeclared": "guess"})
    model.fit(mixed_cohort(200), seed=0, device="cpu")
    network = model._network
    noise = network.noise(30, torch.Generator().manual_seed(0), torch.device("cpu"))
    with torch.no_grad():
        whole, parts = network(noise), network.walk(noise, chunk=7)
        torch.testing.assert_close(whole, parts)
        own = noise[:, : network.parts[0]]
        for step in network.steps:
            assert isinstance(step, Step)
            outputs = step.last(_shared(network, step.first(whole, own, {})), network.head)  # type: ignore[arg-type]
            at = 0
            for i, name in enumerate(step.names):
                causes = [v for v in step.seen[i].tolist() if v < network.width]
                mine = [v for v in step.own[i].tolist() if v < network.parts[0]]
                rows = [*range(len(causes)), *range(step.seen.shape[1], step.seen.shape[1] + len(mine))]
                x = torch.cat([whole[:, causes], own[:, mine]], dim=1)
                hidden = torch.relu(x @ step.weight[i][rows] + step.bias[i])
                for layer in network.layers:
                    hidden = torch.relu(layer(hidden))
                heads = slots_of(model._blocks)[name].outputs
                alone = hidden @ network.head.weight[heads].T + network.head.bias[heads]
                torch.testing.assert_close(outputs[:, at : at + len(heads)], alone, rtol=1e-4, atol=1e-5)
                at += len(heads)


def _shared(network: StructuralNet, x: torch.Tensor) -> torch.Tensor:
    for layer in network.layers:
        x = torch.relu(layer(x))
    return x


def test_margins_of_causes_are_right_before_effects_are_drawn() -> None:
    model = DECAF({**TINY, "undeclared": "guess", "margins": False})
    model.fit(mixed_cohort(300), seed=0, device="cpu")
    network, blocks = model._network, model._blocks
    with torch.no_grad():
        noise = network.noise(4000, torch.Generator().manual_seed(0), torch.device("cpu"))
        vectors = network.walk(noise, change=Fitting(blocks, 12))
    for name in blocks.columns:
        at = slots_of(blocks)[name].states
        wanted = blocks.start_bias()[at.start : at.stop].exp()
        assert float((vectors[:, at.start : at.stop].mean(dim=0) - wanted).abs().max()) < 0.03, name


# ---- conditions, other draws


def test_conditions_on_causes_are_native_and_do_not_undo_a_cut(trained: tuple[DECAF, Cohort]) -> None:
    model, _ = trained
    assert model.draws_given(["group"])
    assert model.draws_given(["group", "job"])
    assert not model.draws_given(["job"])
    assert not model.draws_given(["ill"])
    found = [model.sample(6000, seed=2, conditions={"group": g, "job": g}).codes("ill").mean() for g in (False, True)]
    assert abs(found[0] - found[1]) < 0.04
    free = [
        model.under("none").sample(6000, seed=2, conditions={"group": g}).codes("ill").mean() for g in (False, True)
    ]
    assert free[1] - free[0] > 0.25
    fixed = model.sample(300, seed=2, conditions={"ill": True, "group": True, "x": 1.5})
    assert fixed.codes("ill").all()
    assert (fixed.values("x") == 1.5).all()


def test_one_row_is_as_fair_as_many(trained: tuple[DECAF, Cohort]) -> None:
    """A row alone is shown other rows' causes too, not its own."""
    model, _ = trained
    single = [model.sample(1, seed=s) for s in range(150)]
    ill = np.array([[row.codes("group")[0], row.codes("ill")[0]] for row in single])
    assert len(np.unique(ill, axis=0)) == 4
    high = ill[ill[:, 0] == 1, 1].mean() - ill[ill[:, 0] == 0, 1].mean()
    assert high < 0.3, "without the cut the gap is above .45"


def test_saved_with_its_graph_it_draws_the_same_under_any_notion(trained: tuple[DECAF, Cohort], tmp_path: Path) -> None:
    model, _ = trained
    model.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert isinstance(loaded, DECAF)
    assert loaded.graph == model.graph == CausalGraph.of(GRAPH, model.graph.columns)
    for notion in ("none", "ftu", "parity"):
        rows = [m.under(notion).sample(500, seed=3).table for m in (model, loaded)]  # type: ignore[arg-type]
        assert rows[0].equals(rows[1]), notion


def test_slices_of_a_large_draw_are_each_fair(trained: tuple[DECAF, Cohort], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = trained
    monkeypatch.setattr("pipeline.generators.decaf.MOST_AT_ONCE", 2048)
    drawn = model.sample(9000, seed=5)
    assert drawn.n_rows == 9000
    assert gap(drawn) < 0.05


# ---- learning, and what has to be said


def test_a_learned_graph_is_in_the_report_and_learned_again_the_same() -> None:
    model = DECAF(TINY)
    report = model.fit(world(1500), seed=0, device="cpu")
    told = next(w for w in report.warnings if "graph was learned" in w)
    assert "ill <- " in told
    assert "job <- " in told or "group <- " in told
    assert {"group", "x"} <= model.graph.ancestors(["ill"])
    assert not model.graph.children("ill"), "the label comes last"
    again = DECAF(TINY)
    again.fit(world(1500), seed=7, device="cpu")
    assert again.graph == model.graph
    tiered = DECAF({**TINY, "causal": {"tiers": [["x", "group"], ["job"], ["ill"], ["seen"]]}})
    tiered.fit(world(1500), seed=0, device="cpu")
    assert "ill" in tiered.graph.parents["seen"]


def test_what_is_refused_in_words() -> None:
    plain = world(200, roles=False)
    with pytest.raises(ConfigError, match="which column is the label") as refused:
        DECAF(TINY).fit(plain, seed=0, device="cpu")
    assert "notion: none" in str(refused.value)
    with pytest.raises(ConfigError, match="which column is protected"):
        DECAF({**TINY, "label": "ill"}).fit(plain, seed=0, device="cpu")
    assert DECAF({**TINY, "notion": "none"}).fit(plain, seed=0, device="cpu").rows == 200
    for graph, words in (
        ({"ill": ["gruop"]}, r"no column 'gruop'.*Did you mean 'group'"),
        ({"group": ["ill"]}, "among the causes of the protected column 'group'"),
    ):
        with pytest.raises(ConfigError, match=words):
            DECAF({**TINY, "causal": {"graph": graph}}).fit(world(200), seed=0, device="cpu")
    with pytest.raises(ConfigError, match="cycle"):
        DECAF({"causal": {"graph": {"a": ["b"], "b": ["a"]}}})
    with pytest.raises(ConfigError, match="belong together"):
        DECAF({"notion": "conditional"})
    with pytest.raises(ConfigError, match=r"no column 'jop'"):
        DECAF({**TINY, "notion": "conditional", "given": ["jop"]}).fit(world(200), seed=0, device="cpu")
    with pytest.raises(UnsupportedError, match="learned graph"):
        DECAF(TINY).fit(world(200), seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-6))


def test_few_of_a_group_and_labels_that_are_mostly_missing_are_told() -> None:
    report = DECAF(TINY).fit(world(400, few=True), seed=0, device="cpu")
    assert any("too small" in w and "group = yes" in w for w in report.warnings)
    bare = DECAF({**TINY, "causal": {"graph": {"ill": ["group", "job"], "job": ["group"]}}})
    assert any("nothing is left" in w for w in bare.fit(world(200), seed=0, device="cpu").warnings)
    assert not any("nothing is left" in w for w in report.warnings)
    model = DECAF(TINY)
    report = model.fit(world(400, missing=0.9), seed=0, device="cpu")
    assert any("missing in" in w and "triple_gan" in w for w in report.warnings)
    assert abs(model.sample(2000, seed=0).missing("ill").mean() - 0.9) < 0.05


def test_a_guess_is_said_and_the_paper_s_settings_run(tmp_path: Path) -> None:
    report = DECAF({**TINY, "undeclared": "guess"}).fit(stay_cohort(300), seed=0, device="cpu")
    assert any("'readmitted' was taken" in w for w in report.warnings)
    assert any("'ward' was taken" in w for w in report.warnings)
    model = DECAF({"preset": "paper", "steps": 10, "batch_size": 50, "hidden": (16, 16, 16), "critic_hidden": (16,)})
    model.fit(world(200), seed=0, device="cpu")
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(50, seed=1).table.equals(model.sample(50, seed=1).table)
