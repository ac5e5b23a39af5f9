"""What became of each file of a delivery: the table `delivered_files`, and its summary for people.

The real file names are in the table, which is patient data and stays in the lake (a bundle is often called by its
patient's name); the summary counts files only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["taken", "partly taken", "not modelled", "quarantined", "not clinical", "empty", "no data"]
"""`taken`: every record was. `partly taken`: some were quarantined. `not modelled`: resources of types without a table.
`not clinical`: JSON that is no clinical resource (definitions, value sets, outcomes, manifests, logs). `empty`: readable,
and nothing in it. `no data`: a file of a kind that no reader takes (a README, a licence)."""


@dataclass(frozen=True, order=True)
class DeliveredFile:
    """One file.

    Attributes:
        file: Path relative to the delivery (a member of an archive: `<archive>/<member>`).
        form: How it was read: ndjson, bundle, json, csv, parquet, or other.
        records: Records found in it.
        taken: Of these, the ones handed to a raw table (older versions that were superseded afterwards included).
        not_modelled: Of types that have no raw table, or no clinical resource.
        quarantined: Set aside.
        outcome: In one word.
        reason: Why, where something was quarantined: the reasons, sorted, with commas between; else empty.
    """

    file: str
    form: str
    records: int
    taken: int
    not_modelled: int
    quarantined: int
    outcome: Outcome
    reason: str = ""


def outcome_of(*, taken: int, not_modelled: int, not_clinical: int, quarantined: int) -> Outcome:
    """The outcome of a file with these records."""
    if quarantined:
        return "partly taken" if taken or not_modelled or not_clinical else "quarantined"
    if taken:
        return "taken"
    if not_modelled:
        return "not modelled"
    return "not clinical" if not_clinical else "empty"


def files_table(files: Iterable[DeliveredFile]) -> pa.Table:
    """The table `delivered_files`, sorted by file."""
    import pyarrow as pa

    rows = sorted(files)
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("form", pa.string()),
            ("records", pa.int64()),
            ("taken", pa.int64()),
            ("not_modelled", pa.int64()),
            ("quarantined", pa.int64()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
        ]
    )
    return pa.table({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)


def files_by_outcome(files: Iterable[DeliveredFile]) -> dict[str, int]:
    """Number of files by outcome, sorted by name; for the account's `info["files_by_outcome"]`."""
    return dict(sorted(Counter(file.outcome for file in files).items()))
