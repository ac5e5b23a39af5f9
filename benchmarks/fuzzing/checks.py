"""What has to hold after every run: of a refusal, of the account, of the tables, of what people get to see.

What the rows themselves have to be is in `oracle_fhir`, `oracle_csv` and `oracle_meds`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzing.cases import Case
from fuzzing.deliveries import CANARY, tokens

_INSIDE = re.compile(
    r"Binder Error|Conversion Error|Invalid Input Error|IO Error|Catalog Error|Parser Error|Out of Memory Error|"
    r"INTERNAL Error|Arrow(Invalid|NotImpl|Exc)|pydantic|validation errors? for|Traceback|read_json|read_csv|"
    r"read_parquet|COPY \(|SELECT |LINE \d|0x[0-9a-f]{8}|<class |object at|/home/|/incoming/"
)
"""What libraries say; a message for people has none of it."""
_SHOWN = 300


@dataclass(frozen=True)
class Ingested:
    """A delivery that was taken.

    Attributes:
        account: As JSON.
        tables: Name to Parquet file.
        events: What the events came to; None where the format has none.
        page: The delivery's report.
        sentence: The account in one line.
    """

    account: dict[str, Any]
    tables: dict[str, Path]
    events: dict[str, int] | None
    page: str
    sentence: str

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table."""
        import pyarrow.parquet as pq

        path = self.tables.get(name)
        return pq.read_table(path).to_pylist() if path is not None else []


def say(where: str, text: str, case: Case) -> list[str]:
    """Findings where a text that people see holds a value of a patient."""
    public = {word for name in case.files for word in tokens(name)}
    leaked = sorted((case.seed.canaries & tokens(text)) - public)
    found = [f"{where}: holds a patient's value ({leaked[0]})"] if leaked else []
    if CANARY in text and not leaked and not any(CANARY in name for name in case.files):
        found.append(f"{where}: holds a patient's value")
    return found


def check_refusal(case: Case, error: BaseException) -> list[str]:
    """Findings about an error that is meant for people."""
    message = str(error)
    found = say("message", message, case)
    if (names := [n for n in case.files if CANARY in n]) and any(n.rpartition("/")[2] in message for n in names):
        found.append("message: names a file that is called by a patient")
    if inside := _INSIDE.search(message):
        found.append(f"message: speaks of {inside[0]!r}")
    if "Please report" in message:
        found.append("message: asks to be reported")
    if "\n" in message or len(message) > 1500:
        found.append(f"message: no one sentence ({len(message)} characters)")
    chain, seen = error.__cause__ or error.__context__, 0
    while chain is not None and seen < 5:
        # The interpreter prints the chain unless it is suppressed; a debugger and Dagster see it all the same.
        if say("", str(chain), case):
            found.append(f"message: a {type(chain).__name__} with a patient's value hangs on it")
        chain, seen = chain.__cause__ or chain.__context__, seen + 1
    return found


def check(case: Case, ingested: Ingested, baseline: Path | None) -> list[str]:
    """Findings about a delivery that was taken."""
    account = ingested.account
    found = say("account", json.dumps(account, ensure_ascii=False), case) + _report(case, ingested)
    if inside := _INSIDE.search(json.dumps(account)):
        found.append(f"account: speaks of {inside[0]!r}")
    found += _balance(ingested)
    found += _quarantine(case, ingested)
    found += _files(case, ingested)
    found += _rows_of_tables(ingested)
    if found:
        return found  # the rest builds on this
    from fuzzing import oracle_csv, oracle_fhir, oracle_meds

    found = _neighbours(case, ingested)
    oracle = {"fhir": oracle_fhir, "meds": oracle_meds}.get(case.format, oracle_csv)
    return found + oracle.check(case, ingested, baseline)[:12]


def _neighbours(case: Case, ingested: Ingested) -> list[str]:
    """No line that stands in the undamaged file, in a file without quotes that could reach further, is set aside."""
    found = []
    rows = ingested.rows("quarantine")
    for name in sorted({row["file"] for row in rows}):
        is_csv = name.removesuffix(".gz").endswith((".csv", ".tsv"))
        plain, original = case.plain(name), case.seed.files.get(name.removesuffix(".gz"))
        if (
            plain is None
            or original is None
            or name.removesuffix(".gz").endswith((".json", ".parquet"))
            or (b'"' in plain and is_csv)
        ):
            continue
        lines, good = plain.split(b"\n"), set(original.split(b"\n")[1 if is_csv else 0 :]) - {b""}
        if is_csv and lines[0] != original.split(b"\n")[0]:
            continue  # another header, other rows
        # A key may be there twice; a row may be the header's.
        hurt = [row for row in rows if row["file"] == name and row["reason"] not in ("repeated_key", "gzip_truncated")]
        away = [row for row in hurt if 0 < row["line"] <= len(lines) and lines[row["line"] - 1] in good]
        if away:
            found.append(f"{name}: line {away[0]['line']} is undamaged and set aside: {away[0]['reason']}")
    return found


