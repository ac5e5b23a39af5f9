"""The embedded source: three monthly deliveries of made-up patients, so that everything can be tried without data.

carebundle draws the patients; they are written as FHIR Bulk NDJSON and handed over like any other delivery. From
there on nothing knows that they are made up. The cohort on top of them is `cohorts/demo.yaml`.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFoundError
from pipeline.ingest.delivery import Delivery, delivery, hand_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.store.home import Home

SOURCE = "demo"
PATIENTS_A_DELIVERY = 2_500
"""Enough for the gate: fresh real rows of this many patients pass it (measured by `benchmarks/gate.py`)."""
AGES = (18, 90)
DRAWN_AT_ONCE = 2


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
        progress: called with (deliveries handed over now, deliveries to hand over) before each one and at the end.

    Raises:
        ConfigError: carebundle is not installed.
        InputError, StoreError: as `hand_over` raises them.
    """
    missing = [plan for plan in PLANS if not _landed(home, plan)]
    if missing:
        _require_carebundle()
    handed = 0
    # Drawing takes most of the time and uses one core a process.
    with ProcessPoolExecutor(DRAWN_AT_ONCE, mp_context=get_context("spawn")) as pool, _workspace() as folder:
        drawn = [pool.submit(write_ndjson, plan, patients, folder / plan.name) for plan in missing]
        for plan, writing in zip(missing, drawn, strict=True):
            if progress is not None:
                progress(handed, len(missing))
            writing.result()
            hand_over(home, SOURCE, folder / plan.name, as_of=plan.as_of, name=plan.name)
            handed += 1
    if progress is not None:
        progress(handed, len(missing))
    return [delivery(home, f"{SOURCE}--{plan.name}") for plan in PLANS]


def write_ndjson(plan: Plan, patients: int, folder: Path) -> None:
    """Write the patients of one delivery into a new folder, one file a resource type; raises as `draw_ndjson` does."""
    folder.mkdir()
    for resource_type, lines in draw_ndjson(plan, patients).items():
        (folder / f"{resource_type}.ndjson").write_text(lines, encoding="utf-8", newline="\n")


def draw_ndjson(plan: Plan, patients: int) -> dict[str, str]:
    """The patients of one delivery with one visit each: resource type to NDJSON text, the same for the same plan.

    Raises:
        ConfigError: carebundle is not installed.
    """
    _require_carebundle()
    from carebundle import generate_cohort, to_ndjson

    bundles = generate_cohort(count=patients, seed=plan.seed, sex="mixed", age_range=AGES, reference_date=plan.visits)
    return to_ndjson(bundles)


def _require_carebundle() -> None:
    try:
        import carebundle  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "The demo's patients are drawn by carebundle, which is not installed.",
            todo="Run: pip install -e .[demo]",
        ) from error


def _landed(home: Home, plan: Plan) -> bool:
    try:
        delivery(home, f"{SOURCE}--{plan.name}")
    except NotFoundError:
        return False
    return True


@contextmanager
def _workspace() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cohortloom-demo-") as temporary:
        yield Path(temporary)
