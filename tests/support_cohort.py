"""The real cohort `support`, straight from its file, for the tests that are about real patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from pipeline.features.cohort import Cohort
from pipeline.features.infer import conform, infer_schema
from pipeline.features.spec import load_book
from pipeline.features.split import PUBLISHED_KEY, assign, row_subjects

if TYPE_CHECKING:
    from pathlib import Path


def load_support(folder: Path) -> Cohort:
    """SUPPORT by the shipped SQL, columns and the published split key."""
    spec = load_book().cohort("support")
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW support AS FROM read_csv('{folder / 'support' / 'support.csv.gz'}')")
        table = connection.sql(spec.sql_file.read_text()).to_arrow_table()
    subject = row_subjects(table)
    split, tune = assign(subject, PUBLISHED_KEY)
    schema = infer_schema(table, split == "train", spec.columns, "row")
    return Cohort(table=conform(table, schema), schema=schema, subject=subject, split=split, tune=tune)
