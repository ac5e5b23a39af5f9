"""What a metric is handed: all sides encoded, neighbours, bootstrap draws and randomness, each made once.

`RealSides` holds what depends on the real parts only and is shared by every synthetic cohort of an evaluation;
`EvaluationContext` is one synthetic cohort against them. Metrics keep what several of them need through `once`.
How contexts are run and results pooled is in `protocol.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from pipeline.errors import ConfigError, InputError, nearest
from pipeline.evaluation.encoding import MetricEncoder, Side
from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.neighbours import Neighbours, knn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.spec import TaskSpec

    ProfileName = Literal["quick", "standard"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Profile:
    """Caps on work.

    Attributes:
        name: "quick" or "standard".
        rows: Rows a side in comparisons of marginals, dependence, detection, and membership targets.
        draws: Bootstrap draws.
        redraws: How often matched subsamples are drawn again.
        training_rows: Rows that a task's model is trained on.
        neighbour_rows: Rows that neighbours are looked for in (an attacker has the whole cohort, so it is large).
    """

    name: str
    rows: int
    draws: int
    redraws: int
    training_rows: int
    neighbour_rows: int


PROFILES: dict[str, Profile] = {
    "quick": Profile("quick", 2_000, 200, 5, 10_000, 20_000),
    "standard": Profile("standard", 10_000, 1_000, 5, 50_000, 50_000),
}


@dataclass(frozen=True)
class Parts:
    """The real rows: training, holdout, and the two halves of the fresh reference (which may be empty)."""

    train: Cohort
    holdout: Cohort
    reference0: Cohort
    reference1: Cohort

    @classmethod
    def of(cls, cohort: Cohort) -> Parts:
        """The four parts of a cohort with a split."""
        return cls(cohort.part("train"), cohort.part("holdout"), cohort.part("reference0"), cohort.part("reference1"))

    @classmethod
    def of_two(cls, train: Cohort, holdout: Cohort) -> Parts:
        """Training and holdout only: the fresh reference row and calibrated attacks are then not estimable."""
        nobody = holdout.take(np.array([], dtype=np.int64))
        return cls(train, holdout, nobody, nobody)


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """A random stream that depends on the seed and the name only, not on what was drawn before."""
    digest = sha256("\x1f".join(map(str, (seed, *name))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


class RealSides:
    """The real parts through one encoder, with everything that no synthetic row is needed for.

    Raises:
        InputError: the training or holdout part is empty.
        ConfigError: a task names an unknown column, or the profile is unknown.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        tasks: Sequence[TaskSpec] = (),
        protected: Sequence[str] = (),
        profile: str = "standard",
        seed: int = 0,
    ) -> None:
        if profile not in PROFILES:
            raise ConfigError(f"There is no profile '{profile}'.", todo=nearest(profile, list(PROFILES)))
        for name, part in (("training", parts.train), ("holdout", parts.holdout)):
            if part.n_rows == 0:
                raise InputError(f"The {name} part has no row.", todo="An evaluation needs training and holdout rows.")
        schema = parts.train.schema
        known = [*schema.names, *(b.name for b in schema.blocks)]
        for task in tasks:
            for name in (task.label, *task.leak):
                if name not in known:
                    raise ConfigError(
                        f"Task '{task.name}' names the unknown column '{name}'.", todo=nearest(name, known)
                    )
        self.parts = parts
        self.tasks = tuple(tasks)
        self.protected = tuple(protected)
        self.profile = PROFILES[profile]
        self.seed = seed
        self.encoder = MetricEncoder(parts.train)
        self.train = self.encoder.side(parts.train)
        self.holdout = self.encoder.side(parts.holdout)
        self.reference0 = self.encoder.side(parts.reference0)
        self.reference1 = self.encoder.side(parts.reference1)
        self._kept: dict[str, Any] = {}

    def once(self, key: str, make: Callable[[], Value]) -> Value:
        """`make()` the first time, what it gave then every other time."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast("Value", self._kept[key])

    def rng(self, *name: str | int) -> np.random.Generator:
        """The random stream of that name."""
        return stream(self.seed, *name)

    def sample(self, n: int, size: int, *name: str | int) -> NDArray[np.int64]:
        """`size` of `n` positions without repeats, ascending; all of them if `size` >= n."""
        if size >= n:
            return np.arange(n)
        return np.sort(self.rng("sample", *name).choice(n, size, replace=False))

    @cached_property
    def holdout_weights(self) -> NDArray[np.float32]:
        """(draws, holdout rows) bootstrap weights by subject."""
        return subject_weights(self.holdout.clusters, self.profile.draws, self.rng("bootstrap", "holdout"))


@dataclass
class Matched:
    """One matched draw: equally many rows of holdout and synthetic cohort."""

    real: NDArray[np.int64]
    synthetic: NDArray[np.int64]


@dataclass
class EvaluationContext:
    """One synthetic cohort against the real sides.

    Attributes:
        sides: The real sides.
        synthetic: The synthetic cohort through the same encoder.
        replicate: Which trained seed it comes from; part of the names of random streams.
        plots: JSON-able aggregates that metrics leave for the report; never a row.
        with_plots: Whether metrics should make them (some cost time).
    """

    sides: RealSides
    synthetic: Side
    replicate: int = 0
    with_plots: bool = False
    plots: dict[str, Any] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        parts: Parts,
        synthetic: Cohort,
        tasks: Sequence[TaskSpec] = (),
        protected: Sequence[str] = (),
        profile: str = "standard",
        seed: int = 0,
    ) -> EvaluationContext:
        """A context for a single cohort, sides and all."""
        sides = RealSides(parts, tasks=tasks, protected=protected, profile=profile, seed=seed)
        return cls(sides, synthetic_side(sides, synthetic))

    def once(self, key: str, make: Callable[[], Value]) -> Value:
        """`make()` the first time, what it gave then every other time (for this synthetic cohort)."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast("Value", self._kept[key])

    def rng(self, metric: str, *name: str | int) -> np.random.Generator:
        """The random stream of a metric on this replicate."""
        return self.sides.rng(metric, self.replicate, *name)

    @cached_property
    def matched_size(self) -> int:
        """Rows a side where a figure depends on sample size: the least of synthetic, holdout, R0 and the cap.

        R0 counts so that the fresh reference row stands at the same size as every generator.
        """
        fresh = len(self.sides.reference0) or len(self.sides.holdout)
        return min(len(self.synthetic), len(self.sides.holdout), fresh, self.sides.profile.rows)

    @cached_property
    def matched(self) -> list[Matched]:
        """Matched draws of both sides; one where nothing is left to draw."""
        size, n, m = self.matched_size, len(self.sides.holdout), len(self.synthetic)
        redraws = 1 if size == n == m else self.sides.profile.redraws
        return [
            Matched(
                self.sides.sample(n, size, "matched", "holdout", r),
                self.sides.sample(m, size, "matched", "synthetic", self.replicate, r),
            )
            for r in range(redraws)
        ]

    @cached_property
    def matched_weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bootstrap weights by subject of the first matched draw: (draws, rows) of holdout and of synthetic."""
        first = self.matched[0]
        draws = self.sides.profile.draws
        return (
            subject_weights(self.sides.holdout.clusters[first.real], draws, self.sides.rng("bootstrap", "matched")),
            subject_weights(
                self.synthetic.clusters[first.synthetic], draws, self.rng("bootstrap", "matched", "synthetic")
            ),
        )

    def neighbours(self, name: str, query: Side, rows: NDArray[np.int64], reference: Side, k: int) -> Neighbours:
        """The k nearest rows of a reference side (capped by the profile) for some rows of a query side, kept by name."""

        def find() -> Neighbours:
            within = self.sides.sample(len(reference), self.sides.profile.neighbour_rows, "neighbours", name)
            points = reference.points if len(within) == len(reference) else reference.points.take(within)
            return knn(query.points.take(rows), points, k)

        return (
            self.sides.once(f"knn/{name}", find) if reference is not self.synthetic else self.once(f"knn/{name}", find)
        )


def synthetic_side(sides: RealSides, synthetic: Cohort) -> Side:
    """The synthetic cohort through the sides' encoder; raises `InputError` if it is empty."""
    if synthetic.n_rows == 0:
        raise InputError("The synthetic cohort has no row.", todo="Draw at least one row.")
    return sides.encoder.side(synthetic)
