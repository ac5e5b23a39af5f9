"""The report on a delivery: what became of its files and records, for the sender and for whoever took it in.

`facts` says what is told, `words` how, `page` makes the HTML page. No patient data: counts, names of the standard, and
public file names.
"""

from __future__ import annotations

from pipeline.ingest.report.facts import DeliveryFacts
from pipeline.ingest.report.page import write_page
from pipeline.ingest.report.words import Section, headline, markdown, next_steps, sections

__all__ = ["DeliveryFacts", "Section", "headline", "markdown", "next_steps", "sections", "write_page"]