def _report(case: Case, ingested: Ingested) -> list[str]:
    """The page names columns: where a row stands in the place of a header and could be one, its words are such."""
    names = {w for n in case.files if ".csv" in n or ".tsv" in n for w in _first_words(case.plain(n) or b"")}
    page = ingested.page
    for word in names & case.seed.canaries:
        page = page.replace(word, "")
    return say("report", page, case)


def _first_words(plain: bytes) -> set[str]:
    return tokens(plain.lstrip().split(b"\n")[0][:100_000].decode("utf-8", "replace"))


def _balance(ingested: Ingested) -> list[str]:
    account = ingested.account
    parts = ("taken", "not_modelled", "superseded", "quarantined")
    out = sum(sum(account[part].values()) for part in parts)
    negative = [f"account: {part} {kind} is {n}" for part in parts for kind, n in account[part].items() if n < 0]
    return negative + ([] if out == account["in"] else [f"account: {account['in']} in, {out} out"])


def _quarantine(case: Case, ingested: Ingested) -> list[str]:
    from pipeline.ingest.quarantine import REASONS

    rows = ingested.rows("quarantine")
    found = []
    counts = dict(Counter(row["reason"] for row in rows))
    if counts != ingested.account["quarantined"]:
        found.append(f"quarantine: {counts} in the table, {ingested.account['quarantined']} in the account")
    unknown = counts.keys() - REASONS.keys()
    if unknown:
        found.append(f"quarantine: unknown reasons {sorted(unknown)}")
    for name in sorted({row["file"] for row in rows}):
        places = [row["line"] for row in rows if row["file"] == name]
        plain = case.plain(name)
        if case.archive(name) not in case.files:
            found.append(f"quarantine: file {name!r} was not delivered")
        elif plain is not None and not name.lower().endswith((".parquet", ".zip")):
            most = sum(map(plain.count, (b"\n", b"\r", b"{", b"[", b"\0"))) + plain.count(b",") + 2
            if min(places) < 0 or max(places) > most:
                found.append(f"quarantine: {name} has no line {max(places)}")
    return found


def _files(case: Case, ingested: Ingested) -> list[str]:
    rows = ingested.rows("delivered_files")
    if not rows:
        return ["delivered_files: the table is not there or empty"]
    account, found = ingested.account, []
    seen = Counter(row["file"] for row in rows)
    hidden = {name for name in case.files if any(part.startswith(".") for part in name.split("/"))}
    expected = set(case.files) - hidden - {"_SUCCESS"}
    there = set(map(case.archive, seen))
    # An archive of nothing is in the table neither.
    if {n for n in there ^ expected if not n.lower().endswith(".zip")} or (
        max(seen.values()) > 1 and seen.keys() <= set(case.files)
    ):
        lacking, more = sorted(expected - there)[:2], sorted(there - expected)[:2]
        found.append(f"delivered_files: lacks {lacking}, has {more}, or a file twice")
    sums = {part: sum(row[part] for row in rows) for part in ("records", "taken", "not_modelled", "quarantined")}
    told = {part: sum(account[part].values()) for part in ("taken", "not_modelled", "superseded", "quarantined")}
    older = told.pop("superseded")
    told |= {"records": account["in"], "taken": told["taken"] + older}
    if sums != told:
        found.append(f"delivered_files: sums {sums}, account {told}")
    by_file = Counter(row["file"] for row in ingested.rows("quarantine"))
    for row in rows:
        parts = row["taken"] + row["not_modelled"] + row["quarantined"]
        twice = seen[row["file"]] > 1  # two members of one name: the second is set aside
        if row["records"] != parts or (row["quarantined"] != by_file[row["file"]] and not twice):
            found.append(f"delivered_files: {row} does not add up ({by_file[row['file']]} in quarantine)")
            break
    outcomes = dict(Counter(row["outcome"] for row in rows))
    if outcomes != account["info"].get("files_by_outcome"):
        found.append(f"delivered_files: outcomes {outcomes}, account {account['info'].get('files_by_outcome')}")
    return found


def _rows_of_tables(ingested: Ingested) -> list[str]:
    """The raw tables hold exactly the records that were taken."""
    import pyarrow.parquet as pq

    from pipeline.ingest.account import BESIDE_THE_DATA

    kinds = _kinds()
    found = []
    taken = ingested.account["taken"]
    for name, path in ingested.tables.items():
        if name in BESIDE_THE_DATA:
            continue
        kind = kinds.get(name, name)
        table = pq.read_table(path)
        if name in kinds:
            rows = len(set(table.column("key").to_pylist()))
            if None in table.column("key").to_pylist():
                found.append(f"{name}: a row without key")
        else:
            rows = table.num_rows
        if rows != taken.get(kind, 0):
            found.append(f"{name}: {rows} records in the table, {taken.get(kind, 0)} taken")
    tables = {kinds.get(name, name) for name in ingested.tables}
    lost = [kind for kind in taken if kind not in tables and not kind.startswith("(")]
    return found + ([f"no table for {lost}"] if lost else [])


def _kinds() -> dict[str, str]:
    """Raw table to FHIR type."""
    from pipeline.ingest.fhir.columns import TYPES

    return {known.table: kind for kind, known in TYPES.items()}
