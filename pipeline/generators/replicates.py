"""Several trainings of one generator, one a seed, kept side by side: how much of a result is luck.

Layout: `<folder>/replicate-<k>/model.json` and `model.safetensors`, k from 0; the first is the candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError, UnsupportedError
from pipeline.features.constraint_spec import reexpressible
from pipeline.generators.base import load_generator
from pipeline.generators.constraints.constrained import Constrained, named_in
from pipeline.generators.constraints.redraw import sample_constrained
from pipeline.generators.registry import generator_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.generators.base import AskedPrivacy, FitReport, Generator, Progress

PREFIX = "replicate-"


def fit_replicates(
    name: str,
    settings: Mapping[str, Any],
    cohort: Cohort,
    *,
    seeds: Sequence[int],
    folder: Path,
    device: str = "auto",
    privacy: AskedPrivacy | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    constraints: Sequence[ConstraintSpec] = (),
    noise_key: bytes | None = None,
) -> list[FitReport]:
    """Train generator `name` once a seed and save each model.

    Args:
        name: standard name in the registry.
        settings: plain settings, `preset: NAME` and overrides.
        cohort: the training rows.
        seeds: one a replicate.
        folder: where the replicates go; must exist.
        device: 'auto', 'cpu' or 'cuda[:n]'.
        privacy: what is asked of each replicate; None for trainings that are not private.
        progress: called with (steps done, steps in all, losses) of the running replicate.
        checkpoint: folder for the state of the trainings, if a killed one is to be resumed: replicates that had been
            trained are not trained again.
        constraints: rules of the cohort; those that can be are re-expressed and kept with each model.
        noise_key: secret key of a private training (`Generator.fit`); each replicate draws other noise from it.

    Raises:
        UnsupportedError: the generator refuses the schema or the privacy; the message is its reason.
        ConfigError: no seeds, or a wrong setting.
        TrainingError: a training did not end well.
    """
    if not seeds:
        raise ConfigError("No seed was given.", todo="Give one a replicate.")
    kind = generator_class(name)
    config = kind.Config.build(settings)
    support = kind.supports(cohort.schema)
    if not support.ok:
        raise UnsupportedError(f"'{name}' refuses this table: {support.reason}")
    reports: list[FitReport] = []
    for k, seed in enumerate(seeds):
        model = under_rules(kind(config), constraints, settings)
        # Generators of other packages need not know of it.
        known: dict[str, Any] = {}
        if checkpoint is not None and kind.resumes:
            known["checkpoint"] = checkpoint / f"{PREFIX}{k}"
        if privacy is not None and support.dp:
            known["noise_key"] = noise_key
        reports.append(model.fit(cohort, seed=seed, device=device, privacy=privacy, progress=progress, **known))
        place = folder / f"{PREFIX}{k}"
        place.mkdir(parents=True, exist_ok=True)
        model.save(place)
    return reports


def under_rules(
    model: Generator, constraints: Sequence[ConstraintSpec], settings: Mapping[str, Any] | None = None
) -> Generator:
    """The generator as it learns under a cohort's rules; itself where none can be re-expressed.

    Args:
        model: Not fitted yet.
        constraints: All rules of the cohort.
        settings: The generator's settings: columns that they name are learned as they are.
    """
    if not any(reexpressible(rule) for rule in constraints):
        return model
    return Constrained(model, constraints, named=named_in(settings or {}))


def replicate_folders(folder: Path) -> list[Path]:
    """The replicates' folders, in order of their number; raises `NotFoundError` if there is none."""
    found = sorted(folder.glob(f"{PREFIX}*/model.json"), key=lambda p: int(p.parent.name.removeprefix(PREFIX)))
    if not found:
        raise NotFoundError("This folder holds no replicates.", where=folder.name, todo="Fit the generator first.")
    return [p.parent for p in found]


def sample_replicates(
    folder: Path, n: int, *, seeds: Sequence[int], constraints: Sequence[ConstraintSpec] = ()
) -> tuple[list[Cohort], dict[str, int]]:
    """Draw `n` rows from each replicate, keeping the rules.

    Args:
        folder: what `fit_replicates` wrote.
        n: rows a replicate.
        seeds: one a replicate, for the draws.
        constraints: rules of the cohort.

    Returns:
        One cohort a replicate, and the sum of the counts of `sample_constrained`.

    Raises:
        ConfigError: as many seeds as replicates are needed.
        NotFoundError: the folder holds no replicates.
    """
    places = replicate_folders(folder)
    if len(seeds) != len(places):
        raise ConfigError(f"{len(seeds)} seeds were given for {len(places)} replicates.")
    cohorts: list[Cohort] = []
    total: dict[str, int] = {}
    for place, seed in zip(places, seeds, strict=True):
        drawn, counts = sample_constrained(load_generator(place), n, seed, constraints)
        cohorts.append(drawn)
        for key, value in counts.items():
            total[key] = total.get(key, 0) + value
    return cohorts, total
