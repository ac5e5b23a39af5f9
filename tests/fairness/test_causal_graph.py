"""Causal graphs: separation against a walk over all paths, cut sets against the published ones, learning, and what is refused."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from pipeline.causal.cuts import cut_edges
from pipeline.causal.graph import CausalGraph, cycle
from pipeline.causal.learning import MOST_BINS, Bic, code_bins, complete_tiers, learn_graph, level_bins, value_bins
from pipeline.errors import ConfigError
from pipeline.features.causal_spec import CausalSpec

BEFORE = ["race", "age", "sex", "native_country"]
ADULT = {
    "marital": BEFORE,
    "education": [*BEFORE, "marital"],
    "occupation": ["race", "age", "sex", "marital", "education"],
    "hours": ["race", "age", "native_country", "marital", "education"],
    "workclass": ["age", "sex", "native_country", "marital", "education"],
    "relationship": ["age", "sex", "native_country", "marital", "education"],
    "income": [*BEFORE, "marital", "education", "occupation", "hours", "workclass", "relationship"],
}
LATER = ["occupation", "hours", "education", "workclass", "relationship"]


def adult() -> CausalGraph:
    return CausalGraph.of(ADULT, [*BEFORE, *ADULT])


def random_graph(rng: np.random.Generator, n: int, share: float) -> CausalGraph:
    names = [f"v{i}" for i in range(n)]
    order = rng.permutation(n)
    parents = {names[b]: [names[a] for a in order[:i] if rng.random() < share] for i, b in enumerate(order)}
    return CausalGraph.of(parents, names)


def by_all_paths(graph: CausalGraph, one: str, other: str, given: set[str]) -> bool:
    """d-separation from its definition: no undirected path is open."""

    def open_at(before: str, at: str, after: str) -> bool:
        if before in graph.parents[at] and after in graph.parents[at]:
            return bool(graph.descendants([at]) & given)
        return at not in given

    def walk(path: list[str]) -> bool:
        if path[-1] == other:
            return all(open_at(*path[i : i + 3]) for i in range(len(path) - 2))
        steps = {*graph.parents[path[-1]], *graph.children(path[-1])} - set(path)
        return any(walk([*path, step]) for step in steps)

    return not walk([one])


@pytest.mark.parametrize("seed", range(6))
def test_separation_is_that_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 6, 0.4)
    checked = 0
    for one, other in combinations(graph.columns, 2):
        rest = [c for c in graph.columns if c not in (one, other)]
        for k in range(4):
            for given in combinations(rest, k):
                assert graph.separated(one, other, given) == by_all_paths(graph, one, other, set(given))
                assert graph.separated(one, other, given) == graph.separated(other, one, given)
                checked += 1
    assert checked == 15 * (1 + 4 + 6 + 4)


def test_boundary_separates_from_all_others() -> None:
    for seed in range(8):
        graph = random_graph(np.random.default_rng(seed), 7, 0.35)
        for name in graph.columns:
            boundary = graph.boundary(name)
            for other in set(graph.columns) - boundary - {name}:
                assert graph.separated(name, other, boundary)
            # And none of them could be left out.
            for member in boundary:
                assert not graph.separated(name, member, boundary - {member})


def test_levels_come_after_their_causes() -> None:
    graph = random_graph(np.random.default_rng(3), 9, 0.3)
    depth = {name: i for i, level in enumerate(graph.levels()) for name in level}
    assert sorted(depth) == sorted(graph.columns)
    assert all(depth[cause] < depth[effect] for cause, effect in graph.edges)
    assert adult().levels()[0] == BEFORE
    assert adult().levels()[-1] == ["income"]


# ---- what is cut


def test_cut_sets_of_adult_are_the_published_ones() -> None:
    graph = adult()
    assert cut_edges(graph, "income", ["sex"], "none") == {}
    assert cut_edges(graph, "income", ["sex"], "ftu") == {"income": ("sex",)}
    conditional = cut_edges(graph, "income", ["sex"], "conditional", LATER)
    assert set(conditional["income"]) == {"marital", "sex"}
    parity = cut_edges(graph, "income", ["sex"], "parity")
    assert set(parity["income"]) == {"sex", "marital", *LATER}
    assert set(parity) == set(conditional) == {"income"}


@pytest.mark.parametrize("seed", range(12))
def test_what_is_left_after_parity_is_separated(seed: int) -> None:
    """In random graphs too, label and protected column are separated once the edges are gone; given R for the strict notion."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 7, 0.45)
    last, first = graph.levels()[-1][0], graph.levels()[0][0]
    given = [c for c in graph.columns if c not in (first, last)][:2]
    given = [c for c in given if last not in graph.ancestors([c])]
    for notion, known, strict in (("parity", (), False), ("conditional", given, True)):
        if notion == "conditional" and not known:
            continue
        cuts = cut_edges(graph, last, [first], notion, known, strict=strict)  # type: ignore[arg-type]
        left = {e: [c for c in p if c not in cuts.get(e, ())] for e, p in graph.parents.items()}
        assert CausalGraph.of(left, graph.columns).separated(first, last, known)


