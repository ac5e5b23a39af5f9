"""Commands that keep the house: doctor, rollback, gc, backup, restore."""

import datetime as dt
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.arguments import Json, home_here
from assets.cli.display import next_steps, print_json, say, show
from pipeline.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from assets.purge import OldRuns
    from pipeline.store.home import Home
    from pipeline.store.inspection import Finding
    from pipeline.store.lake import Lake
    from pipeline.store.version import Version
    from pipeline.workflow.housekeeping import Collected

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MOST_LISTED = 40


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    for command in (doctor, rollback, gc, backup, restore):
        app.command()(command)


# ---- doctor


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Read every stored file and compare its hash.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
    as_json: Json = False,
) -> None:
    """Look COHORTLOOM_HOME over: what is broken, exposed, left over or running out. Exit code 1 if an error remains."""
    from assets.doctor import examine_dagster
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.doctor import examine, in_order, mend

    lake = Lake(Home.from_environment())
    found = examine(lake, deep=deep)
    if lake.home.root.is_dir():
        found = in_order([*found, *examine_dagster(lake)])
    done: list[str] = []
    if fix:
        done, found = mend(found)
    errors = sum(finding.severity == "error" for finding in found)
    if as_json:
        print_json({"errors": errors, "mended": done, "findings": [_plain(finding) for finding in found]})
    else:
        for line in done:
            say(f"mended: {line}")
        _show_findings(lake, found, errors, deep=deep, fixed=fix)
    if errors:
        raise typer.Exit(1)


def _plain(finding: "Finding") -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "what": finding.what,
        "where": finding.where,
        "todo": finding.todo,
        "fixable": finding.mend is not None,
    }


def _show_findings(lake: "Lake", found: "list[Finding]", errors: int, *, deep: bool, fixed: bool) -> None:
    """One paragraph a finding: a table would cut paths apart."""
    for finding in found:
        colour = typer.colors.RED if finding.severity == "error" else typer.colors.YELLOW
        typer.secho(f"{finding.severity}: {finding.what}", fg=colour)
        typer.echo(f"    where: {finding.where}")
        typer.echo(f"    to do: {finding.todo}")
    read = "every file was read" if deep else "hashes were not compared: --deep"
    if not found:
        typer.echo(f"{lake.home.root} is in order ({read}).")
        return
    typer.echo(f"\n{errors} errors, {len(found) - errors} warnings in {lake.home.root} ({read}).")
    if not fixed and any(finding.mend is not None for finding in found):
        next_steps(["mend what can be mended without loss: cohortloom doctor --fix"])


# ---- rollback


