"""Which best settings a cell's models take: those of a tuning that the cohort's file names, and where they came from.

What the file sets itself under `generators` always wins, but for a preset, which a tuning replaces. How a tuning is
made is in `tuning.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import CohortLoomError, NotFoundError, UnsupportedError
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    from pipeline.features.spec import CohortSpec
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell

TUNING = "tuning"
PRESET = "preset"


@dataclass(frozen=True)
class Tuned:
    """Best settings for a generator of a cell; nothing of everything where the cohort's file asks for none.

    Attributes:
        settings: Those that apply, over the file's own.
        inputs: Label of the tuning to its hash, for the inputs of the model.
        info: What the model's version records.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


def tuned_settings(lake: Lake, cell: Cell, generator: str) -> Tuned:
    """The best settings of the newest tuning of the cell's month or an earlier one, as the cohort's file asks.

    Raises:
        NotFoundError: the file asks for them, and there is no tuning that ended well.
        UnsupportedError: the model must be private, and they were chosen by looking at the same source's rows.
    """
    asked = cell.spec.tuning.get(generator)
    if asked is None or not asked.used:
        return Tuned()
    cohort = asked.settings_from or cell.cohort
    version = newest_tuning(lake, cohort, generator, cell.month)
    if version is None:
        raise NotFoundError(
            f"'{cell.cohort}' takes tuned settings of '{generator}', and there is no tuning of '{cohort}' by {cell.month[:7]}.",
            todo=f"cohortloom tune {cohort} --generator {generator}, or set `used: false` under `tuning: {generator}:`.",
        )
    if is_private(cell.spec, generator) and version.info.get("source") == cell.source.name:
        raise UnsupportedError(
            f"The settings of '{generator}' were chosen by looking at rows of '{cell.source.name}', which no epsilon "
            "accounts for, and its model must be private.",
            todo="Tune on public rows and name their cohort as `settings_from`, or set `used: false`.",
        )
    own = cell.spec.generators[generator]
    best = version.info["best"]["settings"]
    settings = {name: value for name, value in best.items() if name == PRESET or name not in own}
    return Tuned(settings, {version.label: version.sha256}, {"tuned": {"from": version.label, "settings": settings}})


def newest_tuning(lake: Lake, cohort: str, generator: str, until_month: str) -> Version | None:
    """The newest tuning of a cohort that ended well, of this month (`YYYY-MM-01`) or an earlier one."""
    asset = f"{TUNING}/{generator}"
    months = sorted(
        (p["month"] for p in lake.tables.partitions(asset) if p["cohort"] == cohort and p["month"] <= until_month),
        reverse=True,
    )
    for month in months:
        version = lake.tables.current(asset, {"cohort": cohort, "month": month})
        if version is not None and Record.of(version).ok:
            return version
    return None


def is_private(spec: CohortSpec, generator: str) -> bool:
    """Must models of this generator be private: by what is asked of them, or by the cohort's budget?"""
    return spec.privacy.budget is not None or generator in spec.privacy.trainings


def tuning_moved(lake: Lake, cell: Cell, version: Version) -> str:
    """In words, whether a model was trained with other tuned settings than it would be now; empty if not."""
    try:
        now = tuned_settings(lake, cell, version.asset.partition("/")[2])
    except CohortLoomError as error:
        return error.what.rstrip(".")
    then = {label: sha for label, sha in version.inputs.items() if label.startswith(f"{TUNING}/")}
    return "there is another tuning since" if now.inputs != then else ""
