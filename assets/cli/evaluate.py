"""`cohortloom evaluate`: any two or three files judged, without Dagster, without a home, without a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets.cli.display import board, next_steps, print_json, say, show
from assets.cli.tables import Encoding, make_folder

if TYPE_CHECKING:
    from pipeline.evaluation.files import PlanFile


MOST_RULES = 12


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(evaluate)


def evaluate(
    train: Annotated[Path, typer.Option(help="The real rows that the generator was trained on.")],
    synthetic: Annotated[list[Path], typer.Option(help="Synthetic rows; repeat for several replicates.")],
    out: Annotated[Path, typer.Option(help="Folder for the reports and metrics.csv.")],
    holdout: Annotated[
        Path | None, typer.Option(help="Real rows that it never saw; without them privacy cannot be judged.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="YAML with tasks, protected, evaluation (analyses, rules, secrets ...) and gate, as in a cohort."
        ),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Binary column to predict; repeat for more tasks.")] = None,
    leak: Annotated[list[str] | None, typer.Option(help="Column that gives the label away; repeat for more.")] = None,
    protected: Annotated[list[str] | None, typer.Option(help="Column that names groups; repeat for more.")] = None,
    known: Annotated[
        list[str] | None, typer.Option(help="Column that an attacker knows of a target; repeat for more.")
    ] = None,
    secret: Annotated[
        list[str] | None, typer.Option(help="Column whose inference is judged; repeat for more; default all not known.")
    ] = None,
    schema: Annotated[
        Path | None, typer.Option(help="TableSchema JSON; inferred from the training rows if left out.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="Column that identifies the subject; a row is a subject if left out.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Column to leave out; repeat for more.")] = None,
    encoding: Encoding = None,
    profile: Annotated[str | None, typer.Option(help="quick, standard (the default) or full.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the evaluation's own draws; default 0.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Judge a synthetic table against real rows; writes self-contained HTML reports, one of them fit to be published."""
    from pipeline.evaluation.files import PlanFile, evaluate_files, read_plan
    from pipeline.evaluation.results import stored_fields

    asked = _with_options(
        read_plan(plan) if plan is not None else PlanFile(), label, leak, protected, known, secret, profile, seed
    )
    make_folder(out)
    judged = evaluate_files(
        train=train,
        holdout=holdout,
        synthetic=synthetic,
        out=out,
        asked=asked,
        schema_file=schema,
        subject=subject,
        drop=drop or [],
        encoding=encoding,
    )
    if as_json:
        heads = [r for r in judged.results if r.scope in ("table", "task") and r.replicate == -1]
        print_json([{name: getattr(r, name) for name in stored_fields()} for r in heads])
    else:
        show(
            board(judged.columns, judged.cells),
            title="Synthetic table and reference rows",
            as_json=False,
            empty="No metric could be computed.",
        )
    for note in judged.notes:
        say(note)
    say(f"Verdict: {judged.verdict.status}.")
    open_rules = [r for s in ("fail", "underpowered", "warn") for r in judged.verdict.rules if r.status == s]
    for rule in open_rules[:MOST_RULES]:
        say(f"  {rule.status}: {rule.words}")
    if len(open_rules) > MOST_RULES:
        say(f"  and {len(open_rules) - MOST_RULES} more, in the report.")
    next_steps(
        [
            f"report: {judged.report}",
            f"report without anything that must stay inside: {judged.public_report}",
            f"all metrics: {judged.metrics}",
        ]
    )


def _with_options(
    asked: "PlanFile",
    label: list[str] | None,
    leak: list[str] | None,
    protected: list[str] | None,
    known: list[str] | None,
    secret: list[str] | None,
    profile: str | None,
    seed: int | None,
) -> "PlanFile":
    """The plan with what the command's options say, which win over the file."""
    from pipeline.errors import ConfigError, nearest
    from pipeline.evaluation.context import PROFILES
    from pipeline.features.evaluation_spec import TaskSpec

    if profile is not None and profile not in PROFILES:
        raise ConfigError(f"There is no profile '{profile}'.", todo=nearest(profile, list(PROFILES)))
    evaluation = {"known": known, "secrets": secret, "profile": profile, "seed": seed}
    given = {name: value for name, value in evaluation.items() if value is not None}
    tasks = [TaskSpec(name=name, label=name, leak=list(leak or [])) for name in label or []]
    changed = {"tasks": tasks or asked.tasks, "protected": protected or asked.protected}
    return asked.model_copy(update={**changed, "evaluation": asked.evaluation.model_copy(update=given)})
