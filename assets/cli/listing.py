"""Commands that show what the house holds: cohorts, generators, deliveries, quarantine, leaderboard."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from assets.cli.arguments import Json, evaluated_month, home_here
from assets.cli.display import board, next_steps, print_json, say, show
from pipeline.errors import NotFoundError, nearest

if TYPE_CHECKING:
    from pipeline.ingest.account import Account
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake, VersionStore
    from pipeline.store.version import Version


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    for command in (cohorts, generators, deliveries, quarantine, leaderboard):
        app.command()(command)


def cohorts(as_json: Json = False) -> None:
    """The cohorts that can be run, and the files that could not be read."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake

    book = load_book()
    lake = Lake(home_here())
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


def generators(
    name: Annotated[str, typer.Argument(help="One generator, with all that is known of it.")] = "",
    as_json: Json = False,
) -> None:
    """The generators that are installed: what they take, differential privacy, conditions, paper; NAME: one in full."""
    from pipeline.generators.catalogue import about
    from pipeline.generators.registry import generator_class, generator_names

    rows = []
    for each in [name] if name else generator_names():
        made, told = generator_class(each), about(each)
        row = {
            "generator": each,
            "what it is": made.title,
            "takes": told.takes,
            "dp": made.private,
            "conditions": told.conditions,
            "paper": told.paper,
        }
        if name or as_json:
            row |= {"gpu": made.uses_gpu, "presets": ", ".join(made.Config.presets), "licence": told.licence}
        rows.append(row)
    if name and not as_json:
        show(
            [{"generator": key, name: value} for key, value in list(rows[0].items())[1:]],
            title=name,
            as_json=False,
            empty="",
        )
        return
    show(rows, title="Generators", as_json=as_json, empty="There is no generator.")
    if not as_json:
        say("Presets, licence notes and more of one: cohortloom generators NAME.")


def deliveries(as_json: Json = False) -> None:
    """The deliveries that were handed over, and what became of their records."""
    from pipeline.ingest.delivery import landed, waiting

    home = home_here()
    accounts = accounts_of(home)
    refused = _refused(home) if any(d.key not in accounts for d in landed(home)) else {}
    rows = [
        {
            "delivery": d.key,
            "as of": str(d.as_of),
            "state": "ingested" if d.key in accounts else "refused" if d.key in refused else "landed",
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
    for key, reason in refused.items():
        if key not in accounts:
            say(
                f"refused: {key}: {reason} Mend it and put it in its place: cohortloom deliver {key.partition('--')[0]} "
                f"PATH --name {key.partition('--')[2]} --replace (or remove it from landing/)."
            )
    for folder in waiting(home):
        say(f"still being written (no _SUCCESS): {folder}")


def quarantine(
    delivery: Annotated[str, typer.Argument(help="Delivery key; see `cohortloom deliveries`.")],
    limit: Annotated[int, typer.Option(help="Records to list.")] = 50,
    as_json: Json = False,
) -> None:
    """The records of a delivery that could not be used: file, line or entry, reason, hash. Never their content."""
    home = home_here()
    found = [(store, v) for store, _, partition, v in _raw_versions(home) if partition["delivery"] == delivery]
    if not found:
        raise NotFoundError(f"Delivery '{delivery}' was not ingested.", todo=nearest(delivery, list(accounts_of(home))))
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
    wide: Annotated[bool, typer.Option(help="every figure, and the spread over seeds")] = False,
    lens: Annotated[
        str | None,
        typer.Option(help="also mean ranks for a use case: education, medical_ai or system_development"),
    ] = None,
    as_json: Json = False,
) -> None:
    """All generators of a cohort-month and the reference rows, side by side."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake

    load_book().cohort(cohort)
    lake = Lake(home_here())
    chosen = evaluated_month(lake, cohort, month)
    if lens is not None:
        _show_lens(lake, cohort, chosen, lens, as_json=as_json)
        return
    show_leaderboard(lake, cohort, chosen, as_json=as_json, wide=wide)


def _show_lens(lake: "Lake", cohort: str, month: str, lens: str, *, as_json: bool) -> None:
    """Print the mean ranks of the generators that do not fail the gate, through the weights of a use case."""
    from pipeline.evaluation.lens import WEIGHTS, ranked
    from pipeline.workflow.judging import results_of

    if lens not in WEIGHTS:
        raise NotFoundError(f"There is no lens '{lens}'.", todo=nearest(lens, list(WEIGHTS)))
    partition = {"cohort": cohort, "month": month}
    rows = lake.tables.read(lake.tables.resolve("leaderboard", partition)).to_pylist()
    judged = [row["key"] for row in rows if row["verdict"] in ("pass", "underpowered")]
    found = ranked(
        {name: results_of(lake, lake.tables.resolve(f"evaluation/{name}", partition)) for name in judged}, lens
    )
    table = [{"generator": name, "mean rank": rank} for name, rank in sorted(found.items(), key=lambda x: (x[1], x[0]))]
    show(
        table, title=f"{cohort}, {month[:7]}, weighted for {lens}", as_json=as_json, empty="No generator can be ranked."
    )
    if not as_json:
        say(
            "Means of ranks hide failures: generators that fail the gate are left out, and the leaderboard is not ordered by them."
        )


def show_leaderboard(lake: "Lake", cohort: str, month: str, *, as_json: bool, wide: bool = False) -> None:
    """Print the leaderboard of a cohort-month, why each generator does not pass, and where the reports lie."""
    from assets.instance import open_instance, training_seconds
    from pipeline.evaluation.leaderboard import COLUMNS, WIDE_COLUMNS, cells
    from pipeline.workflow.report_index import index_path

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
        board(WIDE_COLUMNS if wide else COLUMNS, [cells(row, wide=wide) for row in rows]),
        title=f"Leaderboard of {cohort}, {month[:7]}",
        as_json=False,
        empty="",
    )
    for row in rows:
        if row["why"]:
            more = f" (and {len(row['why']) - 1} more)" if len(row["why"]) > 1 else ""
            say(f"{row['generator']}: {row['verdict']}: {row['why'][0]}{more}")
    page = lake.reports.current("leaderboard", partition)
    steps = [f"leaderboard as a page: {lake.reports.path(page, 'leaderboard.html')}"] if page is not None else []
    for row in rows:
        report = (
            None
            if row["reference"] or row["status"] == "not_enabled"
            else lake.reports.current(f"evaluation/{row['key']}", partition)
        )
        if report is not None:
            steps.append(f"report of {row['generator']}: {lake.reports.path(report, 'report.html')}")
    if index_path(lake.home).is_file():
        steps.append(f"all cohorts and months: {index_path(lake.home)}")
    next_steps(steps)


def _refused(home: "Home") -> dict[str, str]:
    """Deliveries whose run failed and was not made good since, with what it said."""
    from assets.instance import open_instance
    from assets.inventory import known_runs

    with open_instance(home) as instance:
        return {run.delivery: run.reason for run in known_runs(instance) if run.delivery and run.state == "failed"}


def accounts_of(home: "Home") -> "dict[str, Account]":
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
