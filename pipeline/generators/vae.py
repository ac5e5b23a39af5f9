"""Variational autoencoder of table rows (Kondapally's framework, mended: spec 2).

The default learns the likelihood of mixed columns and draws from it; preset 'paper' is the published configuration,
whose variance collapses because it fits means by squared error and outputs them (spec 2.2). Both share the network
(`variational/network.py`) and the training loop; what differs is the encoding (`encoding/mixed.py`,
`encoding/literal.py`). The prior that latents are drawn from is in `variational/prior.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.level_cuts import level_cuts
from pipeline.encoding.mixed import MixedTable
from pipeline.errors import UnsupportedError
from pipeline.generators.rejection import draw_matching
from pipeline.generators.seeds import derive_seed, stream
from pipeline.generators.tabular import Learned, TabularGenerator
from pipeline.generators.training import choose_device, repeatable, torch_stream, train, tuning_rows
from pipeline.generators.variational.network import Network
from pipeline.generators.variational.portraits import ROWS, agreement, reconstruction, traversals
from pipeline.generators.variational.prior import MixturePrior, StandardPrior
from pipeline.generators.variational.schedules import BetaSchedule
from pipeline.generators.variational.settings import VAEConfig
from pipeline.privacy.dpsgd import PrivateSettings, train_private

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.mixed import TableTensors
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.portrait import Portrait
    from pipeline.generators.training import Loss, TrainLog
    from pipeline.privacy.run import PrivateRun

CHUNK = 8_192
MIXTURE_POINTS = 10_000
POSTERIOR_DRAWS = 3
ACTIVE_VARIANCE = 0.01
CALIBRATION_ROUNDS = 2
_CUTS = "cuts/"


@dataclass
class Posterior:
    """The latents of the training rows.

    Attributes:
        means: (rows, latents) posterior means of the training rows.
        points: (points, latents) draws of the aggregate posterior, at most 10,000.
        rows: (points,) the row that each was drawn for.
        kl: mean KL divergence from N(0, I), nats a row.
    """

    means: NDArray[np.float64]
    points: NDArray[np.float64]
    rows: NDArray[np.int64]
    kl: float

    @property
    def spread(self) -> NDArray[np.float64]:
        """(latents,) variance of the posterior means; a latent above 0.01 is used."""
        return np.asarray(self.means.var(axis=0))

    @property
    def active(self) -> int:
        """Number of latents that are used."""
        return int((self.spread > ACTIVE_VARIANCE).sum())


class VAE(TabularGenerator):
    """Variational autoencoder with mixed likelihoods; conditions by rejection."""

    name = "vae"
    title = "Variational autoencoder, mixed likelihoods"
    Config = VAEConfig
    config: VAEConfig
    code_version = "5"
    uses_gpu = True
    kinds = ("torch",)
    private = True
    _private = False
    """Was this model trained under differential privacy? Its network is another one then."""
    _cuts: Mapping[str, NDArray[np.float64]] = {}
    """Where numbers are cut besides; nowhere under differential privacy, since cuts are told from rows."""
    resumes = True

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
        place = choose_device(device)
        tune = self._tuning(cohort)
        self._prepare(encoder, rows, cohort)
        self._private = False
        with repeatable(seed):
            network = self._network(encoder)
            bias = network.table.start_bias(rows)
            if bias is not None:
                with torch.no_grad():
                    network.last.bias.copy_(bias)
            network.to(place)
            data = network.table.tensors(rows, place)
            given = self._given(rows, place)
            log = self._train(network, data, given, tune, seed=seed, place=place, progress=progress)
            posterior = self._posterior(network, data, given, rows.n, seed, place)
            network.to("cpu")
        self._net = network
        self._prior = self._fit_prior(posterior, rows, seed)
        self._calibrate(seed)
        self._seen = self._look_back(encoder, rows, posterior, seed)
        facts = {"kl": posterior.kl, "active_units": float(posterior.active), "best_epoch": float(log.best_epoch)}
        return Learned(
            parameters=sum(p.numel() for p in network.parameters()),
            losses=log.losses,
            warnings=[*log.warnings, *self._remarks(posterior)],
            facts=facts,
        )

    def _train(
        self,
        network: Network,
        data: TableTensors,
        given: Tensor | None,
        tune: NDArray[np.bool_],
        *,
        seed: int,
        place: torch.device,
        progress: Progress | None,
    ) -> TrainLog:
        """Fit the network to the rows that are not for tuning; it ends with its best weights."""
        return train(
            network,
            self._loss(network, data, given, self.config.schedule(blocks=bool(network.table.encoder.blocks)), place),
            fit_rows=np.flatnonzero(~tune),
            tune_rows=np.flatnonzero(tune),
            settings=self.config.training(len(tune)),
            seed=seed,
            device=place,
            fast_parameters=network.table.free_scales(),
            progress=progress,
            checkpoint=self._checkpoint,
        )

    def noise_settings(self, subjects: int) -> PrivateSettings:
        """How DP-SGD trains on so many subjects with these settings."""
        return self.config.private_training(subjects)

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
        """A smaller network by noisy steps: no tuning rows, no early stopping, N(0, I) as the prior (spec 3.3)."""
        place = choose_device(device)
        if self.config.likelihood != "mixed":
            raise UnsupportedError(
                f"The published likelihood of '{self.name}' is not trained under differential privacy.",
                todo="Use the default.",
            )
        self._private, self._cuts = True, {}
        self._bins = self.config.private_bins
        self._prepare_private(encoder)
        settings = self.config.private_training(run.subjects)
        with repeatable(seed):
            network = self._network(encoder)
            assert isinstance(network.table, MixedTable)
            with torch.no_grad():
                network.last.bias.copy_(network.table.known_bias())
            network.to(place)
            data = network.table.tensors(rows, place)
            loss = self._loss(network, data, self._given(rows, place), BetaSchedule(self.config.private_beta), place)
            log = train_private(
                network,
                loss,
                rows=rows.n,
                settings=settings,
                run=run,
                init_seed=seed,
                device=place,
                subject=np.unique(cohort.subject, return_inverse=True)[1],
                fast_parameters=network.table.free_scales(),
                progress=progress,
            )
            network.to("cpu")
        self._net = network
        self._prior = StandardPrior(network.shape.latent)
        self._calibrate(seed)
        self._seen = {}
        return Learned(
            parameters=sum(p.numel() for p in network.parameters()), losses=log.losses, warnings=list(log.warnings)
        )

    def _prepare_private(self, encoder: TableEncoder) -> None:
        """The same as `_prepare` for a private training: from the private encoder alone."""

    def _loss(
        self, network: Network, data: TableTensors, given: Tensor | None, schedule: BetaSchedule, place: torch.device
    ) -> Loss:
        """The negative evidence lower bound of some rows, the KL term weighted by the schedule."""

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            batch = network.table.batch(data.take(at))
            condition = self._hidden(given, at, network, noise)
            mean, log_var = network.encode(batch.inputs(), condition)
            z = mean + torch.randn(mean.shape, generator=noise, device=place) * (0.5 * log_var).exp()
            fit = network.table.loss(network.decode(z, condition), batch)
            return fit + schedule.at(done) * self._charged(mean, log_var)

        return loss

    def _tuning(self, cohort: Cohort) -> NDArray[np.bool_]:
        """(n,) True for the rows that are kept from learning and judge the epochs; none where all epochs are wanted."""
        return tuning_rows(cohort) if self.config.patience else np.zeros(cohort.n_rows, dtype=bool)

    def _prepare(self, encoder: TableEncoder, rows: Encoded, cohort: Cohort) -> None:
        """What has to be known of the rows before there is a network."""
        self._bins = min(self.config.numeric_bins, max(8, rows.n // 40))
        binned = self.config.likelihood == "mixed" and self.config.numeric_head == "binned"
        self._cuts = level_cuts(encoder, rows) if binned else {}

    def _network(self, encoder: TableEncoder) -> Network:
        """The untrained network."""
        if self._private:
            return Network(self.config.private_table(encoder, self._bins), self.config.shape(private=True))
        return Network(self.config.table(encoder, self._bins, cuts=self._cuts), self.config.shape())

    def _given(self, rows: Encoded, place: torch.device) -> Tensor | None:
        """(n, conditions) condition vectors of the training rows; None where there are no conditions."""
        return None

    def _hidden(self, given: Tensor | None, at: Tensor, network: nn.Module, noise: torch.Generator) -> Tensor | None:
        """(batch, conditions) condition vectors of some rows, some of them hidden while training."""
        return None

    def _remarks(self, posterior: Posterior) -> list[str]:
        """Sentences for people about what was learned."""
        if self.config.likelihood == "mse_sigmoid":
            return [
                "Known to collapse: squared error with decoder means loses the variance of the columns; this setting "
                "reproduces the publication and is not for use."
            ]
        if posterior.active:
            return []
        linked = getattr(self._net.table, "links", None) is not None
        drawn = "each from those before it" if linked else "independently"
        return [f"The latents are not used: the columns are drawn {drawn}. Lower `beta`."]

    def _charged(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """(batch,) KL divergence from N(0, I), each latent charged only above the free bits."""
        each = -0.5 * (1 + log_var - mean**2 - log_var.exp())
        if not self.config.free_bits or self._private:
            return each.sum(dim=1)
        # Charged by the batch's mean (Kingma et al. 2016), and spread evenly so that the sum over rows is the same.
        charged = each.mean(dim=0).clamp_min(self.config.free_bits).sum()
        return charged.expand(len(mean))

    def _posterior(
        self, network: Network, data: Any, given: Tensor | None, n: int, seed: int, place: torch.device
    ) -> Posterior:
        """Latents of the training rows, and what they look like."""
        noise = torch_stream(seed, "posterior", device=place)
        points: list[Tensor] = []
        means: list[Tensor] = []
        kl = 0.0
        network.eval()
        with torch.inference_mode():
            for part in torch.arange(n, device=place).split(CHUNK):
                batch = network.table.batch(data.take(part))
                mean, log_var = network.encode(batch.inputs(), None if given is None else given[part])
                kl += float((-0.5 * (1 + log_var - mean**2 - log_var.exp())).sum())
                means.append(mean)
                spread = (0.5 * log_var).exp()
                each = [
                    mean + torch.randn(mean.shape, generator=noise, device=place) * spread
                    for _ in range(POSTERIOR_DRAWS)
                ]
                points.append(torch.stack(each, dim=1))
        everything = torch.cat(points).flatten(0, 1).cpu().numpy().astype(np.float64)
        rows = np.repeat(np.arange(n), POSTERIOR_DRAWS)
        if len(everything) > MIXTURE_POINTS:
            keep = np.sort(stream(seed, "mixture-rows").permutation(len(everything))[:MIXTURE_POINTS])
            everything, rows = everything[keep], rows[keep]
        return Posterior(torch.cat(means).cpu().numpy().astype(np.float64), everything, rows, kl / n)

    def _fit_prior(self, posterior: Posterior, rows: Encoded, seed: int) -> StandardPrior | MixturePrior:
        if self.config.prior == "standard":
            return StandardPrior(self.config.latent_dim)
        return MixturePrior.fit(posterior.points, components=self.config.prior_components, rows=rows.n, seed=seed)

    def _calibrate(self, seed: int) -> None:
        """Shift the outputs' bias until columns are drawn as often as the encoder knows them.

        The prior is not quite where the latents of real rows are, which shifts margins by some hundredths; how often
        states are is known to the encoder, so that this costs nothing under differential privacy either.
        """
        table = self._net.table
        if getattr(table, "numeric", None) is None:
            return
        assert isinstance(table, MixedTable)
        for k in range(CALIBRATION_ROUNDS):
            drawn = self._rows(CHUNK, stream(seed, "calibrate", k))
            with torch.no_grad():
                self._net.last.bias.add_(table.correction(drawn))

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        if fixed:
            return draw_matching(lambda m: self._rows(m, rng), encoder, n, fixed)
        return self._rows(n, rng)

    def _rows(self, n: int, rng: np.random.Generator) -> Encoded:
        """`n` encoded rows without conditions."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        parts = [
            self._decoded(self._prior.draw(min(CHUNK, n - start), rng), noise, rng) for start in range(0, n, CHUNK)
        ]
        return Encoded.concatenate(parts)

    def _decoded(self, latents: NDArray[np.float64], noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Encoded rows for (n, latents) latents, without conditions."""
        with torch.inference_mode():
            outputs = self._net.decode(torch.as_tensor(latents, dtype=torch.float32))
            return self._net.table.draw(outputs, noise, rng)

    def _look_back(self, encoder: TableEncoder, rows: Encoded, posterior: Posterior, seed: int) -> dict[str, Any]:
        """Aggregates of the training rows through the latents, kept for the portraits."""
        some = np.sort(stream(seed, "look-back").permutation(rows.n)[:CHUNK])
        noise = torch.Generator().manual_seed(derive_seed(seed, "look-back"))
        again = self._decoded(posterior.means[some], noise, stream(seed, "look-back-draw"))
        return {"spread": posterior.spread.tolist(), "agreement": agreement(encoder, rows.take(some), again)}

    def reconstruct(self, cohort: Cohort, *, seed: int) -> Cohort:
        """Rows of the training schema through their latents' means and back: what the latents carry of them.

        Not for publication: a reconstruction is a real row, blurred.
        """
        encoder, noise = self._fitted(), torch_stream(seed, "reconstruct")
        rng = stream(seed, "reconstruct")
        rows = encoder.encode(cohort, rng)
        data, given = self._net.table.tensors(rows, "cpu"), self._given(rows, torch.device("cpu"))
        parts: list[Encoded] = []
        with torch.inference_mode():
            for part in torch.arange(rows.n).split(CHUNK):
                batch = self._net.table.batch(data.take(part))
                mean, _ = self._net.encode(batch.inputs(), None if given is None else given[part])
                parts.append(self._decoded(mean.numpy().astype(np.float64), noise, rng))
        return encoder.decode(Encoded.concatenate(parts), rng)[0]

    def portraits(self) -> dict[str, Portrait]:
        """Traversals of the most used latents, and how well each column is reconstructed; none of a private training."""
        encoder = self._fitted()
        if not self._seen:
            return {}
        spread = np.array(self._seen["spread"])

        def decode(latents: NDArray[np.float64]) -> Encoded:
            return self._decoded(latents, torch.Generator().manual_seed(0), stream(0, "portrait"))

        typical = self._prior.draw(ROWS, stream(0, "portrait-latents"))
        return {
            "reconstruction": reconstruction(self._seen["agreement"]),
            **traversals(encoder, decode, spread, typical),
        }

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"net/{k}": v.detach().numpy() for k, v in self._net.state_dict().items()}
        tensors.update({f"mixture/{k}": v for k, v in self._prior.tensors().items()})
        tensors |= {f"{_CUTS}{name}": cuts for name, cuts in self._cuts.items()}
        return tensors, {"bins": self._bins, "private": self._private, "seen": self._seen}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._bins, self._private = int(extra["bins"]), bool(extra["private"])
        self._seen = dict(extra["seen"])
        self._cuts = {k.removeprefix(_CUTS): v for k, v in tensors.items() if k.startswith(_CUTS)}
        with repeatable(0):
            self._net = self._network(encoder)
        weights = {k.removeprefix("net/"): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("net/")}
        self._net.load_state_dict(weights)
        self._net.eval()
        mixture = {k.removeprefix("mixture/"): v for k, v in tensors.items() if k.startswith("mixture/")}
        self._prior = MixturePrior.restore(mixture) if mixture else StandardPrior(self._net.shape.latent)
