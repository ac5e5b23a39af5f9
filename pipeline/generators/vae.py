"""Variational autoencoder of table rows (Kondapally's framework, mended: spec 2).

The default learns the likelihood of mixed columns and draws from it; preset 'paper' is the published configuration,
whose variance collapses because it fits means by squared error and outputs them (spec 2.2). Both share the network
and the training loop; what differs is the encoding (`encoding/mixed.py`, `encoding/literal.py`). The mixture that
closes the hole between the latents of real rows and the standard normal prior is fitted after training (spec 2.3).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.literal import MinMaxTable
from pipeline.encoding.mixed import MixedTable
from pipeline.generators.rejection import draw_matching
from pipeline.generators.seeds import derive_seed, stream
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator
from pipeline.generators.training import TrainSettings, choose_device, repeatable, torch_stream, train, tuning_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed

CHUNK = 8_192
MIXTURE_POINTS = 20_000
POSTERIOR_DRAWS = 3
ACTIVE_VARIANCE = 0.01
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "silu": nn.SiLU}
_PAPER: dict[str, Any] = {
    "likelihood": "mse_sigmoid",
    "prior": "standard",
    "warmup": 0.0,
    "free_bits": 0.0,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "epochs": 100,
    "patience": 0,
    "clip": 1e9,
}


class VAEConfig(TabularConfig):
    """Settings of the VAE; defaults chosen on the tuning part of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "exp1": {**_PAPER, "latent_dim": 2, "hidden": (64, 32), "activation": "relu", "batch_size": 32, "beta": 1.0},
        "exp2": {**_PAPER, "latent_dim": 4, "hidden": (128, 64), "activation": "relu", "batch_size": 32, "beta": 2.0},
        "exp3": {
            **_PAPER,
            "latent_dim": 8,
            "hidden": (256, 128, 64),
            "activation": "leaky_relu",
            "batch_size": 64,
            "beta": 1.5,
        },
        "exp4": {
            **_PAPER,
            "latent_dim": 16,
            "hidden": (512, 256, 128),
            "activation": "elu",
            "batch_size": 64,
            "beta": 1.0,
        },
        "paper": {**_PAPER, "latent_dim": 4, "hidden": (128, 64), "activation": "relu", "batch_size": 32, "beta": 2.0},
        "quick": {"epochs": 20, "hidden": (64,), "latent_dim": 8, "prior_components": 4, "learning_rate": 3e-3},
    }
    likelihood: Literal["mixed", "mse_sigmoid"] = Field(
        default="mixed",
        description="'mixed': a likelihood for each kind of column, drawn from. 'mse_sigmoid': the published squared"
        " error and decoder means, known to collapse (spec 2.2).",
    )
    numeric_head: Literal["binned", "gaussian", "student_t"] = Field(
        default="binned",
        description="Likelihood of numeric columns: a categorical over pieces of the empirical distribution, or a"
        " Gaussian or Student-t on normal scores (spec 0.3).",
    )
    numeric_bins: int = Field(
        default=32,
        ge=2,
        le=512,
        description="About how many pieces a binned column has; at most one for 40 training rows, but at least 8.",
    )
    latent_dim: int = Field(default=16, ge=1, le=512, description="Number of latent variables (spec 2.1).")
    hidden: tuple[int, ...] = Field(
        default=(256, 128), min_length=1, description="Widths of the encoder's hidden layers; the decoder mirrors them."
    )
    activation: Literal["relu", "leaky_relu", "elu", "silu"] = Field(
        default="silu", description="Nonlinearity of the hidden layers."
    )
    dropout: float = Field(default=0.15, ge=0, lt=1, description="Share of hidden units dropped while training.")
    beta: float = Field(
        default=0.6, ge=0, description="Weight of the KL term; the mixture prior makes up for values below 1."
    )
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="Share of the training over which beta grows from 0 (spec 2.3)."
    )
    free_bits: float = Field(
        default=0.0, ge=0, description="Nats of KL a latent may use without being charged, in the batch's mean."
    )
    prior: Literal["gmm", "standard"] = Field(
        default="gmm",
        description="Where latents are drawn from: a Gaussian mixture fitted to those of the training rows after"
        " training (spec 2.3), or N(0, I).",
    )
    prior_components: int = Field(
        default=10, ge=1, le=200, description="Components of the mixture, at most one for 100 training rows (spec 2.3)."
    )
    epochs: int = Field(default=200, ge=1, le=100_000, description="Passes over the training rows, at most.")
    batch_size: int = Field(
        default=256, ge=1, description="Rows a step; at most an eighth of the training rows, but at least 32."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(default=1e-5, ge=0, description="Weight decay of AdamW; with 0 it is Adam.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of a step's gradient.")
    patience: int = Field(
        default=10, ge=0, description="Epochs without gain on the tuning rows before training stops; 0 trains them all."
    )


class VAE(TabularGenerator):
    """Variational autoencoder with mixed likelihoods; conditions by rejection."""

    name = "vae"
    title = "Variational autoencoder, mixed likelihoods"
    Config = VAEConfig
    config: VAEConfig
    uses_gpu = True
    kinds = ("torch",)

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
        tune = tuning_rows(cohort)
        with repeatable(seed):
            self._bins = min(self.config.numeric_bins, max(8, rows.n // 40))
            self._net = network = _Network(encoder, self.config, self._bins)
            bias = network.table.start_bias(rows)
            if bias is not None:
                with torch.no_grad():
                    network.last.bias.copy_(bias)
            network.to(place)
            data = network.table.tensors(rows, place)

            def loss(batch: Tensor, noise: torch.Generator, done: float) -> Tensor:
                mean, log_var = network.encode(data.inputs(batch))
                z = mean + torch.randn(mean.shape, generator=noise, device=place) * (0.5 * log_var).exp()
                weight = self.config.beta * (min(1.0, done / self.config.warmup) if self.config.warmup else 1.0)
                return network.table.loss(network.decode(z), data, batch) + weight * self._charged(mean, log_var)

            log = train(
                network,
                loss,
                fit_rows=np.flatnonzero(~tune),
                tune_rows=np.flatnonzero(tune),
                settings=TrainSettings(
                    epochs=self.config.epochs,
                    batch_size=min(self.config.batch_size, max(32, rows.n // 8)),
                    learning_rate=self.config.learning_rate,
                    weight_decay=self.config.weight_decay,
                    clip=self.config.clip,
                    patience=self.config.patience,
                    settled=self.config.warmup,
                ),
                seed=seed,
                device=place,
                fast_parameters=network.free_scales(),
                progress=progress,
            )
            latents, facts = self._posterior(network, data, rows.n, seed, place)
            network.to("cpu")
        self._mixture = self._fit_mixture(latents, rows.n, seed) if self.config.prior == "gmm" else None
        warnings = list(log.warnings)
        if self.config.likelihood == "mse_sigmoid":
            warnings.append(
                "Known to collapse: squared error with decoder means loses the variance of the columns; this setting "
                "reproduces the publication and is not for use."
            )
        elif facts["active_units"] == 0:
            warnings.append("The latents are not used: the columns are drawn independently. Lower `beta`.")
        facts["best_epoch"] = float(log.best_epoch)
        parameters = sum(p.numel() for p in network.parameters())
        return Learned(parameters=parameters, losses=log.losses, warnings=warnings, facts=facts)

    def _charged(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """(batch,) KL divergence from N(0, I), each latent charged only above the free bits."""
        each = -0.5 * (1 + log_var - mean**2 - log_var.exp())
        if not self.config.free_bits:
            return each.sum(dim=1)
        # Charged by the batch's mean (Kingma et al. 2016), and spread evenly so that the sum over rows is the same.
        charged = each.mean(dim=0).clamp_min(self.config.free_bits).sum()
        return charged.expand(len(mean))

    def _posterior(
        self, network: _Network, data: Any, n: int, seed: int, place: torch.device
    ) -> tuple[NDArray[np.float64], dict[str, float]]:
        """Latents of at most 20,000 points of the aggregate posterior, and what it looks like."""
        noise = torch_stream(seed, "posterior", device=place)
        points: list[Tensor] = []
        means: list[Tensor] = []
        kl = 0.0
        with torch.inference_mode():
            for part in torch.arange(n, device=place).split(CHUNK):
                mean, log_var = network.encode(data.inputs(part))
                kl += float((-0.5 * (1 + log_var - mean**2 - log_var.exp())).sum())
                means.append(mean)
                for _ in range(POSTERIOR_DRAWS):
                    eps = torch.randn(mean.shape, generator=noise, device=place)
                    points.append(mean + eps * (0.5 * log_var).exp())
        everything = torch.cat(points).cpu().numpy().astype(np.float64)
        if len(everything) > MIXTURE_POINTS:
            keep = stream(seed, "mixture-rows").permutation(len(everything))[:MIXTURE_POINTS]
            everything = everything[np.sort(keep)]
        active = int((torch.cat(means).var(dim=0, correction=0) > ACTIVE_VARIANCE).sum())
        return everything, {"kl": kl / n, "active_units": float(active)}

    def _fit_mixture(self, points: NDArray[np.float64], n: int, seed: int) -> dict[str, NDArray[np.float64]]:
        """Weights, means and Cholesky factors of a full-covariance Gaussian mixture of latents."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        components = max(1, min(self.config.prior_components, n // 100))
        with warnings.catch_warnings():
            # Fifty rounds are enough for a prior; that the likelihood still creeps up is no news for the user.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(
                components, max_iter=50, reg_covar=1e-3, random_state=derive_seed(seed, "mixture") % 2**32
            ).fit(points)
        return {
            "weights": mixture.weights_,
            "means": mixture.means_,
            "factors": np.linalg.cholesky(mixture.covariances_),
        }

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        if fixed:
            return draw_matching(lambda m: self._rows(m, rng), encoder, n, fixed)
        return self._rows(n, rng)

    def _rows(self, n: int, rng: np.random.Generator) -> Encoded:
        """`n` encoded rows without conditions."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        parts: list[Encoded] = []
        for start in range(0, n, CHUNK):
            latents = torch.as_tensor(self._prior(min(CHUNK, n - start), rng), dtype=torch.float32)
            with torch.inference_mode():
                parts.append(self._net.table.draw(self._net.decode(latents), noise, rng))
        return Encoded.concatenate(parts)

    def _prior(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """(n, latents) draws of the prior."""
        normal = rng.standard_normal((n, self.config.latent_dim))
        if self._mixture is None:
            return normal
        component = rng.choice(len(self._mixture["weights"]), size=n, p=self._mixture["weights"])
        out = self._mixture["means"][component]
        for k in np.unique(component):
            at = component == k
            out[at] += normal[at] @ self._mixture["factors"][k].T
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"net/{k}": v.detach().numpy() for k, v in self._net.state_dict().items()}
        if self._mixture is not None:
            tensors.update({f"mixture/{k}": v for k, v in self._mixture.items()})
        return tensors, {"bins": self._bins}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._bins = int(extra["bins"])
        with repeatable(0):
            self._net = _Network(encoder, self.config, self._bins)
        weights = {k.removeprefix("net/"): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("net/")}
        self._net.load_state_dict(weights)
        self._net.eval()
        mixture = {k.removeprefix("mixture/"): v for k, v in tensors.items() if k.startswith("mixture/")}
        self._mixture = mixture or None


class _Network(nn.Module):
    """Encoder and decoder around a table's likelihood."""

    def __init__(self, encoder: TableEncoder, config: VAEConfig, bins: int) -> None:
        super().__init__()
        self.table: MixedTable | MinMaxTable = (
            MixedTable(encoder, numeric=config.numeric_head, bins=bins)
            if config.likelihood == "mixed"
            else MinMaxTable(encoder)
        )
        self.encoder = _layers([self.table.inputs, *config.hidden], config)
        self.posterior = nn.Linear(config.hidden[-1], 2 * config.latent_dim)
        self.decoder = _layers([config.latent_dim, *reversed(config.hidden)], config)
        self.last = nn.Linear(config.hidden[0], self.table.width)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, (batch, latents) each."""
        mean, log_var = self.posterior(self.encoder(inputs)).chunk(2, dim=1)
        return mean, log_var.clamp(-10, 4)

    def decode(self, latents: Tensor) -> Tensor:
        """(batch, width) outputs for the heads."""
        return self.last(self.decoder(latents))

    def free_scales(self) -> list[Tensor]:
        """Parameters that are no network weights and learn faster: the scales of numeric heads."""
        return list(self.table.parameters())


def _layers(widths: list[int], config: VAEConfig) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), ACTIVATIONS[config.activation]()]
        if config.dropout:
            modules.append(nn.Dropout(config.dropout))
    return nn.Sequential(*modules)
