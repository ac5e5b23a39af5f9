"""Fair rows on top of generators: exact shares, what is left alone, what is refused, what is promised of private models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from biased_people import biased_people
from pydantic import ValidationError

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.fairness.cells import Cells
from pipeline.fairness.decisions import gap_of, lines
from pipeline.fairness.quotas import shuffled
from pipeline.fairness.sampling import fair_sample
from pipeline.fairness.targets import largest_remainders, target_shares, whole_rows
from pipeline.features.fairness_spec import FairnessSpec
from pipeline.features.schema import EventCodes
from pipeline.features.visits import Visits
from pipeline.generators.registry import generator_class

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Generator

ASKED: dict[str, Any] = {"protected": ["group"], "label": "hired"}
N = 1500


def asked(**more: object) -> FairnessSpec:
    return FairnessSpec(**{**ASKED, **more}).resolved()


def table(cohort: Cohort, spec: FairnessSpec) -> np.ndarray[Any, Any]:
    """(strata, groups, outcomes) counts."""
    return Cells.of(spec, cohort.schema).counts([cohort])


@pytest.fixture(scope="module")
def copies() -> Generator:
    """Draws conditions by trying."""
    model = generator_class("bootstrap")()
    model.fit(biased_people(), seed=1)
    return model


@pytest.fixture(scope="module")
def copula() -> Generator:
    """Draws conditions natively."""
    model = generator_class("gaussian_copula")()
    model.fit(biased_people(), seed=1)
    return model


@pytest.mark.parametrize("name", ["copies", "copula"])
def test_labels_are_independent_of_the_group_to_the_row(name: str, request: pytest.FixtureRequest) -> None:
    model, spec = request.getfixturevalue(name), asked()
    made = fair_sample(model, N, seed=5, fairness=spec)
    plain = table(model.sample(20_000, seed=9), spec)[0]
    found = table(made.cohort, spec)[0]
    assert made.cohort.n_rows == N
    people = found.sum(axis=1)
    expected = np.outer(people, found.sum(axis=0)) / N
    assert np.abs(found - expected).max() < 1.5  # whole rows
    assert np.abs(people / N - plain.sum(axis=1) / plain.sum()).max() < 0.02, "groups keep their shares"
    assert made.account.label_gap_before > 0.2
    assert made.account.label_gap_after < 2 / people[people > 0].min()
    assert made.account.lacking == 0
    ids = made.cohort.table.column("person").to_pylist()
    assert ids[0] == "synthetic-0000001"
    assert len(set(ids)) == N


def test_native_conditions_find_rows_with_fewer_candidates(copula: Generator) -> None:
    shares = [{"levels": {"group": g}, "share": s} for g, s in (("a", 0.1), ("b", 0.1), ("c", 0.8))]
    made = fair_sample(copula, N, seed=5, fairness=asked(table=shares))
    assert made.account.native > 0
    assert made.account.candidates < 5_000 + N
    found = table(made.cohort, asked())[0].sum(axis=1)
    assert found[:3].tolist() == [150, 150, 1200]


def test_rows_are_as_the_generator_drew_them(copies: Generator) -> None:
    made = fair_sample(copies, 400, seed=5, fairness=asked())
    real = biased_people()
    known = {tuple(r.values()) for r in real.table.drop_columns(["person"]).to_pylist()}
    assert all(tuple(r.values()) in known for r in made.cohort.table.drop_columns(["person"]).to_pylist())


def test_same_seed_same_rows(copula: Generator) -> None:
    first, again, other = (fair_sample(copula, 300, seed=s, fairness=asked()) for s in (5, 5, 6))
    assert first.cohort.table.equals(again.cohort.table)
    assert first.account.plain() == again.account.plain()
    assert not first.cohort.table.equals(other.cohort.table)


def test_any_first_part_is_like_the_whole(copies: Generator) -> None:
    made = fair_sample(copies, N, seed=5, fairness=asked())
    half = table(made.cohort.take(np.arange(N // 2)), asked())[0]
    assert abs(half[2].sum() / (N // 2) - 0.1) < 0.035


def test_the_visits_of_a_person_go_with_the_row() -> None:
    people = biased_people(60)
    score = people.values("score").astype(np.int64)
    n = people.n_rows
    # One visit each, on the day that the score says; every third has none.
    some = np.arange(n) % 3 > 0
    starts = np.r_[0, np.cumsum(some)]
    visits = Visits(["x"], starts, score[some], np.arange(some.sum() + 1), np.zeros(some.sum(), dtype=np.int32))
    schema = people.schema.model_copy(update={"events": EventCodes(vocabulary=["x"])})
    rows = replace(people, schema=schema, events=visits.events())
    made = shuffled([rows.take(np.arange(20)), rows.take(np.arange(20, n))], seed=3)
    got = Visits.of(made)
    assert got.counts.sum() == some.sum()
    assert made.values("score").tolist() != people.values("score").tolist()
    np.testing.assert_array_equal(got.day, made.values("score")[got.row_of_visit])


def test_strata_keep_what_may_rightly_decide(copies: Generator) -> None:
    spec = asked(strata=["score"], bins={"score": [50, 60]})
    made = fair_sample(copies, N, seed=5, fairness=spec)
    found = table(made.cohort, spec)
    inside = found[..., 1] / np.maximum(found[..., :2].sum(axis=2), 1)
    for stratum in (0, 1, 2):
        assert np.ptp(inside[stratum, :2]) < 0.03, "alike within a stratum"
    assert inside[2, 0] - inside[0, 0] > 0.5, "the stratum still decides"


def test_training_shares_and_no_notion_are_representation_alone(copies: Generator) -> None:
    real = biased_people(seed=3)
    spec = asked(notion="none", shares="training")
    made = fair_sample(copies, real.n_rows, seed=5, fairness=spec, training=real)
    assert np.abs(table(made.cohort, spec) - table(real, spec)).max() <= 1


@pytest.mark.parametrize("notion", ["parity", "equal_opportunity", "equalised_odds"])
def test_decisions_of_a_model_trained_on_the_rows_come_closer(
    copies: Generator, notion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.fairness.sampling.CALIBRATION_ROWS", 8_000)
    monkeypatch.setattr("pipeline.fairness.decisions.ROUNDS", 4)
    made = fair_sample(copies, N, seed=5, fairness=asked(notion=notion, aim="decisions"))
    before, after = made.account.decision_gap_before, made.account.decision_gap_after
    assert before is not None
    assert after is not None
    assert after < before / 2
    spread = table(made.cohort, asked())[0].sum(axis=1) / N
    assert np.abs(spread[:3] - [0.6, 0.3, 0.1]).max() < 0.02, "groups keep their shares"


@pytest.mark.parametrize("notion", ["parity", "equal_opportunity", "equalised_odds"])
def test_lines_keep_their_notion(notion: Any) -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 9000)
    score = rng.normal(size=9000) + 0.7 * (group == 1)
    truth = rng.random(9000) < 1 / (1 + np.exp(-score + 0.5 * group))
    found = lines(score, group, truth, [0, 1, 2], 0.3, notion)
    called = score >= found[group]
    one_line = score >= np.quantile(score, 0.7)
    gap, plain = (gap_of(c, group, truth, [0, 1, 2], notion) for c in (called, one_line))
    assert gap < (plain if notion == "equalised_odds" else 0.01)
    assert abs(called.mean() - 0.3) < 0.02


def test_whole_rows_add_up_and_stay_within_one() -> None:
    counts = np.array([[[30.0, 10.0, 0.0], [7.0, 13.0, 1.0], [0.0, 0.0, 0.0]]])
    shares = target_shares(counts, "parity")
    rows = whole_rows(shares, 97)
    assert rows.sum() == 97
    assert np.abs(rows - shares * 97).max() < 2
    assert rows[0, 2].sum() == 0
    assert largest_remainders(np.array([1.0, 1.0, 1.0]), 2).tolist() == [1, 1, 0]


class Watched:
    """Training rows that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"somebody looked at {name} of the training rows")


