"""The order of the report: which section shows what, and which module of `figures/` draws it.

Every module of `figures/` but `base` belongs to exactly one section (a test holds that). A section with nothing to
show says so in one sentence, so that its absence is never mistaken for an oversight.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.tables import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Figure
    from pipeline.evaluation.results import MetricResult

FIGURES = "pipeline.evaluation.report.figures"


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        id: Its anchor.
        nav: Its name in the bar at the top.
        title: Heading.
        lead: One or two sentences on how it is read, by whom.
        modules: Modules of `figures/` that draw it, in order.
        empty: What stands there where none of them has anything to show.
    """

    id: str
    nav: str
    title: str
    lead: str
    modules: tuple[str, ...]
    empty: str


SECTIONS: tuple[Section, ...] = (
    Section(
        "cohort",
        "Cohort",
        "The cohort: who it is about",
        "Real and synthetic people side by side, as a paper's first table would show them. “Real” is the holdout: people "
        "that the generator never saw. The first synthetic cohort is shown.",
        ("cohort",),
        "No column could be described.",
    ),
    Section(
        "marginals",
        "Columns",
        "Single columns and codes",
        "Each column by itself, those that fit worst first. Grey is the holdout, blue is synthetic.",
        ("marginals",),
        "There is no column that can be drawn.",
    ),
    Section(
        "dependence",
        "Dependence",
        "Dependence between columns",
        "Do columns move together as they do in reality? Copying every column alone, independently of the others, would "
        "look perfect above and fail here.",
        ("dependence",),
        "There are no two columns with spread.",
    ),
    Section(
        "joint",
        "Joint",
        "Whole rows",
        "Is a synthetic row, taken as a whole, a row that could be real? And is every kind of real row among them?",
        ("joint",),
        "There were too few rows to train a classifier.",
    ),
    Section(
        "plausibility",
        "Plausibility",
        "Clinical plausibility",
        "Combinations that clinical knowledge rules out, or that never occur among many real rows. A real table breaks "
        "some rules too, so its own rate stands beside each.",
        ("plausibility",),
        "No clinical rule could be checked: the cohort declares none, and none was found in its real rows.",
    ),
    Section(
        "visits",
        "Visits",
        "Visits over time",
        "People as a course of dated visits: do synthetic people come as often as real ones, as long after, with as many "
        "codes, and does one diagnosis follow another as it does really?",
        ("visits",),
        "The cohort has no dated visits.",
    ),
    Section(
        "utility",
        "Utility",
        "Utility: what the rows are good for",
        "Models and analyses are made from synthetic rows and tested on real people whom neither they nor the generator "
        "have seen, beside the same made from real rows.",
        ("utility",),
        "The cohort declares no task that could be scored.",
    ),
    Section(
        "privacy",
        "Privacy",
        "Privacy",
        "The attacker has all synthetic rows and a sample of other people from the same population. About one person they "
        "know some facts, and want to find out whether that person was in the training data, which row stems from them, "
        "or a fact they do not know yet. Only what they learn beyond what the same attack learns about people who were "
        "not in training counts as leakage. Distances to training rows are shown as diagnostics: passing them is "
        "necessary and proves nothing.",
        ("privacy", "disclosure"),
        "There were too few people to attack.",
    ),
    Section(
        "fairness",
        "Fairness",
        "Fairness: who gains and who loses",
        "Are all groups present in the synthetic rows, and do models made from them treat groups no worse than models "
        "made from real rows do? Groups with too few people to judge are said to be so.",
        ("representation", "fairness", "what_matters"),
        "The cohort declares no protected attribute.",
    ),
    Section(
        "stability",
        "Stability",
        "Stability and cost",
        "One generator, trained again from other random seeds: what changes between its cohorts would change again at "
        "the next training. Wall time and memory are not here, since the same inputs must give the same report; "
        "for runs of the pipeline they stand in its metadata.",
        ("stability",),
        "One seed was trained, so nothing can be said about how stable the generator is; five are needed for a claim.",
    ),
    Section(
        "literal",
        "Papers",
        "The papers' own figures",
        "The formulas of published papers, to the letter, on this cohort, beside what the papers print and with what is "
        "wrong with each. They are shown for comparison only: no gate reads them and no generator is ranked by them.",
        ("literal",),
        "No paper's formula was computed: the profile leaves them out, or none applies to this table.",
    ),
)


def drawn(
    section: Section, results: Sequence[MetricResult], details: Mapping[str, Any], *, profile: str
) -> dict[str, Any]:
    """A section with its figures and tables; the internal profile adds those that only it may show."""
    figures: list[Figure] = []
    tables = []
    for name in section.modules:
        module = import_module(f"{FIGURES}.{name}")
        figures += [{**f, "inside": False} for make in module.FIGURES for f in make(results, details)]
        if profile == "internal":
            figures += [{**f, "inside": True} for make in module.INTERNAL for f in make(results, details)]
        tables += [shown(t) for make in module.TABLES for t in make(results, details) if t["rows"]]
    return {"section": section, "figures": figures, "tables": tables}
