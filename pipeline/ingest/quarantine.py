"""The quarantine of a delivery: which records were set aside, where they stand, and why. Never what they say.

The raw records stay in the landing folder; here are file, line (or entry), reason and hash. The real file names are
in the table, which is patient data and stays in the lake; messages for people use `public_name`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from pipeline.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.ingest.account import Account

REASONS: Final[Mapping[str, str]] = {
    "not_json": "the line, entry or file is not valid JSON",
    "invalid_utf8": "bytes that are not UTF-8",
    "gzip_truncated": "the gzip ends early or is damaged; what stands before was read",
    "too_long": "a line longer than 64 MiB, or a JSON document of more than 128 MiB",
    "not_a_resource": "JSON, but not an object",
    "no_resource": "a bundle entry without a resource",
    "deletes_nothing": "a deletion that names no single resource",
    "other_version": "a record of a FHIR version that is not read",
    "no_resource_type": "a resource without resourceType",
    "no_id": "a resource without id",
    "wrong_type": "a field has another type than FHIR R4 or the schema says",
    "value_not_a_number": "a quantity whose value is not a number",
    "invalid_date": "a date or time that does not exist or is not written as FHIR says",
    "fails_validation": "a resource in which another kind of JSON stands than FHIR R4 has there (found by validation)",
    "refused_by_reader": "the reader refused the record for a reason of its own (for instance a repeated key)",
    "wrong_field_count": "a row with more or fewer fields than the header",
    "missing_value": "an empty cell in a column that the schema declares not nullable",
    "repeated_key": "a row with the key of an earlier row and other content",
    "repeated_header": "a row that repeats the column names, as where files were put one after the other",
    "not_utf8": "a table in another encoding than UTF-8, which has to be declared",
    "no_header": "a table without a row of column names",
    "too_many_columns": "a table with more columns than are read, or with line ends that are none",
    "other_columns": "a file with other columns than its table has, or without one that is asked for",
    "name_clash": "a file whose table would have the name of another one",
    "not_parquet": "a Parquet file that is damaged, or none",
    "bad_archive": "a ZIP archive or member that is damaged or packed in a way that is not known",
    "encrypted": "a member of an archive that is encrypted",
    "nested_archive": "an archive in an archive",
    "unsafe_name": "a member of an archive whose name leads out of it",
    "too_large": "an archive or a gzip that would unpack to far more than is likely",
}
"""The fixed vocabulary of reasons, in words."""
_UNREADABLE: Final = {
    "not_json",
    "too_long",
    "invalid_utf8",
    "gzip_truncated",
    "not_utf8",
    "no_header",
    "too_many_columns",
    "other_columns",
    "name_clash",
    "not_parquet",
    "bad_archive",
    "encrypted",
    "nested_archive",
    "unsafe_name",
    "too_large",
}
"""Reasons under which one row of the quarantine may stand for a whole file."""

MOST_REJECTS: Final = 1_000_000
"""Bad records of one file that are listed; a file with more is refused, whatever the limit of the source."""
_TABLE_LIKE: Final = {".ndjson", ".jsonl", ".csv", ".tsv", ".parquet", ".pq", ".zip", ".data", ".test"}
_KNOWN_KINDS: Final = {
    ".txt",
    ".md",
    ".html",
    ".xml",
    ".pdf",
    ".csv",
    ".tsv",
    ".zip",
    ".tar",
    ".xlsx",
    ".json",
    ".sha256",
}


@dataclass(frozen=True, order=True)
class Rejected:
    """One record that was set aside.

    Attributes:
        file: Path relative to the delivery.
        line: 1-based line, or entry of a bundle; 0 for a whole file.
        resource_type: FHIR type or table, empty if unknown.
        reason: A key of `REASONS`.
        sha256: Hash of the raw record (hex).
        bytes: Its size.
    """

    file: str
    line: int
    resource_type: str
    reason: str
    sha256: str
    bytes: int


def rejected(file: str, line: int, resource_type: str, reason: str, raw: bytes) -> Rejected:
    """A `Rejected` of these raw bytes."""
    return Rejected(file, line, resource_type, reason, hashlib.sha256(raw).hexdigest(), len(raw))


def quarantine_table(records: Iterable[Rejected]) -> pa.Table:
    """The `quarantine` table, sorted by file and line."""
    import pyarrow as pa

    rows = sorted(records)
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("line", pa.int64()),
            ("resource_type", pa.string()),
            ("reason", pa.string()),
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
        ]
    )
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    return pa.table(columns, schema=schema)


def public_name(file: str) -> str:
    """A file's name for messages: hashed where files are one a patient (bundles are often called by their name)."""
    if _TABLE_LIKE & {suffix.lower() for suffix in PurePosixPath(file).suffixes}:
        return file
    return f"bundle {hashlib.sha256(file.encode()).hexdigest()[:12]}"


def public_kind(file: str) -> str:
    """The kind of a file that no reader takes, for messages: its ending where that is a common one."""
    suffix = PurePosixPath(file.lower().removesuffix(".gz")).suffix
    return suffix if suffix in _KNOWN_KINDS else "(other)"


def refuse_many(count: int, file: str) -> None:
    """Refuse a delivery of which a file has more bad records than a list of them can hold in memory.

    Args:
        count: Bad records of the file so far.
        file: Path in the delivery.

    Raises:
        InputError: There are more than `MOST_REJECTS`.
    """
    if count > MOST_REJECTS:
        raise InputError(
            f"More than {MOST_REJECTS:,} records of one file cannot be used.",
            where=public_name(file),
            todo="Nothing was taken. So many faults are one fault of the whole file (its format, its delimiter, how it writes "
            "dates): mend that.",
        )


def check_limit(account: Account, records: Iterable[Rejected], limit: float) -> None:
    """Refuse a delivery with too many quarantined records, unreadable bytes or cut files.

    A file that breaks is one record of the quarantine whatever stood after the break, so the bytes are looked at too;
    and what a cut gzip held is not known, so where several files are cut they are counted as files.

    Args:
        account: The delivery's account.
        records: Its quarantine.
        limit: Highest admissible share of quarantined records, 0 to 1.

    Raises:
        InputError: With the counts by reason and the first places, so that the sender can mend it.
    """
    rows = sorted(records)
    unreadable = sum(row.bytes for row in rows if row.reason in _UNREADABLE)
    lost = min(1.0, unreadable / account.bytes) if account.bytes else 0.0
    cut = len({row.file for row in rows if row.reason == "gzip_truncated"})
    many_cut = cut > 1 and cut > limit * account.files
    if account.quarantine_rate <= limit and lost <= limit and not many_cut:
        return
    counts = Counter(row.reason for row in rows)
    first: dict[str, Rejected] = {}
    for row in rows:
        first.setdefault(row.reason, row)
    parts = [
        f"{count:,} {reason} (first at {public_name(first[reason].file)}:{first[reason].line})"
        for reason, count in sorted(counts.items())
    ]
    shares = [f"{sum(counts.values()):,} of {account.in_:,} records ({account.quarantine_rate:.1%}) cannot be used"]
    if lost > limit:
        shares.append(f"{lost:.1%} of the bytes cannot be read")
    if many_cut:
        shares.append(f"{cut:,} of {account.files:,} files end early or are damaged")
    raise InputError(
        f"{', '.join(shares)}, more than the {limit:.1%} that the source allows: {'; '.join(parts)}.",
        todo="Nothing was taken. Mend the delivery and hand it over with --replace, or raise max_quarantine_rate in "
        "sources.yaml.",
    )
