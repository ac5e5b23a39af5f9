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
    "too_long": "a record longer than 32 MiB",
    "not_a_resource": "JSON, but not an object",
    "no_resource": "a bundle entry without a resource",
    "no_resource_type": "a resource without resourceType",
    "no_id": "a resource without id",
    "wrong_type": "a field has another type than FHIR R4 or the schema says",
    "value_not_a_number": "a quantity whose value is not a number",
    "invalid_date": "a date or time that does not exist or is not written as FHIR says",
    "refused_by_reader": "the reader refused the record for a reason of its own (for instance a repeated key)",
    "wrong_field_count": "a row with more or fewer fields than the header",
    "missing_value": "an empty cell in a column that the schema declares not nullable",
}
"""The fixed vocabulary of reasons, in words."""
_UNREADABLE: Final = {"not_json", "invalid_utf8", "gzip_truncated"}
"""Reasons under which one row of the quarantine may stand for a whole file."""

_TABLE_LIKE: Final = {".ndjson", ".jsonl", ".csv", ".tsv", ".parquet", ".pq"}
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
        todo="Nothing was taken. Mend the delivery and hand it over under a new name, or raise max_quarantine_rate in "
        "sources.yaml.",
    )
