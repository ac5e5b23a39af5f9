"""Judging a cell on the lake: reference rows, one evaluation a generator. Metrics are in `evaluation/`.

As in `training.py`, a generator that has no rows to judge leaves a status record and a report that says why. Every
evaluation that looked at the holdout is entered in the journal.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import (
    Parts,
    evaluate_references,
    references_from_table,
    references_table,
    run_evaluation,
)
from pipeline.evaluation.results import draws_table, results_from_table, results_table
from pipeline.release.gate import Claim, Verdict, judge, with_verdict
from pipeline.store.hashing import canonical_json, sha256_json
from pipeline.workflow.ledger import asked_privacy
from pipeline.workflow.record import Record
from pipeline.workflow.reports import CONTENT, REPORT, publish_reports
from pipeline.workflow.settings import judging_settings, release_settings
from pipeline.workflow.training import attempted, carried, read_whole, synthetic_replicates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort
    from pipeline.features.spec import CohortSpec
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell

HOLDOUT_ACCESS = "holdout_access"
"""Journal stream: who looked at the holdout rows of which cohort-month, for which synthetic rows."""
RELEASE_STREAM = "release"
"""First part of the journal streams `release/<cohort>`: verdicts, and what people decided about them."""
FIGURES: tuple[str, ...] = (
    "schema.adherence",
    "fid.marg.jsd",
    "fid.dep.corr_rmse",
    "fid.joint.detect_auc",
    "priv.exact_unique",
    "priv.mia.max_auc",
    "priv.mia.tpr_at_1pct_fpr",
)
"""The headline figures that are plotted over runs; those of tasks are added for each task."""
TASK_FIGURES: tuple[str, ...] = ("util.tstr_auroc", "util.ratio")


@dataclass(frozen=True)
class Judged:
    """What an evaluation left.

    Attributes:
        version: Of `evaluation/<generator>`.
        record: How it ended.
        report: The HTML report.
        results: Rows of every replicate and pooled ones; empty where there was nothing to judge.
        references: The reference rows they were set beside.
        verdict: The gate's verdict, None where there was nothing to judge.
    """

    version: Version
    record: Record
    report: Path
    results: list[MetricResult] = field(default_factory=list)
    references: Mapping[str, Sequence[MetricResult]] = field(default_factory=dict)
    verdict: Verdict | None = None


def plan_of(cell: Cell, device: str) -> EvaluationPlan:
    """What the cell's cohort asks, with distances on `device` (as trainings take it: "auto" is a GPU if there is one).

    Raises:
        ConfigError: the device is not there.
    """
    from pipeline.generators.training import choose_device

    return EvaluationPlan.of(cell.spec, device=str(choose_device(device)))


def references_step(
    lake: Lake, cell: Cell, *, device: str = "auto", run_id: str = ""
) -> tuple[Version, dict[str, list[MetricResult]]]:
    """Score the reference rows of the cell into `references`; `device` as trainings take it."""
    features = lake.tables.resolve("features", cell.partition)
    found = evaluate_references(Parts.of(read_whole(lake, features)), plan_of(cell, device))
    with lake.tables.draft("references", cell.partition) as draft:
        draft.add_table("data", references_table(found))
        info = {"settings": judging_settings(cell.spec, None), "rows": sorted(found)}
        return draft.commit(inputs={features.label: features.sha256}, info=info, run_id=run_id), found


def references_current(lake: Lake, cell: Cell) -> bool:
    """Do the reference rows belong to the current features and settings?"""
    features = lake.tables.current("features", cell.partition)
    made = lake.tables.current("references", cell.partition)
    if features is None or made is None:
        return False
    return made.inputs.get(features.label) == features.sha256 and made.info["settings"] == judging_settings(
        cell.spec, None
    )


def evaluate_step(lake: Lake, cell: Cell, generator: str, *, device: str = "auto", run_id: str = "") -> Judged:
    """Judge the synthetic rows of a generator into `evaluation/<generator>`, with the report beside it.

    Args:
        lake: The lake.
        cell: Cohort and month.
        generator: Whose rows.
        device: Where distances are computed, as trainings take it; the results do not depend on it.
        run_id: The run.

    Raises:
        NotFoundError: the cell has no features, no reference rows or no `synthetic/<generator>`.
        ConfigError: the device is not there.
    """
    features = lake.tables.resolve("features", cell.partition)
    model = lake.models.resolve(f"model/{generator}", cell.partition)
    synthetic = lake.tables.resolve(f"synthetic/{generator}", cell.partition)
    references = lake.tables.resolve("references", cell.partition)
    info: dict[str, Any] = {"generator": generator, "settings": judging_settings(cell.spec, generator)}
    inputs = {v.label: v.sha256 for v in (features, synthetic, references)}
    record = carried(synthetic, {model.label: model.sha256})
    record = carried(model, {features.label: features.sha256}) if record.ok else record
    record = carried(references, {features.label: features.sha256}) if record.ok else record
    if not record.ok:
        return _unjudged(lake, cell, generator, record, info, inputs, run_id)
    replicates = synthetic_replicates(lake, synthetic)
    rows = Rows(generator, replicates, synthetic, features, references, model)
    return judge_rows(lake, cell, rows, info=info, device=device, run_id=run_id)


@dataclass(frozen=True)
class Rows:
    """Synthetic rows to be judged, with what they stand beside.

    Attributes:
        generator: Whose they are.
        replicates: One cohort a trained seed.
        synthetic: The version that holds them.
        features: The real rows.
        references: The reference rows.
        model: The model that they were drawn from; None if they were made elsewhere.
    """

    generator: str
    replicates: Sequence[Cohort]
    synthetic: Version
    features: Version
    references: Version
    model: Version | None = None


def judge_rows(
    lake: Lake, cell: Cell, rows: Rows, *, info: Mapping[str, Any], device: str = "auto", run_id: str = ""
) -> Judged:
    """Judge rows into `evaluation/<generator>`; see `evaluate_step`."""
    generator, features, references = rows.generator, rows.features, rows.references
    inputs = {v.label: v.sha256 for v in (features, rows.synthetic, references)}
    cohort = read_whole(lake, features)
    parts = Parts.of(cohort)
    found = references_from_table(lake.tables.read(references))
    accesses = _note_access(lake, cell, generator, rows.synthetic)
    plan = plan_of(cell, device)
    record, evaluation = attempted(lake, lambda: run_evaluation(parts, rows.replicates, plan, references=found))
    if evaluation is None:
        return _unjudged(lake, cell, generator, record, info, inputs, run_id)
    # Judged as it is stored, so that whoever judges the stored results again gets the same verdict.
    stored = results_from_table(results_table(evaluation.results))
    verdict = judge(stored, cell.spec.gate, plan, references=found, claim=claim_of(cell.spec, generator, features))
    evaluation = replace(evaluation, results=with_verdict(evaluation.results, verdict))
    reports = publish_reports(
        lake, cell, rows, cohort, evaluation, found, verdict, inputs=inputs, accesses=accesses, run_id=run_id
    )
    with lake.tables.draft(f"evaluation/{generator}", cell.partition) as draft:
        draft.add_table("data", results_table(evaluation.results))
        draft.add_table("draws", draws_table(evaluation.results))
        draft.add_table("runs", _runs_table(cell, rows, plan, verdict))
        content = verdict.to_dict()
        if rows.model is not None:
            tied = bound(cell.spec, rows.synthetic, features, references, rows.model)
            content["bound"] = {**tied, "report": reports.files[CONTENT].sha256}
        draft.file("verdict.json").write_text(canonical_json(content) + "\n", encoding="utf-8")
        said = {**info, **record.to_info(), "verdict": verdict.status}
        version = draft.commit(inputs=inputs, info=said, run_id=run_id)
    _note_verdict(lake, cell, generator, version, rows.synthetic)
    return Judged(version, record, lake.reports.path(reports, REPORT), evaluation.results, found, verdict)


def _runs_table(cell: Cell, rows: Rows, plan: EvaluationPlan, verdict: Verdict) -> pa.Table:
    """What each replicate's figures are of, to be joined to `data` over `replicate`; no times, so that bytes repeat."""
    import pyarrow as pa

    model = rows.model
    drawn = cell.seeds(rows.generator, "sample") if model is not None else []
    trained = cell.seeds(rows.generator, "fit") if model is not None else []
    common = {
        "cohort": cell.cohort,
        "month": cell.month,
        "generator": rows.generator,
        "features": rows.features.sha256,
        "split_fingerprint": str(rows.features.info.get("split_fingerprint", "")),
        "references": rows.references.sha256,
        "synthetic": rows.synthetic.sha256,
        "model": "" if model is None else model.sha256,
        "profile": plan.profile,
        "seed_eval": plan.seed,
        "gate_version": verdict.version,
    }
    seeds = [
        {"seed_fit": trained[k] if k < len(trained) else None, "seed_sample": drawn[k] if k < len(drawn) else None}
        for k in range(len(rows.replicates))
    ]
    lines = [{"replicate": k, **common, **seeds[k], "rows": cohort.n_rows} for k, cohort in enumerate(rows.replicates)]
    text = {name: pa.string() for name, value in common.items() if isinstance(value, str)}
    numbers = dict.fromkeys(("replicate", "seed_eval", "gate_version", "seed_fit", "seed_sample", "rows"), pa.int64())
    types = {**text, **numbers}
    return pa.Table.from_pylist(lines, schema=pa.schema([(name, types[name]) for name in lines[0]]))


