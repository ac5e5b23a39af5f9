"""The table that keeps a rule of every kind, as the features of a cohort in the store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rule_tables import RULES as AS_RULES
from rule_tables import ward_cohort

from pipeline.features.constraint_spec import plain_rules
from pipeline.features.stored import write_cohort

if TYPE_CHECKING:
    from pipeline.store.lake import Lake

MONTH = "2026-10-01"
PARTITION = {"cohort": "tiny", "month": MONTH}
RULES = plain_rules(AS_RULES)


def ward_in_store(lake: Lake) -> None:
    """Commit features of which every other row is for training."""
    cohort = ward_cohort()
    split = np.array(["train", "holdout"] * (cohort.n_rows // 2))
    whole = replace(cohort, split=split, tune=np.zeros(cohort.n_rows, dtype=bool))
    with lake.tables.draft("features", PARTITION) as draft:
        write_cohort(whole, draft)
        draft.commit(info={"counts": {"subjects/train": cohort.n_rows // 2}})
