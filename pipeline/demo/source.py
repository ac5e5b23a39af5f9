"""The embedded source: three monthly deliveries of made-up patients, so that everything can be tried without data.

carebundle draws the patients; they are written as FHIR Bulk NDJSON and handed over like any other delivery. From
there on nothing knows that they are made up. The cohort on top of them is `cohorts/demo.yaml`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFoundError
from pipeline.ingest.delivery import Delivery, delivery, hand_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.store.home import Home

SOURCE = "demo"
PATIENTS_A_DELIVERY = 500
AGES = (18, 90)


@dataclass(frozen=True)
class Plan:
    """One delivery: the day it is known at, the day of its visits, the seed of its patients."""

    as_of: date
    visits: date
    seed: int

    @property
    def name(self) -> str:
        """The delivery's name: its day."""
        return self.as_of.isoformat()


PLANS: tuple[Plan, ...] = (
    Plan(as_of=date(2026, 1, 31), visits=date(2026, 1, 15), seed=101),
    Plan(as_of=date(2026, 2, 28), visits=date(2026, 2, 15), seed=202),
    Plan(as_of=date(2026, 3, 31), visits=date(2026, 3, 15), seed=303),
)
"""Fixed days and seeds: the demo is the same on every machine and on every day."""


def write_demo_deliveries(
    home: Home, *, patients: int = PATIENTS_A_DELIVERY, progress: Callable[[int, int], None] | None = None
) -> list[Delivery]:
    """Hand over the three deliveries; those that have landed already are left as they are.

    Args:
        home: where they land.
        patients: patients a delivery; each delivery holds other people.
        progress: called with (deliveries done, deliveries in all) before each one and at the end.

    Raises:
        ConfigError: carebundle is not installed.
        InputError, StoreError: as `hand_over` raises them.
    """
    done: list[Delivery] = []
    for number, plan in enumerate(PLANS):
        if progress is not None:
            progress(number, len(PLANS))
        try:
            done.append(delivery(home, f"{SOURCE}--{plan.name}"))
        except NotFoundError:
            done.append(_hand_over(home, plan, patients))
    if progress is not None:
        progress(len(PLANS), len(PLANS))
    return done


def draw_ndjson(plan: Plan, patients: int) -> dict[str, str]:
    """The patients of one delivery with one visit each: resource type to NDJSON text, the same for the same plan.

    Raises:
        ConfigError: carebundle is not installed.
    """
    try:
        from carebundle import generate_cohort, to_ndjson
    except ImportError as error:
        raise ConfigError(
            "The demo's patients are drawn by carebundle, which is not installed.",
            todo="Run: pip install -e .[demo]",
        ) from error
    bundles = generate_cohort(count=patients, seed=plan.seed, sex="mixed", age_range=AGES, reference_date=plan.visits)
    return to_ndjson(bundles)


def _hand_over(home: Home, plan: Plan, patients: int) -> Delivery:
    with tempfile.TemporaryDirectory(prefix="cohortloom-demo-") as temporary:
        folder = Path(temporary) / plan.name
        folder.mkdir()
        for resource_type, lines in draw_ndjson(plan, patients).items():
            (folder / f"{resource_type}.ndjson").write_text(lines, encoding="utf-8", newline="\n")
        return hand_over(home, SOURCE, folder, as_of=plan.as_of, name=plan.name)
