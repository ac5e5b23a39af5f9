"""Command `ledger`, for privacy officers: what each training cost, what is spent and what remains."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.arguments import Json, home_here, month_start
from assets.cli.display import next_steps, print_json, say, show
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.privacy.composition import Loss
    from pipeline.privacy.ledger import Spend
    from pipeline.privacy.spec import PrivacySpec
    from pipeline.store.lake import Lake

DIGITS = 12
"""Of a training's identity that are shown; as many of it name it for --abort."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(ledger)


def ledger(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    month: Annotated[str | None, typer.Option(help="Only up to this month, as YYYY-MM; default all.")] = None,
    abort: Annotated[
        str | None, typer.Option("--abort", metavar="TRAINING", help="Let go of what a dead run holds; needs --reason.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is aborted; kept in the journal, no patient data.")] = None,
    as_json: Json = False,
) -> None:
    """What the trainings of a cohort cost in privacy: spent, held, and what remains of the budget."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake

    budget = load_book().cohort(cohort).privacy.budget
    lake = Lake(home_here())
    if abort is not None:
        _abort(lake, cohort, abort, reason or "")
    elif reason is not None:
        raise ConfigError(
            "--reason belongs to --abort.", todo=f"cohortloom ledger {cohort} --abort TRAINING --reason TEXT"
        )
    _show(lake, cohort, month_start(month) if month else None, budget, as_json=as_json)


def _abort(lake: "Lake", cohort: str, training: str, reason: str) -> None:
    from pipeline.workflow.housekeeping import operator
    from pipeline.workflow.ledger import abort_by_hand

    spend = abort_by_hand(lake, cohort, training, reason, by=operator())
    who = f"{spend.training.generator}, {spend.training.month[:7]}"
    say(f"Aborted: training {spend.training.identity[:DIGITS]} ({who}) holds nothing any more.")


def _show(lake: "Lake", cohort: str, month: str | None, budget: "PrivacySpec | None", *, as_json: bool) -> None:
    from pipeline.privacy.composition import compose
    from pipeline.privacy.ledger import Ledger
    from pipeline.workflow.ledger import ledger_rows

    known = Ledger(lake.journal, cohort)
    spends, everything = known.spends(month), known.total()
    rows, total = ledger_rows(spends), compose(spend.loss for spend in spends)
    if as_json:
        limit = None if budget is None else {"epsilon": budget.epsilon, "delta": budget.delta}
        facts = {"cohort": cohort, "until": month, "budget": limit, "total": total.to_json()}
        print_json({**facts, "remaining": _remaining(everything, budget), "trainings": [_plain(row) for row in rows]})
        return
    title = f"Privacy ledger of {cohort}" + (f" up to {month[:7]}" if month else "")
    show(_table(rows), title=title, as_json=False, empty=f"No training of '{cohort}' has been entered yet.")
    for line in [*_spent(spends, total, month), *_left(everything, budget)]:
        say(line)
    opened = [spend for spend in spends if spend.state == "open"]
    if opened:
        next_steps(_next(cohort, opened[0]))


def _table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows for people: several models of one training and reasons only where there are any."""
    shown = [
        {
            "training": row["training"][:DIGITS],
            "month": row["month"][:7],
            "generator": row["generator"],
            "state": row["state"],
            "replicates": row["replicates"],
            "models": row["models"],
            "epsilon": _number(row["epsilon"]),
            "delta": _number(row["delta"]),
            "epsilon in all": _number(row["cumulative_epsilon"]),
            "delta in all": _number(row["cumulative_delta"]),
            "reason": row["reason"],
        }
        for row in rows
    ]
    idle = [name for name in ("reason",) if not any(row[name] for row in shown)]
    idle += ["models"] if all(row["models"] == (row["state"] != "aborted") for row in shown) else []
    return [{name: value for name, value in row.items() if name not in idle} for row in shown]


def _spent(spends: "Sequence[Spend]", total: "Loss", month: str | None) -> list[str]:
    """What is spent and held, in sentences."""
    counted = [spend for spend in spends if spend.models]
    infinite = sum(not spend.loss.finite for spend in counted)
    opened = sum(spend.state == "open" for spend in spends)
    spent = f"Spent up to {month[:7]}" if month else "Spent"
    trainings = "1 training" if len(counted) == 1 else f"{len(counted)} trainings"
    lines = []
    if infinite:
        lines.append(
            f"{spent}: infinite. {infinite} of {trainings} not private, so there is no guarantee of differential "
            "privacy; what was measured of each cohort (the gate) is all there is."
        )
    elif counted:
        lines.append(f"{spent}: {total}, over {trainings}, as if the same people were in every month.")
    if opened:
        lines.append(f"Open: {opened}, counted until the same training is run again or aborted.")
    return lines


def _left(total: "Loss", budget: "PrivacySpec | None") -> list[str]:
    """What may be spent over all months and what remains of it, in sentences."""
    if budget is None:
        return ["Budget: none; nothing is refused (`privacy: budget:` in the cohort's file sets one)."]
    left = _remaining(total, budget)
    lines = [f"Budget over all months: epsilon {budget.epsilon:g}, delta {budget.delta:g}."]
    if not total.within(budget):
        lines.append("Remains: nothing. The budget is passed; every further training is refused.")
    elif left is not None:
        lines.append(f"Remains: epsilon {left['epsilon']:g}, delta {left['delta']:g}.")
    return lines


def _remaining(total: "Loss", budget: "PrivacySpec | None") -> dict[str, float] | None:
    """What may still be spent, never below 0; None without a budget."""
    if budget is None:
        return None
    left = {"epsilon": budget.epsilon - total.epsilon, "delta": budget.delta - total.delta}
    # Differences of floats leave dust (0.3 - 0.2 is not 0.1); more digits than these nobody means.
    return {name: max(0.0, float(f"{value:.12g}")) for name, value in left.items()}


def _next(cohort: str, opened: "Spend") -> list[str]:
    training = opened.training
    return [
        f"run it again:   cohortloom run {cohort} --month {training.month[:7]} --from model",
        f"or abort it:    cohortloom ledger {cohort} --abort {training.identity[:DIGITS]} --reason TEXT",
    ]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for programs: infinity, which JSON has no word for, as text."""
    return {name: "inf" if value == float("inf") else value for name, value in row.items()}


def _number(value: float) -> float | str:
    return "infinite" if value == float("inf") else value
