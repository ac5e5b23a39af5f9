"""How the command line shows things: tables for people, JSON for programs, progress on long work."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# A pipe has no width of its own; tables must not be folded for it.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 220)
FEWEST_COLUMNS = 3
LONGEST_WORD = 24
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def show(rows: Sequence[Mapping[str, Any]], *, title: str, as_json: bool, empty: str) -> None:
    """Rows as a table, or as JSON on stdout; `empty` is the sentence for no rows."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console.print(empty)
        return
    table = Table(title=title, title_justify="left", header_style="bold", show_edge=False, pad_edge=False)
    shown, left_out = _fitting(rows, console.width)
    for name in shown:
        right = all(isinstance(row[name], int | float) or row[name] in ("", None) for row in rows)
        folded = _is_folded(rows, name)
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=not folded,
            overflow="fold",
            min_width=_room(rows, name) if folded else None,
        )
    for row in rows:
        # Escaped: a name such as utility_ratio[death] would else be taken for markup and lose its end.
        table.add_row(*[escape(cell(row[name])) for name in shown])
    console.print(table)
    if left_out:
        say(f"No room here for: {', '.join(left_out)}. A wider terminal shows it, and so does --json.")


def _is_folded(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column may be folded: lists, and the last column's sentences. No name or number loses its end."""
    return name == [*rows[0]][-1] or any(", " in row[name] for row in rows if isinstance(row[name], str))


def _room(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """Characters that a column needs: its longest word if it is folded, else its longest cell."""
    cells = [cell(row[name]) for row in rows]
    if _is_folded(rows, name):
        return max(len(name), min(LONGEST_WORD, max((len(word) for text in cells for word in text.split()), default=1)))
    return max(len(name), *(len(text) for text in cells))


def _fitting(rows: Sequence[Mapping[str, Any]], width: int) -> tuple[list[str], list[str]]:
    """The columns that fit beside each other, and those that do not. The first and the last always stay."""
    names = list(rows[0])
    left_out: list[str] = []
    while len(names) > FEWEST_COLUMNS and sum(_room(rows, name) + 3 for name in names) - 3 > width:
        left_out.insert(0, names.pop(-2))
    return names, left_out


def board(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """A leaderboard to show: status and verdict in one column, the reason of a failure last, no empty column.

    A narrow terminal gets the figures without their intervals, and only as many of them as fit: no digit is ever cut
    off. `--json` and the pages have everything.
    """
    shown = []
    for cells in rows:
        row = dict(zip(columns, cells, strict=True))
        status, _, reason = row.pop("status").partition(": ")
        verdict = row.pop("verdict", "")
        name = row.pop("generator")
        shown.append({"generator": name, "verdict": verdict if status == "ok" else status, **row, "reason": reason})
    used = [name for name in shown[0] if any(row[name] not in ("", "—") for row in shown)] if shown else []
    whole = [{name: row[name] for name in used} for row in shown]
    if _width(whole, used) <= console.width:
        return whole
    short = [{name: text.partition(" ±")[0] for name, text in row.items()} for row in whole]
    last = [name for name in used if name == "reason"]
    kept = [name for name in used if name != "reason"]
    while len(kept) > FEWEST_COLUMNS and _width(short, [*kept, *last]) > console.width:
        kept.pop()
    return [{name: row[name] for name in [*kept, *last]} for row in short]


def _width(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> int:
    """Characters that a table of these columns takes; the reason is folded and needs little."""
    needed = [20 if name == "reason" else max([len(name), *(len(row[name]) for row in rows)]) for name in names]
    return sum(needed) + 3 * len(needed)


def print_json(value: object) -> None:
    """A value as JSON on stdout, for programs."""
    print(json.dumps(value, indent=2, default=str))


def cell(value: object) -> str:
    """One cell as text: counts with thousands separators, floats with four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return harmless(str(value))


def harmless(text: str) -> str:
    """Text without control characters: the name of a column or file must not give the terminal orders."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout stays readable by programs."""
    errors.print(harmless(text), markup=False)


def tell(text: str) -> None:
    """A line for people that belongs to the result, on stdout, so that it is kept where that goes to a file."""
    console.print(harmless(text), markup=False, soft_wrap=True)


def next_steps(lines: Iterable[str]) -> None:
    """Where to look next."""
    errors.print("")
    for line in lines:
        errors.print(f"  {harmless(line)}", markup=False)


@contextmanager
def progress(label: str) -> Any:
    """A progress bar on a terminal; yields `update(done, total, numbers)`. Prints nothing where stderr is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int, numbers: Mapping[str, float]) -> None:
            shown = " ".join(f"{name}={value:.4g}" for name, value in numbers.items())
            bar.update(task, completed=done, total=total, description=f"{label} {shown}".strip())

        yield update


Update = Callable[[int, int, Mapping[str, float]], None]
