"""The methods appendix: how the figures were made, and the definition of every figure in this report."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.context import NO_CAP, PROFILES
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.figures.base import table
from pipeline.evaluation.report.tables import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Table
    from pipeline.evaluation.results import MetricResult

SOFTWARE: tuple[str, ...] = ("cohortloom", "numpy", "scipy", "scikit-learn", "torch", "plotly")
FLOORS = {"ref_marginal": "shuffled columns", "ref_mode": "one row repeated", "ref_train": "training rows", "": "—"}


def methods(details: Mapping[str, Any], *, profile: str) -> list[tuple[str, str]]:
    """How the figures were made, as (heading, text) pairs."""
    return [
        (
            "Who is compared",
            "Real people are split once, by a keyed hash: training (the generator sees nobody else), holdout (what every "
            "figure is compared with, and the people an attacker must not mistake for members), and two reference "
            "samples that no generator has seen. Scales, bins and vocabularies are fitted on training rows only.",
        ),
        (
            "Reference rows",
            "Every figure is also computed, by the same code, for four cohorts whose quality is known: fresh real rows "
            "(the best that can be hoped for), training rows copied (the worst privacy), columns shuffled "
            "independently (no dependence), and one row repeated (no variety). A figure is read by where it lies "
            "between them; its score is 0 % at the floor named below and 100 % at fresh real rows.",
        ),
        (
            "Intervals",
            "95 %. Inside one cohort by bootstrap over people (DeLong for areas under the curve, Clopper-Pearson or Wilson "
            "for rates); between trained seeds by Student's t. The variance of a mean is the variance between seeds "
            "divided by their number, plus the mean variance inside a cohort. Rules are tested at the pessimistic end; "
            "privacy on the worst seed. With one seed nothing is said about how stable the generator is.",
        ),
        (
            "Nulls",
            "The null of a figure is what it would be if the synthetic rows were another real sample of that size. "
            "Divergences and correlation errors are never 0 between two real samples; their null is printed beside them.",
        ),
        (
            "Membership inference",
            "The attacker has the synthetic rows and a reference sample of the same population, and is shown as many "
            "members as non-members. Several attacks are run (see the definitions) and the most successful one counts, "
            "its interval widened for having been picked. Distances mix scaled numbers, level mismatches and, for code "
            "blocks, Jaccard distances. Attacks that retrain the generator were tried only where a figure of that name is "
            "listed.",
        ),
        ("What this report shows of real people", _shown(profile)),
        ("How much work was done", _work(details)),
        (
            "Limits",
            "A pass is evidence against the attacks that were run, not proof of anonymity. Thresholds are conventions of "
            "this project, but for the 9 % of identity disclosure and cells of 11, which are customary in releases of "
            "health data. Figures of the first seed are drawn; tables and rules use all seeds.",
        ),
        ("Versions", ", ".join(f"{name} {v}" for name, v in software().items()) + "."),
    ]


def definitions(results: Sequence[MetricResult]) -> Table:
    """What each figure of this report is: one row a metric, from its specification."""
    rows: list[list[Any]] = []
    for name in dict.fromkeys(r.metric for r in results):
        found = find_metric(name)
        spec = found.spec
        direction = "not to be ranked" if spec.family == "literal" else DIRECTIONS[spec.direction]
        low, high = (f"{end:g}".replace("inf", "∞") for end in spec.range)
        scale = f"{low} to {high}"
        caption = f"{spec.caption} What is wrong with it: {spec.flaw}" if spec.flaw else spec.caption
        rows.append(
            [spec.title, spec.id, spec.version, caption, direction, scale, FLOORS.get(found.floor, ""), spec.source]
        )
    return table(
        "definitions",
        "What each figure is",
        "One row a metric of this report, as it is defined where it is computed. A new version means that the same rows "
        "give another number.",
        ["Figure", "Id", "Version", "What is measured, direction and null", "Direction", "Scale", "Floor", "Source"],
        rows,
    )


def software() -> dict[str, str]:
    """Name to version of what computed the figures."""
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _shown(profile: str) -> str:
    text = (
        "Histograms and axes are cut at the 1st and 99th percentile of the training rows; bins and levels with fewer than "
        "11 real rows are left blank, levels and codes of fewer than 11 training rows are pooled. No minimum or maximum is "
        "shown. "
    )
    if profile == "public":
        return text + (
            "No real record is drawn or listed, points of attacks are rounded, and figures that rest on fewer than 11 real "
            "people are left out. The internal report, which stays in the house, shows more."
        )
    return text + (
        "This is the internal report: parts marked so may draw single real records or hashed ids. It must not leave the "
        "house; the public report beside it may."
    )


def _work(details: Mapping[str, Any]) -> str:
    name = details.get("profile", "standard")
    caps = PROFILES.get(name)
    if caps is None:
        return f"Profile '{name}'."

    def rows(value: int) -> str:
        return "all" if value >= NO_CAP else f"at most {value:,}"

    return (
        f"Profile '{name}': {rows(caps.rows)} rows a side where comparisons are costly, {caps.redraws} times drawn anew; "
        f"{rows(caps.neighbour_rows)} rows in which neighbours are looked for; {rows(caps.training_rows)} rows to train a "
        f"task's model on; {caps.draws:,} bootstrap draws; metrics of cost class {', '.join(sorted(caps.costs))}."
    )
