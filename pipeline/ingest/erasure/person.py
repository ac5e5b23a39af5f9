"""One person of a source as its records name them: what a reference to them looks like, and the keyed hash that stands
for them wherever something is written down.

The id itself is held in memory only: it is left out of `repr`, messages, logs and the journal.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.ingest.events import subject_number

DISTINCTIVE = 8
"""Characters from which on an id is taken for itself also where it stands in other text ("17" is no such id)."""
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
_PADDED = re.compile(r"[+-]?0\d")
_HASH = re.compile(r"[0-9a-f]{32,}|v-[0-9a-f]{16}-[0-9a-f]{12}")
_CONDITIONAL = re.compile(r"Patient\?(?:.*&)?identifier=([^&]+)")


@dataclass(frozen=True)
class Person:
    """Who is looked for.

    Attributes:
        id: As the source writes it: `Patient.id`, or the value of the person column of a plain table.
        source: Name of the source.
        key: Key of the hashes (that of the split).
        column: Of plain tables, the column that says who a row belongs to.
        identifiers: Keyed hashes of the person's business identifiers, by which FHIR records may refer to them too.
    """

    id: str = field(repr=False)
    source: str
    key: bytes = field(repr=False)
    column: str | None = None
    identifiers: frozenset[str] = frozenset()

    @cached_property
    def mark(self) -> str:
        """The keyed hash that stands for the person: nobody without the key can tell whose it is."""
        return mark_of(self.key, self.source, self.id)

    @property
    def distinctive(self) -> bool:
        """Is the id long enough to mean this person wherever it stands?"""
        return len(self.id) >= DISTINCTIVE

    @cached_property
    def subjects(self) -> frozenset[str]:
        """How a cohort's subject column may write the person: id, FHIR key, or the number in `events`."""
        return frozenset({self.id, f"Patient/{self.id}", str(subject_number(self.source, self.id))})

    @cached_property
    def _reference(self) -> re.Pattern[str]:
        one = re.escape(self.id)
        return re.compile(rf"(?<![A-Za-z0-9.\-])Patient/{one}(?![A-Za-z0-9\-]|\.[A-Za-z0-9])|^urn:(?:uuid|oid):{one}$")

    @cached_property
    def _token(self) -> re.Pattern[str]:
        return re.compile(rf"(?<![A-Za-z0-9.\-]){re.escape(self.id)}(?![A-Za-z0-9\-]|\.[A-Za-z0-9])")

    @cached_property
    def _named(self) -> re.Pattern[str]:
        one = re.escape(self.id)
        return re.compile(one if self.distinctive else rf"(?<=--){one}(?![A-Za-z0-9._\-])")

    @cached_property
    def _trace(self) -> re.Pattern[bytes]:
        return re.compile(rb"(?<![A-Za-z0-9])" + re.escape(self.id.encode()) + rb"(?![A-Za-z0-9])")

    def refers(self, text: str) -> bool:
        """Is this text a FHIR reference to the person, in any of its spellings?"""
        if self._reference.search(text):
            return True
        found = _CONDITIONAL.search(text) if self.identifiers else None
        return found is not None and self.hash(found[1]) in self.identifiers

    def mentions(self, text: str) -> bool:
        """Does the text hold the id as a word of its own? Never, where the id is too short to mean anybody."""
        return self.distinctive and self._token.search(text) is not None

    def without(self, text: str) -> str:
        """The text with every mention of the id blotted out."""
        return self._token.sub("erased", text)

    def mask(self, text: str) -> str:
        """The name of a delivery, or text with one, as it may be written down; a short id counts as a whole name only."""
        return text if _HASH.fullmatch(text) else self._named.sub(f"erased-{self.mark}", text)

    def unmask(self, text: str) -> str:
        """What `mask` was given."""
        return text.replace(f"erased-{self.mark}", self.id)

    def traced(self, data: bytes) -> bool:
        """May bytes that nobody can read be about the person? Wide: a longer id that starts with this one counts."""
        return self._trace.search(data) is not None

    def may_be_in(self, data: bytes) -> bool:
        """Cheap: can the person be named in this JSON at all? False means no."""
        if self.id.encode() in data or b"\\u" in data:
            return True
        return bool(self.identifiers) and b"dentifier" in data

    def hash(self, identifier: str) -> str:
        """Keyed hash of a business identifier, `system|value`."""
        return _keyed(self.key, b"identifier", identifier)

    def holds(self, identifier: Any) -> bool:
        """Is this FHIR Identifier one of the person's?"""
        text = identifier_text(identifier)
        return bool(self.identifiers) and text is not None and self.hash(text) in self.identifiers

    def same(self, cell: str) -> bool:
        """Does a text cell hold the id? Whole numbers are compared as numbers, unless zeros stand before them."""
        text = cell.strip()
        if text == self.id:
            return True
        if not (_WHOLE.fullmatch(text) and _WHOLE.fullmatch(self.id)) or _PADDED.match(text) or _PADDED.match(self.id):
            return False
        return int(text.partition(".")[0]) == int(self.id.partition(".")[0])

    @property
    def number(self) -> int | None:
        """The id as a whole number, if it is one: columns that were read as numbers hold it so."""
        return int(self.id.partition(".")[0]) if _WHOLE.fullmatch(self.id) else None


def identifier_text(identifier: Any) -> str | None:
    """`system|value` of a FHIR Identifier; None where it has no value."""
    if not isinstance(identifier, dict) or not isinstance(identifier.get("value"), str):
        return None
    return f"{identifier.get('system') or ''}|{identifier['value']}"


def mark_of(key: bytes, source: str, id: str) -> str:
    """The keyed hash that stands for the person with this id: 32 hexadecimal digits."""
    return _keyed(key, source.encode(), id)


def _keyed(key: bytes, purpose: bytes, text: str) -> str:
    message = b"cohortloom/erasure/v1\0" + purpose + b"\0" + text.encode("utf-8", "surrogatepass")
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:32]
