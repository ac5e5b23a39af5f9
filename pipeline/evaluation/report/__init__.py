"""The evaluation report: one HTML file for people who decide, and its short forms for Dagster's metadata.

It is made from results and aggregates only; no function here is handed a row. `page.py` assembles it, `figures.py`
makes the plotly figures, `anchors.py` the dot plots, `words.py` the sentences.
"""

from pipeline.evaluation.report.anchors import headline_svg
from pipeline.evaluation.report.page import write_report
from pipeline.evaluation.report.words import markdown_summary

__all__ = ["headline_svg", "markdown_summary", "write_report"]
