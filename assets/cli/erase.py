"""`erase`: what holds one person, and taking all of it away with proof. The steps are in `pipeline/workflow/erasure.py`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.display import next_steps, print_json, say, show
from pipeline.errors import CohortLoomError, ConfigError

if TYPE_CHECKING:
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.erasure import Way
    from pipeline.workflow.holdings import Holdings

STDIN = "-"
NOT_SEARCHED_SHOWN = 10
LIMITS = (
    "A later delivery that holds this person brings them back: have them taken out at the source.",
    "Backups of COHORTLOOM_HOME hold them until they expire.",
    "What was released and copied elsewhere cannot be called back from here: tell those who have it.",
    "Models trained with differential privacy were purged like all others; see docs/erasure.md for what it changes.",
)


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(erase)


def erase(
    subject: Annotated[
        str, typer.Argument(help="The person's id as the source writes it; - reads it from standard input.")
    ],
    source: Annotated[str, typer.Option(help="Source in sources.yaml.")],
    column: Annotated[
        str | None,
        typer.Option(help="Plain tables: the column that says whose a row is; default `person:` of the source."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only what holds the person is listed.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the cohort-months that lost their versions again.")
    ] = False,
    keep_releases: Annotated[
        bool, typer.Option("--keep-releases", help="Do not withdraw releases that were trained on the person.")
    ] = False,
    proof: Annotated[Path | None, typer.Option(help="Write the proof there as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List what holds one person, then purge all of it (--yes): deliveries, versions, models, releases, catalog."""
    from assets.instance import prepare_dagster_home
    from pipeline.features.spec import load_book
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.erasure import already_erased, begun, confirm, unknown, whom
    from pipeline.workflow.erasure import erase as carry_out
    from pipeline.workflow.holdings import search

    home = Home.from_environment().ensure()
    prepare_dagster_home(home)
    lake, book = Lake(home), load_book()
    spec = book.source(source)
    person = whom(lake, spec, sys.stdin.readline() if subject == STDIN else subject, column)
    if yes:
        _nothing_runs(home)
    found = search(lake, spec, book, person)
    entry = already_erased(lake, person)
    if not found.found and entry is not None:
        entry = confirm(lake, found, entry) if yes else entry
        _say_again(found, entry)
    elif not found.found and not begun(lake, person):
        raise unknown(spec, found)
    elif not yes:
        _list(lake, found, begun(lake, person), as_json=as_json)
        return
    else:
        way = _way(rebuild)
        entry = carry_out(lake, spec, book, found, way, Compute.from_environment(), keep_releases=keep_releases)
    _show_proof(entry or {}, proof, as_json=as_json)


def _nothing_runs(home: "Home") -> None:
    """Refuse while runs are under way: they have read what is about to go, and would write it down again."""
    import dagster as dg

    from assets.instance import open_instance
    from assets.inventory import OPEN

    with open_instance(home) as instance:
        running = instance.get_runs_count(dg.RunsFilter(statuses=OPEN))
    if running:
        raise ConfigError(
            f"{running} runs are under way; what they have read may hold the person.",
            todo="Wait until they have ended, or end them in the UI.",
        )


def _way(rebuild: bool) -> "Way":
    """How deliveries are taken in and cells are made: as runs of Dagster, like everywhere else."""
    from assets.run import ingest, run_cohort
    from pipeline.workflow.erasure import Way

    def take_in(key: str) -> str:
        try:
            outcome = ingest(key)
        except CohortLoomError as error:
            return str(error)
        return "" if outcome.success else outcome.reason or "the run failed"

    def run_cell(cohort: str, month: str) -> str:
        try:
            outcome = run_cohort(cohort, month, on_event=say)
        except CohortLoomError as error:
            return str(error)
        return "" if outcome.success else outcome.reason or "the run failed"

    return Way(take_in, run_cell if rebuild else None, say)


def _list(lake: "Lake", found: "Holdings", open_before: bool, *, as_json: bool) -> None:
    """What holds the person, by kind with counts, and each thing."""
    from pipeline.ingest.erasure.unsearchable import closed_in_words
    from pipeline.workflow.erasure import not_covered
    from pipeline.workflow.holdings import as_rows

    if as_json:
        print_json(
            {
                "person": found.person.mark,
                "erased": False,
                "begun": open_before,
                "counts": found.counts(),
                "holdings": as_rows(found),
                "not_searched": [found.person.mask(str(one)) for one in found.unsearched if not one.closed],
                "could_not_be_searched": [found.person.mask(str(one)) for one in found.unsearched if one.closed],
                "not_covered": not_covered(lake),
                "records_nobody_can_read": found.unread,
                "rows_of_others_with_the_id": found.mentions,
            }
        )
        return
    counts = [{"what": what, "number": number} for what, number in found.counts().items()]
    show(counts, title="What holds this person", as_json=False, empty="Nothing holds this person.")
    show(as_rows(found), title="\nEach of them", as_json=False, empty="")
    mask = found.person.mask
    closed = closed_in_words(mask(str(one)) for one in found.unsearched if one.closed)
    if closed:
        _warn(closed)
    _say_unsearched([mask(str(one)) for one in found.unsearched if not one.closed])
    for line in [*_notes(found), *(f"Not covered: {line}" for line in not_covered(lake))]:
        say(line)
    if open_before:
        say("An erasure of this person was begun and did not end: give --yes to end it.")
    next_steps(
        ["nothing was changed; the same command with --yes erases the person, with --rebuild too it trains anew"]
    )


