"""Replacing a delivery in the landing folder, with its entry in the journal. What was made of the old one goes stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ingest.delivery import Delivery, content_hash
from pipeline.ingest.redelivery import Replaced, replace_delivery
from pipeline.workflow.housekeeping import note_operation, operator

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from pipeline.store.lake import Lake


def replace(lake: Lake, source: str, path: Path, *, as_of: date | None, name: str | None) -> Replaced:
    """Put a file or folder in the place of the delivery of its name; see `replace_delivery`.

    Who did it, which delivery, and the hashes of the old and the new content stand in the journal before anything is
    changed. Names of files do not: they may be patients' names.
    """

    def note(old: Delivery, new: Delivery) -> None:
        note_operation(
            lake,
            "replace",
            operator(),
            delivery=old.key,
            old={"content": old.content or content_hash(old.folder), "as_of": old.as_of.isoformat()},
            new={"content": new.content, "as_of": new.as_of.isoformat()},
        )

    return replace_delivery(lake.home, source, path, as_of=as_of, name=name, note=note)
