"""Commands around a release: review it, decide about it, publish it, take it back, hand it out.

Decisions go to the journal, with the name that is given and the operating system's user; publishing goes through the
asset graph, so that the UI shows it. What is allowed when is in `pipeline/workflow/`.
"""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.arguments import Json, evaluated_month, home_here
from assets.cli.display import next_steps, print_json, say, show
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.releasing import ReleaseState

MONTH = "month as YYYY-MM; default the newest that was evaluated"
Cohort = Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")]
Month = Annotated[str | None, typer.Option(help=MONTH)]
Name = Annotated[str, typer.Option("--as", help="Your name, as it stands under the decision.")]
Role = Annotated[str, typer.Option(help="The role you decide in, one of the cohort's file.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the journal, no patient data.")]
Seal = Annotated[str, typer.Option(help="First digits of the seal you reviewed; refused if another one stands.")]
SEAL_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    for command in (review, sign, reject, waive, release, withdraw, releases, export):
        app.command()(command)


def review(cohort: Cohort, month: Month = None, as_json: Json = False) -> None:
    """What would be released: candidate, settings, verdict rule by rule, privacy spent, who signed and who must."""
    from pipeline.workflow.releasing import release_state

    lake, cell = _cell(cohort, month)
    state = release_state(lake, cell)
    if as_json:
        print_json(_as_dict(cell, state))
        return
    _show_state(lake, cell, state)
    next_steps(_next(cell, state))


def sign(
    cohort: Cohort,
    name: Name,
    role: Role,
    month: Month = None,
    seal: Seal = "",
    comment: Annotated[str, typer.Option(help="Goes with the signature.")] = "",
) -> None:
    """Sign the candidate as it stands."""
    from pipeline.workflow.deciding import sign

    lake, cell = _cell(cohort, month)
    state = sign(lake, cell, role=role, name=name, seal=seal, comment=comment)
    say(f"Signed: {name} as {role}, seal {state.seal[:SEAL_SHOWN]}.")
    next_steps(_next(cell, state))


def reject(cohort: Cohort, name: Name, role: Role, reason: Reason, month: Month = None, seal: Seal = "") -> None:
    """Object to the candidate: it is not published until the same role signs it."""
    from pipeline.workflow.deciding import reject

    lake, cell = _cell(cohort, month)
    state = reject(lake, cell, role=role, name=name, reason=reason, seal=seal)
    say(f"Rejected: {name} as {role}, seal {state.seal[:SEAL_SHOWN]}.")


def waive(
    cohort: Cohort,
    rule: Annotated[str, typer.Argument(help="Rule of the verdict; see `cohortloom review`.")],
    until: Annotated[dt.datetime, typer.Option(formats=["%Y-%m-%d"], help="Last day on which it may be missed, UTC.")],
    name: Name,
    role: Role,
    reason: Reason,
    month: Month = None,
    seal: Seal = "",
) -> None:
    """Let the candidate miss one rule of its gate until a day. Copies of real rows can never be waived."""
    from pipeline.workflow.deciding import waive

    lake, cell = _cell(cohort, month)
    state = waive(lake, cell, rule, until=until.date(), role=role, name=name, reason=reason, seal=seal)
    say(f"Waived: {rule} until {until:%Y-%m-%d}, by {name} as {role}, seal {state.seal[:SEAL_SHOWN]}.")
    next_steps(_next(cell, state))


def release(cohort: Cohort, month: Month = None) -> None:
    """Publish the candidate, if it has passed its gate and everybody has signed who must."""
    from assets.instance import prepare_dagster_home

    lake, cell = _cell(cohort, month)
    prepare_dagster_home(lake.home)
    from assets.run import publish
    from pipeline.workflow.releasing import release_state

    outcome = publish(cohort, cell.month)
    where = f"{cohort} {cell.month[:7]}"
    if not outcome.success:
        raise ConfigError(f"Nothing was published. {outcome.reason}".strip(), where=where)
    state = release_state(lake, cell)
    if state.version is None or state.standing != "published":
        raise ConfigError(f"Not published: {_why(state)}", where=where, todo=f"See `{_command('review', cell)}`.")
    say(f"Published: {state.release_id}, {state.version.info['rows']:,} rows.")
    card = lake.tables.path(state.version, "card.md")
    next_steps([f"the card: {card}", f"cohortloom export {state.release_id} FOLDER"])


