"""Gaussian copula for mixed columns and code blocks (spec 1.2): exact margins, one latent correlation matrix.

Every column, every missing mask and every code is a latent standard normal that is cut or mapped to the column's
own distribution. Correlations are estimated from the conditional means of the latents, corrected for what cutting
loses, shrunk pair by pair by their own noise, and then calibrated by simulation until the drawn rows show the
correlations that the real ones have. Drawing under conditions is exact: truncated latents, then the conditional
Gaussian. The latents are in `copula_latents.py`, their linear algebra in `latent_gaussian.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.base import Support
from pipeline.generators.copula_latents import (
    CHUNK,
    Latent,
    clipped_products,
    latents_of,
    level_orders,
    moments_of,
    observed_share,
    pair_shrinkage,
    score_variance,
)
from pipeline.generators.latent_gaussian import conditional_normal, repair, truncated_gibbs
from pipeline.generators.lone_codes import count_frequencies
from pipeline.generators.noisy_margins import noisy_margins
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator
from pipeline.privacy.second_moments import measure_products

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.privacy.run import PrivateRun

WIDEST = 2_000
"""Columns and codes together; the correlation matrix is then 32 MB and its repair some seconds."""
SIMULATED = 20_000
SIMULATED_IF_WIDE = 4_000
MANY_LATENTS = 300
LEAST_SEEN = 0.02
"""Share of rows in which a column is taken to be seen at least, where only noise says how many are."""


class GaussianCopulaConfig(TabularConfig):
    """Settings of the Gaussian copula."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"nominal_order": "frequency", "calibration_steps": 0, "pair_shrinkage": False},
        "quick": {},
    }
    nominal_order: Literal["ca", "frequency"] = Field(
        default="ca",
        description="Order of a nominal column's levels along its latent: first axis of a correspondence analysis with"
        " the other columns (spec 1.2), or by frequency (the common library choice; preset 'paper').",
    )
    calibration_steps: int = Field(
        default=3,
        ge=0,
        le=50,
        description="Times the latent correlations are corrected by the difference between drawn and real correlations"
        " of scores (replaces the Newton step of spec 1.2 for pairs of discrete columns).",
    )
    pair_shrinkage: bool = Field(
        default=True,
        description="Shrink each pair by its own sampling noise (positive-part James-Stein): pairs of rare codes are"
        " almost pure noise, pairs of continuous columns are not.",
    )
    shrinkage: float = Field(
        default=0.01, ge=0, le=1, description="Least share of the identity in the correlation matrix (spec 1.2)."
    )
    gibbs_sweeps: int = Field(
        default=10, ge=1, le=1000, description="Sweeps over the conditioned latents when several columns are fixed."
    )


