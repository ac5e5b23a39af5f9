"""Conditional VAE: a network that is told some columns, and draws the others to fit them (Sohn, Lee and Yan 2015).

Encoder [x, y] to z, decoder [z, y] to x (the framework paper's CVAE with y = gender and age group; spec 2.3): the vector
of the condition columns stands beside the encoder's input and every decoder layer's. One training serves with and
without conditions: each column is hidden from a tenth of the rows. Everything else is that of `vae.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import MixedTable
from pipeline.errors import ConfigError, nearest
from pipeline.generators.conditions import Fixed
from pipeline.generators.rejection import draw_matching
from pipeline.generators.vae import CHUNK, VAE, Posterior
from pipeline.generators.variational.condition_vector import ConditionVector
from pipeline.generators.variational.network import Network
from pipeline.generators.variational.prior import MixturePrior, StandardPrior
from pipeline.generators.variational.settings import VAEConfig

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema

_CONDITIONS = "conditions/"


class CVAEConfig(VAEConfig):
    """Settings of the conditional VAE: those of the VAE, and what it is told."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: settings for name, settings in VAEConfig.presets.items() if not name.startswith("exp")
    }
    conditions: tuple[str, ...] = Field(
        default=(),
        description="Columns that the network is told, so that fixing them in a draw needs no rejection. Empty: the"
        " protected columns and the labels; without any, the first discrete column.",
    )
    condition_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the rows from which each condition is hidden in training, so that the same network also"
        " draws without it (spec 2.3).",
    )