def test_rows_of_a_private_model_are_chosen_by_its_own_rows_alone() -> None:
    from pipeline.privacy.spec import PrivacySpec

    model = generator_class("independent")()
    model.fit(biased_people(), seed=1, privacy=PrivacySpec(epsilon=5.0, delta=1e-5))
    made = fair_sample(model, 500, seed=2, fairness=asked(), training=None)
    assert made.account.shares == "model"
    with pytest.raises(ConfigError, match="private model"):
        fair_sample(model, 500, seed=2, fairness=asked(shares="training"), training=None)
    # The watch works: with training rows given they are looked at.
    watched: Any = Watched()
    with pytest.raises(AssertionError, match="looked at"):
        fair_sample(model, 500, seed=2, fairness=asked(), training=watched)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"protected": ["grupp"]}, "Did you mean 'group'"),
        ({"label": "hird"}, "no column 'hird'"),
        ({"protected": ["score"]}, "bins: {score"),
        ({"label": "score"}, "not an outcome"),
        ({"positive": "perhaps"}, "no such positive level"),
        ({"privileged": {"group": "z"}}, "no level 'z'"),
        ({"privileged": {"town": "north"}}, "privileged but not protected"),
        ({"bins": {"town": [1.0]}}, "neither protected nor a stratum"),
        ({"protected": ["group"], "bins": {"group": [1.0]}}, "bins are for numbers"),
        ({"table": [{"levels": {"town": "north"}, "share": 1.0}]}, "neither protected, nor a stratum"),
        (
            {"table": [{"levels": {"group": "a", "hired": True}, "share": 0.5}, {"levels": {"group": "b", "hired": True}, "share": 0.5}]},
            "leaves nothing to a notion",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_for_the_columns_is_said(copies: Generator, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fair_sample(copies, 100, seed=1, fairness=asked(**wrong))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"notion": "equal_opportunity"}, "aim: decisions"),
        ({"notion": "equalised_odds"}, "aim: decisions"),
        ({"aim": "decisions", "strata": ["town"]}, "belong to aim: labels"),
        ({"notion": "none", "aim": "decisions"}, "asks for nothing"),
        ({"strata": ["group"]}, "both protected and a stratum"),
        ({"protected": ["hired"]}, "cannot be protected"),
        ({"protected": ["group", "group"]}, "names a column twice"),
        ({"bins": {"score": [60, 50]}}, "rising cuts"),
        ({"table": [{"levels": {"group": "a"}, "share": 0.4}]}, "add up to 0.4"),
        (
            {"table": [{"levels": {"group": "a"}, "share": 0.4}, {"levels": {"town": "north"}, "share": 0.6}]},
            "same columns",
        ),
    ],
)
def test_what_contradicts_itself_is_said(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        asked(**wrong)


def test_a_group_with_two_members_is_refused_or_pooled(copies: Generator) -> None:
    real = biased_people()
    group = real.codes("group")
    few = real.take(np.flatnonzero((group != 2) | (np.cumsum(group == 2) <= 2)))
    with pytest.raises(ConfigError, match="'group = c' has 2 rows among the training rows"):
        fair_sample(copies, 100, seed=1, fairness=asked(), training=few)
    with pytest.raises(ConfigError, match="the pool needs 11"):
        fair_sample(copies, 100, seed=1, fairness=asked(rare="pool"), training=few)
    crossed = asked(protected=["group", "town"], rare="pool")
    town = real.codes("town")
    six = [np.flatnonzero((group == 2) & (town == k))[:6] for k in (0, 1)]
    some = real.take(np.concatenate([np.flatnonzero(group != 2), *six]))
    made = fair_sample(copies, 400, seed=1, fairness=crossed, training=some)
    assert any(line["group"] == "rare groups" for line in made.account.groups)


def test_a_label_that_is_mostly_missing_or_never_differs_is_refused(copies: Generator) -> None:
    real = biased_people()
    gone, known = np.flatnonzero(real.missing("hired")), np.flatnonzero(~real.missing("hired"))
    mostly = real.take(np.concatenate([np.resize(gone, 950), known[:50]]))
    with pytest.raises(ConfigError, match="missing in 95% of the training rows"):
        fair_sample(copies, 100, seed=1, fairness=asked(), training=mostly)
    one = real.take(np.flatnonzero(real.codes("hired") == 0))
    with pytest.raises(ConfigError, match="one level only"):
        fair_sample(copies, 100, seed=1, fairness=asked(), training=one)


def test_what_is_never_drawn_is_not_made_up() -> None:
    real = biased_people()
    no_c = real.take(np.flatnonzero(real.codes("group") != 2))
    model = generator_class("bootstrap")()
    model.fit(no_c, seed=1)
    with pytest.raises(UnsupportedError, match=r"'group = c.* lacks"):
        fair_sample(model, 300, seed=1, fairness=asked(notion="none", shares="training"), training=real.take(np.flatnonzero(real.codes("group") > 0)))  # fmt: skip
    made = fair_sample(model, 600, seed=1, fairness=asked(shares="training"), training=_few_of_c(real))
    assert 0 < made.account.lacking < 60
    assert made.cohort.n_rows == 600 - made.account.lacking
    assert "could not be found" in made.account.warnings[0]


def _few_of_c(real: Cohort) -> Cohort:
    group = real.codes("group")
    return real.take(np.flatnonzero((group != 2) | (np.cumsum(group == 2) <= 60)))
