"""Commands that operate the house: demo, ui, deliver, run. What shows its state is in `listing.py`."""

import datetime as dt
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets.cli.arguments import Json, home_here, month_start
from assets.cli.display import next_steps, print_json, say, show, tell
from assets.cli.listing import accounts_of, show_leaderboard
from pipeline.errors import ConfigError, NotFoundError, nearest

if TYPE_CHECKING:
    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

MOST_HINTS = 8
"""Columns about which `deliver` says something; `delivery` lists all."""
MONTH = "month as YYYY-MM; default the month of the newest delivery of the cohort's source"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    for command in (demo, ui, deliver, run):
        app.command()(command)


def demo(
    patients: Annotated[
        int | None,
        typer.Option(min=60, help="Patients a delivery; there are three. Default as many as the gate needs."),
    ] = None,
) -> None:
    """Run the whole pipeline on made-up patients: three FHIR deliveries, four generators, a judged leaderboard.

    One generator, the bootstrap, copies patients: the gate must catch it. The candidate waits for a signature.
    """
    from pipeline.demo.source import PATIENTS_A_DELIVERY, write_demo_deliveries

    home = home_here()
    say(f"Demo in {home.root}: three deliveries of made-up patients.")
    for delivery in write_demo_deliveries(home, patients=patients or PATIENTS_A_DELIVERY):
        say(f"{_ingest(home, delivery).sentence()}.")
    _run_cohort("demo", month=None, generator=None, start_from=None, new_split=False, as_json=False)
    next_steps(["open the UI:   make ui   (or `cohortloom ui`), then http://127.0.0.1:3000"])


