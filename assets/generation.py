"""`model/<generator>` and `synthetic/<generator>`, made by a factory over the registry. Partition: cohort x month.

A generator is part of the asset key: own code version, launchpad form, pool and kinds. One that is not enabled, refuses
the schema or fails still materialises, as a status record with the failing check `generated`. What happens is in
`pipeline/workflow/training.py`.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import dagster as dg

from assets.guard import guarded
from assets.ingest import RETRY
from assets.instance import GPU_POOL
from assets.launchpad import launchpad_config, overrides_of
from assets.partitions import key_of, one_to_one
from assets.reporting import column_schema, markdown_table, picture, plain
from pipeline.features.spec import load_book
from pipeline.workflow.cards import Card
from pipeline.workflow.compute import Compute, has_gpu
from pipeline.workflow.record import Record
from resources.compute import ComputeResource
from resources.lake import LakeResource

GROUP = "generation"
OWNERS = ["team:ml"]
OF_PRIVACY = ("epsilon", "delta", "headline", "accountant")
"""What is shown of a training's report on its privacy; all of it stands in `fit.json`."""


def generated_check(asset: str, cells: dg.MultiPartitionsDefinition) -> dg.AssetCheckSpec:
    """The check that fails, and blocks nothing, when an asset holds a status record instead of a result."""
    return dg.AssetCheckSpec(
        "generated",
        asset=dg.AssetKey(asset.split("/")),
        partitions_def=cells,
        description="Holds a result, not the record of a generator that is not enabled, refused or failed.",
    )


def generated(record: Record) -> dg.AssetCheckResult:
    """The result of that check."""
    return dg.AssetCheckResult(
        check_name="generated", passed=record.ok, description=record.reason or None, metadata={"status": record.status}
    )


def build_generation(
    cells: dg.MultiPartitionsDefinition, cards: dict[str, Card], tuned: Collection[str] = ()
) -> list[dg.AssetsDefinition]:
    """`model/<g>` and `synthetic/<g>` for every card; `tuned` are those whose settings some cohort searches."""
    made_of = {name: [["features"], *([["tuning", name]] if name in tuned else [])] for name in cards}
    return [
        made for name, card in cards.items() for made in (_model(cells, card, made_of[name]), _synthetic(cells, card))
    ]


def _model(cells: dg.MultiPartitionsDefinition, card: Card, made_of: list[list[str]]) -> dg.AssetsDefinition:
    Launchpad = launchpad_config(card)

    @dg.asset(
        key=["model", card.name],
        deps=one_to_one(*made_of),
        partitions_def=cells,
        group_name=GROUP,
        kinds={*card.kinds[:2], "safetensors"},
        owners=OWNERS,
        tags={"generator": card.name, "phi": "true"},
        description=f"One model a cohort and month: {card.title or card.name}, trained on the training rows; one replicate a seed.",
        code_version=card.code_version,
        pool=GPU_POOL if card.uses_gpu and has_gpu(Compute.from_environment().device) else None,
        check_specs=[generated_check(f"model/{card.name}", cells)],
    )
    @guarded
    def model(
        context: dg.AssetExecutionContext,
        config: Launchpad,  # type: ignore[valid-type]
        lake: LakeResource,
        compute: ComputeResource,
    ) -> dg.MaterializeResult:
        from assets.remote_training import train
        from pipeline.workflow.cell import Cell

        cell = Cell.of(load_book(), **key_of(context))
        overrides = overrides_of(config)
        made = train(context, lake.open(), cell, card.name, compute.bound(), overrides)
        for warning in (w for report in made.reports for w in report.warnings):
            context.log.warning(warning)
        info = made.version.info
        settings = {"cohort": info["settings"], "tuned": info.get("tuned"), "overrides": overrides}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.version.sha256),
            metadata=plain(
                {
                    "status": made.record.status,
                    "reason": made.record.reason or None,
                    "settings": dg.MetadataValue.json(settings),
                    **_training_metadata(card, made.reports, made.seconds),
                    **_portrait_metadata(lake.open().models.folder(made.version)),
                }
            ),
            check_results=[generated(made.record)],
        )

    return model


