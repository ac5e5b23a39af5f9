"""What taking one person out of a delivery found and did, in counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, order=True)
class Unsearched:
    """A file in which a person could not, or not wholly, be looked for.

    Attributes:
        file: Its path in the delivery.
        why: In words; empty for a table that has not the person column.
        closed: Could nobody look into it at all? Then whether it holds the person is not known.
    """

    file: str
    why: str = ""
    closed: bool = False

    def __str__(self) -> str:
        return f"{self.file} ({self.why})" if self.why else self.file


@dataclass
class Tally:
    """One file, or a whole delivery.

    Attributes:
        files: Files that hold the person.
        before: Records found (lines, rows, entries).
        removed: Records of the person, and unreadable ones that carry the id.
        unread: Records that nobody can read and that do not carry the id: they stay.
        blotted: Records of others in which a reference to the person was blotted out.
        mentions: Rows of others that hold the id in another column; they are left as they are.
        unsearched: Where nobody can be found: tables without the person column, files that no reader takes or opens.
        whole: Files that go as a whole.
        identifiers: Keyed hashes of the person's business identifiers.
    """

    files: int = 0
    before: int = 0
    removed: int = 0
    unread: int = 0
    blotted: int = 0
    mentions: int = 0
    unsearched: list[Unsearched] = field(default_factory=list)
    whole: int = 0
    identifiers: set[str] = field(default_factory=set)

    @property
    def held(self) -> bool:
        """Is or was the person in it?"""
        return bool(self.removed or self.blotted or self.whole)

    @property
    def in_files(self) -> str:
        """The number of files that hold the person, in words."""
        return f"{self.files} file{'s' * (self.files != 1)}"

    @property
    def after(self) -> int:
        """Records left."""
        return self.before - self.removed

    def note_damage(self, file: str) -> None:
        """Note that a gzip was searched up to where it is damaged; one that is written anew has nothing behind that."""
        if not self.held:
            self.unsearched.append(Unsearched(file, "a damaged gzip: not searched behind the damage", closed=True))

    def add(self, other: Tally) -> None:
        """Count another file in."""
        self.files += other.held
        self.before += other.before
        self.removed += other.removed
        self.unread += other.unread
        self.blotted += other.blotted
        self.mentions += other.mentions
        self.unsearched += other.unsearched
        self.whole += other.whole
        self.identifiers |= other.identifiers

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, for the proof."""
        return {
            "files": self.files,
            "records_before": self.before,
            "records_removed": self.removed,
            "records_after": self.after,
            "records_nobody_can_read": self.unread,
            "records_blotted": self.blotted,
            "files_removed": self.whole,
            "rows_of_others_with_the_id": self.mentions,
            "not_searched": sorted(map(str, self.unsearched)),
        }
