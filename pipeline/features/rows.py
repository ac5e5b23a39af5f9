"""From the result of a cohort's SQL to its rows: subject and keys taken out, cells in the types of a schema, fixed order.

What the columns are is told in `infer.py`; the code blocks that stand beside the rows are made in `blocks.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, InputError, nearest
from pipeline.features.infer import normalise
from pipeline.features.query import place
from pipeline.features.split import row_subjects
from pipeline.features.tables import take_subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.spec import CohortSpec


def ordered_rows(spec: CohortSpec, result: pa.Table) -> tuple[pa.Table, NDArray[np.str_], dict[str, NDArray[np.str_]]]:
    """The feature rows in a fixed order, the subject of each, and by name the columns that blocks join on.

    Raises:
        ConfigError: a column that the YAML speaks of is not there, or is a subject or key and declared as a feature.
        InputError: no row, or subjects or keys that are missing or repeat.
    """
    where = place(spec.sql_file)
    names = result.column_names
    if not result.num_rows:
        raise InputError(
            "The cohort's SQL gives no row.", where=where, todo="Look at its filters, and at what the deliveries hold."
        )
    absent = [n for n in spec.columns if n not in names]
    fair = [] if spec.fairness is None else spec.fairness.columns
    causal = [] if spec.causal is None else [n for n in spec.causal.columns if n not in spec.blocks]
    wanted = [*absent, *(n for n in [t.label for t in spec.tasks] + spec.protected + fair + causal if n not in names)]
    if wanted:
        raise ConfigError(
            f"The SQL does not give column '{wanted[0]}', which the cohort's YAML speaks of.",
            where=where,
            todo=nearest(wanted[0], names),
        )
    keys, result = _take_keys(spec, result)
    if spec.subject == "row":
        rows = normalise(result, spec.columns)
        subject = row_subjects(rows)
    else:
        subject, rows = _take_subject(spec, result, where)
    # Subjects first; several rows of one subject by their content and then the blocks' keys, so that the order never
    # depends on the query plan.
    beside = {"__subject": subject, **{f"__key {name}": values for name, values in keys.items()}}
    sortable = pa.table(
        {n: rows.column(n).combine_chunks() for n in rows.column_names}
        | {n: pa.array(values.tolist(), pa.string()) for n, values in beside.items()}
    )
    by = ["__subject", *rows.column_names, *(n for n in beside if n != "__subject")]
    order = pc.sort_indices(
        sortable,
        sort_keys=[(n, "ascending") for n in (by if len(np.unique(subject)) < len(subject) else by[:1])],
    )
    places = order.to_numpy()
    joined = {**keys, spec.subject: subject}
    return rows.take(order), subject[places], {name: values[places] for name, values in joined.items()}


def _take_subject(spec: CohortSpec, result: pa.Table, where: str) -> tuple[NDArray[np.str_], pa.Table]:
    if spec.subject in spec.columns:
        raise ConfigError(
            f"The subject column '{spec.subject}' is kept beside the features and cannot be declared as one.",
            where=where,
        )
    try:
        subject, rows = take_subject(result, spec.subject)
    except (ConfigError, InputError) as error:
        raise type(error)(error.what, where=f"{where}, {error.where}".rstrip(", "), todo=error.todo) from None
    repeated = len(subject) - len(np.unique(subject))
    if spec.unit == "patient" and repeated:
        raise InputError(
            f"The unit is patient, but {repeated} rows repeat a subject.",
            where=where,
            todo="Group by the subject in the SQL, or declare unit: stay or row.",
        )
    return subject, normalise(rows, spec.columns)


def _take_keys(spec: CohortSpec, result: pa.Table) -> tuple[dict[str, NDArray[np.str_]], pa.Table]:
    """The columns that blocks join on and that are not the subject, as text; and the result without them.

    Raises:
        ConfigError: there is no such column, it is declared as a feature, or its type is none of a key.
        InputError: keys are missing or repeat.
    """
    keys: dict[str, NDArray[np.str_]] = {}
    where = place(spec.sql_file)
    for name in sorted({b.by for b in spec.blocks.values() if b.by and b.by != spec.subject}):
        if name not in result.column_names:
            raise ConfigError(
                f"The SQL does not give column '{name}', which a block joins on.",
                where=where,
                todo=nearest(name, result.column_names),
            )
        if name in spec.columns:
            raise ConfigError(f"Column '{name}' is a block's key and cannot be declared as a feature.", where=where)
        array = normalise(result.select([name])).column(0)
        if not (pa.types.is_string(array.type) or pa.types.is_integer(array.type)):
            raise ConfigError(f"The key '{name}' of a block is neither text nor a whole number.", where=where)
        if array.null_count:
            raise InputError(f"{array.null_count} rows have no key.", where=f"{where}, column {name}")
        keys[name] = np.array(pc.cast(array, pa.string()).to_pylist(), dtype=str)
    # Not drop_columns of all: a table whose every column is a key has rows nevertheless.
    return keys, result.select([n for n in result.column_names if n not in keys])
