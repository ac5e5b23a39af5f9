"""The delivery sensor: what has landed becomes a partition and is taken in once. And one that closes lost runs.

The delivery sensor is the only writer of delivery keys in the UI's process; the command line registers through `instance.py`.
"""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.guard import guarded
from assets.instance import close_dead_runs, known_deliveries
from assets.jobs import ingest_job_name
from assets.partitions import DELIVERY
from pipeline.features.spec import CohortBook, load_book
from resources.lake import LakeResource
from resources.landing import LandingResource

INTERVAL_SECONDS = 30


def build_sensors(jobs: list[UnresolvedAssetJobDefinition]) -> list[dg.SensorDefinition]:
    """The sensors; `jobs` are those that take in deliveries."""

    @dg.sensor(
        name="deliveries",
        jobs=jobs,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Registers complete deliveries (those with `_SUCCESS`) as partitions and takes each in once. "
        "Deliveries that the lake knows are registered again after Dagster's folder was deleted.",
    )
    @guarded
    def deliveries(
        context: dg.SensorEvaluationContext, lake: LakeResource, landing: LandingResource
    ) -> dg.SensorResult:
        book, home, store = load_book(), lake.folder(), lake.open()
        keys = known_deliveries(store, home)
        known = set(context.instance.get_dynamic_partitions(str(DELIVERY.name)))
        new = [key for key in keys if key not in known]
        requests, notes = [], []
        for delivery in landing.landed():
            format = _format_of(book, delivery.source)
            if format is None:
                notes.append(f"{delivery.key}: there is no source '{delivery.source}' in sources.yaml")
            elif store.tables.current(f"raw/{format}", {"delivery": delivery.key}) is None:
                requests.append(
                    dg.RunRequest(run_key=delivery.key, job_name=ingest_job_name(format), partition_key=delivery.key)
                )
        notes += [f"{folder}: still being written (no _SUCCESS)" for folder in landing.waiting()]
        for note in notes:
            context.log.info(note)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason("; ".join(notes) or "no new delivery"),
            dynamic_partitions_requests=[DELIVERY.build_add_request(new)] if new else [],
        )

    @dg.sensor(
        name="lost_runs",
        minimum_interval_seconds=2 * INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process on this machine was killed: nobody else does, and others of the "
        "same partition would wait for them for ever.",
    )
    @guarded
    def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        closed = close_dead_runs(context.instance, of_ui=True)
        return dg.SkipReason(f"closed: {', '.join(closed)}" if closed else "no run was lost")

    return [deliveries, lost_runs]


def _format_of(book: CohortBook, source: str) -> str | None:
    return book.sources[source].format if source in book.sources else None
