"""The code location: everything of `assets/` and `resources/` put together, explicitly.

Nothing heavier than Dagster may be imported from here (a test guards it): every run and every tick pays for it again.
Modules hold the parts; this one only assembles, so tests and the command line can build it with other resources.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any

# The one place where Dagster's warnings about preview features are silenced: partitions on checks are one, and every
# check here has them.
import dagster as dg

from assets.catalog import build_catalog
from assets.checks import build_checks
from assets.evaluation import build_evaluation
from assets.executor import chosen_executor
from assets.features import build_features
from assets.generation import build_generation
from assets.ingest import FORMATS, build_ingest
from assets.inventory import build_inventory, code_versions
from assets.jobs import build_jobs, ingest_job_name
from assets.ledger import build_ledger
from assets.notices import build_notices
from assets.partitions import cohort_month
from assets.release import build_release
from assets.schedules import build_schedules
from assets.sensors import build_sensors
from assets.sweep import build_sweeps, sweep_keys
from assets.tuning import build_tuning, tuning_keys
from pipeline.features.spec import CohortBook, load_book
from pipeline.workflow.cards import Card, cards
from resources.compute import ComputeResource
from resources.lake import LakeResource
from resources.landing import LandingResource


def build_defs(overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Assemble the code location from the cohorts and generators that there are now.

    Args:
        overrides: Resources by name ("lake", "landing", "compute") in place of the usual ones.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _assemble(overrides or {})


def generators_in_use(book: CohortBook) -> list[str]:
    """The generators that at least one cohort enables, sorted: each is a branch of the graph."""
    return sorted({name for spec in book.cohorts.values() for name in spec.generators})


def _assemble(overrides: Mapping[str, Any]) -> dg.Definitions:
    book = load_book()
    for name, reason in book.broken.items():
        warnings.warn(f"Disabled: {name}: {reason}", stacklevel=2)
    in_use: dict[str, Card] = cards(generators_in_use(book))
    for card in in_use.values():
        if card.broken:
            warnings.warn(f"Generator '{card.name}': {card.broken}.", stacklevel=2)
    cells = cohort_month(book)
    tuned = {name for spec in book.cohorts.values() for name, how in spec.tuning.items() if how.used}
    tuned &= {name for name, card in in_use.items() if card.tunes}
    chain = [*build_features(cells, book), *build_generation(cells, in_use, tuned), *build_evaluation(cells, in_use)]
    chain += [build_ledger(cells, list(in_use)), build_release(cells, list(in_use))]
    jobs = build_jobs([asset.key for asset in chain], tuning_keys(in_use), sweep_keys(in_use))
    ingest_jobs = {ingest_job_name(format) for format in FORMATS}
    return dg.Definitions(
        assets=[
            *build_ingest(),
            *chain,
            *build_tuning(cells, in_use),
            *build_sweeps(cells, in_use),
            build_catalog(list(in_use)),
            build_inventory(code_versions(chain)),
        ],
        asset_checks=build_checks(cells, list(in_use)),
        jobs=jobs,
        schedules=build_schedules({job.name: job for job in jobs}),
        sensors=[*build_sensors([job for job in jobs if job.name in ingest_jobs]), *build_notices()],
        resources={
            "lake": LakeResource(),
            "landing": LandingResource(),
            "compute": ComputeResource(),
            **overrides,
        },
        executor=chosen_executor(),
    )


if not os.environ.get("DAGSTER_HOME"):
    warnings.warn(
        "DAGSTER_HOME is not set: runs are forgotten when Dagster stops. `cohortloom ui` and `make ui` set it to "
        "$COHORTLOOM_HOME/dagster.",
        stacklevel=2,
    )

defs = build_defs()
