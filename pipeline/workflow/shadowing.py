"""The shadow-model attack on a generator of a cell: many trainings on people of training and holdout, all thrown away.

It is asked for by hand, for a release candidate. Its figures go to the store of reports under `shadow/<generator>`,
the access to the holdout to the journal. The attack is in `pipeline/evaluation/privacy/shadow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError, nearest
from pipeline.evaluation.context import Parts
from pipeline.evaluation.privacy.shadow import shadow_attack
from pipeline.evaluation.results import stored_fields
from pipeline.features.split import load_key
from pipeline.generators.constraints.redraw import sample_constrained
from pipeline.generators.registry import generator_class
from pipeline.generators.replicates import under_rules
from pipeline.generators.seeds import derive_seed
from pipeline.privacy.secrets import training_key
from pipeline.store.hashing import canonical_json
from pipeline.workflow.judging import HOLDOUT_ACCESS, plan_of
from pipeline.workflow.record import Record
from pipeline.workflow.training import CANDIDATE, read_whole, synthetic_replicates
from pipeline.workflow.tuned import tuned_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

FILE = "shadow.json"


@dataclass(frozen=True)
class Shadowed:
    """What the attack found, where it lies, and whether the candidate's own rows were attacked too."""

    results: list[MetricResult]
    path: Path
    released: bool


def shadow_step(
    lake: Lake,
    cell: Cell,
    generator: str,
    compute: Compute,
    *,
    models: int,
    told: Callable[[int, int], None] | None = None,
) -> Shadowed:
    """Train `models` times with the cell's settings and privacy, and attack; keeps no model and no row.

    Args:
        lake: The lake.
        cell: Cohort and month, with features.
        generator: One that the cohort enables.
        compute: Device of the trainings.
        models: How many.
        told: Called with (models done, models in all).

    Raises:
        NotFoundError: the cell has no features.
        ConfigError: the cohort does not enable the generator, or `models` is out of range.
    """
    if generator not in cell.spec.generators:
        raise ConfigError(
            f"'{cell.cohort}' does not enable '{generator}'.", todo=nearest(generator, list(cell.spec.generators))
        )
    features = lake.tables.resolve("features", cell.partition)
    kind = generator_class(generator)
    tuned = tuned_settings(lake, cell, generator)
    config = kind.Config.build({**cell.spec.generators[generator], **tuned.settings})
    privacy = cell.spec.privacy.trainings.get(generator)
    parts = Parts.of(read_whole(lake, features))
    n = parts.train.n_rows
    # Its own noise, never that of a model that is kept.
    identity = f"shadow/{features.sha256}/{generator}"
    known: dict[str, Any] = {}
    if privacy is not None:
        known["noise_key"] = training_key(load_key(lake.home), identity)

    def make_rows(training: Cohort, seed: int) -> Cohort:
        model = under_rules(kind(config), cell.spec.constraints, cell.spec.generators[generator])
        model.fit(training, seed=seed, device=compute.device, privacy=privacy, **known)
        return sample_constrained(model, n, derive_seed(seed, "sample"), cell.spec.constraints)[0]

    synthetic = _candidate(lake, cell, generator, features)
    entry = {**cell.partition, "generator": generator, "sha256": features.sha256, "shadow_models": models}
    lake.journal.transact(
        HOLDOUT_ACCESS, lambda known: None if any(entry.items() <= e.items() for e in known) else entry
    )
    results = shadow_attack(
        make_rows,
        parts,
        plan_of(cell, compute.device),
        models=models,
        seed=derive_seed(cell.spec.seed, cell.cohort, cell.month, generator, "shadow"),
        released=None if synthetic is None else synthetic_replicates(lake, synthetic)[CANDIDATE],
        told=told,
    )
    inputs = {v.label: v.sha256 for v in (features, synthetic) if v is not None}
    content = [{name: getattr(row, name) for name in stored_fields()} for row in results]
    with lake.reports.draft(f"shadow/{generator}", cell.partition) as draft:
        draft.file(FILE).write_text(canonical_json(content) + "\n", encoding="utf-8")
        version = draft.commit(inputs=inputs, info={"generator": generator, "models": models})
    return Shadowed(results, lake.reports.path(version, FILE), synthetic is not None)


def _candidate(lake: Lake, cell: Cell, generator: str, features: Version) -> Version | None:
    """The synthetic rows that were made from these features; None where there are none."""
    try:
        synthetic = lake.tables.resolve(f"synthetic/{generator}", cell.partition)
        model = lake.models.resolve(f"model/{generator}", cell.partition)
    except NotFoundError:
        return None
    made_of_these = (
        synthetic.inputs.get(model.label) == model.sha256 and model.inputs.get(features.label) == features.sha256
    )
    return synthetic if made_of_these and Record.of(synthetic).ok else None
