"""What is known of a delivery that was taken in, read from its raw version; nothing is decided or worded here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.ingest.account import Account
from pipeline.ingest.delivered_files import DeliveredFile
from pipeline.ingest.quarantine import public_name

if TYPE_CHECKING:
    from pipeline.store.lake import Version, VersionStore


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
        return cls(
            key=raw.partition["delivery"],
            format=raw.asset.partition("/")[2],
            as_of=raw.info["as_of"],
            account=Account.from_dict(raw.info["account"]),
            files=[DeliveredFile(**{**vars(file), "file": public_name(file.file)}) for file in files],
            first=first,
            quarantined_types=dict(sorted(types.items())),
            events=events.info["counts"] if events is not None else None,
            raw=(raw.label, raw.sha256),
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
