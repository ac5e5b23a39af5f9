"""`causal:` and `fairness:` of a cohort's file: what is wrong is told with the place, and generators are told what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipeline.causal.cuts import cut_edges
from pipeline.causal.graph import CausalGraph
from pipeline.errors import ConfigError
from pipeline.features.rows import ordered_rows
from pipeline.features.spec import BUILT_IN_COHORTS, load_book
from pipeline.workflow.settings import model_settings

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.spec import CohortBook

COHORT = """source: demo
subject: row
unit: row
sql: a.sql
tasks: [{name: t, label: y, positive: 1}]
generators: {decaf: {preset: quick}, bt_gan: {label: z}, fairgan: {}, cart: {}}
"""


def book(folder: Path, more: str) -> CohortBook:
    (folder / "sources.yaml").write_text("demo: {format: table}")
    (folder / "a.yaml").write_text(COHORT + more)
    (folder / "a.sql").write_text("SELECT 1 AS y, 2 AS a, 3 AS b")
    return load_book([folder])


@pytest.mark.parametrize(
    ("causal", "words"),
    [
        ("{graph: {y: [a], a: [b], b: [y]}}", "a.yaml: causal: the graph has a cycle: y -> b -> a -> y"),
        ("{graph: {y: [y]}}", "a.yaml: causal: 'y' is named as its own cause"),
        ("{graph: {y: [a, a]}}", "a.yaml: causal: 'a' is named twice among the causes of 'y'"),
        ("{graph: {y: [a], y: [b]}}", "a.yaml:7: This is not valid YAML (key 'y' stands twice)"),
        ("{tiers: [[a], [y, a]]}", "a.yaml: causal: 'a' is named in `tiers` twice"),
        ("{tiers: [[a]], graph: {y: [a]}}", "a.yaml: causal: either `graph` or `tiers`"),
        ("{grph: {y: [a]}}", "a.yaml: There is no key 'causal.grph'. Did you mean 'graph'?"),
    ],
)
def test_a_mistake_in_a_graph_is_told_with_its_place(tmp_path: Path, causal: str, words: str) -> None:
    [reason] = book(tmp_path, f"causal: {causal}\n").broken.values()
    assert words in reason


def test_a_column_that_the_sql_does_not_give_is_told(tmp_path: Path) -> None:
    spec = book(tmp_path, "causal: {tiers: [[income], [y]]}\n").cohort("a")
    rows = pa.table({"y": [0, 1], "incomes": [1.0, 2.0]})
    with pytest.raises(ConfigError, match=r"not give column 'income'.*Did you mean 'incomes'"):
        ordered_rows(spec, rows)


def test_generators_are_told_what_the_file_says_once(tmp_path: Path) -> None:
    fairness = "fairness: {protected: [a], label: y, notion: parity}\n"
    spec = book(tmp_path, fairness + "causal: {graph: {y: [a, b]}}\n").cohort("a")
    assert spec.generators == {
        "decaf": {"preset": "quick", "protected": ["a"], "label": "y", "causal": {"graph": {"y": ["a", "b"]}}},
        "bt_gan": {"protected": ["a"], "label": "z"},
        "fairgan": {"protected": ["a"]},
        "cart": {},
    }
    recorded = model_settings(spec, "decaf")
    assert recorded is not None
    assert recorded["generator"]["causal"] == {"graph": {"y": ["a", "b"]}}
    some = book(tmp_path, fairness.replace("}", ", generators: [cart]}")).cohort("a")
    assert some.generators == {"decaf": {"preset": "quick"}, "bt_gan": {"label": "z"}, "fairgan": {}, "cart": {}}
    assert book(tmp_path, "protected: [a]\n").cohort("a").generators["bt_gan"] == {"label": "z"}, "roles tell that"


@pytest.mark.parametrize("name", ["adult", "compas", "diabetes130"])
def test_shipped_graphs_name_every_column_and_can_be_cut(name: str) -> None:
    spec = load_book([BUILT_IN_COHORTS]).cohort(name)
    assert spec.causal is not None
    assert set(spec.causal.columns) == set(spec.columns)
    label = spec.tasks[0].label
    if spec.causal.tiers:
        tier = {c: i for i, names in enumerate(spec.causal.tiers) for c in names}
        assert all(tier[p] == 0 for p in spec.protected)
        assert all(tier[p] < tier[label] for p in spec.protected)
        return
    graph = CausalGraph.of(spec.causal.graph, list(spec.columns))
    [(effect, causes)] = cut_edges(graph, label, ["sex"], "parity").items()
    assert effect == label
    assert set(causes) == set(graph.parents[label]) - {"age", "race", "native_country"}
