"""Which metrics exist: the id to a `Metric`, imported only when it is computed or asked for.

Adding one is a function with `@metric(MetricSpec(...))` in a module of its family and one line in the family's
`METRICS`. Other
packages add theirs through the entry-point group `cohortloom.metrics` (name = id, value = "module:attribute").
A paper's literal formula lives under "lit.<paper>.<name>"; nothing that starts so is ever gated or ranked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFoundError, nearest
from pipeline.evaluation import fairness, fidelity, literal, privacy, utility

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult, MetricSpec

    Compute = Callable[[EvaluationContext], list[MetricResult]]

BUILT_IN: dict[str, str] = {
    **fidelity.METRICS,
    **utility.METRICS,
    **privacy.METRICS,
    **fairness.METRICS,
    **literal.METRICS,
}


@dataclass(frozen=True)
class Metric:
    """A metric: what it is, and the function that computes it on a context.

    Attributes:
        spec: Id, direction, caption and so on.
        compute: Gives the results of one synthetic cohort; leaves `replicate`, references and score to the protocol.
        floor: The reference row that stands for "nothing achieved" in the normalised score; "" if there is no score.
    """

    spec: MetricSpec
    compute: Compute
    floor: str


def metric(spec: MetricSpec, *, floor: str = "ref_marginal") -> Callable[[Compute], Metric]:
    """Make a metric of a function."""
    return lambda compute: Metric(spec, compute, floor)


def metric_paths() -> dict[str, str]:
    """Id to "module:attribute", built-in ones first, then those of other packages.

    Raises:
        ConfigError: an entry point takes an id that is already in use.
    """
    paths = dict(BUILT_IN)
    for point in _elsewhere():
        if paths.get(point.name, point.value) != point.value:
            raise ConfigError(
                f"Two metrics are called '{point.name}': {paths[point.name]} and {point.value}.",
                todo="Rename one entry point.",
            )
        paths[point.name] = point.value
    return paths


@cache
def _elsewhere() -> tuple[EntryPoint, ...]:
    """The entry points of other packages, looked for once: the scan reads every installed package."""
    return tuple(entry_points(group="cohortloom.metrics"))


def metric_ids() -> list[str]:
    """All ids, in the order in which they are computed and shown."""
    return list(metric_paths())


def find_metric(name: str) -> Metric:
    """The metric registered under `name`; raises `NotFoundError` with the nearest id."""
    paths = metric_paths()
    if name not in paths:
        raise NotFoundError(f"There is no metric '{name}'.", todo=nearest(name, list(paths)))
    module, _, attribute = paths[name].partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The metric '{name}' cannot be imported from {paths[name]} ({type(error).__name__}).",
            todo="Mend or uninstall the package that registers it.",
        ) from None
    if not isinstance(found, Metric) or found.spec.id != name:
        raise ConfigError(f"{paths[name]} is not a metric called '{name}'.", todo="Decorate it with @metric.")
    return found
