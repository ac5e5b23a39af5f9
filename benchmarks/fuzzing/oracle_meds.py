"""What the rows of a MEDS delivery have to be, told by pyarrow and plain Python from the shards themselves."""

from __future__ import annotations

import io
import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzzing.cases import Case

if TYPE_CHECKING:
    from fuzzing.checks import Ingested

_COLUMNS = ("subject_id", "time", "code", "numeric_value", "text_value", "unit")


def check(case: Case, ingested: Ingested, baseline: Path | None) -> list[str]:
    """Findings about the rows of the shards, in the order of the files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    del baseline
    table = pq.read_table(ingested.tables["meds"])
    quarantine = ingested.rows("quarantine")
    at, found = 0, list[str]()
    for row in sorted(ingested.rows("delivered_files"), key=lambda r: r["file"]):
        name = row["file"]
        if row["form"] != "parquet" or "data/" not in f"/{name}" or row["file"].startswith(("labels", "metadata")):
            continue
        if row["outcome"] == "quarantined" and row["records"] == 1:
            continue
        try:
            shard = pq.read_table(io.BytesIO(case.plain(name) or b""))
        except (pa.ArrowException, OSError):
            return [*found, f"{name}: taken, but it cannot be read"]
        if shard.num_rows != row["records"]:
            found.append(f"{name}: {row['records']} rows in the account, {shard.num_rows} in the file")
        away = {r["line"] for r in quarantine if r["file"] == name}
        keep = [place for place in range(shard.num_rows) if place + 1 not in away]
        mine = table.slice(at, len(keep))
        at += len(keep)
        for column in _COLUMNS:
            there = "patient_id" if column == "subject_id" and "subject_id" not in shard.column_names else column
            if there not in shard.column_names:
                continue
            try:
                values = shard.column(there).to_pylist()
            except (ValueError, OverflowError, UnicodeDecodeError):
                continue  # Python cannot say it (nanoseconds, years beyond 9999)
            for place, now in zip(keep, mine.column(column).to_pylist(), strict=True):
                if fault := _differs(values[place], now):
                    found.append(f"{name}: {column}, row {place + 1}: {fault}")
                    break
    if at != table.num_rows:
        found.append(f"meds: {table.num_rows} rows in the table, {at} were taken")
    return found


def _differs(then: Any, now: Any) -> str:
    if then is None or now is None:
        return "" if (then is None) == (now is None) else "NULL in silence" if now is None else "from nothing"
    if isinstance(now, float):
        try:
            number = float(then)
        except (TypeError, ValueError):
            return "a number from no number"
        same = (math.isnan(now) and math.isnan(number)) or math.isclose(now, number, rel_tol=1e-6, abs_tol=1e-44)
    elif isinstance(now, datetime):
        if isinstance(then, str):
            then = datetime.fromisoformat(then.strip())
        elif isinstance(then, date) and not isinstance(then, datetime):
            then = datetime(then.year, then.month, then.day)  # noqa: DTZ001
        moment = then.to_pydatetime(warn=False) if hasattr(then, "to_pydatetime") else then
        same = (moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment) == now
    elif isinstance(now, int):
        same = float(then) == now if isinstance(then, str) else then == now
    else:
        same = str(then) == now or not isinstance(then, str)
    return "" if same else "another value"
