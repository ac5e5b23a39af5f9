"""The report's page: results, references, verdict and aggregates into one HTML file that needs no network.

The same inputs give the same bytes: no dates, no random ids, no paths. Scripts and styles are inlined; a content
security policy in the page forbids it to load anything. What each section shows is in `sections.py` and `figures/`,
what the public report leaves out in `public.py`.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from pipeline.evaluation.protocol import replicates
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.report.anchors import anchor_values, dot_plot, mark
from pipeline.evaluation.report.findings import findings
from pipeline.evaluation.report.headlines import headline_rows
from pipeline.evaluation.report.methods import definitions, methods
from pipeline.evaluation.report.public import (
    public_details,
    public_facts,
    public_references,
    public_results,
    public_verdict,
)
from pipeline.evaluation.report.sections import SECTIONS, drawn
from pipeline.evaluation.report.tables import figures_table, reference_names, results_csv, shown
from pipeline.evaluation.report.verdict import gate_groups, unsettled, verdict_words, waiver_rows
from pipeline.evaluation.report.words import number, with_interval
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Verdict
    from pipeline.release.signoff import Waiver

    References = Mapping[str, Sequence[MetricResult]]

ReportProfile = Literal["internal", "public"]


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    results: Sequence[MetricResult],
    references: References,
    verdict: Verdict | None,
    details: Mapping[str, Any],
    profile: ReportProfile = "internal",
    waivers: Sequence[Waiver] = (),
    accesses: int | None = None,
) -> Path:
    """Write the report as one self-contained HTML file (about 5 MB, nearly all of it plotly).

    Args:
        path: The file; its folder must exist.
        title: Heading, e.g. "support: gaussian_copula".
        facts: What the reader should know of the run: cohort, month, generator, sizes, hashes. No patient data.
        results: Rows of every replicate and pooled rows.
        references: The reference rows; may be empty.
        verdict: The gate's verdict; None if none was applied.
        details: What `run_evaluation` gave beside the results; `losses` may be added (a log step each).
        profile: "internal" stays in the house; "public" is what a release may carry: without `details["internal"]`,
            rare levels and figures that rest on fewer than 11 people.
        waivers: Rules that may be missed, printed on the first page.
        accesses: How often synthetic rows of this generator were held against this holdout, this time counted.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    details = plain(details)
    if profile == "public":
        results, references = public_results(results, details), public_references(references, details)
        verdict, details = public_verdict(verdict, details), public_details(details)
        facts = public_facts(facts, details)
    parts = [drawn(section, results, details, profile=profile) for section in SECTIONS]
    plots = {f["id"]: {"data": f["data"], "layout": f["layout"]} for part in parts for f in part["figures"]}
    state, name, sentence = verdict_words(verdict, waivers)
    source = files("pipeline.evaluation.report")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((source / "template.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        title=title,
        profile=profile,
        facts=dict(facts),
        state=state,
        verdict_name=name,
        verdict_sentence=sentence,
        groups=gate_groups(verdict, waivers),
        waivers=waiver_rows(waivers, verdict),
        unsettled=unsettled(results),
        accesses=accesses,
        findings=findings(results, references, details),
        seeds=len({r.replicate for r in results if r.replicate >= 0}),
        legend=[(TITLES[n], Markup(_swatch(n))) for n in REFERENCE_ROWS if n in references],
        own_swatch=Markup(_swatch("synthetic")),
        headlines=_headlines(results, references, verdict),
        parts=parts,
        metrics=figures_table(results, references),
        reference_names=reference_names(),
        csv=results_csv(results),
        methods=methods(details, profile=profile),
        definitions=shown(definitions(results)),
        style=Markup((source / "style.css").read_text(encoding="utf-8")),
        script=Markup((source / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")) if plots else "",
        figures=Markup(script_json(plots)),
    )
    path.write_text(html, encoding="utf-8")
    return path


def script_json(content: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """The same as it would come back from JSON, so that stored details draw the same page; what is not finite is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _swatch(name: str) -> str:
    return f'<svg class="swatch" viewBox="0 0 20 20" aria-hidden="true">{mark(name, 10, 10)}</svg>'


def _headlines(
    results: Sequence[MetricResult], references: References, verdict: Verdict | None
) -> list[dict[str, Any]]:
    from markupsafe import Markup

    limits = {r.name: r.threshold for r in verdict.rules} if verdict else {}
    found = []
    for item, key, row in headline_rows(results):
        limit = limits.get(f"{item.rule}[{key}]" if key else item.rule)
        seeds = [r.value for r in replicates(results, item.metric, key1=key) if r.value is not None]
        anchors = anchor_values(item, key, references)
        found.append(
            {
                "title": item.title + (f" — {key}" if key else ""),
                "question": item.question,
                "value": with_interval(row, item.digits, percent=item.percent),
                "better": item.direction,
                "null": number(row.null_value, item.digits, percent=item.percent) if row.null_value is not None else "",
                "limit": number(limit, item.digits, percent=item.percent) if limit is not None else "",
                "beside": "; ".join(
                    f"{TITLES[n]} {number(v, item.digits, percent=item.percent)}" for n, v in anchors.items()
                ),
                "plot": Markup(dot_plot(item, row, seeds if len(seeds) > 1 else [], anchors, limit)),
            }
        )
    return found
