"""Putting a delivery in the place of another one of the same name: `replace_delivery`.

The new one is written aside, then both folders change names in one step: whoever looks, and whatever is killed, finds
one whole delivery. Handing over for the first time is in `delivery`; taking it in again is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import date
from pathlib import Path

from pipeline.errors import InputError, StoreError
from pipeline.ingest.delivery import SUCCESS, Delivery, copied_aside, delivery, hand_over, look_at
from pipeline.store.exchange import exchange
from pipeline.store.home import Home


@dataclass(frozen=True)
class Replaced:
    """What came of a replacement.

    Attributes:
        delivery: The delivery that stands there now.
        old: The one that it took the place of; None where there was none, or where it is the same.
    """

    delivery: Delivery
    old: Delivery | None


def replace_delivery(
    home: Home,
    source: str,
    path: Path,
    *,
    as_of: date | None,
    name: str | None = None,
    note: Callable[[Delivery, Delivery], None] = lambda old, new: None,
) -> Replaced:
    """Hand over a file or folder, also where another content or date stands under its name.

    Args:
        home: Where the landing folder is.
        source: Source name.
        path: File or folder.
        as_of: Day up to which it knows; default that of the delivery that stands there, else as in `hand_over`.
        name: Delivery name; default as in `hand_over`.
        note: Called with the old and the new delivery just before they change places; where it raises, nothing changes.

    Raises:
        InputError, ConfigError: As `hand_over`; the delivery of that name is still being written.
        StoreError: The landing folder cannot be written, or its file system cannot exchange folders.
    """
    asked = look_at(source, path, as_of=as_of, name=name)
    target = home.landing / source / asked.name
    if not target.exists():
        return Replaced(hand_over(home, source, path, as_of=as_of, name=name), None)
    if not (target / SUCCESS).exists():
        raise InputError(
            "A delivery of this name is still being written (it has no _SUCCESS).",
            where=f"{source}--{asked.name}",
            todo="Wait for it, or choose another name.",
        )
    old = delivery(home, f"{source}--{asked.name}")
    if not asked.dated:
        asked = changed(asked, day=old.as_of)
    if asked.same_as(old) == "same":
        return Replaced(old, None)
    with copied_aside(home, asked) as new:  # and the old one is removed from there
        note(old, new)
        try:
            exchange(new.folder, target)
        except NotImplementedError:
            raise StoreError(
                "The file system of the landing folder cannot exchange two folders in one step.",
                where=str(home.landing),
                todo="Hand the delivery over under another name.",
            ) from None
    return Replaced(delivery(home, old.key), old)
