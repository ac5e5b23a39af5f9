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
from pipeline.evaluation.plan import EvaluationPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.distances import Distance
    from pipeline.features.cohort import Cohort

Value = TypeVar("Value")


@dataclass(frozen=True)
class Profile:
    """Caps on work.

    Attributes:
        name: "quick", "standard" or "full".
        rows: Rows a side in comparisons of marginals, dependence, detection, and membership targets.
        draws: Bootstrap draws.
        redraws: How often matched subsamples are drawn again.
        training_rows: Rows that a task's model is trained on.
        neighbour_rows: Rows that neighbours are looked for in (an attacker has the whole cohort, so it is large).
        explained_rows: Holdout rows that a forest is explained on: a tenth of a second each, however many there are.
        costs: Classes of cost of the metrics that are computed.
    """

    name: str
    rows: int
    draws: int
    redraws: int
    training_rows: int
    neighbour_rows: int
    explained_rows: int
    costs: frozenset[str]


NO_CAP = 2**62
PROFILES: dict[str, Profile] = {
    "quick": Profile("quick", 2_000, 200, 5, 10_000, 20_000, 100, frozenset("AB")),
    "standard": Profile("standard", 10_000, 1_000, 5, 50_000, 50_000, 100, frozenset("ABC")),
    "full": Profile("full", NO_CAP, 1_000, 5, NO_CAP, NO_CAP, 200, frozenset("ABCD")),
}
PartName = Literal["T", "H", "R0", "R1", "S"]
Pool = Literal["targets", "reference", "matched"]
K = 6
"""Neighbours that are kept for every pair of sides."""


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
        ConfigError: the plan names an unknown column or profile.
    """

    def __init__(self, parts: Parts, plan: EvaluationPlan | None = None) -> None:
        plan = plan or EvaluationPlan()
        if plan.profile not in PROFILES:
            raise ConfigError(f"There is no profile '{plan.profile}'.", todo=nearest(plan.profile, list(PROFILES)))
        for name, part in (("training", parts.train), ("holdout", parts.holdout)):
            if part.n_rows == 0:
                raise InputError(f"The {name} part has no row.", todo="An evaluation needs training and holdout rows.")
        plan.check(parts.train.schema)
        self.plan = plan
        self.parts = parts
        self.profile = PROFILES[plan.profile]
        self.seed = plan.seed
        self.encoder = MetricEncoder(parts.train)
        self.train = self.encoder.side(parts.train)
        self.holdout = self.encoder.side(parts.holdout)
        self.reference0 = self.encoder.side(parts.reference0)
        self.reference1 = self.encoder.side(parts.reference1)
        self._kept: dict[str, Any] = {}

    def side(self, name: PartName) -> Side:
        """The real side called T, H, R0 or R1."""
        return {"T": self.train, "H": self.holdout, "R0": self.reference0, "R1": self.reference1}[name]

    def once(self, key: str, make: Callable[[], Value]) -> Value:
        """`make()` the first time, what it gave then every other time."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast("Value", self._kept[key])

    def rng(self, *name: str | int) -> np.random.Generator:
        """The random stream of that name."""
        return stream(self.seed, *name)

    def target_rows(self, name: Literal["T", "H"]) -> NDArray[np.int64]:
        """Positions of all rows of equally many people of T and of H, ascending, at most about the profile's `rows`.

        People are drawn, not rows: whose rows are thinned has fewer to be recognised by, and members would look safer
        than they are.
        """
        sizes = [np.bincount(side.clusters) for side in (self.train, self.holdout)]
        people = min(len(s) for s in sizes)
        a_person = max(float(s.mean()) for s in sizes)
        people = min(people, max(1, int(self.profile.rows / a_person)))
        clusters = self.side(name).clusters
        if a_person == 1.0:
            return self.sample(len(clusters), people, "rows", name, "targets")
        chosen = self.sample(int(clusters.max()) + 1, people, "rows", name, "targets")
        return np.flatnonzero(np.isin(clusters, chosen))

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
        plots: JSON-able aggregates that metrics leave for both reports; never a row.
        internal: JSON-able drill-down for the internal report alone: what may be drawn of single real records.
        with_plots: Whether metrics should make them (some cost time).
    """

    sides: RealSides
    synthetic: Side
    replicate: int = 0
    with_plots: bool = False
    plots: dict[str, Any] = field(default_factory=dict)
    internal: dict[str, Any] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Parts, synthetic: Cohort, plan: EvaluationPlan | None = None) -> EvaluationContext:
        """A context for a single cohort, sides and all."""
        sides = RealSides(parts, plan)
        return cls(sides, synthetic_side(sides, synthetic))

    @property
    def plan(self) -> EvaluationPlan:
        """What is asked."""
        return self.sides.plan

    def side(self, name: PartName) -> Side:
        """The side called T, H, R0, R1 or S."""
        return self.synthetic if name == "S" else self.sides.side(name)

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

    def rows(self, name: PartName, pool: Pool = "targets", draw: int = 0) -> NDArray[np.int64]:
        """Positions of a side's rows, ascending: the same rows for every metric that asks for them.

        Args:
            name: Which side.
            pool: "targets" (at most about the profile's `rows`, drawn once; T and H equally many people with all of
                their rows, so that attacks are balanced), "reference" (at most `neighbour_rows`: what neighbours are looked for in), or "matched"
                (`matched_size` rows of every side, for figures that depend on how many rows there are).
            draw: Number of the matched draw, below the profile's `redraws`; later draws are other rows.
        """
        side, profile = self.side(name), self.sides.profile
        own: tuple[str | int, ...] = (self.replicate,) if name == "S" else ()
        if pool == "reference":
            return self.sides.sample(len(side), profile.neighbour_rows, "rows", name, pool, *own)
        if pool == "matched":
            return self.sides.sample(len(side), self.matched_size, "rows", name, pool, draw, *own)
        if name in ("T", "H"):
            return self.sides.target_rows(name)
        return self.sides.sample(len(side), min(len(side), profile.rows), "rows", name, pool, *own)

    def near(
        self,
        query: PartName,
        reference: PartName,
        *,
        of: Pool = "targets",
        within: Pool = "reference",
        draw: int = 0,
        k: int = K,
        distance: Distance = "gower2",
    ) -> Neighbours:
        """The k (at most `K`) nearest rows of `reference` for rows of `query`; computed once and shared by all metrics.

        Args:
            query: Side whose neighbours are wanted, its rows chosen by `of`.
            reference: Side in which they are looked for, its rows chosen by `within`. A row is never its own
                neighbour: where both are the same side it is left out by position, so that a duplicate stays one.
            of: Rows of `query`, see `rows`.
            within: Rows of `reference`, see `rows`.
            draw: Number of the matched draw.
            k: How many.
            distance: Kind of distance, see `distances.py`: "gower2" unless a metric is defined by another one. The
                cosine is of the counts of all code blocks alone; without a block all rows are at distance 0.

        Returns:
            Distances (0 for equal rows) and positions in the *side* (not in the chosen rows).
        """
        keeper = self if "S" in (query, reference) else self.sides
        matched = (draw, self.matched_size) if "matched" in (of, within) else ()

        def find() -> Neighbours:
            left, right = self.rows(query, of, draw), self.rows(reference, within, draw)
            own = np.searchsorted(right, left) if query == reference else None
            found = knn(
                self.side(query).rows_for(distance).take(left),
                self.side(reference).rows_for(distance).take(right),
                K,
                own=None if own is None else np.where(right[np.minimum(own, len(right) - 1)] == left, own, -1),
                device=self.plan.device,
            )
            return Neighbours(found.distance, right[found.index] if found.index.size else found.index)

        found = keeper.once(f"near/{distance}/{query}/{of}/{reference}/{within}/{matched}", find)
        return Neighbours(found.distance[:, :k], found.index[:, :k])


def synthetic_side(sides: RealSides, synthetic: Cohort) -> Side:
    """The synthetic cohort through the sides' encoder; raises `InputError` if it is empty."""
    if synthetic.n_rows == 0:
        raise InputError("The synthetic cohort has no row.", todo="Draw at least one row.")
    return sides.encoder.side(synthetic)