def test_effects_of_the_label_that_go_with_the_group_are_cut_or_kept() -> None:
    graph = CausalGraph.of({"y": ["a", "x"], "late": ["y", "a"], "only": ["y"]}, ["a", "x", "y", "late", "only"])
    assert cut_edges(graph, "y", ["a"], "parity") == {"y": ("a",), "late": ("y",)}
    assert cut_edges(graph, "y", ["a"], "parity", children=False) == {"y": ("a",)}
    assert cut_edges(graph, "y", ["a"], "ftu") == {"y": ("a",)}
    strict = CausalGraph.of({"r": ["a", "b"], "y": ["b", "r"]}, ["a", "b", "r", "y"])
    assert cut_edges(strict, "y", ["a"], "conditional", ["r"]) == {}
    assert cut_edges(strict, "y", ["a"], "conditional", ["r"], strict=True) == {"y": ("b",)}


def test_a_label_that_causes_the_group_is_refused() -> None:
    graph = CausalGraph.of({"a": ["x"], "x": ["y"]}, ["a", "x", "y"])
    with pytest.raises(ConfigError, match="label 'y' among the causes of the protected column 'a'"):
        cut_edges(graph, "y", ["a"], "parity")
    with pytest.raises(ConfigError, match="'sex' cannot be the label or protected"):
        cut_edges(adult(), "income", ["sex"], "conditional", ["sex"])
    with pytest.raises(ConfigError, match=r"no column 'hour'.*Did you mean 'hours'"):
        cut_edges(adult(), "income", ["sex"], "conditional", ["hour"])


# ---- learning


def chain(n: int = 4000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, n)
    age = rng.integers(0, 5, n)
    job = (sex + (rng.random(n) < 0.2)) % 2 + 2 * (age > 2)
    income = (rng.random(n) < 0.1 + 0.2 * job).astype(int)
    return {"income": income, "sex": sex, "age": age, "job": job, "noise": rng.integers(0, 4, n)}


def test_learned_edges_are_those_that_made_the_rows() -> None:
    found = learn_graph(chain(), [["sex", "age"], ["job", "noise"], ["income"]])
    assert found.edges == [("job", "income"), ("sex", "job"), ("age", "job")]
    assert learn_graph(chain(), [["sex", "age"], ["job", "noise"], ["income"]]) == found
    backwards = learn_graph(chain(), [["income"], ["job"], ["sex", "age", "noise"]])
    assert all(effect != "income" for _, effect in backwards.edges), "nothing comes before the first tier"
    assert learn_graph(chain(), [["sex", "age", "job", "noise", "income"]], most_parents=1).levels()
    assert max(len(p) for p in learn_graph(chain(), [list(chain())], most_parents=1).parents.values()) == 1


