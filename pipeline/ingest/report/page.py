"""The report on a delivery as one HTML file that needs no network; the same facts give the same bytes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pipeline.ingest.report.facts import DeliveryFacts
from pipeline.ingest.report.words import headline, next_steps, sections

TEMPLATE = "page.html.j2"


def write_page(path: Path, facts: DeliveryFacts) -> Path:
    """Write the page; the folder of `path` must exist."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((files("pipeline.ingest.report") / TEMPLATE).read_text(encoding="utf-8"))
    state, name, sentence = headline(facts)
    account = facts.account
    html = template.render(
        key=facts.key,
        facts={
            "format": facts.format,
            "as of": facts.as_of,
            "files read": f"{account.files:,}",
            "size": _size(account.bytes),
            "records": f"{account.in_:,}",
            facts.raw[0].partition("/delivery=")[0] or "raw": facts.raw[1][:12],
        },
        state=state,
        name=name,
        sentence=sentence,
        steps=next_steps(facts),
        sections=sections(facts),
        shares=_shares(facts),
        style=Markup((files("pipeline.evaluation") / "report" / "style.css").read_text(encoding="utf-8")),
    )
    path.write_text(html, encoding="utf-8")
    return path


def _shares(facts: DeliveryFacts) -> list[tuple[str, str, int, float]]:
    """What the records became: css class, name, number and share of the bar in percent."""
    account = facts.account
    parts = (
        ("taken", "taken", account.taken),
        ("other", "not modelled", account.not_modelled),
        ("older", "superseded", account.superseded),
        ("aside", "quarantined", account.quarantined),
    )
    counted = [(css, name, sum(part.values())) for css, name, part in parts]
    return [(css, name, number, round(100 * number / max(1, account.in_), 3)) for css, name, number in counted]


def _size(number: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"
