"""What is known of a delivery that was taken in, read from its raw version; nothing is decided or worded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pipeline.ingest.account import BESIDE_THE_DATA, Account
from pipeline.ingest.delivered_files import DeliveredFile
from pipeline.ingest.quarantine import public_kind, public_name

if TYPE_CHECKING:
    from pipeline.store.lake import Version, VersionStore

WELL_KNOWN: Final = frozenset(
    {"README", "LICENSE", "LICENCE", "SOURCE", "CHANGELOG", "INDEX", "SHA256SUMS", "MANIFEST"}
)
"""Names of files beside data that are about nobody."""


@dataclass(frozen=True)
class DeliveryFacts:
    """Everything that the report tells.

    Attributes:
        key: Delivery key.
        format: Its source's format.
        as_of: The day up to which it knows, ISO.
        account: The account.
        files: What became of each file; `file` is the public name. Empty where that was not kept.
        first: The first place of each reason in the quarantine: (public file name, line).
        quarantined_types: Quarantined records by (type, reason); the type is empty where it is not known.
        events: Counts of the MEDS events made of it; None where none were made.
        raw: Label and hash of the raw version.
        columns: Of plain tables: table to its columns and their types (Arrow).
    """

    key: str
    format: str
    as_of: str
    account: Account
    files: list[DeliveredFile] = field(default_factory=list)
    first: dict[str, tuple[str, int]] = field(default_factory=dict)
    quarantined_types: dict[tuple[str, str], int] = field(default_factory=dict)
    events: Mapping[str, Any] | None = None
    raw: tuple[str, str] = ("", "")
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: VersionStore, raw: Version, events: Version | None = None) -> DeliveryFacts:
        """Read them from the raw version of a delivery, and the events that were made of it."""
        files = []
        if "delivered_files" in raw.files:
            files = [DeliveredFile(**row) for row in tables.read(raw, "delivered_files").to_pylist()]
        first: dict[str, tuple[str, int]] = {}
        types: Counter[tuple[str, str]] = Counter()
        for row in tables.read(raw, "quarantine").to_pylist():
            first.setdefault(row["reason"], (public_name(row["file"]), row["line"]))
            types[row["resource_type"], row["reason"]] += 1
        form = raw.asset.partition("/")[2]
        return cls(
            key=raw.partition["delivery"],
            format=form,
            as_of=raw.info["as_of"],
            account=Account.from_dict(raw.info["account"]),
            files=[DeliveredFile(**{**vars(file), "file": _shown(file, form)}) for file in files],
            first=first,
            quarantined_types=dict(sorted(types.items())),
            events=events.info["counts"] if events is not None else None,
            raw=(raw.label, raw.sha256),
            columns=_columns(tables, raw) if form == "table" else {},
        )

    @property
    def quarantined(self) -> int:
        """Records set aside."""
        return sum(self.account.quarantined.values())

    @property
    def files_by_outcome(self) -> dict[str, int]:
        """Number of files by outcome; from the account where the files themselves are not known."""
        counted = dict(sorted(Counter(str(file.outcome) for file in self.files).items()))
        return counted or dict(self.account.info.get("files_by_outcome", {}))


def _shown(file: DeliveredFile, form: str) -> str:
    """A file's name on the report: in clear where it is a table's or a well-known one, else hashed, with its kind.

    A file may be called by a patient, whatever the format of the source.
    """
    name = PurePosixPath(file.file).name
    if name.split(".")[0].upper() in WELL_KNOWN and public_kind(name) != "(other)":
        return name  # without its folders, which may be called by a patient too
    shown = public_name(file.file)
    if shown == file.file or form == "fhir":
        return shown
    return f"file {shown.removeprefix('bundle ')} ({public_kind(file.file).strip('()')})"


def _columns(tables: VersionStore, raw: Version) -> dict[str, dict[str, str]]:
    """Every table's columns with their types, from the files' footers."""
    import pyarrow.parquet as pq

    names = sorted(name for name, file in raw.files.items() if file.rows is not None and name not in BESIDE_THE_DATA)
    schemas = {name: pq.read_schema(tables.path(raw, name)) for name in names}
    return {name: {column.name: str(column.type) for column in schema} for name, schema in schemas.items()}