def claim_of(spec: CohortSpec, generator: str, features: Version) -> Claim | None:
    """What the trainings of a generator claim to spend at most; None where the cohort asks nothing of them."""
    asked = asked_privacy(spec, generator, features)
    return None if asked is None else Claim(asked, int(features.info["counts"]["subjects/train"]))


def bound(
    spec: CohortSpec, synthetic: Version, features: Version, references: Version, model: Version
) -> dict[str, Any]:
    """What a verdict is about, stored beside it: exactly these bytes, settings and privacy spend."""
    return {
        "synthetic": synthetic.sha256,
        "data": synthetic.files["data"].sha256,
        "features": features.sha256,
        "references": references.sha256,
        "settings": sha256_json(release_settings(spec)),
        "candidate": spec.release.generator,
        "privacy": model.info.get("privacy"),
    }


def results_of(lake: Lake, evaluation: Version) -> list[MetricResult]:
    """The results of a stored evaluation."""
    return results_from_table(lake.tables.read(evaluation))


def verdict_of(lake: Lake, evaluation: Version) -> Verdict:
    """The verdict of a stored evaluation."""
    return Verdict.from_dict(json.loads(lake.tables.path(evaluation, "verdict.json").read_text(encoding="utf-8")))


def headlines(results: Sequence[MetricResult]) -> dict[str, float]:
    """The headline figures as plain numbers: pooled over replicates; those of tasks as `metric/task`."""
    pooled = [r for r in results if r.replicate == -1 and not r.key2 and r.value is not None]
    whole = {r.metric: float(r.value) for r in pooled if r.metric in FIGURES and not r.key1 and r.value is not None}
    tasks = {f"{r.metric}/{r.key1}": float(r.value) for r in pooled if r.metric in TASK_FIGURES and r.value is not None}
    return {**{name: whole[name] for name in FIGURES if name in whole}, **tasks}