def withdraw(
    release_id: Annotated[str, typer.Argument(metavar="RELEASE", help="See `cohortloom releases`.")],
    reason: Reason,
    name: Name,
) -> None:
    """Take a release back: its files are removed and it can no longer be exported. Copies outside stay where they are."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.releasing import withdraw
    from pipeline.workflow.report_index import publish_index

    lake = Lake(home_here())
    row = withdraw(lake, release_id, reason, name)
    publish_index(lake, load_book())
    say(f"Withdrawn: {row.release_id} ({row.why}). Its files are gone; tell those who have copies.")
    next_steps([f"a new release needs new signatures: cohortloom review {row.cohort} --month {row.month[:7]}"])


def releases(
    cohort: Annotated[str | None, typer.Argument(help="Only this cohort.")] = None, as_json: Json = False
) -> None:
    """All releases that ever were, and what became of them."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.releasing import releases

    if cohort is not None:
        load_book().cohort(cohort)
    rows = [
        {
            "release": r.release_id,
            "generator": r.generator,
            "state": r.state,
            "published": r.published_at[:16].replace("T", " "),
            "rows": r.rows,
            "sha256": r.sha256 if as_json else r.sha256[:SEAL_SHOWN],
            "note": r.why,
        }
        for r in releases(Lake(home_here()))
        if cohort in (None, r.cohort)
    ]
    show(rows, title="Releases", as_json=as_json, empty="Nothing was released yet: cohortloom review COHORT.")


def export(
    release_id: Annotated[str, typer.Argument(metavar="RELEASE", help="See `cohortloom releases`.")],
    folder: Annotated[Path, typer.Argument(help="Folder for its files; new or empty.")],
    meds: Annotated[
        bool, typer.Option("--meds", help="Write its visits as a MEDS 0.4 dataset instead of copying its files.")
    ] = False,
) -> None:
    """Copy a release into a folder, after checking its files against their checksums."""
    from pipeline.store.lake import Lake
    from pipeline.workflow.releasing import export

    if meds:
        from pipeline.workflow.compute import Compute
        from pipeline.workflow.released import export_visits

        written = export_visits(Lake(home_here()), release_id, folder, Compute.from_environment())
        say(f"Exported {release_id}: {written.events:,} events of {written.subjects:,} made-up people.")
        next_steps([f"a dataset of MEDS 0.4: {folder}/data, {folder}/metadata"])
        return
    files = export(Lake(home_here()), release_id, folder)
    say(f"Exported {release_id}: {len(files)} files.")
    next_steps([*(str(file) for file in files), f"to check them later: cd {folder} && sha256sum --check SHA256SUMS"])


