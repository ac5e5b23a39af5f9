"""`cohortloom graph suggest` on a plain file: what it prints is a section that a cohort's file takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import yaml

from assets.cli.graph import suggest
from pipeline.features.causal_spec import CausalSpec

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_is_suggested_is_a_section_of_a_cohort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    ward = rng.choice(["east", "west"], 800)
    ill = np.where(rng.random(800) < np.where(ward == "east", 0.8, 0.2), "yes", "no")
    table = tmp_path / "ward.csv"
    pa_csv.write_csv(pa.table({"ward": ward, "ill at: home": ill, "toss": rng.choice(["a", "b"], 800)}), table)
    suggest(str(table))
    printed = capsys.readouterr()
    graph = CausalSpec.model_validate(yaml.safe_load(printed.out)["causal"]).graph
    assert graph in ({"ill at: home": ["ward"]}, {"ward": ["ill at: home"]})
    assert "800 training rows" in printed.out + printed.err
