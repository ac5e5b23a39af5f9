"""`tuning/<generator>`: settings searched on the tuning part of the training rows. Partition: cohort x month.

A branch of its own that no other job holds: it is materialised when somebody asks for it (job `tune`, `cohortloom
tune`), and `model/<generator>` takes the best settings only where the cohort's file says so. A tuning that is killed
goes on when it is materialised again. What happens is in `pipeline/workflow/tuning.py`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import dagster as dg
from pydantic import Field

from assets.generation import GROUP, OWNERS, generated, generated_check
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
    from pipeline.tuning.study import Trial
    from pipeline.workflow.tuning import Tuning

SAID = "trial "
"""Beginning of the log lines that tell of one trial; the command line prints them."""
SHOWN_TRIALS = 12


class TuningLaunchpad(dg.Config):
    """How to search, for this run only; what is left empty is as the cohort's file says."""

    trials: Optional[int] = Field(default=None, description="Trials that the study shall have (default 40).")  # noqa: UP045
    sampler: Optional[str] = Field(default=None, description="tpe or gp.")  # noqa: UP045
    only: Optional[list[str]] = Field(default=None, description="Search these settings alone.")  # noqa: UP045
    grid: Optional[str] = Field(default=None, description="Study whose points are tried instead of a search.")  # noqa: UP045
    minutes: Optional[float] = Field(default=None, description="After so many no trial is begun.")  # noqa: UP045


def tuning_keys(cards: Mapping[str, Card]) -> list[dg.AssetKey]:
    """The assets of all generators that have something to tune."""
    return [dg.AssetKey(["tuning", card.name]) for card in cards.values() if card.tunes]


def build_tuning(cells: dg.MultiPartitionsDefinition, cards: Mapping[str, Card]) -> list[dg.AssetsDefinition]:
    """`tuning/<g>` for every card that has something to tune."""
    return [_tuning(cells, card) for card in cards.values() if card.tunes]


def _tuning(cells: dg.MultiPartitionsDefinition, card: Card) -> dg.AssetsDefinition:
    @dg.asset(
        key=["tuning", card.name],
        deps=one_to_one(["features"]),
        partitions_def=cells,
        group_name=GROUP,
        kinds={"optuna", "parquet"},
        owners=OWNERS,
        tags={"generator": card.name, "phi": "false"},
        description=f"One study a cohort and month: settings of `{card.name}` tried on the training rows and scored on "
        "their tuning part. Searched: " + ", ".join(card.tunes) + ".",
        code_version=card.code_version,
        pool=GPU_POOL if card.uses_gpu and has_gpu(Compute.from_environment().device) else None,
        check_specs=[generated_check(f"tuning/{card.name}", cells)],
    )
    @guarded
    def tuning(
        context: dg.AssetExecutionContext, config: TuningLaunchpad, lake: LakeResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        from pipeline.workflow.cell import Cell
        from pipeline.workflow.tuning import tune_step

        asked = {k: v for k, v in config.model_dump().items() if v is not None}
        minutes = asked.pop("minutes", None)
        tuned = tune_step(
            lake.open(),
            Cell.of(load_book(), **key_of(context)),
            card.name,
            compute.bound(),
            overrides=asked,
            minutes=minutes,
            run_id=context.run.run_id,
            told=lambda trial, wanted, best: context.log.info(_line(trial, wanted, best)),
        )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(tuned.version.sha256),
            metadata=plain({"status": tuned.record.status, "reason": tuned.record.reason or None, **_metadata(tuned)}),
            check_results=[generated(tuned.record)],
        )

    return tuning


def _line(trial: "Trial", wanted: int, best: "Trial | None") -> str:
    value = trial.state if trial.value is None else f"{trial.value:.4f}"
    name = f" ({trial.name})" if trial.name else ""
    so_far = f"; best {best.value:.4f}, trial {best.number + 1}" if best is not None else ""
    return f"{SAID}{trial.number + 1} of {wanted}{name}: {value}{so_far}"


def _metadata(tuned: "Tuning") -> dict[str, Any]:
    """Numbers, settings and pictures of a tuning; empty if it gave none."""
    from pipeline.workflow.sketch import bar_chart, line_chart

    best, info = tuned.best, tuned.version.info
    if best is None:
        return {}
    complete = [t for t in tuned.trials if t.value is not None]
    running = [min(t.value for t in complete[: k + 1] if t.value is not None) for k in range(len(complete))]
    curves = {
        "trial": [(float(t.number), float(t.value)) for t in complete if t.value is not None],
        "best so far": [(float(t.number), value) for t, value in zip(complete, running, strict=True)],
    }
    facts: dict[str, Any] = {
        "trials": len(tuned.trials),
        **{f"trials/{state}": count for state, count in info["trials"].items()},
        "best_value": best.value,
        "start_value": info["start"],
        "floor_value": info["floor"],
        "best_settings": dg.MetadataValue.json(best.settings),
        "search": dg.MetadataValue.json(info["search"]),
        "best_trials": markdown_table(best_rows(tuned.trials)),
        "history": picture(line_chart(curves, title="value by trial", x="trial"), words="value by trial"),
    }
    if info["importance"]:
        chart = bar_chart(by_share(info["importance"]), title="share of the value that each setting explains")
        facts["importance"] = picture(chart, words="importance of the settings")
    return facts


def by_share(importance: Mapping[str, float]) -> dict[str, float]:
    """What matters most first: a version keeps its numbers by name."""
    return dict(sorted(importance.items(), key=lambda share: (-share[1], share[0])))


def best_rows(trials: "list[Trial]", most: int = SHOWN_TRIALS) -> list[dict[str, Any]]:
    """The best trials as rows to show, best first; of those that gave no value only how many."""
    ranked = sorted((t for t in trials if t.value is not None), key=lambda t: (t.value, t.number))
    return [
        {
            "trial": t.number + 1,
            "value": t.value,
            "jsd": t.jsd,
            "association": t.association,
            "settings": t.name or ", ".join(f"{k}={_short(v)}" for k, v in t.settings.items()),
        }
        for t in ranked[:most]
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
