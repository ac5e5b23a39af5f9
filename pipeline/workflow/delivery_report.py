"""The report on a delivery on the lake: made from its raw version, kept as a page in the store of reports.

What it tells and how it looks is in `ingest/report/`. It follows the raw tables: taking in, rolling back and erasing
make or choose it anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import NotFoundError, nearest
from pipeline.ingest.delivery import landed
from pipeline.ingest.report import DeliveryFacts, headline, write_page
from pipeline.workflow.deliveries import current_events

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake, Version

ASSET = "delivery_report"
"""Its name in the store of reports; partition: delivery."""
PAGE = "delivery.html"


def publish_report(lake: Lake, raw: Version, *, run_id: str = "") -> Path:
    """Write the page of a delivery's raw version, with its events where they are there; gives where it lies."""
    facts, made_from = _gathered(lake, raw)
    with lake.reports.draft(ASSET, raw.partition) as draft:
        write_page(draft.file(PAGE), facts)
        version = draft.commit(inputs=made_from, info={"state": headline(facts)[0]}, run_id=run_id)
    return lake.reports.path(version, PAGE)


def facts_of(lake: Lake, key: str) -> tuple[DeliveryFacts, Path | None]:
    """What is known of a delivery that was taken in, and its page, if there is one of what is current.

    Raises:
        NotFoundError: it was not taken in.
    """
    tables = lake.tables
    raws = [asset for asset in tables.assets() if asset.startswith("raw/")]
    keys = {partition["delivery"]: asset for asset in raws for partition in tables.partitions(asset)}
    raw = tables.current(keys[key], {"delivery": key}) if key in keys else None
    if raw is None and any(delivery.key == key for delivery in landed(lake.home)):
        raise NotFoundError(
            f"Delivery '{key}' was handed over and is not taken in.", todo="Why it was refused: cohortloom deliveries."
        )
    if raw is None:
        raise NotFoundError(f"Delivery '{key}' was not ingested.", todo=nearest(key, list(keys)))
    facts, _ = _gathered(lake, raw)
    page = lake.reports.current(ASSET, raw.partition)
    fresh = page is not None and page.inputs.get(raw.label) == raw.sha256
    return facts, lake.reports.path(page, PAGE) if page is not None and fresh else None


def _gathered(lake: Lake, raw: Version) -> tuple[DeliveryFacts, dict[str, str]]:
    events = current_events(lake, raw)
    versions = [raw, *([events] if events is not None else [])]
    return DeliveryFacts.of(lake.tables, raw, events), {version.label: version.sha256 for version in versions}
