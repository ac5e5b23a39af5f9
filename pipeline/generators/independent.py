"""Every column drawn by itself: the floor that every generator with dependence has to beat (spec 1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.lone_codes import count_frequencies, draw_counts
from pipeline.generators.noisy_margins import noisy_margins
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.privacy.run import PrivateRun


class IndependentConfig(TabularConfig):
    """Settings of the independent baseline."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"marginal": "gaussian"},
        "quick": {},
    }
    marginal: Literal["empirical", "gaussian"] = Field(
        default="empirical",
        description="Numeric columns: the empirical distribution with exact repeated values, or a Gaussian clipped to"
        " the column's range (the definition behind the NHSX tables; preset 'paper').",
    )


class Independent(TabularGenerator):
    """Draws every column from its own distribution: right margins, no dependence at all."""

    name = "independent"
    title = "Independent margins (baseline)"
    Config = IndependentConfig
    config: IndependentConfig
    kinds = ("numpy",)
    private = True
    _moments: dict[str, tuple[float, float]]
    _counts: dict[str, NDArray[np.float64]]

    def _learn(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        self._moments = {}
        for name in encoder.numbers:
            values = cohort.values(name)
            seen = values[~np.isnan(values)]
            self._moments[name] = (float(seen.mean()), float(seen.std())) if len(seen) else (0.0, 0.0)
        self._counts = {name: count_frequencies(counts) for name, counts in rows.blocks.items()}
        if progress is not None:
            progress(1, 1, {})
        return Learned(parameters=self._size(encoder))

    def _learn_private(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        """A noisy histogram of each column and code, the budget in equal parts (spec 1.1): `dp_independent`."""
        margins = noisy_margins(encoder, rows, run, rho=run.zcdp_rho(), rows_per_subject=run.rows_per_subject)
        self._moments = {k: c.scaler.moments() for k, c in margins.encoder.numbers.items()}
        self._counts = margins.code_shares
        if progress is not None:
            progress(1, 1, {})
        return Learned(parameters=self._size(margins.encoder), encoder=margins.encoder)

    def _size(self, encoder: TableEncoder) -> int:
        """Learned numbers: a probability a state, a cell and a count."""
        return int(
            sum(c.states for c in encoder.levels.values())
            + sum(len(c.scaler.mass) + 1 for c in encoder.numbers.values())
            + sum(f.size for f in self._counts.values())
        )

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return True

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        out = Encoded(n=n)
        for name, level in encoder.levels.items():
            out.states[name] = _pick(level.frequency, rng.random(n))
        for name, number in encoder.numbers.items():
            missing = rng.random(n) < number.missing_rate
            uniform = rng.random(n)
            if self.config.marginal == "gaussian" and not number.scaler.empty:
                mean, std = self._moments[name]
                drawn = number.scaler.snap(rng.normal(mean, std, n))
                uniform = number.scaler.to_uniform(drawn, rng)
            out.uniforms[name] = np.where(missing, np.nan, uniform)
        for name in encoder.blocks:
            out.blocks[name] = draw_counts(self._counts[name], n, rng)
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        moments = np.array(list(self._moments.values()), dtype=np.float64).reshape(-1, 2)
        tensors = {"moments": moments}
        tensors.update({f"counts-{i:05d}": v for i, v in enumerate(self._counts.values())})
        return tensors, {"numbers": list(self._moments), "blocks": list(self._counts)}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._moments = {
            k: (float(m), float(s)) for k, (m, s) in zip(extra["numbers"], tensors["moments"], strict=True)
        }
        self._counts = {k: tensors[f"counts-{i:05d}"] for i, k in enumerate(extra["blocks"])}


def _pick(frequency: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) states with the given frequencies, from (n,) uniforms."""
    edges = np.cumsum(frequency)
    edges[-1] = max(1.0, edges[-1])
    return np.searchsorted(edges, uniform, side="right").astype(np.int64)
