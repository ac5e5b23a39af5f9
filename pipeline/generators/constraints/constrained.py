"""A generator around another one, whose rows keep the re-expressed rules of a cohort: learned, drawn, saved together.

Conditions on real columns are handed to the inner generator wherever they can be said in its columns; where not, rows
are drawn until enough fit. Rules that are kept by redrawing are not its business: `redraw.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pipeline.errors import TrainingError, UnsupportedError
from pipeline.generators.base import FitReport, Generator
from pipeline.generators.conditions import Fixed, parse_conditions
from pipeline.generators.constraints.asked import Asked, fits
from pipeline.generators.constraints.redraw import redraw, replace_rows
from pipeline.generators.constraints.reexpress import Reexpression
from pipeline.generators.rejection import TRIES
from pipeline.generators.seeds import derive_seed, stream

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.generators.base import AskedPrivacy, Conditions, Progress
    from pipeline.generators.constraints.redraw import Broken
    from pipeline.generators.portrait import Portrait

SMALLEST_DRAW = 256


class Constrained(Generator):
    """`inner`, trained on rows in which some rules cannot be broken.

    Attributes:
        inner: The generator that learns and draws.
        rules: The cohort's rules.
        change: How rows are changed for it; None before `fit`.
        sample_counts: What the last `sample` did to keep its promises.
    """

    name = "constrained"
    title = "a generator with re-expressed rules"

    def __init__(
        self,
        inner: Generator,
        rules: Sequence[ConstraintSpec] = (),
        *,
        named: Sequence[str] = (),
        change: Reexpression | None = None,
    ) -> None:
        self.inner = inner
        self.config = inner.config
        self.rules = list(rules)
        self.named = list(named)
        self.change = change
        self.sample_counts: Mapping[str, int] = {}

    def fit(
        self,
        cohort: Cohort,
        *,
        seed: int,
        device: str = "auto",
        privacy: AskedPrivacy | None = None,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        noise_key: bytes | None = None,
    ) -> FitReport:
        """Change the rows, and let the inner generator learn them; see `Generator.fit`."""
        self.change = Reexpression.fit(cohort, self.rules, named=self.named, private=privacy is not None)
        rows = self.change.forward(cohort)
        support = self.inner.supports(rows.schema)
        if not support.ok:
            raise UnsupportedError(f"'{self.inner.name}' refuses this table: {support.reason}")
        more: dict[str, Any] = {"checkpoint": checkpoint, "noise_key": noise_key}
        # Generators of other packages need not know of either.
        more = {name: value for name, value in more.items() if value is not None}
        report = self.inner.fit(rows, seed=seed, device=device, privacy=privacy, progress=progress, **more)
        if privacy is not None:
            self.change = self.change.published(self.inner.sample(1, seed=seed).schema)
        report.warnings += self.change.warnings()
        return report

    def sample(self, n: int, *, seed: int, conditions: Conditions | None = None) -> Cohort:
        """Draw `n` rows in the real schema; see `Generator.sample`.

        Raises:
            ConfigError: a condition makes no sense, or contradicts a rule.
            UnsupportedError: hardly any row fits the conditions, or comes back within the columns' bounds.
        """
        change = self._fitted()
        fixed = parse_conditions(conditions, change.outer, n)
        asked = Asked.of(fixed, change, n)
        counts: dict[str, int] = {}

        def draw(rows: NDArray[np.int64], with_seed: int) -> tuple[Cohort, Broken]:
            return self._draw(rows, with_seed, asked, counts)

        found = redraw(draw, n, seed, purpose="bounds", by_row=bool(fixed))
        self.sample_counts = {**counts, "rows_beyond_bounds": found.violating}
        return found.cohort

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`; a column that is not learned as it is, is tried."""
        return not set(columns) & set(self._fitted().taken) and self.inner.draws_given(columns)

    def portraits(self) -> dict[str, Portrait]:
        """Those of the inner generator, in its columns."""
        return self.inner.portraits()

    def save(self, folder: Path) -> None:
        """Write the inner model and `constraints.json` into `folder`."""
        self.inner.save(folder)
        self._fitted().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model saved in `folder`."""
        from pipeline.generators.base import load_inner

        change = Reexpression.load(folder)
        return cls(load_inner(folder), change.rules, change=change)

    @property
    def known_rules(self) -> list[ConstraintSpec]:
        """The rules with the combinations that were seen in training written in."""
        return self._fitted().rules

    def _fitted(self) -> Reexpression:
        if self.change is None:
            raise TrainingError("This generator has not been fitted.", todo="Call fit or load first.")
        return self.change

    def _draw(self, rows: NDArray[np.int64], seed: int, asked: Asked, counts: dict[str, int]) -> tuple[Cohort, Broken]:
        """Rows for the given places, and what is wrong with them."""
        if asked.open_names:
            return self._matching(rows, seed, asked, counts), {}
        return self._undone(self._inner(rows, seed, asked, counts), rows, seed, asked.fixed, counts)

    def _inner(self, rows: NDArray[np.int64], seed: int, asked: Asked, counts: dict[str, int]) -> Cohort:
        """Rows as the inner generator draws them."""
        drawn = self.inner.sample(len(rows), seed=seed, conditions=asked.inner_of(rows, stream(seed, "levels")))
        _add(counts, getattr(self.inner, "sample_counts", {}))
        return drawn

    def _undone(
        self, drawn: Cohort, rows: NDArray[np.int64], seed: int, fixed: Fixed, counts: dict[str, int]
    ) -> tuple[Cohort, Broken]:
        """The rows in the real schema, and what is wrong with them."""
        mine = fixed.take(rows)
        cohort, wrong, mended = self._fitted().back(drawn, stream(seed, "back"), {**mine.codes, **mine.values})
        _add(counts, mended)
        return cohort, wrong

    def _matching(self, rows: NDArray[np.int64], seed: int, asked: Asked, counts: dict[str, int]) -> Cohort:
        """Rows whose open conditions are met: drawn without them, kept where they fit, numbers then put exactly.

        Raises:
            UnsupportedError: after 50 candidates a row some rows are still open.
        """
        result: Cohort | None = None
        open_places = np.arange(len(rows))
        drawn, attempt, size = 0, 0, max(len(rows), SMALLEST_DRAW)
        while len(open_places) and drawn < TRIES * size:
            places = np.resize(open_places, max(len(open_places), SMALLEST_DRAW))
            asked_rows, derived = rows[places], derive_seed(seed, "candidates", attempt)
            inner = self._inner(asked_rows, derived, asked, counts)
            free, _ = self._undone(inner, asked_rows, derived, asked.closed, {})
            cohort, wrong = self._undone(inner, asked_rows, derived, asked.fixed, counts)
            near = fits(free, asked.open_of(asked_rows))
            for mask in wrong.values():
                near &= ~mask
            drawn, attempt = drawn + len(places), attempt + 1
            good, first = np.unique(places[near], return_index=True)
            if result is None:
                result = cohort.take(np.resize(np.arange(len(places)), len(rows)))
            result = replace_rows(result, good, cohort.take(np.flatnonzero(near)[first]))
            open_places = np.setdiff1d(open_places, good)
        if len(open_places) or result is None:
            raise UnsupportedError(
                f"The conditions on {', '.join(asked.open_names)} are too rare to be met by rejection: "
                f"{len(rows) - len(open_places)} of {len(rows)} rows were filled from {drawn:,} candidates.",
                todo="A rule of the cohort is on these columns; fix fewer of them, or all that the rule names.",
            )
        return result


def named_in(settings: object) -> list[str]:
    """All texts in nested settings of a generator: those that name columns are learned as they are, the others match none."""
    if isinstance(settings, str):
        return [settings]
    if isinstance(settings, Mapping):
        return [text for key, inner in settings.items() for text in [str(key), *named_in(inner)]]
    return [text for inner in settings for text in named_in(inner)] if isinstance(settings, list | tuple) else []


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + int(count)