def _training_metadata(card: Card, reports: list[Any], seconds: float) -> dict[str, Any]:
    """Numbers and the loss curves of a training; empty if there was none."""
    from pipeline.workflow.sketch import line_chart

    if not reports:
        return {}
    first = reports[0]
    curves: dict[str, list[tuple[float, float]]] = {}
    for k, report in enumerate(reports):
        for point in report.losses:
            for name in (n for n in point if n not in ("step", "epoch")):
                at = float(point.get("step", point.get("epoch", 0)))
                curves.setdefault(f"{name} {k}" if len(reports) > 1 else name, []).append((at, float(point[name])))
    facts = {
        "training_rows": first.rows,
        "replicates": len(reports),
        "parameters": first.parameters,
        "training_seconds": seconds,
        "health": markdown_table([{"check": k, "value": v} for k, v in first.health.items()]) if first.health else None,
        "warnings": "\n".join(first.warnings) or None,
        **{f"final/{name}": points[-1][1] for name, points in curves.items()},
        **{f"privacy/{name}": first.privacy[name] for name in OF_PRIVACY if first.privacy and name in first.privacy},
    }
    if curves:
        facts["loss_curve"] = picture(line_chart(curves, title=f"{card.name}: loss"), words="loss over training steps")
    return facts


def _fairness_metadata(accounts: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of the fairness that was asked for, of the candidate; nothing where none was."""
    if not accounts:
        return {}
    first = accounts[0]
    told = ("notion", "aim", "shares", "candidates", "acceptance", "native", "lacking")
    of_labels, of_decisions = (
        tuple(f"{what}_gap_{when}" for when in ("before", "after")) for what in ("label", "decision")
    )
    return {
        **{f"fairness/{name}": first[name] for name in (*told, *of_labels)},
        **{f"fairness/{name}": first[name] for name in of_decisions if first[name] is not None},
        "fairness/groups": markdown_table(first["groups"]),
        "fairness/cells": markdown_table(first["cells"]) if first["cells"] else None,
        "fairness/warnings": "\n".join(first["warnings"]) or None,
    }


def _portrait_metadata(version: Path) -> dict[str, Any]:
    """The portraits stored with a model."""
    from pipeline.workflow.portraits import stored_portraits

    return {f"portrait/{name}": picture(svg, words=name) for name, svg in stored_portraits(version).items()}


def _synthetic(cells: dg.MultiPartitionsDefinition, card: Card) -> dg.AssetsDefinition:
    @dg.asset(
        key=["synthetic", card.name],
        deps=one_to_one(["model", card.name]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"parquet"},
        owners=OWNERS,
        tags={"generator": card.name, "phi": "false"},
        description=f"One synthetic row a training row and replicate, drawn from `model/{card.name}` in exactly the real "
        "schema; `_replicate` and `_draw` stand beside the rows.",
        code_version=card.code_version,
        retry_policy=RETRY,
        check_specs=[generated_check(f"synthetic/{card.name}", cells)],
    )
    @guarded
    def synthetic(
        context: dg.AssetExecutionContext, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.features.tables import read_schema
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.training import sample_step

        compute.bound()
        store = lake.open()
        made = sample_step(store, Cell.of(load_book(), **key_of(context)), card.name, run_id=context.run.run_id)
        facts: dict[str, Any] = {"status": made.record.status, "reason": made.record.reason or None}
        if made.record.ok:
            info = made.version.info
            facts |= {"dagster/row_count": info["rows"], "replicates": info["replicates"]}
            facts |= {f"redrawn/{name}": count for name, count in info["counts"].items()}
            facts |= _fairness_metadata(info.get("fairness", []))
            facts["dagster/column_schema"] = column_schema(read_schema(store.tables.path(made.version, "schema.json")))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.version.sha256),
            metadata=plain(facts),
            check_results=[generated(made.record)],
        )

    return synthetic