def test_no_single_change_raises_the_score_of_what_was_learned() -> None:
    bins = chain()
    tiers = [["sex", "age"], ["job", "noise", "income"]]
    graph, score = learn_graph(bins, tiers), Bic(bins)
    for effect in graph.columns:
        now = frozenset(graph.parents[effect])
        for cause in set(graph.columns) - {effect}:
            late = cause in tiers[1] and effect in tiers[0]
            if not late and (cause in now or cause not in graph.descendants([effect])):
                assert score(effect, now ^ {cause}) <= score(effect, now) + 1e-6


def test_bins_are_few_and_keep_what_is_common_apart() -> None:
    rng = np.random.default_rng(1)
    spiked = value_bins(np.r_[np.zeros(500), rng.random(400), np.full(100, np.nan)])
    assert len(np.unique(spiked)) <= MOST_BINS
    assert len(np.unique(spiked[:500])) == len(np.unique(spiked[900:])) == 1
    assert spiked[0] not in spiked[500:]
    assert (value_bins(np.full(5, np.nan)) == value_bins(np.full(5, np.nan))[0]).all()
    states = rng.integers(0, 16, 2000)
    ordered = level_bins(states, 16, ordered=True, missing=15)
    assert all(ordered[states == i].max() <= ordered[states == i + 1].min() for i in range(14))
    assert set(ordered[states == 15]) == {MOST_BINS - 1}
    assert len(np.unique(level_bins(states, 16, ordered=False, missing=None))) == MOST_BINS
    sick = rng.random(1000) < 0.5
    counts = (rng.random((1000, 30)) < np.where(sick, 0.5, 0.1)[:, None]).astype(int)
    found = code_bins(counts)
    assert found.max() < MOST_BINS
    assert abs(found[sick].mean() - found[~sick].mean()) > 1
    assert code_bins(np.zeros((4, 0), dtype=int)).tolist() == [0] * 4


def test_unnamed_columns_come_before_the_last_tier() -> None:
    assert complete_tiers([["a"], ["y"]], ["a", "b", "y"]) == [["a"], ["b"], ["y"]]
    with pytest.raises(ConfigError, match=r"no column 'agee'.*Did you mean 'age'"):
        complete_tiers([["agee"]], ["age"])


# ---- what is refused


def test_what_is_wrong_with_a_graph_is_spelt_out() -> None:
    with pytest.raises(ConfigError, match=r"no column 'sx'.*Did you mean 'sex'"):
        CausalGraph.of({"income": ["sx"]}, ["sex", "income"])
    with pytest.raises(ConfigError, match="'a' is named as its own cause"):
        CausalGraph.of({"a": ["a"]}, ["a"])
    with pytest.raises(ConfigError, match="'b' is named twice among the causes of 'a'"):
        CausalGraph.of({"a": ["b", "b"]}, ["a", "b"])
    with pytest.raises(ConfigError, match="cycle: a -> c -> b -> a"):
        CausalGraph.of({"a": ["b"], "b": ["c"], "c": ["a"]}, ["a", "b", "c"])
    for seed in range(20):
        graph = random_graph(np.random.default_rng(seed), 7, 0.5)
        assert cycle(graph.parents) == []
        cause, effect = graph.edges[0]
        found = cycle({**graph.parents, cause: (*graph.parents[cause], effect)})
        turned = {**graph.parents, cause: (*graph.parents[cause], effect)}
        assert found[0] == found[-1]
        assert all(a in turned[b] for a, b in pairwise(found)), "every step of it is an edge"


def test_the_section_of_a_cohort_is_checked() -> None:
    assert CausalSpec(tiers=[["a"], ["b"]]).columns == ["a", "b"]
    for given, words in (
        ({"graph": {"a": ["b"], "b": ["a"]}}, "the graph has a cycle: a -> b -> a|the graph has a cycle: b -> a -> b"),
        ({"graph": {"a": ["b"]}, "tiers": [["a"]]}, "not both"),
        ({"tiers": [["a"], ["a"]]}, "'a' is named in `tiers` twice"),
        ({"tiers": [[]]}, "names no column"),
    ):
        with pytest.raises(ValueError, match=words):
            CausalSpec.model_validate(given)
