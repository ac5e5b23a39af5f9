"""The report's page: results, references, verdict and aggregates into one HTML file that needs no network.

The same inputs give the same bytes: no dates, no random ids, no paths. Scripts and styles are inlined; a content
security policy in the page forbids it to load anything.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import headline, replicates
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.anchors import anchor_values, dot_plot, mark
from pipeline.evaluation.report.figures.dependence import heatmaps
from pipeline.evaluation.report.figures.joint import detection
from pipeline.evaluation.report.figures.marginals import code_blocks, marginals
from pipeline.evaluation.report.figures.privacy import membership
from pipeline.evaluation.report.figures.utility import dumbbells
from pipeline.evaluation.report.words import (
    findings,
    headline_rows,
    methods,
    number,
    significant,
    verdict_words,
    with_interval,
)
from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult
    from pipeline.release.gate import Verdict

    References = Mapping[str, Sequence[MetricResult]]

DIRECTIONS = {1: "higher is better", -1: "lower is better", 0: "closer to the null is better"}


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    results: Sequence[MetricResult],
    references: References,
    verdict: Verdict | None,
    details: Mapping[str, Any],
) -> Path:
    """Write the report as one self-contained HTML file (about 5 MB, nearly all of it plotly).

    Args:
        path: The file; its folder must exist.
        title: Heading, e.g. "support: gaussian_copula".
        facts: What the reader should know of the run: cohort, month, generator, sizes, hashes. No patient data.
        results: Rows of every replicate and pooled rows.
        references: The reference rows; may be empty.
        verdict: The gate's verdict; None if none was applied.
        details: What `run_evaluation` gave beside the results: aggregates.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    source = files("pipeline.evaluation.report")
    sections = {
        "marginals": marginals(results, details) + code_blocks(results, details),
        "dependence": heatmaps(results, details),
        "detection": detection(results, details),
        "utility": dumbbells(results, details),
        "membership": membership(results, details),
    }
    drawn = [f for group in sections.values() for f in group]
    state, name, sentence = verdict_words(verdict)
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((source / "template.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        title=title,
        facts=dict(facts),
        state=state,
        verdict_name=name,
        verdict_sentence=sentence,
        rules=verdict.rules if verdict else [],
        findings=findings(results, references),
        seeds=len({r.replicate for r in results if r.replicate >= 0}),
        legend=[(TITLES[n], Markup(_swatch(n))) for n in REFERENCE_ROWS if n in references],
        own_swatch=Markup(_swatch("synthetic")),
        headlines=_headlines(results, references, verdict),
        table_one=_table_one(results, details),
        sizes=details.get("sizes", {}),
        sections=sections,
        columns=_column_table(results),
        metrics=_metric_table(results, references),
        reference_names=[TITLES[n] for n in REFERENCE_ROWS],
        csv=base64.b64encode(_csv(results).encode()).decode(),
        methods=methods(details),
        style=Markup((source / "style.css").read_text(encoding="utf-8")),
        script=Markup((source / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")) if drawn else "",
        figures=Markup(_script_json({f["id"]: {"data": f["data"], "layout": f["layout"]} for f in drawn})),
    )
    path.write_text(html, encoding="utf-8")
    return path


def _script_json(content: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _swatch(name: str) -> str:
    return f'<svg class="swatch" viewBox="0 0 20 20" aria-hidden="true">{mark(name, 10, 10)}</svg>'


def _headlines(
    results: Sequence[MetricResult], references: References, verdict: Verdict | None
) -> list[dict[str, Any]]:
    from markupsafe import Markup

    limits = {r.name.split("[")[0]: r.threshold for r in verdict.rules} if verdict else {}
    found = []
    for item, key, row in headline_rows(results):
        limit = limits.get(item.rule) if item.rule else None
        seeds = [r.value for r in replicates(results, item.metric, key1=key) if r.value is not None]
        found.append(
            {
                "title": item.title + (f" — {key}" if key else ""),
                "question": item.question,
                "value": with_interval(row, item.digits, percent=item.percent),
                "better": "further right is better" if item.better == "right" else "further left is better",
                "limit": limit is not None,
                "null": number(row.null_value, item.digits, percent=item.percent) if row.null_value is not None else "",
                "plot": Markup(
                    dot_plot(item, row, seeds if len(seeds) > 1 else [], anchor_values(item, key, references), limit)
                ),
            }
        )
    return found


def _table_one(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row a number, one a level: holdout and synthetic side by side."""
    values = {(r.key1, r.key2): r for r in results if r.metric == "fid.marg.moments" and r.replicate == 0}

    def value(name: str, statistic: str) -> float | None:
        row = values.get((name, statistic))
        return None if row is None else row.value

    def share(x: float | None) -> str:
        return "fewer than 11" if x is None else f"{100 * x:.1f} %"

    rows: list[dict[str, str]] = []
    for column in details.get("columns", []):
        name = column["name"]
        unit = f", {column['unit']}" if column["unit"] else ""
        smd = value(name, "smd")
        if "levels" in column:
            rows.append({"name": name, "real": "", "synthetic": "", "smd": number(smd) if smd is not None else ""})
            rows += [
                {"name": level, "indent": "1", "real": share(r), "synthetic": share(s), "smd": ""}
                for level, r, s in zip(column["levels"], column["real"], column["synthetic"], strict=True)
            ]
            continue
        rows.append(
            {
                "name": f"{name}{unit}, mean (SD)",
                "real": f"{significant(value(name, 'mean_real'))} ({significant(value(name, 'std_real'))})",
                "synthetic": f"{significant(value(name, 'mean_synthetic'))} ({significant(value(name, 'std_synthetic'))})",
                "smd": number(smd),
            }
        )
        missing = value(name, "missing_real"), value(name, "missing_synthetic")
        if any(missing):
            rows.append(
                {"name": "missing", "indent": "1", "real": share(missing[0]), "synthetic": share(missing[1]), "smd": ""}
            )
    return rows


def _column_table(results: Sequence[MetricResult]) -> list[dict[str, str]]:
    """One row a column: divergence, shape, adherence, spread."""
    shown = ("fid.marg.jsd", "fid.marg.ks", "fid.marg.tvd", "schema.adherence")
    by_name: dict[str, dict[str, MetricResult]] = {}
    for r in results:
        if r.replicate == -1 and r.scope == "column" and (r.metric in shown or r.key2 in ("smd", "std_ratio")):
            by_name.setdefault(r.key1, {})[r.key2 or r.metric] = r

    def text(row: MetricResult | None) -> str:
        return "" if row is None else significant(row.value)

    rows = [
        {
            "name": name,
            "jsd": text(given.get("fid.marg.jsd")),
            "null": significant(given["fid.marg.jsd"].null_value) if "fid.marg.jsd" in given else "",
            "shape": text(given.get("fid.marg.ks") or given.get("fid.marg.tvd")),
            "smd": text(given.get("smd")),
            "std_ratio": text(given.get("std_ratio")),
            "adherence": text(given.get("schema.adherence")),
        }
        for name, given in by_name.items()
    ]
    return sorted(rows, key=lambda r: (-float(r["jsd"] or 0), r["name"]))


def _metric_table(results: Sequence[MetricResult], references: References) -> list[dict[str, Any]]:
    """Every figure that is not about a single column, with direction, null and the reference rows."""
    rows = []
    for r in results:
        if r.replicate != -1 or r.scope == "column":
            continue
        spec = find_metric(r.metric).spec
        anchors = [headline(references.get(n, ()), r.metric, key1=r.key1, key2=r.key2) for n in REFERENCE_ROWS]
        about = ", ".join(x for x in (r.key1, r.key2) if x)
        rows.append(
            {
                "family": r.family,
                "id": r.metric,
                "title": spec.title + (f" — {about}" if about else ""),
                "caption": spec.caption,
                "value": significant(r.value) if r.value is not None else "not estimable",
                "interval": f"{significant(r.ci_lo)} to {significant(r.ci_hi)}" if r.ci_lo is not None else "",
                "direction": DIRECTIONS[r.direction],
                "null": significant(r.null_value) if r.null_value is not None else "",
                "anchors": [significant(a.value) if a is not None and a.value is not None else "—" for a in anchors],
                "score": "" if r.score is None else f"{min(max(100 * r.score, -50), 120):.0f} %",
                "note": r.note,
            }
        )
    return rows


def _csv(results: Sequence[MetricResult]) -> str:
    """All results, column by column and seed by seed."""
    from pipeline.evaluation.results import stored_fields

    out = io.StringIO()
    writer = csv.DictWriter(out, stored_fields(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: getattr(r, name) for name in stored_fields()} for r in results)
    return out.getvalue()
