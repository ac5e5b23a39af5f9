"""`sweep/<generator>`: every figure of the evaluation against epsilon, for generators that train privately. Partition:
cohort x month.

A branch of its own that no other job holds: it spends privacy budget, so it is materialised when somebody asks for it
(job `epsilon_sweep`, `cohortloom sweep`). What happens is in `pipeline/workflow/sweep.py`.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.evaluation import GROUP, OWNERS
from assets.generation import generated, generated_check
from assets.guard import guarded
from assets.instance import GPU_POOL
from assets.partitions import key_of, one_to_one
from assets.reporting import markdown_table, picture, plain
from pipeline.features.spec import load_book
from pipeline.workflow.cards import Card
from pipeline.workflow.compute import Compute, has_gpu
from resources.compute import ComputeResource
from resources.lake import LakeResource

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.workflow.sweep import Point, Swept

SAID = "epsilon "
"""Beginning of the log lines that tell of one point; the command line prints them."""
SHOWN = {
    "fid.joint.detect_auc": "detection AUC",
    "fid.dep.corr_rmse": "correlation RMSE",
    "fid.marg.jsd": "JSD of columns",
    "priv.mia.max_auc": "membership AUC",
}


class SweepLaunchpad(dg.Config):
    """Which epsilons, for this run only."""

    epsilons: list[str] = Field(
        default=["1", "2", "5", "10", "20", "inf"], description="Above 0; inf trains without privacy."
    )
    seeds: int = Field(default=5, description="Trainings an epsilon; each is charged to the ledger.")


def sweep_keys(cards: Mapping[str, Card]) -> list[dg.AssetKey]:
    """The assets of all generators that can train with differential privacy."""
    return [dg.AssetKey(["sweep", card.name]) for card in cards.values() if card.private]


def build_sweeps(cells: dg.MultiPartitionsDefinition, cards: Mapping[str, Card]) -> list[dg.AssetsDefinition]:
    """`sweep/<g>` for every card of a generator that can train with differential privacy."""
    return [_sweep(cells, card) for card in cards.values() if card.private]


def _sweep(cells: dg.MultiPartitionsDefinition, card: Card) -> dg.AssetsDefinition:
    @dg.asset(
        key=["sweep", card.name],
        deps=one_to_one(["features"], ["references"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"parquet", "html"},
        owners=OWNERS,
        tags={"generator": card.name, "phi": "false"},
        description=f"One row a metric and epsilon of what privacy costs with `{card.name}`: trained at several epsilons, every "
        "figure of the evaluation against each. Charged to the privacy ledger; a sweep that was stopped goes on.",
        code_version=card.code_version,
        pool=GPU_POOL if card.uses_gpu and has_gpu(Compute.from_environment().device) else None,
        check_specs=[generated_check(f"sweep/{card.name}", cells)],
    )
    @guarded
    def sweep(
        context: dg.AssetExecutionContext, config: SweepLaunchpad, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.sweep import sweep_step

        swept = sweep_step(
            lake.open(),
            Cell.of(load_book(), **key_of(context)),
            card.name,
            compute.bound(),
            epsilons=epsilons_of(config.epsilons),
            seeds=config.seeds,
            run_id=context.run.run_id,
            told=lambda point, done, wanted: context.log.info(_line(point, done, wanted)),
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(swept.version.sha256),
            metadata=plain({"status": swept.record.status, "reason": swept.record.reason or None, **_metadata(swept)}),
            check_results=[generated(swept.record)],
        )

    return sweep


def epsilons_of(texts: list[str]) -> list[float]:
    """Epsilons as numbers; `inf` is infinite.

    Raises:
        ConfigError: one is no number.
    """
    from pipeline.errors import ConfigError

    try:
        return [float(text) for text in texts]
    except ValueError:
        raise ConfigError("An epsilon is no number.", todo="For example 1, 2.5, 10, inf.") from None


def _line(point: "Point", done: int, wanted: int) -> str:
    how = "kept from before" if point.kept else "done" if point.record.ok else point.record.reason
    return f"{SAID}{point.epsilon:g} ({done} of {wanted}): {how}"


def rows_of(table: "pa.Table", info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an epsilon of a stored sweep with the figures that people ask for first, each the mean over the seeds.

    All rows have the same columns; None where an epsilon gave no such figure.

    Args:
        table: What `sweep_table` made.
        info: Of the version: which epsilons gave nothing, and why.
    """
    rows: dict[float, dict[str, Any]] = {}
    for line in table.select(["metric", "key1", "key2", "replicate", "value", "epsilon"]).to_pylist():
        row = rows.setdefault(line["epsilon"], {"epsilon": f"{line['epsilon']:g}"})
        if line["replicate"] == -1 and not line["key2"]:
            if line["metric"] in SHOWN and not line["key1"]:
                row[SHOWN[line["metric"]]] = line["value"]
            elif line["metric"] == "util.tstr_auroc":
                row[f"TSTR AUC {line['key1']}"] = line["value"]
    failed = {
        float(key): {"epsilon": f"{float(key):g}", "gave nothing": reason} for key, reason in info["failed"].items()
    }
    found = [row for _, row in sorted({**rows, **failed}.items())]
    names = dict.fromkeys(name for row in [*rows.values(), *failed.values()] for name in row)
    return [{name: row.get(name) for name in names} for row in found]


def _metadata(swept: "Swept") -> dict[str, Any]:
    """The table of headlines, their curves, and where the page lies; empty if no epsilon gave figures."""
    from pipeline.workflow.sketch import line_chart
    from pipeline.workflow.sweep import sweep_table

    if swept.page is None:
        return {}
    rows = rows_of(sweep_table([p for p in swept.points if p.record.ok]), swept.version.info)
    finite = [float(row["epsilon"]) for row in rows if math.isfinite(float(row["epsilon"]))]
    beyond = 2 * max(finite, default=1.0)
    curves = {
        title: [(min(float(r["epsilon"]), beyond), float(r[title])) for r in rows if r.get(title) is not None]
        for title in SHOWN.values()
    }
    chart = line_chart(curves, title=f"against epsilon (the last point: none, drawn at {beyond:g})", x="epsilon")
    return {
        "page": dg.MetadataValue.path(str(swept.page)),
        "epsilons": len(swept.points),
        "points_kept": sum(point.kept for point in swept.points),
        "headlines": markdown_table(rows),
        "curves": picture(chart, words="headline figures against epsilon"),
    }
