"""Commands that operate the house: demo, ui, deliver, run, and what shows its state."""

import datetime as dt
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets.cli.display import board, next_steps, print_json, say, show
from pipeline.errors import ConfigError, NotFoundError, nearest

if TYPE_CHECKING:
    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake, VersionStore
    from pipeline.store.version import Version

MONTH = "month as YYYY-MM; default the month of the newest delivery of the cohort's source"
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    for command in (demo, ui, deliver, run, cohorts, generators, deliveries, quarantine, leaderboard):
        app.command()(command)


def demo(
    patients: Annotated[int, typer.Option(min=60, help="Patients a delivery; there are three.")] = 500,
) -> None:
    """Run the whole pipeline on made-up patients: three FHIR deliveries, three generators, a judged leaderboard."""
    from pipeline.demo.source import write_demo_deliveries

    home = _home()
    say(f"Demo in {home.root}: three deliveries of made-up patients.")
    for delivery in write_demo_deliveries(home, patients=patients):
        _ingest(home, delivery)
    _run_cohort("demo", month=None, generator=None, start_from=None, new_split=False, as_json=False)
    next_steps(["open the UI:   make ui   (or `cohortloom ui`), then http://127.0.0.1:3000"])


def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000,
) -> None:
    """Open the Dagster UI on 127.0.0.1. It has no login: never bind it to another address."""
    from assets.instance import prepare_dagster_home

    home = _home()
    prepare_dagster_home(home)
    say(f"Dagster UI on http://127.0.0.1:{port} for {home.root} (Ctrl-C stops it).")
    dagster = Path(sys.executable).with_name("dagster")
    command = [str(dagster), "dev", "--module-name", "assets.definitions", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(dagster, command)


def deliver(
    source: Annotated[str, typer.Argument(help="Source in cohorts/sources.yaml.")],
    path: Annotated[Path, typer.Argument(help="File or folder to hand over.")],
    as_of: Annotated[
        dt.datetime | None, typer.Option("--as", formats=["%Y-%m-%d"], help="Date of the delivery; default today.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the delivery; default its date.")] = None,
    as_json: Json = False,
) -> None:
    """Hand over a delivery and ingest it."""
    from pipeline.features.spec import load_book
    from pipeline.ingest.delivery import hand_over

    load_book().source(source)
    home = _home()
    delivery = hand_over(home, source, path, as_of=as_of.date() if as_of else None, name=name)
    say(f"Handed over as {delivery.key}, as of {delivery.as_of}.")
    account = _ingest(home, delivery)
    if as_json:
        print_json({"delivery": delivery.key, "as_of": str(delivery.as_of), **account.to_dict()})
    else:
        _show_account(account)
    asked = [c.name for c in load_book().cohorts.values() if c.source == source and c.enabled]
    steps = [f"cohortloom run {cohort} --month {delivery.as_of:%Y-%m}" for cohort in asked]
    if account.quarantined:
        steps.append(f"cohortloom quarantine {delivery.key}")
    next_steps(steps)


def run(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    month: Annotated[str | None, typer.Option(help=MONTH)] = None,
    generator: Annotated[
        list[str] | None, typer.Option("--generator", "-g", help="Only these generators; repeat for more.")
    ] = None,
    start_from: Annotated[str | None, typer.Option("--from", help="features, model, synthetic or evaluation.")] = None,
    new_split: Annotated[bool, typer.Option("--new-split", help="Accept that the split key has changed.")] = False,
    as_json: Json = False,
) -> None:
    """Make a cohort of a month: features, models, synthetic rows, evaluation, leaderboard."""
    _run_cohort(cohort, month=month, generator=generator, start_from=start_from, new_split=new_split, as_json=as_json)


def cohorts(as_json: Json = False) -> None:
    """The cohorts that can be run, and the files that could not be read."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake

    book = load_book()
    lake = Lake(_home())
    made: dict[str, list[str]] = {}
    for partition in lake.tables.partitions("features"):
        made.setdefault(partition["cohort"], []).append(partition["month"][:7])
    rows = [
        {
            "cohort": c.name,
            "enabled": c.enabled,
            "source": c.source,
            "unit": c.unit,
            "generators": ", ".join(c.generators),
            "months made": ", ".join(made.get(c.name, [])),
            "title": c.title,
        }
        for c in book.cohorts.values()
    ]
    show(rows, title="Cohorts", as_json=as_json, empty="There is no cohort.")
    for name, reason in book.broken.items():
        say(f"disabled: {name}: {reason}")


def generators(as_json: Json = False) -> None:
    """The generators that are installed, their presets and what they are."""
    from pipeline.generators.registry import generator_class, generator_names

    rows = []
    for name in generator_names():
        made = generator_class(name)
        rows.append(
            {
                "generator": name,
                "presets": ", ".join(made.Config.presets),
                "gpu": made.uses_gpu,
                "what it is": made.title,
            }
        )
    show(rows, title="Generators", as_json=as_json, empty="There is no generator.")


def deliveries(as_json: Json = False) -> None:
    """The deliveries that were handed over, and what became of their records."""
    from pipeline.ingest.delivery import landed, waiting

    home = _home()
    accounts = _accounts(home)
    rows = [
        {
            "delivery": d.key,
            "as of": str(d.as_of),
            "state": "ingested" if d.key in accounts else "landed",
            **_totals(accounts.get(d.key)),
        }
        for d in landed(home)
    ]
    on_disk = {row["delivery"] for row in rows}
    rows += [
        {"delivery": key, "as of": "", "state": "ingested, landing removed", **_totals(account)}
        for key, account in accounts.items()
        if key not in on_disk
    ]
    show(rows, title="Deliveries", as_json=as_json, empty="There is no delivery yet: cohortloom deliver SOURCE PATH.")
    for folder in waiting(home):
        say(f"still being written (no _SUCCESS): {folder}")


def quarantine(
    delivery: Annotated[str, typer.Argument(help="Delivery key; see `cohortloom deliveries`.")],
    limit: Annotated[int, typer.Option(help="Records to list.")] = 50,
    as_json: Json = False,
) -> None:
    """The records of a delivery that could not be used: file, line or entry, reason, hash. Never their content."""
    home = _home()
    found = [(store, v) for store, _, partition, v in _raw_versions(home) if partition["delivery"] == delivery]
    if not found:
        raise NotFoundError(f"Delivery '{delivery}' was not ingested.", todo=nearest(delivery, list(_accounts(home))))
    table = found[0][0].read(found[0][1], "quarantine")
    rows = table.slice(0, limit).to_pylist()
    counts = (
        table.group_by("reason").aggregate([("reason", "count")]).sort_by("reason").to_pylist()
        if table.num_rows
        else []
    )
    if as_json:
        print_json(
            {
                "delivery": delivery,
                "records": table.num_rows,
                "reasons": {c["reason"]: c["reason_count"] for c in counts},
                "rows": rows,
            }
        )
        return
    summary = [{"reason": c["reason"], "records": c["reason_count"]} for c in counts]
    show(summary, title=f"Quarantine of {delivery}", as_json=False, empty=f"{delivery}: nothing is in quarantine.")
    if rows:
        show(rows, title=f"First {len(rows)} of {table.num_rows:,}", as_json=False, empty="")
        next_steps([f"the records themselves: {home.landing / delivery.replace('--', '/', 1)} (patient data)"])


def leaderboard(
    cohort: Annotated[str, typer.Argument(help="Cohort.")],
    month: Annotated[str | None, typer.Option(help="month as YYYY-MM; default the newest that was evaluated")] = None,
    as_json: Json = False,
) -> None:
    """All generators of a cohort-month and the reference rows, side by side."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake

    load_book().cohort(cohort)
    lake = Lake(_home())
    months = [p["month"] for p in lake.tables.partitions("leaderboard") if p["cohort"] == cohort]
    chosen = _month_start(month) if month else (months[-1] if months else None)
    if chosen is None or chosen not in months:
        made = ", ".join(m[:7] for m in months) or "none"
        raise NotFoundError(
            f"Cohort '{cohort}' has no leaderboard for that month (there are: {made}).", todo=f"cohortloom run {cohort}"
        )
    _show_leaderboard(lake, cohort, chosen, as_json=as_json)


def _home() -> "Home":
    from pipeline.store.home import Home

    return Home.from_environment().ensure()


def _ingest(home: "Home", delivery: "Delivery") -> "Account":
    """Ingest through the asset graph, so that the UI shows it; gives the delivery's account."""
    from assets.instance import prepare_dagster_home

    prepare_dagster_home(home)
    from assets.run import ingest

    outcome = ingest(delivery.key)
    if not outcome.success:
        raise ConfigError(outcome.reason or "The delivery could not be ingested.", where=delivery.key)
    account = _accounts(home)[delivery.key]
    say(f"{delivery.key}: {account.sentence()} ({outcome.seconds:.1f} s)")
    return account


def _accounts(home: "Home") -> "dict[str, Account]":
    """The accounts of all ingested deliveries, by key."""
    from pipeline.ingest.account import Account

    return {
        partition["delivery"]: Account.from_dict(version.info["account"])
        for store, asset, partition, version in _raw_versions(home)
    }


def _raw_versions(home: "Home") -> "Iterator[tuple[VersionStore, str, dict[str, str], Version]]":
    from pipeline.store.lake import Lake

    tables = Lake(home).tables
    for asset in tables.assets():
        if asset.startswith("raw/"):
            for partition in tables.partitions(asset):
                version = tables.current(asset, partition)
                if version is not None:
                    yield tables, asset, partition, version


def _totals(account: "Account | None") -> dict[str, int | None]:
    """An account in one row of a table; empty cells where there is none."""
    if account is None:
        return dict.fromkeys(("in", "taken", "not modelled", "superseded", "quarantined"))
    return {
        "in": account.in_,
        "taken": sum(account.taken.values()),
        "not modelled": sum(account.not_modelled.values()),
        "superseded": sum(account.superseded.values()),
        "quarantined": sum(account.quarantined.values()),
    }


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

    home = _home()
    prepare_dagster_home(home)
    from assets.run import default_month, run_cohort
    from pipeline.features.spec import load_book
    from pipeline.generators.registry import generator_names
    from pipeline.store.lake import Lake

    book = load_book()
    spec = book.cohort(cohort)
    for name in generator or []:
        if name not in generator_names():
            raise NotFoundError(f"There is no generator '{name}'.", todo=nearest(name, generator_names()))
    lake = Lake(home)
    chosen = _month_start(month) if month else default_month(spec, lake)
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
    _show_leaderboard(lake, cohort, chosen, as_json=as_json)


def _show_leaderboard(lake: "Lake", cohort: str, month: str, *, as_json: bool) -> None:
    from assets.instance import open_instance, training_seconds
    from pipeline.evaluation.leaderboard import COLUMNS, cells

    partition = {"cohort": cohort, "month": month}
    rows = lake.tables.read(lake.tables.resolve("leaderboard", partition)).to_pylist()
    trained = [row["key"] for row in rows if not row["reference"]]
    with open_instance(lake.home) as instance:
        seconds = training_seconds(instance, cohort, month, trained)
    rows = [{**row, "fit_seconds": seconds.get(row["key"])} for row in rows]
    if as_json:
        print_json(rows)
        return
    show(
        board(COLUMNS, [cells(row) for row in rows]),
        title=f"Leaderboard of {cohort}, {month[:7]}",
        as_json=False,
        empty="",
    )
    steps = []
    for row in rows:
        report = None if row["reference"] else lake.reports.current(f"evaluation/{row['key']}", partition)
        if report is not None:
            steps.append(f"report of {row['generator']}: {lake.reports.path(report, 'report.html')}")
    next_steps(steps)


def _show_account(account: "Account") -> None:
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
    show(rows, title="Delivery account", as_json=False, empty="")
    for reason, count in account.quarantined.items():
        say(f"quarantined: {count:,} {reason}")


def _month_start(text: str) -> str:
    try:
        return f"{dt.datetime.strptime(text[:7], '%Y-%m').date():%Y-%m}-01"  # noqa: DTZ007 (a month has no zone)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a month.", todo="Write it as YYYY-MM, for example 2026-10.") from error