def _note_access(lake: Lake, cell: Cell, generator: str, synthetic: Version) -> int:
    """Enter in the journal that the holdout is looked at; the same rows looked at again are no new access.

    Gives how many different rows of this generator were held against this holdout up to these: a number that stays
    the same whenever these rows are judged again.
    """
    who = {**cell.partition, "generator": generator}
    _append_once(lake, HOLDOUT_ACCESS, {**who, "sha256": synthetic.sha256})
    own = [entry["sha256"] for entry in lake.journal.entries(HOLDOUT_ACCESS) if who.items() <= entry.items()]
    return own.index(synthetic.sha256) + 1


def _note_verdict(lake: Lake, cell: Cell, generator: str, evaluation: Version, synthetic: Version) -> None:
    """Enter the verdict in the journal, once: a release asks there whether the pipeline itself gave it."""
    entry = {
        "kind": "verdict",
        "month": cell.month,
        "generator": generator,
        "evaluation": evaluation.sha256,
        "synthetic": synthetic.sha256,
        "status": evaluation.info["verdict"],
    }
    _append_once(lake, f"{RELEASE_STREAM}/{cell.cohort}", entry)


def _append_once(lake: Lake, stream: str, entry: Mapping[str, Any]) -> None:
    lake.journal.transact(
        stream, lambda entries: None if any(entry.items() <= known.items() for known in entries) else entry
    )


def _unjudged(
    lake: Lake,
    cell: Cell,
    generator: str,
    record: Record,
    info: Mapping[str, Any],
    inputs: Mapping[str, str],
    run_id: str,
) -> Judged:
    """Commit the record, and a page that says it in place of a report."""
    asset = f"evaluation/{generator}"
    said = {**info, **record.to_info()}
    title = html.escape(f"{generator} on {cell.cohort}, {cell.month[:7]}")
    with lake.reports.draft(asset, cell.partition) as draft:
        draft.file(REPORT).write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
            f"<p><strong>{record.status.replace('_', ' ')}</strong>: {html.escape(record.reason)}</p></html>\n",
            encoding="utf-8",
        )
        report = draft.commit(inputs=inputs, info=said, run_id=run_id)
    with lake.tables.draft(asset, cell.partition) as draft:
        version = draft.commit(inputs=inputs, info=said, run_id=run_id)
    return Judged(version, record, lake.reports.path(report, REPORT))
