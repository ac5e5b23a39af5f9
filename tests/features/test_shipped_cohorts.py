"""The cohorts that come with CohortLoom: they load, and on real deliveries they give tables that make sense."""

from __future__ import annotations

import re
import shutil
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.features.build import build_features, gather_inputs
from pipeline.features.resolution import moved
from pipeline.features.spec import load_book
from pipeline.features.split import PUBLISHED_KEY, split_key
from pipeline.generators.registry import generator_names
from pipeline.ingest.delivery import hand_over
from pipeline.ingest.readers import read_delivery
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from pipeline.features.build import Built

BOOK = load_book()


def deliver_and_build(lake: Lake, cohort: str, path: Path, as_of: date) -> Built:
    spec = BOOK.cohort(cohort)
    source = BOOK.source(spec.source)
    delivery = hand_over(lake.home, source.name, path, as_of=as_of)
    with lake.tables.draft(f"raw/{source.format}", {"delivery": delivery.key}) as draft:
        read_delivery(delivery, draft, source)
        draft.commit(info={"source": source.name, "as_of": as_of.isoformat()})
    inputs = gather_inputs(spec, source, f"{as_of:%Y-%m}-01", lake, lake.home)
    return build_features(spec, source, inputs, lake, split_key(source, lake.home))


def test_every_shipped_file_loads() -> None:
    assert BOOK.broken == {}
    text = (Path(__file__).parents[2] / "docs" / "cohorts.md").read_text(encoding="utf-8")
    assert set(BOOK.cohorts) == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)), "docs/cohorts.md lists them all"


@pytest.mark.parametrize("name", sorted(BOOK.cohorts))
def test_shipped_cohorts_say_what_they_hold(name: str) -> None:
    spec = BOOK.cohort(name)
    assert set(spec.generators) <= set(generator_names())
    assert ({"halo_small"} if spec.events else {"independent", "gaussian_copula", "vae"}) <= set(spec.generators)
    assert spec.events is None or (spec.events.description and spec.events.source)
    assert spec.tasks
    for column, declared in spec.columns.items():
        assert declared.description, f"{column} has no description"
        assert declared.source, f"{column} has no lineage"
    for block, asked in spec.blocks.items():
        assert asked.description, f"{block} has no description"
        assert asked.source, f"{block} has no lineage"
    for task in spec.tasks:
        assert {task.label, *task.leak} <= set(spec.columns)
    assert set(spec.protected) <= set(spec.columns)


@pytest.mark.realdata
def test_support(lake: Lake, real_data: Path) -> None:
    built = deliver_and_build(lake, "support", real_data / "support" / "support.csv.gz", date(2026, 10, 5))
    cohort = built.cohort
    assert (cohort.n_rows, cohort.n_subjects) == (8873, 8873)
    assert list(BOOK.cohort("support").columns) == cohort.schema.names
    assert built.lineage["sex"] == ["support.sex"]
    roles = {c.name: c.role for c in cohort.schema.columns}
    assert (roles["event"], roles["sex"]) == ("label", "protected")
    assert np.mean(cohort.codes("event") == 1) == pytest.approx(0.680, abs=0.001)
    assert np.mean(cohort.codes("sex") == 0) == pytest.approx(0.563, abs=0.001)
    assert np.mean(cohort.codes("cancer") == 0) == pytest.approx(0.660, abs=0.001)
    train = cohort.split == "train"
    for column in cohort.schema.columns:
        assert not cohort.missing(column.name).any()
        if column.numeric and column.resolution is not None:
            assert moved(cohort.values(column.name)[train], column.resolution, column.dtype) == 0


@pytest.mark.realdata
def test_synthea(lake: Lake, real_data: Path, tmp_path: Path) -> None:
    bundles = sorted((real_data / "synthea-r4-smart" / "bundles").iterdir())[::12]
    folder = tmp_path / "some"
    folder.mkdir()
    for bundle in bundles:
        shutil.copy(bundle, folder)
    built = deliver_and_build(lake, "synthea", folder, date(2026, 10, 5))
    cohort = built.cohort
    assert cohort.n_rows == len(bundles)
    assert cohort.schema.names == list(BOOK.cohort("synthea").columns)
    age, systolic, diastolic = (cohort.values(n) for n in ("age", "systolic_bp", "diastolic_bp"))
    assert ((age >= 0) & (age < 120)).all()
    measured = ~np.isnan(systolic)
    assert measured.mean() > 0.9
    assert (diastolic[measured] < systolic[measured]).all()
    assert ((systolic[measured] > 70) & (systolic[measured] < 250)).all()
    lived = cohort.values("encounters_wellness") + cohort.values("encounters_ambulatory")
    assert (lived > 0).all()
    bmi, obese = cohort.values("bmi"), cohort.codes("obesity") == 1
    assert np.nanmedian(bmi[obese]) > np.nanmedian(bmi[~obese])
    assert np.median(age[cohort.codes("hypertension") == 1]) > 18
    assert PUBLISHED_KEY.decode() not in str(built.counts)