class CVAE(VAE):
    """Conditional VAE; conditions on its own columns are native, on others by rejection."""

    name = "cvae"
    title = "Conditional variational autoencoder"
    Config = CVAEConfig
    config: CVAEConfig
    code_version = "4"

    def _prepare(self, encoder: TableEncoder, rows: Encoded, cohort: Cohort) -> None:
        super()._prepare(encoder, rows, cohort)
        columns = self._columns(encoder.schema)
        self._told = ConditionVector.fit(encoder, rows, columns, self.config.rare_level_rows)

    def _columns(self, schema: TableSchema) -> list[str]:
        """The condition columns.

        Raises:
            ConfigError: one of the settings' is no column of the table.
        """
        names = [c.name for c in schema.modelled()]
        for name in self.config.conditions:
            if name not in names:
                raise ConfigError(f"There is no column '{name}' to condition on.", todo=nearest(name, names))
        if self.config.conditions:
            return list(self.config.conditions)
        chosen = [c.name for c in schema.modelled() if c.role in ("protected", "label")]
        return chosen or [c.name for c in schema.modelled() if c.discrete][:1] or names[:1]

    def _prepare_private(self, encoder: TableEncoder) -> None:
        # How often conditions come together would cost budget; that each is as often as it is, is known.
        self._told = ConditionVector.independent(encoder, self._columns(encoder.schema))

    def _network(self, encoder: TableEncoder) -> Network:
        shape = self.config.shape(self._told.width, private=self._private)
        if self._private:
            return Network(self.config.private_table(encoder, self._bins), shape)
        return Network(self.config.table(encoder, self._bins, self._told.columns, self._cuts), shape)

    def _given(self, rows: Encoded, place: torch.device) -> Tensor | None:
        return torch.as_tensor(self._told.vector(self._told.states(rows)), device=place)

    def _hidden(self, given: Tensor | None, at: Tensor, network: nn.Module, noise: torch.Generator) -> Tensor | None:
        assert given is not None
        told = given[at]
        if not network.training or not self.config.condition_dropout or not self._told.sizes:
            return told
        seen = torch.rand(len(at), len(self._told.sizes), generator=noise, device=told.device)
        kept = (seen >= self.config.condition_dropout).to(told.dtype)
        return told * kept.repeat_interleave(torch.tensor(self._told.sizes, device=told.device), dim=1)

    def _fit_prior(self, posterior: Posterior, rows: Encoded, seed: int) -> StandardPrior | MixturePrior:
        if self.config.prior == "standard":
            return StandardPrior(self.config.latent_dim)
        group = self._told.group(self._told.states(rows))[posterior.rows]
        return MixturePrior.fit(
            posterior.points,
            components=self.config.prior_components,
            rows=rows.n,
            seed=seed,
            groups=group,
            known=len(self._told.joint),
        )

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return set(columns) <= set(self._told.columns)

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        native, other = _split(fixed, self._told.columns)
        if not other:
            return self._told_rows(self._told.asked(native, n), native, rng)
        # The rest is met by rejection: candidates are told what some row asks for, all rows in turn.
        turn = iter(range(0, 2**62, n))

        def pool(size: int) -> Encoded:
            rows = (np.arange(size) + next(turn)) % n
            return self._told_rows(self._told.asked(native, n)[rows], native.take(rows), rng)

        return draw_matching(pool, encoder, n, fixed)

    def _rows(self, n: int, rng: np.random.Generator) -> Encoded:
        return self._told_rows(self._told.asked(Fixed(), n), Fixed(), rng)

    def _decoded(self, latents: NDArray[np.float64], noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        told = self._told.drawn(self._told.asked(Fixed(), len(latents)), rng)
        return self._drawn(latents, noise, rng, told, Fixed())

    def _told_rows(self, asked: NDArray[np.int64], native: Fixed, rng: np.random.Generator) -> Encoded:
        """Rows for what is asked of the condition columns, (n, columns) states, -1 where free."""
        told = self._told.drawn(asked, rng)
        group = self._told.group(told)
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        parts: list[Encoded] = []
        for start in range(0, len(told), CHUNK):
            at = np.arange(start, min(start + CHUNK, len(told)))
            latents = self._prior.draw(len(at), rng, group[at])
            parts.append(self._drawn(latents, noise, rng, told[at], native.take(at)))
        return Encoded.concatenate(parts)

    def _drawn(
        self,
        latents: NDArray[np.float64],
        noise: torch.Generator,
        rng: np.random.Generator,
        told: NDArray[np.int64],
        native: Fixed,
    ) -> Encoded:
        """Rows for (n, latents) latents in which the condition columns are what the network is told."""
        encoder, n = self._told.encoder, len(told)
        known = Encoded(n=n)
        for i, name in enumerate(self._told.columns):
            if name in encoder.levels and (told[:, i] >= 0).all():
                known.states[name] = told[:, i]
            elif name in native.values:
                known.uniforms[name] = encoder.numbers[name].scaler.to_uniform(native.values[name], rng)
        with torch.inference_mode():
            vectors = torch.as_tensor(self._told.vector(told))
            outputs = self._net.decode(torch.as_tensor(latents, dtype=torch.float32), vectors)
            if isinstance(self._net.table, MixedTable):
                return self._net.table.draw(outputs, noise, rng, known)
            rows = self._net.table.draw(outputs, noise, rng)
        return Encoded(n, {**rows.states, **known.states}, {**rows.uniforms, **known.uniforms}, rows.blocks)

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors, extra = super()._state()
        tensors |= {f"{_CONDITIONS}{k}": v for k, v in self._told.tensors().items()}
        return tensors, {**extra, "conditions": self._told.columns}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        told = {k.removeprefix(_CONDITIONS): v for k, v in tensors.items() if k.startswith(_CONDITIONS)}
        self._told = ConditionVector.restore(encoder, extra["conditions"], told)
        super()._restore(encoder, tensors, extra)


def _split(fixed: Fixed, columns: list[str]) -> tuple[Fixed, Fixed]:
    """What is fixed in the given columns, and in the others."""
    inside = Fixed(
        {k: v for k, v in fixed.codes.items() if k in columns}, {k: v for k, v in fixed.values.items() if k in columns}
    )
    outside = Fixed(
        {k: v for k, v in fixed.codes.items() if k not in columns},
        {k: v for k, v in fixed.values.items() if k not in columns},
    )
    return inside, outside
