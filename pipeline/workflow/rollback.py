"""Rolling a partition back to an earlier version, and saying what no longer belongs to it.

Moves pointers only, after checking that the version is whole; nothing is made or removed. That Dagster hears of it is
the command line's part (`assets/cli/house.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFoundError, StoreError, nearest
from pipeline.workflow.delivery_report import ASSET as DELIVERY_REPORT
from pipeline.workflow.housekeeping import RELEASE, note_operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.store.lake import Lake
    from pipeline.store.version import Version
    from pipeline.store.versions import VersionStore

_MONTH = re.compile(r"\d{4}-\d{2}(-01)?")
NOT_ROLLED_BACK = {
    RELEASE: "A release is never rolled back: its rows have left the house. Take it back with `cohortloom withdraw`.",
    "privacy_ledger": "The ledger follows from the journal, which nobody turns back.",
    "catalog": "The catalogue has no versions: materialise it again.",
}


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        version: The current version now.
        before: The current version before; None if the pointer was broken.
        also: Versions that moved with it (the report of an evaluation or a delivery).
        stale: Labels of current versions made from another version of this partition, or from such a one, sorted.
    """

    version: Version
    before: Version | None
    also: list[Version] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


def find(lake: Lake, asset: str, words: Sequence[str]) -> tuple[VersionStore, dict[str, str]]:
    """The store and the partition that a person means.

    Args:
        lake: The stores.
        asset: Asset key, e.g. "features" or "model/vae".
        words: The partition as the UI shows it (`support|2026-10-01`), as two words (`support 2026-10`), or the key
            of a delivery.

    Raises:
        ConfigError: this asset is not rolled back.
        NotFoundError: there is no such asset or partition.
    """
    if asset in NOT_ROLLED_BACK:
        raise ConfigError(NOT_ROLLED_BACK[asset], where=asset)
    known = {name: store for store in (lake.reports, lake.models, lake.tables) for name in store.assets()}
    if asset not in known:
        raise NotFoundError(f"There is no asset '{asset}' in the store.", todo=nearest(asset, list(known)))
    keys = [part for word in words for part in re.split(r"[|\s]+", word) if part]
    if len(keys) == 2 and _MONTH.fullmatch(keys[1]):
        keys[1] = f"{keys[1][:7]}-01"
    partitions = {"|".join(p.values()): p for p in known[asset].partitions(asset)}
    shown = "|".join(keys)
    if shown not in partitions:
        raise NotFoundError(
            f"'{asset}' has no partition '{shown}'.",
            todo=f"{nearest(shown, list(partitions))} Quote the bar: '{next(iter(partitions), 'cohort|month')}'.",
        )
    return known[asset], partitions[shown]


def roll_back(
    lake: Lake, store: VersionStore, asset: str, partition: dict[str, str], *, to: str | None, by: str
) -> RolledBack:
    """Make an earlier version the current one, with the report that belongs to it, and enter it in the journal.

    Args:
        lake: The stores.
        store: The one that holds the asset (`find`).
        asset: Asset key.
        partition: Partition.
        to: Name of the version, or its beginning; default the one before the current one.
        by: Who does it.

    Raises:
        NotFoundError: there is no such version, or none before the current one.
        ConfigError: several versions begin like this.
        StoreError: the version is damaged; the pointer then stays.
    """
    try:
        before = store.current(asset, partition)
    except StoreError:
        before = None
    history = store.history(asset, partition)
    target = _named(history, to) if to else _earlier(history, before)
    version = store.rollback(asset, partition, target.version)
    also = []
    if asset.startswith("evaluation/"):
        reports = [v for v in lake.reports.history(asset, partition) if v.inputs == version.inputs]
        also = [lake.reports.rollback(asset, partition, v.version) for v in reports[:1]]
    elif asset.startswith("raw/"):
        pair = (version.label, version.sha256)
        reports = [v for v in lake.reports.history(DELIVERY_REPORT, partition) if pair in v.inputs.items()]
        also = [lake.reports.rollback(DELIVERY_REPORT, partition, v.version) for v in reports[:1]]
    note_operation(
        lake,
        "rollback",
        by,
        partition=version.label,
        to=version.version,
        sha256=version.sha256,
        before=before.version if before is not None else None,
    )
    return RolledBack(version, before, also, stale_after(lake, version))


def _named(history: list[Version], name: str) -> Version:
    found = [v for v in history if v.version.startswith(name)]
    if len(found) > 1:
        raise ConfigError(f"{len(found)} versions begin with '{name}'.", todo="Give more of its name.")
    if not found:
        raise NotFoundError(f"There is no version '{name}'.", todo=nearest(name, [v.version for v in history]))
    return found[0]


def _earlier(history: list[Version], before: Version | None) -> Version:
    """The newest version older than the current one; where the pointer is broken, the newest of all."""
    older = [v for v in history if before is None or v.version < before.version]
    if not older:
        raise NotFoundError(
            "There is no version before the current one.",
            where=before.label if before is not None else "",
            todo="--list shows what there is; `cohortloom gc --keep N` decides how many are kept.",
        )
    return older[0]


def stale_after(lake: Lake, version: Version) -> list[str]:
    """Labels of current versions that were made from another version than this one, or from such a one, sorted."""
    made_from: dict[str, set[str]] = {}
    stale: set[str] = set()
    for store in (lake.tables, lake.models):
        for asset in store.assets():
            for partition in store.partitions(asset):
                try:
                    current = store.current(asset, partition)
                except StoreError:
                    continue  # `doctor` tells of broken pointers
                if current is None:
                    continue
                for label, sha256 in current.inputs.items():
                    made_from.setdefault(label, set()).add(current.label)
                    if label == version.label and sha256 != version.sha256:
                        stale.add(current.label)
    waiting = list(stale)
    while waiting:
        fresh = made_from.get(waiting.pop(), set()) - stale
        stale |= fresh
        waiting += fresh
    return sorted(stale)