def rollback(
    asset: Annotated[str, typer.Argument(help="Asset key, e.g. features or model/vae.")],
    partition: Annotated[list[str], typer.Argument(help="'support|2026-10-01', support 2026-10, or a delivery key.")],
    to: Annotated[str | None, typer.Option(help="Version; default the one before the current one.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only list the versions there are.")] = False,
    name: Annotated[str | None, typer.Option("--as", help="Who does it; default the user of this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Make an earlier version of a partition the current one, after checking that it is whole."""
    from pipeline.store.lake import Lake
    from pipeline.workflow.housekeeping import operator
    from pipeline.workflow.rollback import find, roll_back

    lake = Lake(home_here())
    store, key = find(lake, asset, partition)
    shown = "|".join(key.values())
    if listing:
        try:
            current = store.current(asset, key)
        except StoreError as error:
            say(f"The pointer is broken: {error.what}")
            current = None
        rows = [_row(version, current) for version in store.history(asset, key)]
        show(rows, title=f"Versions of {asset} {shown}", as_json=as_json, empty="There is no version.")
        return
    by = name or operator()
    done = roll_back(lake, store, asset, key, to=to, by=by)
    known = _tell_dagster(lake, done.version, by)
    if as_json:
        before = done.before.version if done.before is not None else None
        print_json(
            {"asset": asset, "partition": key, "before": before, "now": done.version.version, "stale": done.stale}
        )
        return
    before_words = f" (was {done.before.version})" if done.before is not None else ""
    say(f"{asset} {shown} is at {done.version.version}{before_words}, written {done.version.written_at[:19]}, by {by}.")
    for report in done.also:
        say(f"Its report moved with it: {report.version}.")
    if not known:
        say("Dagster no longer knows the run that made it: the UI shows its data version, not its inputs.")
    if done.stale:
        say(f"Stale now ({len(done.stale)}), because made from another version:")
        for label in done.stale[:_MOST_LISTED]:
            say(f"  {label}")
        if "cohort" in key:
            next_steps(
                [f"make them again: cohortloom run {key['cohort']} --month {key['month'][:7]} {_stage(asset)}".strip()]
            )
    else:
        say("Nothing that was made from this partition is stale.")


def _row(version: "Version", current: "Version | None") -> dict[str, Any]:
    return {
        "version": version.version,
        "current": "current" if current is not None and current.version == version.version else "",
        "written": version.written_at[:19],
        "run": version.run_id[:8],
        "status": str(version.info.get("status", "")),
        "sha256": version.sha256[:12],
    }


def _tell_dagster(lake: "Lake", version: "Version", by: str) -> bool:
    from assets.instance import open_instance
    from assets.rollback import report_rollback

    with open_instance(lake.home) as instance:
        return report_rollback(instance, version, by)


def _stage(asset: str) -> str:
    """The option of `run` that makes what comes after an asset."""
    after = {"features": "model", "model": "synthetic", "synthetic": "evaluation", "references": "evaluation"}
    stage = after.get(asset.partition("/")[0])
    return f"--from {stage}" if stage else ""


# ---- gc


def gc(
    keep: Annotated[int, typer.Option(min=1, help="Versions a partition keeps, the current one among them.")],
    older_than: Annotated[str, typer.Option(help="Leave alone what was current or touched since: 90m, 1h, 2d.")] = "1h",
    runs_older_than: Annotated[
        str | None, typer.Option(help="Delete finished run records older than this, e.g. 90d; default none.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Free space: old versions, and what killed processes left. Releases and what they were made from always stay."""
    from pipeline.store.lake import Lake
    from pipeline.workflow.housekeeping import collect_garbage, would_collect

    grace = _seconds(older_than)
    runs = dt.timedelta(seconds=_seconds(runs_older_than)) if runs_older_than is not None else None
    lake = Lake(home_here())
    done = (would_collect if dry_run else collect_garbage)(lake, keep=keep, grace_seconds=grace)
    purged = _purge(lake, runs, dry_run=dry_run) if runs is not None else None
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "removed": done.counts(),
                "bytes": done.bytes,
                "pinned": done.pinned,
                "runs": len(purged.removable) if purged is not None else 0,
                "runs_needed": purged.needed if purged is not None else 0,
                "broken": done.broken,
            }
        )
    else:
        _show_collected(done, purged, dry_run=dry_run)
    if done.broken:
        raise StoreError(
            f"{len(done.broken)} partitions could not be collected, all others were. The first: {done.broken[0]}",
            todo="cohortloom doctor says what is wrong.",
        )


def _purge(lake: "Lake", older_than: dt.timedelta, *, dry_run: bool) -> "OldRuns":
    from assets.instance import open_instance
    from assets.purge import old_runs, purge
    from pipeline.workflow.housekeeping import note_operation, operator

    with open_instance(lake.home) as instance:
        found = (old_runs if dry_run else purge)(instance, older_than)
    if found.removable and not dry_run:
        note_operation(lake, "purge", operator(), runs=len(found.removable), days=older_than.total_seconds() / 86400)
    return found


def _show_collected(done: "Collected", purged: "OldRuns | None", *, dry_run: bool) -> None:
    if dry_run:
        for one in done.gone[:_MOST_LISTED]:
            typer.echo(f"{one.kind}: {one.where} ({_size(one.bytes)})")
        if len(done.gone) > _MOST_LISTED:
            typer.echo(f"... and {len(done.gone) - _MOST_LISTED} more")
    verb = "Would remove" if dry_run else "Removed"
    parts = ", ".join(f"{count:,} {_plural(kind, count)}" for kind, count in done.counts().items())
    say(f"{verb} {parts} ({_size(done.bytes)})." if parts else f"{verb} nothing.")
    if done.pinned:
        say(f"{done.pinned:,} versions stay in any case: releases, and what they were made from.")
    if purged is not None:
        say(f"{verb} {len(purged.removable):,} run records; {purged.needed:,} old ones stay, a partition needs them.")


def _plural(kind: str, count: int) -> str:
    plurals = {"old version": "old versions", "journal draft": "journal drafts", "half-made": "half-made things"}
    named = {"half-made": "half-made thing", "landing": "unfinished delivery", "spill": "spill folder"}
    many = {"landing": "unfinished deliveries", "spill": "spill folders", "litter": "other leftovers"}
    return {**plurals, **many}.get(kind, kind) if count != 1 else {**named, "litter": "other leftover"}.get(kind, kind)


# ---- backup and restore


def backup(
    file: Annotated[Path, typer.Argument(help="Tar file to write; must not exist.")],
    without_landing: Annotated[
        bool, typer.Option("--without-landing", help="Leave out the deliveries as they came.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a consistent copy of COHORTLOOM_HOME, also while runs go on. It holds patient data and the split key."""
    from pipeline.store.backup import back_up
    from pipeline.store.lake import Lake

    lake = Lake(home_here())
    began = time.perf_counter()
    made = back_up(lake, file, landing=not without_landing)
    took = time.perf_counter() - began
    if as_json:
        print_json({"file": str(made.path), "files": made.files, "bytes": made.bytes, "seconds": round(took, 1)})
        return
    say(f"{made.path}: {made.files:,} files, {_size(made.bytes)}, in {took:.1f} s (mode 0600).")
    if made.elsewhere:
        say(f"The lake and the journal are on {made.elsewhere} and not in it: use the versioning of that store.")
    if _in_postgres(lake):
        say("Dagster's records are in Postgres and not in it: add a pg_dump.")
    say("It holds patient data, models and split.key, which tells who is in training: keep it as safe as the home.")
    next_steps([f"try it: cohortloom restore {made.path} --to FOLDER"])


def _in_postgres(lake: "Lake") -> bool:
    from assets.doctor import database_files

    return (lake.home.dagster / "dagster.yaml").is_file() and not database_files(lake.home)


def restore(
    file: Annotated[Path, typer.Argument(help="Tar file that `backup` wrote.")],
    to: Annotated[Path, typer.Option(help="Home to make; must be empty or not exist.")],
) -> None:
    """Make a home from a backup, after checking every byte of it."""
    from assets.doctor import examine_dagster, records_are_here
    from assets.postgres import URL_VARIABLE
    from pipeline.store.backup import restore as unpack
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.doctor import examine
    from pipeline.workflow.housekeeping import note_operation, operator

    home = Home(to.expanduser().resolve())
    made = unpack(file, home)
    lake = Lake(home)
    say(f"{home.root}: {made.files:,} files, {_size(made.bytes)}, as of {made.made_at}; every byte is as it was.")
    here = records_are_here(home)
    if here:
        _close_runs(home)
    else:
        say("Dagster's records are not in this home; no database was opened and no run closed.")
    note_operation(lake, "restore", operator(), archive=file.name, made_at=made.made_at)
    found = [*examine(lake), *(examine_dagster(lake) if here else [])]
    for finding in found:
        say(f"{finding.severity}: {finding.what} ({finding.where})")
    if not made.landing:
        say(
            "The deliveries as they came are not in this backup: what was taken in is there, but cannot be taken in again."
        )
    steps = [f"export COHORTLOOM_HOME={home.root}", "cohortloom doctor --deep", "materialise `catalog` again"]
    if os.environ.get(URL_VARIABLE):
        steps.insert(1, f"only to try it out: {URL_VARIABLE} of another database, this one is of the home in use")
    next_steps(steps)


def _close_runs(home: "Home") -> None:
    from assets.doctor import close_open_runs
    from assets.instance import open_instance

    with open_instance(home) as instance:
        closed = close_open_runs(instance, "The home was restored from a backup that was taken while this run went on.")
    if closed:
        say(f"{len(closed)} runs that were going on then are closed; run them again.")


# ---- words


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"'{text}' is no length of time.", todo="Write a number and s, m, h, d or w: 90m, 1h, 30d.")
    return float(found[1]) * _UNITS[found[2]]


def _size(count: float) -> str:
    if count < 1000:
        return f"{count:,.0f} bytes"
    unit = next((unit for limit, unit in ((1e6, "kB"), (1e9, "MB")) if count < limit), "GB")
    return f"{count / {'kB': 1e3, 'MB': 1e6, 'GB': 1e9}[unit]:,.1f} {unit}"
