"""Flow matching on mixed rows: dependence, conditions, presets, odd tables, and what stays equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort, stay_cohort

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.generators.denoising.row_vector import RowVector
from pipeline.generators.denoising.smooth_logits import SmoothLogits
from pipeline.generators.mixed_flow import MixedFlow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.features.cohort import Cohort

FAST = {"steps": 300, "batch_size": 256, "learning_rate": 3e-3, "sampling_steps": 10}
_fits: dict[str, MixedFlow] = {}


def stays() -> MixedFlow:
    """One model of the stays, trained once for all tests."""
    if "stays" not in _fits:
        _fits["stays"] = MixedFlow(FAST)
        _fits["stays"].fit(stay_cohort(), seed=1, device="cpu")
    return _fits["stays"]


def only(cohort: Cohort, columns: Sequence[str], rows: int | None = None) -> Cohort:
    """A cohort with some of the columns and rows, without blocks."""
    names = list(columns)
    schema = cohort.schema.model_copy(
        update={"columns": [c for c in cohort.schema.columns if c.name in names], "blocks": []}
    )
    table = cohort.table.select(schema.names).slice(0, rows)
    return type(cohort)(table=table, schema=schema, subject=cohort.subject[: table.num_rows])


def ranks(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    a, b = cohort.values("length"), cohort.values("bilirubin")
    seen = ~np.isnan(b)
    return a[seen].argsort().argsort(), b[seen].argsort().argsort()


def test_columns_depend_on_each_other_as_in_training() -> None:
    drawn = stays().sample(4000, seed=2)
    real = stay_cohort()
    assert np.corrcoef(*ranks(real))[0, 1] > 0.4
    assert abs(np.corrcoef(*ranks(drawn))[0, 1] - np.corrcoef(*ranks(real))[0, 1]) < 0.12
    for cohort in (real, drawn):
        long = cohort.values("length") > np.median(cohort.values("length"))
        assert (cohort.codes("ward")[long] == 2).mean() > 1.5 * (cohort.codes("ward")[~long] == 2).mean()


def test_other_columns_follow_fixed_ones() -> None:
    model = stays()
    long = model.sample(400, seed=3, conditions={"length": 8.0, "ward": "surgical"})
    short = model.sample(400, seed=3, conditions={"length": 1.0, "ward": "icu"})
    assert set(long.values("length")) == {8.0}
    assert set(short.table.column("ward").to_pylist()) == {"icu"}
    assert np.nanmedian(long.values("bilirubin")) > 1.5 * np.nanmedian(short.values("bilirubin"))
    assert long.codes("readmitted").mean() > short.codes("readmitted").mean()
    gone = model.sample(50, seed=3, conditions={"bilirubin": None})
    assert np.isnan(gone.values("bilirubin")).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "paper", "width": 32, "blocks": 1, "steps": 60, "sampling_steps": 5},
        {"sampler": "heun", "steps": 20, "sampling_steps": 3},
        {"preset": "quick", "steps": 1, "sampling_steps": 1},
    ],
)
def test_presets_and_samplers_draw_rows_of_the_schema(settings: dict[str, object]) -> None:
    cohort = stay_cohort(300)
    model = MixedFlow(settings)
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(100, seed=0)
    assert drawn.table.schema == cohort.schema.arrow()
    assert np.isfinite(drawn.values("length")).all()


def test_odd_tables_work() -> None:
    mixed = mixed_cohort(300)
    settings = {**FAST, "steps": 5, "sampling_steps": 2}
    for cohort in (
        only(mixed, ["age", "glucose"]),
        only(mixed, ["died", "group"]),
        only(mixed, ["site"]),
        only(mixed, ["age", "site", "died"], rows=20),
        code_blocks_only(),
    ):
        model = MixedFlow(settings)
        model.fit(cohort, seed=0, device="cpu")
        assert model.sample(50, seed=0).n_rows == 50


def code_blocks_only() -> Cohort:
    """The made-up codes without a column beside them."""
    cohort = code_cohort(200)
    schema = cohort.schema.model_copy(update={"columns": []})
    return type(cohort)(table=cohort.table.select([]), schema=schema, subject=cohort.subject, blocks=cohort.blocks)


def test_smooth_logits_tilt_neighbours_together_and_leave_single_values_alone() -> None:
    cohort = mixed_cohort(1500)
    rows = RowVector(TableEncoder.fit(cohort, EncodingSettings()), bins=32)
    logits = SmoothLogits(rows, waves=4, bins=32)
    with torch.no_grad():
        tilted = logits(torch.eye(logits.width))
    name = list(rows.encoder.numbers).index("age")
    first, size = rows.table.categorical.starts[name], rows.table.categorical.sizes[name]
    age = tilted[:, first : first + size]
    line = age[age.abs().sum(dim=1) > 0][0]
    assert (line.diff() > 0).all(), "the first shape of a number is its normal score"
    cost = list(rows.encoder.numbers).index("cost")
    first = rows.table.categorical.starts[cost]
    alone = (tilted[:, first] == 1) & (tilted.abs().sum(dim=1) == 1)
    assert alone.sum() == 1, "a cost of 0, a third of the rows, has a logit of its own"
