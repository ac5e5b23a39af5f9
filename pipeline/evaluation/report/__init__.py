"""The evaluation report: one HTML file for people who decide, and its short forms for Dagster's metadata.

It is made from results and aggregates only; no function here is handed a row. `page.py` assembles it in the order of
`sections.py`, `figures/` draws, `verdict.py` and `findings.py` say what follows, `public.py` takes out what must stay
in the house. `index.py` is the page over all cohorts, months and generators.
"""

from pipeline.evaluation.report.anchors import headline_svg
from pipeline.evaluation.report.page import ReportProfile, plain, write_report
from pipeline.evaluation.report.verdict import markdown_summary

__all__ = ["ReportProfile", "headline_svg", "markdown_summary", "plain", "write_report"]