class GaussianCopula(TabularGenerator):
    """Gaussian copula with exact empirical margins."""

    name = "gaussian_copula"
    title = "Gaussian copula, mixed columns and codes"
    Config = GaussianCopulaConfig
    config: GaussianCopulaConfig
    kinds = ("numpy",)
    private = True

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        """As `TabularGenerator`, up to 2,000 columns and codes together."""
        width = len(schema.modelled()) + sum(len(b.vocabulary) for b in schema.blocks)
        if width > WIDEST:
            return Support(
                ok=False,
                reason=f"{width} columns and codes are more than the {WIDEST} a full correlation matrix is made for; "
                "keep the commonest codes, or use a generator for wide blocks (vae).",
            )
        return super().supports(schema)

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
        frequencies = {name: count_frequencies(counts) for name, counts in rows.blocks.items()}
        orders = level_orders(encoder, rows, self.config.nominal_order)
        self._latents = latents_of(encoder, frequencies, orders)
        target, pairs = moments_of(encoder, self._latents, rows)
        variance = self._variance()
        shrink = pair_shrinkage(target, pairs, variance) if self.config.pair_shrinkage else np.ones_like(target)
        shrink = shrink * self._taking_part(encoder)

        def found(drawn: Encoded) -> NDArray[np.float64]:
            return moments_of(encoder, self._latents, drawn)[0]

        return self._calibrated(encoder, target * shrink, shrink, found, seed, progress)

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
        """Half of the budget on margins, half on the products of scores (spec 1.2, DP).

        From there on everything is made of published numbers: the correlations are calibrated until drawn rows show
        the noisy products, not those of real rows. Nominal levels are ordered by their noisy frequency, since the
        correspondence analysis would be one more look at the rows.
        """
        rho = run.zcdp_rho()
        margins = noisy_margins(encoder, rows, run, rho=rho / 2, rows_per_subject=run.rows_per_subject)
        sharper = margins.encoder
        self._latents = latents_of(sharper, margins.code_shares, level_orders(sharper, None, "frequency"))
        taking_part = self._taking_part(sharper)
        active = np.flatnonzero(np.diag(taking_part))
        d, norm = len(self._latents), float(np.sqrt(max(1, len(active))))
        seen = np.array([max(LEAST_SEEN, observed_share(sharper, x)) for x in self._latents])
        both = np.outer(seen, seen)

        def products(some: Encoded) -> NDArray[np.float64]:
            out = np.zeros((d, d))
            part = clipped_products(sharper, [self._latents[i] for i in active], some, norm)
            out[np.ix_(active, active)] = part
            return out

        target, noise = np.zeros((d, d)), 0.0
        if len(active) > 1:
            noisy, noise = measure_products(
                run,
                products(margins.rows)[np.ix_(active, active)],
                norm=norm,
                rho=rho / 2,
                rows_per_subject=run.rows_per_subject,
            )
            target[np.ix_(active, active)] = noisy / rows.n
        target /= both
        shrink = pair_shrinkage(target, rows.n * both, self._variance(), noise) * taking_part
        learned = self._calibrated(
            sharper, target * shrink, shrink, lambda drawn: products(drawn) / drawn.n / both, seed, progress
        )
        learned.encoder = sharper
        return learned

    def _variance(self) -> NDArray[np.float64]:
        """(latents,) variance of the scores."""
        return np.array([score_variance(x.edges) for x in self._latents])

    def _taking_part(self, encoder: TableEncoder) -> NDArray[np.float64]:
        """(latents, latents) 1 for pairs that are correlated, 0 for those with a code too rare to be."""
        part = np.array([x.kind != "code" or bool(encoder.blocks[x.name].common[x.code]) for x in self._latents])
        return np.outer(part, part).astype(np.float64)

    def _calibrated(
        self,
        encoder: TableEncoder,
        target: NDArray[np.float64],
        shrink: NDArray[np.float64],
        found: Callable[[Encoded], NDArray[np.float64]],
        seed: int,
        progress: Progress | None,
    ) -> Learned:
        """Correlations with which drawn rows show the products `target`.

        Args:
            encoder: with the margins.
            target: (latents, latents) mean products of scores, shrunk already.
            shrink: by what; a pair that was shrunk to nothing is left alone.
            found: the same of drawn rows.
            seed: of the simulation.
            progress: told after each step.
        """
        variance = self._variance()
        norm = np.maximum(np.outer(variance, variance), 1e-12)
        raw = np.clip(target / norm, -0.99, 0.99)
        np.fill_diagonal(raw, 1.0)
        correlation = repair(raw, least_identity=self.config.shrinkage)
        wide = len(self._latents) > MANY_LATENTS
        simulated = SIMULATED_IF_WIDE if wide else SIMULATED
        noise = stream(seed, "calibrate").standard_normal((simulated, len(self._latents)))
        for step in range(self.config.calibration_steps):
            drawn = self._from_latents(encoder, noise @ np.linalg.cholesky(correlation).T, stream(seed, "ties", step))
            raw = np.clip(raw + shrink * (target - found(drawn)) / norm, -0.99, 0.99)
            np.fill_diagonal(raw, 1.0)
            correlation = repair(raw, least_identity=self.config.shrinkage)
            if progress is not None:
                progress(step + 1, self.config.calibration_steps, {})
        self._factor = np.linalg.cholesky(correlation)
        d = len(self._latents)
        return Learned(parameters=d * (d - 1) // 2 + sum(len(x.edges) for x in self._latents))

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return True

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        parts: list[Encoded] = []
        for start in range(0, n, CHUNK):
            index = np.arange(start, min(start + CHUNK, n))
            z = rng.standard_normal((len(index), len(self._latents)))
            if fixed:
                z = self._conditioned(encoder, z, rng, fixed.take(index))
            else:
                z = z @ self._factor.T
            parts.append(self._from_latents(encoder, z, rng))
        return Encoded.concatenate(parts)

    def _conditioned(
        self, encoder: TableEncoder, noise: NDArray[np.float64], rng: np.random.Generator, fixed: Fixed
    ) -> NDArray[np.float64]:
        """Latents of rows in which `fixed` holds: truncated where conditioned, conditional Gaussian elsewhere."""
        from scipy.special import ndtri

        correlation = self._factor @ self._factor.T
        n = len(noise)
        at: list[int] = []
        low: list[NDArray[np.float64]] = []
        high: list[NDArray[np.float64]] = []
        for i, latent in enumerate(self._latents):
            if latent.kind == "level" and latent.name in fixed.codes:
                states = encoder.levels[latent.name].encode(fixed.codes[latent.name])
                known_state = (states >= 0) & (states < len(latent.order))
                place = np.argsort(latent.order)[np.where(known_state, states, 0)]
                a, b = latent.edges[place], latent.edges[place + 1]
                # Missing has a latent of its own, and a state that training never had says nothing.
                free = ~known_state | (b <= a)
            elif latent.kind == "missing" and (latent.name in fixed.values or latent.name in fixed.codes):
                codes = fixed.codes.get(latent.name)
                blank = np.isnan(fixed.values[latent.name]) if codes is None else codes < 0
                a, b = np.where(blank, latent.edges[1], 0.0), np.where(blank, 1.0, latent.edges[1])
                free = b <= a
            elif latent.kind == "value" and latent.name in fixed.values:
                values = fixed.values[latent.name]
                free = np.isnan(values)
                a, b = np.zeros(n), np.ones(n)
                if not free.all():
                    a[~free], b[~free] = encoder.numbers[latent.name].scaler.interval(values[~free])
            else:
                continue
            at.append(i)
            low.append(np.where(free, 0.0, a))
            high.append(np.where(free, 1.0, b))
        if not at:
            return noise @ self._factor.T
        known = np.array(at)
        bottom = ndtri(np.clip(np.stack(low, axis=1), 1e-12, 1 - 1e-12))
        top = ndtri(np.clip(np.stack(high, axis=1), 1e-12, 1 - 1e-12))
        z_known = truncated_gibbs(
            correlation[np.ix_(known, known)],
            bottom,
            top,
            rng,
            sweeps=1 if len(known) == 1 else self.config.gibbs_sweeps,
        )
        return conditional_normal(correlation, known, z_known, noise)

    def _from_latents(self, encoder: TableEncoder, z: NDArray[np.float64], rng: np.random.Generator) -> Encoded:
        """(n, latents) normals to encoded rows."""
        from scipy.special import ndtr

        uniform = ndtr(z)
        n = len(z)
        out = Encoded(n=n)
        out.uniforms = {k: np.full(n, np.nan) for k in encoder.numbers}
        out.states = {k: np.zeros(n, dtype=np.int64) for k in encoder.levels}
        codes: dict[str, list[tuple[int, NDArray[np.int16]]]] = {}
        for i, latent in enumerate(self._latents):
            u = uniform[:, i]
            if latent.kind == "value":
                out.uniforms[latent.name] = u.copy()
                continue
            place = np.clip(np.searchsorted(latent.edges, u, side="right") - 1, 0, len(latent.edges) - 2)
            if latent.kind == "level":
                out.states[latent.name] = latent.order[place]
            elif latent.kind == "code":
                codes.setdefault(latent.name, []).append((latent.code, place.astype(np.int16)))
            elif latent.name in encoder.numbers:
                out.uniforms[latent.name][place == 1] = np.nan
            else:
                out.states[latent.name][place == 1] = encoder.levels[latent.name].states - 1
        for name, block in encoder.blocks.items():
            counts = np.zeros((len(z), len(block.used)), dtype=np.int16)
            for position, values in codes.get(name, []):
                counts[:, position] = values
            always = np.setdiff1d(np.arange(len(block.used)), [p for p, _ in codes.get(name, [])])
            counts[:, always] = block.cap[always]
            out.blocks[name] = counts
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors: dict[str, NDArray[Any]] = {
            "factor": self._factor,
            "edges": np.concatenate([x.edges for x in self._latents if x.kind != "value"] or [np.empty(0)]),
            "order": np.concatenate([x.order for x in self._latents] or [np.empty(0, dtype=np.int64)]),
        }
        latents = [
            {
                "kind": x.kind,
                "name": x.name,
                "code": x.code,
                "edges": 0 if x.kind == "value" else len(x.edges),
                "order": len(x.order),
            }
            for x in self._latents
        ]
        return tensors, {"latents": latents}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._factor = np.asarray(tensors["factor"], dtype=np.float64)
        self._latents = []
        edge = place = 0
        for x in extra["latents"]:
            edges = tensors["edges"][edge : edge + x["edges"]]
            if x["kind"] == "value":
                edges = encoder.numbers[x["name"]].scaler.edges
            order = np.asarray(tensors["order"][place : place + x["order"]], dtype=np.int64)
            self._latents.append(Latent(x["kind"], x["name"], int(x["code"]), edges, order))
            edge, place = edge + x["edges"], place + x["order"]