def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000,
) -> None:
    """Open the Dagster UI on 127.0.0.1. It has no login: never bind it to another address."""
    from assets.instance import close_dead_runs, open_instance

    home = home_here()
    with open_instance(home) as instance:
        # What was lost when the last UI was killed: its daemon tries it again.
        close_dead_runs(instance, of_ui=True)
    say(f"Dagster UI on http://127.0.0.1:{port} for {home.root} (Ctrl-C stops it).")
    dagster = Path(sys.executable).with_name("dagster")
    command = [str(dagster), "dev", "--module-name", "assets.definitions", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(dagster, command)


def deliver(
    source: Annotated[str, typer.Argument(help="Source in sources.yaml.")],
    path: Annotated[Path, typer.Argument(help="File or folder to hand over.")],
    as_of: Annotated[
        dt.datetime | None, typer.Option("--as", formats=["%Y-%m-%d"], help="Date of the delivery; default today.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the delivery; default its date.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the delivery of that name, and take it in again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hand over a delivery and ingest it. The same once more: nothing to do. Others of its name: --replace."""
    from pipeline.features.spec import load_book
    from pipeline.ingest.delivery import hand_over
    from pipeline.store.lake import Lake
    from pipeline.workflow.deliveries import taken_in
    from pipeline.workflow.erasures import come_back

    load_book().source(source)
    home = home_here()
    day = as_of.date() if as_of else None
    if replace:
        delivery = _replace(home, source, path, day, name)
    else:
        delivery = hand_over(home, source, path, as_of=day, name=name)
        if taken_in(Lake(home), delivery, load_book().source(source)):
            _say_nothing_to_do(home, delivery, as_json=as_json)
            return
        say(f"Handed over as {delivery.key}, as of {delivery.as_of}.")
    if delivery.as_of > dt.datetime.now(dt.UTC).date():
        say("warning: that day is still to come: the delivery counts from its month on, and hides earlier ones then.")
    account = _ingest(home, delivery)
    if as_json:
        print_json({"delivery": delivery.key, "as_of": str(delivery.as_of), **account.to_dict()})
    else:
        _show_account(account)
        _show_doubts(Lake(home), delivery.key)
    asked = [c.name for c in load_book().cohorts.values() if c.source == source and c.enabled]
    steps = [f"cohortloom run {cohort} --month {month}" for month in _first_month(delivery) for cohort in asked]
    steps += _say_stale(home, asked)
    if delivery.key in come_back(Lake(home), load_book().source(source)):
        say("warning: this delivery holds somebody who was erased from the source; erase the person again.")
    if account.quarantined:
        steps.append(f"cohortloom quarantine {delivery.key}")
    next_steps([*steps, f"cohortloom delivery {delivery.key}   (the report)"])


def _first_month(delivery: "Delivery") -> list[str]:
    """The first month of the calendar that holds the delivery; none where that is still to come."""
    from assets.partitions import months

    return [month[:7] for month in months().get_partition_keys() if month[:7] >= f"{delivery.as_of:%Y-%m}"][:1]


def _replace(home: "Home", source: str, path: Path, day: dt.date | None, name: str | None) -> "Delivery":
    """Put it in the place of what stands there under its name, with an entry in the journal."""
    from pipeline.store.lake import Lake
    from pipeline.workflow.redelivering import replace

    replaced = replace(Lake(home), source, path, as_of=day, name=name)
    new, old = replaced.delivery, replaced.old
    if old is None:
        say(f"{new.key}, as of {new.as_of}: nothing else stands there; taking it in.")
    else:
        say(f"Replaced {new.key}, as of {new.as_of} (the old one was as of {old.as_of}); taking it in again.")
    return new


def _say_nothing_to_do(home: "Home", delivery: "Delivery", *, as_json: bool) -> None:
    account = accounts_of(home)[delivery.key]
    if as_json:
        print_json({"delivery": delivery.key, "as_of": str(delivery.as_of), **account.to_dict()})
    say(
        f"Nothing to do: {delivery.key}, as of {delivery.as_of}, is there with the same content and was taken in: "
        f"{account.sentence()}."
    )
    next_steps([f"cohortloom delivery {delivery.key}   (the report)", "take it in once more all the same: --replace"])


def run(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    month: Annotated[str | None, typer.Option(help=MONTH)] = None,
    generator: Annotated[
        list[str] | None, typer.Option("--generator", "-g", help="Only these generators; repeat for more.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="features, model, synthetic, evaluation or release.")
    ] = None,
    new_split: Annotated[bool, typer.Option("--new-split", help="Accept that the split key has changed.")] = False,
    as_json: Json = False,
) -> None:
    """Make a cohort of a month: features, models, synthetic rows, evaluation, leaderboard."""
    _run_cohort(cohort, month=month, generator=generator, start_from=start_from, new_split=new_split, as_json=as_json)


def _say_stale(home: "Home", cohorts: list[str]) -> list[str]:
    """Name the months that were made without what is known now; gives the commands that make them again."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.standing import stale_months

    steps = []
    for cohort in cohorts:
        found = stale_months(Lake(home), load_book(), cohort)
        for month in found:
            say(
                f"{cohort} {month.month[:7]} is stale{' (published, it stays)' if month.published else ''}: {month.words}"
            )
        if any(not month.published for month in found):
            steps.append(f"cohortloom backfill {cohort} --stale   (--local without a running UI)")
    return steps


def _ingest(home: "Home", delivery: "Delivery") -> "Account":
    """Ingest through the asset graph, so that the UI shows it; gives the delivery's account."""
    from assets.instance import prepare_dagster_home
    from pipeline.workflow.compute import Compute

    prepare_dagster_home(home)
    Compute.from_environment().bind_memory()
    from assets.run import ingest

    outcome = ingest(delivery.key)
    if not outcome.success:
        raise ConfigError(outcome.reason or "The delivery could not be ingested.", where=delivery.key)
    account = accounts_of(home)[delivery.key]
    say(f"{delivery.key}: taken in ({outcome.seconds:.1f} s)")
    return account


def _run_cohort(
    cohort: str,
    *,
    month: str | None,
    generator: list[str] | None,
    start_from: str | None,
    new_split: bool,
    as_json: bool,
) -> None:

    from assets.instance import prepare_dagster_home

    home = home_here()
    prepare_dagster_home(home)
    from assets.run import check_month, default_month, delivery_days, run_cohort
    from pipeline.features.spec import load_book
    from pipeline.generators.registry import generator_names
    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute

    Compute.from_environment().bind_memory()
    book = load_book()
    spec = book.cohort(cohort)
    if not spec.enabled:
        say(f"warning: '{cohort}' is retired (enabled: false): it is made because you ask, never by the schedule.")
    for name in generator or []:
        if name not in generator_names():
            raise NotFoundError(f"There is no generator '{name}'.", todo=nearest(name, generator_names()))
    lake = Lake(home)
    chosen = month_start(month) if month else default_month(spec, lake)
    check_month(chosen)
    first = f"{min(delivery_days(spec, lake)):%Y-%m}-01"
    if chosen < first:
        raise NotFoundError(
            f"Source '{spec.source}' of '{cohort}' has no delivery by the end of {chosen[:7]}.",
            todo=f"The first usable month is {first[:7]}.",
        )
    say(f"Running {cohort}, {chosen[:7]} ...")
    outcome = run_cohort(cohort, chosen, generators=generator, start_from=start_from, new_split=new_split, on_event=say)
    if not outcome.success:
        failed = ", ".join(outcome.failed_steps) or "the run itself"
        raise ConfigError(
            f"The run failed at {failed}. {outcome.reason}".strip(),
            where=f"{cohort} {chosen[:7]}",
            todo=f"Run id {outcome.run_id}.",
        )
    say(f"Done in {outcome.seconds:.0f} s.")
    show_leaderboard(lake, cohort, chosen, as_json=as_json)
    if spec.release.generator is not None:
        _say_release(lake, cohort, chosen)
    _require_result(lake, cohort, chosen, generator or [])


def _require_result(lake: "Lake", cohort: str, month: str, asked: list[str]) -> None:
    """Fail where generators were asked for by name and none of them gave anything: a script must notice."""
    rows = lake.tables.read(lake.tables.resolve("leaderboard", {"cohort": cohort, "month": month})).to_pylist()
    named = [row for row in rows if row["key"] in asked]
    if named and all(row["status"] != "ok" for row in named):
        raise ConfigError(f"Nothing came of {', '.join(asked)}: {named[0]['reason']}", where=f"{cohort} {month[:7]}")


def _say_release(lake: "Lake", cohort: str, month: str) -> None:
    """Where the cohort's candidate stands, and where to read more."""
    from pipeline.features.spec import load_book
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.releasing import release_state

    state = release_state(lake, Cell.of(load_book(), cohort, month))
    say(
        f"Release, candidate {state.generator}: {state.state.replace('_', ' ')}.{f' {state.waiting}' if state.waiting else ''}"
    )
    next_steps([f"cohortloom review {cohort} --month {month[:7]}"])


def _show_doubts(lake: "Lake", key: str) -> None:
    """What may have been meant otherwise in plain tables, column by column, and what a FHIR delivery may lack."""
    from pipeline.ingest.report.of_fhir import fhir_doubts
    from pipeline.ingest.report.of_tables import doubts
    from pipeline.ingest.tables.written_otherwise import hint
    from pipeline.workflow.delivery_report import facts_of

    facts, _ = facts_of(lake, key)
    otherwise = facts.account.info.get("written_otherwise", {})
    columns = [(f"{table}.{name}", hint(name, forms)) for table, o in otherwise.items() for name, forms in o.items()]
    for name, words in columns[:MOST_HINTS]:
        tell(f"{name}: {words}")
    for doubt in [*doubts(facts), *fhir_doubts(facts)]:
        tell(f"note: {doubt}")


def _show_account(account: "Account") -> None:
    from pipeline.ingest.fhir.user_views import view_sentences

    kinds = sorted({*account.taken, *account.not_modelled, *account.superseded})
    rows = [
        {
            "type": kind,
            "taken": account.taken.get(kind, 0),
            "not modelled": account.not_modelled.get(kind, 0),
            "superseded": account.superseded.get(kind, 0),
        }
        for kind in kinds
    ]
    tell(f"{account.sentence()}.")
    show(rows, title="Delivery account", as_json=False, empty="")
    for reason, count in account.quarantined.items():
        tell(f"quarantined: {count:,} {reason}")
    outcomes = account.info.get("files_by_outcome", {})
    if outcomes.get("quarantined") or outcomes.get("partly taken"):
        tell(f"files: {', '.join(f'{number:,} {outcome}' for outcome, number in outcomes.items())}")
    validation = account.info.get("validation", {})
    if validation.get("checked"):
        tell(
            f"validated: {validation['checked']:,} ({validation['mode']}), {validation['failed']:,} failed, "
            f"{validation['structural']:,} of them structurally"
        )
    for sentence in view_sentences(account):
        tell(sentence)