def _cell(cohort: str, month: str | None) -> "tuple[Lake, Cell]":
    """The lake and the cell; the month is by default the newest that has a leaderboard."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell

    book = load_book()
    book.cohort(cohort)
    lake = Lake(home_here())
    return lake, Cell.of(book, cohort, evaluated_month(lake, cohort, month))


def _show_state(lake: "Lake", cell: "Cell", state: "ReleaseState") -> None:
    from pipeline.release.cards import rules_table

    facts = _facts(lake, cell, state)
    show(
        [{"what": k, "value": v} for k, v in facts.items()],
        title=f"Release of {cell.cohort}, {cell.month[:7]}",
        as_json=False,
        empty="",
    )
    if state.verdict is not None:
        rules = rules_table(state.verdict.rules, state.waivers)
        say("")
        show(rules, title=f"Verdict: {state.verdict.status}", as_json=False, empty="")
    known = {r.words for r in state.verdict.rules} if state.verdict is not None else set()
    for reason in state.reasons:
        if reason not in known:
            say(f"kept back: {reason}")


def _facts(lake: "Lake", cell: "Cell", state: "ReleaseState") -> dict[str, str]:
    """What a reviewer must know, a line each; lines with nothing to say are left out."""
    report = lake.reports.current(f"evaluation/{state.generator}", cell.partition) if state.generator else None
    candidate, ledger = state.candidate, state.ledger
    settings = ", ".join(f"{k}={v}" for k, v in sorted(candidate.settings.items())) if candidate else ""
    signed = [f"{s.name} as {s.role}, {s.at[:10]}{f' ({s.words})' if s.words else ''}" for s in state.signatures]
    asked = "the gate alone" if cell.spec.release.mode == "auto" else ", ".join(cell.spec.release.roles)
    facts = {
        "state": state.state.replace("_", " "),
        "note": state.waiting,
        "release": state.release_id,
        "candidate": f"{state.generator}, replicate 0, {candidate.rows:,} rows" if candidate else state.generator,
        "settings": settings or ("the defaults" if candidate else ""),
        "changed in the launchpad": ", ".join(f"{k}={v}" for k, v in sorted(state.overrides.items())),
        "privacy": f"this model: {_loss(ledger.model)}; all of the cohort: {ledger.cohort}"
        + (f", of epsilon {ledger.budget.epsilon:g}, delta {ledger.budget.delta:g}" if ledger.budget else "")
        if candidate
        else "",
        "released by": asked,
        "signed": "; ".join(signed),
        "still to sign": ", ".join(state.lacking_roles),
        "rejected": "; ".join(f"{r.name} as {r.role}: {r.words}" for r in state.rejections),
        "waivers": "; ".join(f"{w.rule} until {w.until}, {w.name}: {w.words}" for w in state.waivers),
        "run out": "; ".join(f"waiver of {w.rule}, on {w.until}" for w in state.lapsed),
        "report": str(lake.reports.path(report, "report.html")) if report is not None else "",
        "seal": state.seal,
    }
    return {name: words for name, words in facts.items() if words}


def _loss(spent: Any) -> str:
    if not spent:
        return "not in the ledger"
    if spent["epsilon"] == "inf":
        return "epsilon infinite (not private)"
    return f"epsilon {spent['epsilon']:g}, delta {spent['delta']:g}"


def _next(cell: "Cell", state: "ReleaseState") -> list[str]:
    """What to type next."""
    seal = f"--seal {state.seal[:SEAL_SHOWN]}"
    if state.standing == "passed":
        return [_command("release", cell)]
    if state.standing in ("awaiting_signature", "rejected"):
        roles = state.lacking_roles or [r.role for r in state.rejections]
        lines = [f"{_command('sign', cell)} --as NAME --role {role} {seal}" for role in roles]
        return [*lines, f'{_command("reject", cell)} --as NAME --role ROLE --reason "..."']
    if state.standing == "withheld" and state.candidate is not None:
        return _waivable(cell, state)
    if state.standing == "published":
        return [f"cohortloom export {state.release_id} FOLDER"]
    return [f"cohortloom run {cell.cohort} --month {cell.month[:7]}"] if state.generator else []


def _waivable(cell: "Cell", state: "ReleaseState") -> list[str]:
    from pipeline.release.signoff import NEVER_WAIVED, failing

    if state.verdict is None or state.candidate is None or state.candidate.obstacles:
        return [f"cohortloom run {cell.cohort} --month {cell.month[:7]}"]
    waived = {w.rule for w in state.waivers}
    rules = [r.name for r in failing(state.verdict) if r.name not in waived]
    if set(rules) & set(NEVER_WAIVED):
        return [f"cannot be waived: {', '.join(sorted(set(rules) & set(NEVER_WAIVED)))}"]
    command = f"cohortloom waive {cell.cohort} RULE --month {cell.month[:7]}"
    return [f'{command} --until YYYY-MM-DD --as NAME --role ROLE --reason "..."   (RULE: {", ".join(rules)})']


def _why(state: "ReleaseState") -> str:
    """In one sentence, what keeps the candidate back."""
    if state.standing == "awaiting_signature":
        return f"it waits for the signature of {', '.join(state.lacking_roles) or 'a role that the file must name'}."
    more = f" (and {len(state.reasons) - 1} more)" if len(state.reasons) > 1 else ""
    return f"{state.reasons[0].rstrip('.')}{more}." if state.reasons else f"it is {state.standing}."


def _command(name: str, cell: "Cell") -> str:
    return f"cohortloom {name} {cell.cohort} --month {cell.month[:7]}"


def _as_dict(cell: "Cell", state: "ReleaseState") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "cohort": cell.cohort,
        "month": cell.month[:7],
        "state": state.state,
        "standing": state.standing,
        "seal": state.seal,
        "generator": state.generator,
        "settings": state.candidate.settings if state.candidate else {},
        "overrides": dict(state.overrides),
        "reasons": state.reasons,
        "verdict": state.verdict.to_dict() if state.verdict else None,
        "waivers": [asdict(w) for w in state.waivers],
        "signatures": [asdict(s) for s in state.signatures],
        "rejections": [asdict(r) for r in state.rejections],
        "lacking_roles": state.lacking_roles,
        "release": state.release_id or None,
        "privacy": {"model": dict(state.ledger.model), "cohort": state.ledger.cohort.to_json()},
        "note": state.waiting,
    }
