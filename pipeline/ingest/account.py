"""The delivery account: every record that came in is taken, not modelled, superseded or quarantined. Nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

BESIDE_THE_DATA: Final = ("quarantine", "delivered_files", "deleted_resources")
"""Tables of every delivery that are no data: what was set aside, what became of each file, what was deleted."""


@dataclass
class Account:
    """What became of the records of one delivery (a record: a resource, or a row of a table).

    Attributes:
        in_: Records found, counted apart from the readers that took them.
        taken: Records that stand in the raw tables, by resource type or table (resources, not observation rows).
        not_modelled: Records of types that have no raw table, by type.
        superseded: Older versions and duplicates of a record with the same key, by type.
        quarantined: Records set aside, by reason; each has a row in the `quarantine` table.
        files: Data files read.
        bytes: Their unpacked size.
        info: Further counts for people: `dangling`, `unresolved`, `other_files`, `files_by_outcome`, `validation`.
            Never patient data.
    """

    in_: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    not_modelled: dict[str, int] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> int:
        """Records accounted for: taken + not modelled + superseded + quarantined."""
        parts = (self.taken, self.not_modelled, self.superseded, self.quarantined)
        return sum(sum(part.values()) for part in parts)

    @property
    def balanced(self) -> bool:
        """True if every record that came in is accounted for, once."""
        return self.in_ == self.out

    @property
    def quarantine_rate(self) -> float:
        """Share of the records that are quarantined (only quarantined, not superseded or not modelled)."""
        return sum(self.quarantined.values()) / self.in_ if self.in_ else 0.0

    def sentence(self) -> str:
        """The account in one line, for logs and the command line."""
        total = {
            "taken": sum(self.taken.values()),
            "not modelled": sum(self.not_modelled.values()),
            "superseded": sum(self.superseded.values()),
            "quarantined": sum(self.quarantined.values()),
        }
        return f"{self.in_:,} records in = " + " + ".join(f"{n:,} {what}" for what, n in total.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, keys sorted; `Account.from_dict` reads it back."""
        return {
            "in": self.in_,
            "taken": dict(sorted(self.taken.items())),
            "not_modelled": dict(sorted(self.not_modelled.items())),
            "superseded": dict(sorted(self.superseded.items())),
            "quarantined": dict(sorted(self.quarantined.items())),
            "files": self.files,
            "bytes": self.bytes,
            "info": self.info,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Account:
        """Read what `to_dict` wrote."""
        parts = {name: dict(data[name]) for name in ("taken", "not_modelled", "superseded", "quarantined")}
        return cls(in_=data["in"], files=data["files"], bytes=data["bytes"], info=dict(data["info"]), **parts)