def _notes(found: "Holdings") -> list[str]:
    lines = [
        f"{found.person.mark} stands for this person.",
        "Dagster's folder holds no patient data: counts, column names and hashes, and what deliveries are called.",
    ]
    if found.elsewhere:
        lines.append(_stands_elsewhere(found.elsewhere))
    if not found.person.distinctive:
        lines.append("The id is short: text of others that holds it is not taken for this person.")
    if found.unread:
        lines.append(f"{found.unread} records that nobody can read do not carry the id, and stay.")
    if found.mentions:
        lines.append(
            f"{found.mentions} rows of others hold the id in another column and stay: if they are this person's too, "
            "give the command again with --column."
        )
    if found.unfinished:
        lines.append(f"Still being written, and to be waited for: {found.person.mask(', '.join(found.unfinished))}.")
    if any(not held.certain for held in found.versions):
        lines.append(
            "Of unknown origin: what they were made from was collected, so they may hold the person and go too."
        )
    return lines


def _warn(text: str) -> None:
    typer.secho(text, err=True, fg=typer.colors.YELLOW, bold=True)


def _say_unsearched(files: list[str]) -> None:
    """Where the person was not looked for as elsewhere: one line each, the first ones."""
    if files:
        say("Not searched, for want of the person column or as it says:")
        for file in files[:NOT_SEARCHED_SHOWN]:
            say(f"  {file}")
        if len(files) > NOT_SEARCHED_SHOWN:
            say(f"  and {len(files) - NOT_SEARCHED_SHOWN} more; --json has all of them")


def _say_again(found: "Holdings", entry: dict[str, Any]) -> None:
    """That the person was erased before, and is nowhere now."""
    from pipeline.ingest.erasure.unsearchable import OPEN_THEM, closed_in_words

    closed = closed_in_words(found.person.mask(str(one)) for one in found.unsearched if one.closed)
    say(
        f"This person was erased on {entry['at'][:10]}; nothing {'that could be searched ' if closed else ''}holds them. "
        f"They stand in the journal as {found.person.mark}."
    )
    if closed:
        _warn(f"{closed} {OPEN_THEM}")


def _stands_elsewhere(elsewhere: dict[str, int]) -> str:
    places = ", ".join(f"{number} files in {place}" for place, number in sorted(elsewhere.items()))
    return (
        f"NOTE: the id itself stands in {places}. Nothing here can take it out: most likely a delivery or a file is "
        "called by it. dagster/ can be deleted when nothing runs; name deliveries otherwise at the source."
    )


def _show_proof(entry: dict[str, Any], proof: Path | None, *, as_json: bool) -> None:
    from pipeline.ingest.erasure.unsearchable import OPEN_THEM, closed_in_words
    from pipeline.workflow.erasure import NO_COHORT

    if proof is not None:
        try:
            proof.write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"The proof cannot be written there ({error.strerror}).",
                where=str(proof),
                todo="It is in the journal; the same command writes it somewhere else.",
            ) from None
    if as_json:
        print_json(entry)
        return
    deliveries = [
        {
            "delivery": key,
            "records before": counts["records_before"],
            "taken out": counts["records_removed"],
            "after": counts["records_after"],
            "what became of it": entry["renewed"].get(key, ""),
        }
        for key, counts in entry["deliveries"].items()
    ]
    filtered = {key: words for key, words in entry["renewed"].items() if key not in entry["deliveries"]}
    deliveries += [
        {"delivery": key, "records before": None, "taken out": None, "after": None, "what became of it": words}
        for key, words in filtered.items()
    ]
    show(deliveries, title="Deliveries", as_json=False, empty="No delivery held them.")
    kinds: dict[str, int] = {}
    for label, _, _ in entry["purged"]:
        kinds[label.partition("/")[0]] = kinds.get(label.partition("/")[0], 0) + 1
    show([{"purged": k, "versions": n} for k, n in sorted(kinds.items())], title="\nPurged", as_json=False, empty="")
    made = [{"made again": label, "sha256": sha256[:12]} for label, sha256 in entry["rebuilt"].items()]
    if made:
        show(made, title="\nMade again without them", as_json=False, empty="")
    say(
        f"Releases withdrawn: {', '.join(entry['withdrawn']) or 'none'}; kept: {', '.join(entry['kept_releases']) or 'none'}."
    )
    closed = closed_in_words(entry.get("could_not_be_searched", []))
    say(
        f"Searched again: nothing {'that could be searched ' if closed else ''}holds this person. "
        f"Journal erasures/{entry['source']}, {entry['at'][:19]}, {entry['person']}."
    )
    if closed:
        _warn(closed)
    for cell, why in entry["not_rebuilt"].items():
        say(f"Not made again: {cell} ({why}).")
    if entry.get("id_elsewhere"):
        _warn(_stands_elsewhere(entry["id_elsewhere"]))
    _say_unsearched(entry.get("not_searched", []))
    if entry.get("exports"):
        say(f"Exported as MEDS, and out of reach here: {'; '.join(entry['exports'])}. Tell those who have a copy.")
    for line in [*(f"Not covered: {line}" for line in entry.get("not_covered", [])), *LIMITS]:
        say(line)
    again = [cell.split() for cell, why in entry["not_rebuilt"].items() if why != NO_COHORT]
    steps = [f"cohortloom run {cohort} --month {month}" for cohort, month in again]
    if closed:
        steps.insert(0, f"{OPEN_THEM} Until then the proof holds for the rest alone.")
    next_steps([*steps, *([f"proof: {proof}"] if proof is not None else [])])
