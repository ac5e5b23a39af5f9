"""The command that searches a generator's settings: `cohortloom tune`. What it does is in `pipeline/workflow/tuning.py`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.arguments import Json, home_here, month_start
from assets.cli.display import next_steps, print_json, say, show, tell
from pipeline.errors import ConfigError, NotFoundError, nearest

if TYPE_CHECKING:
    from pipeline.features.spec import CohortSpec
    from pipeline.store.lake import Lake, Version
    from pipeline.tuning.study import Trial


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(tune)


def tune(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    generator: Annotated[str, typer.Option("--generator", "-g", help="Generator whose settings are searched.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Trials the study shall have; default 40.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe, or gp where few settings are searched (see --only).")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Search this setting alone; repeat for more.")] = None,
    grid: Annotated[Path | None, typer.Option(help="YAML file of a study whose points are tried instead.")] = None,
    month: Annotated[str | None, typer.Option(help="Month as YYYY-MM; default the newest with features.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Minutes after which no trial is begun.")] = None,
    as_json: Json = False,
) -> None:
    """Search the settings of a generator on the tuning part of a cohort's training rows.

    Given again, it goes on where it was stopped; with more --trials it adds to them.
    """
    from assets.instance import prepare_dagster_home

    home = home_here()
    prepare_dagster_home(home)
    from assets import run
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.tuned import TUNING

    Compute.from_environment().bind_memory()
    lake, spec = Lake(home), load_book().cohort(cohort)
    _check_generator(spec, generator)
    chosen = _month(lake, cohort, month)
    asked = {"trials": trials, "sampler": sampler, "only": only or None, "grid": _grid(grid), "minutes": timeout}
    say(f"Tuning {generator} on {cohort}, {chosen[:7]}. Stop it at will: what was tried is kept.")
    outcome = run.tune(cohort, chosen, generator, asked, on_event=say)
    if not outcome.success:
        raise ConfigError(outcome.reason or "The tuning failed.", where=f"{cohort} {chosen[:7]}")
    version = lake.tables.resolve(f"{TUNING}/{generator}", {"cohort": cohort, "month": chosen})
    if version.info["status"] != "ok":
        raise ConfigError(version.info["reason"], where=f"{cohort} {chosen[:7]}")
    found = _trials(lake, version)
    if as_json:
        print_json({"tuning": version.label, "sha256": version.sha256, **version.info, "rows": len(found)})
        return
    _show(version, found)
    next_steps(_next(spec, generator, chosen))


def _check_generator(spec: "CohortSpec", generator: str) -> None:
    """Raise where the cohort does not enable it, or there is nothing to tune."""
    from pipeline.workflow.cards import cards

    if generator not in spec.generators:
        raise ConfigError(
            f"Cohort '{spec.name}' does not enable '{generator}'.", todo=nearest(generator, list(spec.generators))
        )
    if not cards([generator])[generator].tunes:
        known = [name for name, card in cards(spec.generators).items() if card.tunes]
        raise ConfigError(
            f"'{generator}' has nothing to tune.", todo=f"Of this cohort's these have: {', '.join(known) or 'none'}."
        )


def _month(lake: "Lake", cohort: str, month: str | None) -> str:
    """The month asked for, or the newest, if it has features."""
    made = sorted(p["month"] for p in lake.tables.partitions("features") if p["cohort"] == cohort)
    chosen = month_start(month) if month else (made[-1] if made else "")
    if chosen not in made:
        when = f" for {chosen[:7]}" if chosen else ""
        raise NotFoundError(
            f"Cohort '{cohort}' has no features{when}.",
            todo=f"cohortloom run {cohort}" + (f" --month {chosen[:7]}" if chosen else ""),
        )
    return chosen


def _grid(path: Path | None) -> str | None:
    """A file here by its whole path, so that the run finds it; else the name of a study that ships."""
    return None if path is None else str(path.resolve()) if path.is_file() else str(path)


def _trials(lake: "Lake", version: "Version") -> "list[Trial]":
    """The stored trials."""
    import json

    from pipeline.tuning.study import Trial

    rows = lake.tables.read(version).to_pylist()
    return [Trial(**{**r, "settings": json.loads(r["settings"]), "facts": json.loads(r["facts"])}) for r in rows]


def _show(version: "Version", trials: "list[Trial]") -> None:
    from assets.tuning import best_rows, by_share

    info: dict[str, Any] = version.info
    counts = ", ".join(f"{number} {state}" for state, number in info["trials"].items() if number)
    show(best_rows(trials), title=f"Best of {len(trials)} trials ({counts})", as_json=False, empty="")
    if info["start"] is not None:
        tell(f"settings as they are: {info['start']:.4f}")
    tell(f"best: {info['best']['value']:.4f}")
    tell(f"the real rows that were learned from: {info['floor']:.4f} (no generator needs to be nearer)")
    if info["importance"]:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in list(by_share(info["importance"]).items())[:6])
        tell(f"what matters: {shares}")
    if len(trials) < info["wanted"]:
        tell(f"stopped after {len(trials)} of {info['wanted']} trials: the same command goes on")


def _next(spec: "CohortSpec", generator: str, month: str) -> list[str]:
    """How the best settings come into the models, and where they stand."""
    again = f"cohortloom run {spec.name} --month {month[:7]} --generator {generator} --from model"
    asked = spec.tuning.get(generator)
    if asked is not None and asked.used and asked.settings_from is None:
        steps = [f"{again}   (its models take them)"]
    else:
        steps = [
            f"use them: write `tuning: {{{generator}: {{}}}}` into {spec.folder / spec.name}.yaml, then",
            f"  {again}",
        ]
    return [*steps, f"all trials, plots: asset tuning/{generator} in the UI (`cohortloom ui`); docs/tuning.md"]
