"""The shipped cohort of dated visits on real files, against what pandas finds; then drawn and written as MEDS."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from test_code_cohorts import short
from test_shipped_cohorts import deliver_and_build

from pipeline.features.visits import Visits
from pipeline.generators.halo_small import HaloSmall
from pipeline.ingest.meds.synthetic import write_synthetic

if TYPE_CHECKING:
    from pipeline.store.lake import Lake

pytestmark = pytest.mark.realdata


def test_claims_are_visits_and_leave_as_made_up_ones(lake: Lake, real_data: Path, tmp_path: Path) -> None:
    handed = tmp_path / "handed"
    handed.mkdir()
    for file in (real_data / "cms-desynpuf").glob("*_Sample_1.csv.gz"):
        shutil.copy(file, handed / file.name)
    built = deliver_and_build(lake, "synpuf_visits", handed, date(2026, 10, 31))
    cohort = built.cohort
    visits = Visits.of(cohort)

    places = [f"ICD9_DGNS_CD_{i}" for i in range(1, 11)]
    claims = pd.read_csv(next(handed.glob("*Inpatient*")), dtype=str)
    long = claims.melt(["DESYNPUF_ID", "CLM_ID", "CLM_FROM_DT"], places, value_name="code").dropna(subset=["code"])
    assert built.blocks["events"].records == len(long)
    long = long.dropna(subset=["CLM_FROM_DT"]).assign(code=lambda t: t.code.map(short))
    long = long[long.code.isin(visits.vocabulary)]
    first = pd.to_datetime(long.groupby(["DESYNPUF_ID", "CLM_ID"]).CLM_FROM_DT.min(), format="%Y%m%d")
    sets = long.groupby(["DESYNPUF_ID", "CLM_ID"]).code.agg(lambda codes: tuple(sorted(set(codes))))
    expected = pd.DataFrame({"day": first, "codes": sets}).reset_index().sort_values(["DESYNPUF_ID", "day", "CLM_ID"])

    assert len(visits.day) == len(expected)
    assert cohort.subject[visits.row_of_visit].tolist() == expected.DESYNPUF_ID.tolist()
    assert visits.day.tolist() == (expected.day - pd.Timestamp(0)).dt.days.tolist()
    names = np.array(visits.vocabulary)
    found = [tuple(names[visits.code[s:e]]) for s, e in zip(visits.code_start, visits.code_start[1:], strict=False)]
    assert found == expected.codes.tolist()

    train = cohort.part("train").take(np.arange(400))
    settings = {"preset": "quick", "columns": "independent", "columns_preset": "default", "epochs": 2}
    model = HaloSmall(settings)
    model.fit(train, seed=0, device="cpu")
    drawn = model.sample(200, seed=1)
    assert 0.7 < Visits.of(drawn).sizes.mean() / visits.sizes.mean() < 1.3
    written = write_synthetic(drawn, tmp_path / "meds", name="synpuf", version="1")
    assert written.subjects == 200
    text = b"".join(p.read_bytes() for p in (tmp_path / "meds").rglob("*") if p.is_file())
    assert not any(str(subject).encode() in text for subject in cohort.subject)
