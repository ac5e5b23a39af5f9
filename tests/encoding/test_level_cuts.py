"""Cuts of numbers at the places where levels change."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.encoding import level_cuts as module
from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.encoding.level_cuts import LEAVES, level_cuts
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, TableSchema

END = 340.0
"""The day from which on only survivors are followed."""


def followed(n: int = 3000, levels: int = 1) -> Cohort:
    """Follow-up in days, of which those who died have fewer than 340; a fifth has none; a flag that says who died."""
    rng = np.random.default_rng(3)
    died = rng.random(n) < 0.6
    days = np.where(died, rng.integers(1, int(END), n), rng.integers(int(END), 900, n)).astype(float)
    days[rng.random(n) < 0.2] = np.nan
    flags = [f"flag{i:02d}" for i in range(levels)]
    schema = TableSchema(
        columns=[
            Column(name="days", kind="count", dtype="int64", nullable=True),
            Column(name="none", kind="continuous", dtype="float64", nullable=True),
            *(Column(name=k, kind="binary", dtype="bool", levels=[False, True]) for k in flags),
        ]
    )
    cells = {k: rng.integers(0, 2, n) for k in flags[1:]}
    return assemble(
        schema, {"days": days, "none": np.full(n, np.nan), **{k: died.astype(int) for k in flags[:1]}, **cells}
    )


def cuts_of(cohort: Cohort) -> tuple[TableEncoder, dict[str, np.ndarray]]:
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    return encoder, level_cuts(encoder, encoder.encode(cohort, np.random.default_rng(0)))


@pytest.mark.parametrize("most", [20_000, 1_000])
def test_a_number_is_cut_where_a_flag_changes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", most)
    encoder, cuts = cuts_of(followed())
    assert list(cuts) == ["days"], "a column without values has no cuts"
    scaler = encoder.numbers["days"].scaler
    at = scaler.from_uniform(cuts["days"])
    assert np.abs(at - END).min() < 10
    assert len(at) < LEAVES
    assert np.isin(cuts["days"], scaler.edges).all(), "a cut is a border between cells"


def test_tables_without_levels_or_labels_among_many_are_not_cut() -> None:
    assert cuts_of(followed(levels=0))[1] == {}
    assert cuts_of(followed(levels=module.MOST_LEVELS + 1))[1] == {}
