"""The embedded source: three months of made-up patients that take the way of every other delivery."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.demo import source as demo
from pipeline.errors import ConfigError
from pipeline.features.build import build_features, gather_inputs
from pipeline.features.spec import load_book
from pipeline.features.split import PUBLISHED_KEY, split_key
from pipeline.ingest.readers import read_delivery
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from pipeline.features.build import Built
    from pipeline.store.home import Home

pytest.importorskip("carebundle", reason="the demo's patients need carebundle: pip install -e .[demo]")
PATIENTS = 40


def test_plans_are_three_months_with_visits_before_their_day() -> None:
    months = {(p.as_of.year, p.as_of.month) for p in demo.PLANS}
    assert len(months) == len({p.seed for p in demo.PLANS}) == 3
    for plan in demo.PLANS:
        assert (plan.visits.year, plan.visits.month) == (plan.as_of.year, plan.as_of.month)
        assert plan.visits < plan.as_of


def test_the_same_plan_draws_the_same_bytes() -> None:
    assert demo.draw_ndjson(demo.PLANS[0], 3) == demo.draw_ndjson(demo.PLANS[0], 3)


def test_deliveries_land_once_and_hold_other_people(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    first = demo.write_demo_deliveries(home, patients=5, progress=lambda done, total: seen.append((done, total)))
    assert [d.key for d in first] == [f"demo--{p.name}" for p in demo.PLANS]
    assert [d.as_of for d in first] == [p.as_of for p in demo.PLANS]
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    ids: list[str] = []
    for delivery in first:
        for _, file in delivery.files():
            ids += [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert len(ids) == len(set(ids))

    def refuse(*_: object) -> dict[str, str]:
        raise AssertionError("drawn again")

    monkeypatch.setattr(demo, "draw_ndjson", refuse)
    assert demo.write_demo_deliveries(home, patients=5) == first


def test_without_carebundle_the_message_says_what_to_install(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("carebundle"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install -e \.\[demo\]"):
        demo.write_demo_deliveries(home)
    assert not list((home.landing / "demo").glob("*")) if (home.landing / "demo").exists() else True


def test_the_demo_cohort_grows_from_month_to_month(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "the installation's own key is not for the demo")
    lake, book = Lake(home), load_book()
    spec = book.cohort("demo")
    origin = book.source(spec.source)
    for delivery in demo.write_demo_deliveries(home, patients=PATIENTS):
        with lake.tables.draft("raw/fhir", {"delivery": delivery.key}) as draft:
            account = read_delivery(delivery, draft, origin)
            draft.commit(info={"source": delivery.source, "as_of": delivery.as_of.isoformat()})
        assert not account.quarantined
    key = split_key(origin, home)
    assert key == PUBLISHED_KEY

    def build(month: str) -> Built:
        return build_features(spec, origin, gather_inputs(spec, origin, month, lake, home), lake, key)

    months = [build(f"{p.as_of:%Y-%m}-01") for p in demo.PLANS]
    assert [m.cohort.n_rows for m in months] == [PATIENTS, 2 * PATIENTS, 3 * PATIENTS]
    parts = [dict(zip(m.cohort.subject, m.cohort.split, strict=True)) for m in months]
    assert all(parts[2][subject] == part for subject, part in parts[0].items())
    newest = months[-1].cohort
    assert newest.schema.names == list(spec.columns)
    assert not any(newest.missing(name).any() for name in newest.schema.names)
    assert 0.25 < np.mean(newest.codes("hypertension") == 1) < 0.65
    assert (newest.values("diastolic_bp") < newest.values("systolic_bp")).all()
    hypertensive = newest.codes("hypertension") == 1
    drugs = newest.values("blood_pressure_drugs")
    assert drugs[hypertensive].mean() > 1 > drugs[~hypertensive].mean(), "drugs give the label away: the leak list"
