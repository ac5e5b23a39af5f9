"""The quick checks must see what they are there to see."""

from __future__ import annotations

import numpy as np
from generator_tables import code_cohort, mixed_cohort

from pipeline.features.cohort import Cohort, assemble
from pipeline.generators.health import check_health


def changed(cohort: Cohort, **columns: np.ndarray) -> Cohort:
    cells = {c.name: cohort.codes(c.name) if c.discrete else cohort.values(c.name) for c in cohort.schema.modelled()}
    return assemble(cohort.schema, {**cells, **columns}, blocks=cohort.blocks)


def test_fresh_rows_are_healthy() -> None:
    health, warnings = check_health(mixed_cohort(2000, 1), mixed_cohort(2000, 2))
    assert warnings == []
    assert 0.8 < health["std_ratio_min"] <= health["std_ratio_max"] < 1.25
    assert health["level_coverage"] == 1.0
    assert health["duplicate_share"] == 0.0


def test_collapse_lost_levels_and_copies_are_seen() -> None:
    real, fresh = mixed_cohort(2000, 1), mixed_cohort(2000, 2)
    flat = {k: np.full(2000, np.nanmean(fresh.values(k))) for k in ("age", "cost", "visits", "temperature")}
    health, warnings = check_health(real, changed(fresh, **flat))
    assert health["std_ratio_min"] < 0.01
    assert any("Variance collapse" in w for w in warnings)
    health, warnings = check_health(
        real, changed(fresh, group=np.zeros(2000, dtype=int), died=np.zeros(2000, dtype=int))
    )
    assert health["level_coverage"] < 0.9
    assert health["max_prevalence_difference"] > 0.1
    assert len(warnings) == 2
    health, warnings = check_health(real, real.take(np.arange(500)))
    assert health["duplicate_share"] == 1.0
    assert any("memorised" in w for w in warnings)


def test_copies_of_code_blocks_are_seen() -> None:
    real = code_cohort(800, 1)
    health, _ = check_health(real, real.take(np.arange(300)))
    assert health["duplicate_share"] == 1.0
    health, _ = check_health(real, code_cohort(300, 2))
    assert health["duplicate_share"] < 0.02
