"""What ScoEHR's diffusion works on: latents of an autoencoder, or the rows themselves.

A space is learned from rows, gives their standardised vectors a batch at a time, and turns drawn vectors into rows. The
default decodes by drawing from likelihoods (`encoding/mixed.py`); the published ones by thresholds and rounding. The
diffusion is in `noise_model.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.denoising.real_vector import RealVector
from pipeline.generators.latent_diffusion.coded_table import CodedTable
from pipeline.generators.seeds import stream
from pipeline.generators.training import TrainLog, torch_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.generators.latent_diffusion.settings import ScoEHRConfig
    from pipeline.generators.training import Loss

    Vectors = Callable[[Tensor, torch.Generator], Tensor]
    """(batch,) rows and random numbers to (batch, width) vectors."""
    Draw = Callable[[int, torch.Generator], Tensor]
    """A number of rows and random numbers to new (rows, width) vectors."""

CHUNK = 8192
CALIBRATION_ROWS = 4096
CALIBRATION_CELLS = 8_000_000
CALIBRATION_ROUNDS = 12
LOG_VARIANCES = (-10.0, 4.0)


@dataclass
class Training:
    """How a space is trained.

    Attributes:
        run: minimises a loss over a network's parameters; (network, loss, free scales) to what happened.
        device: where the data lie.
    """

    run: Callable[[nn.Module, Loss, list[Tensor]], TrainLog]
    device: torch.device


class Space(nn.Module, ABC):
    """Where diffusion works.

    Attributes:
        width: of its vectors.
    """

    width: int

    @abstractmethod
    def learn(self, rows: Encoded, training: Training) -> tuple[TrainLog, Vectors]:
        """Learn from rows; gives what happened, and vectors of the rows a batch at a time."""

    @abstractmethod
    def rows(self, vectors: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Encoded rows for (n, width) vectors."""

    def calibrate(self, draw: Draw, seed: int) -> None:
        """Bring the margins of what is drawn to those of training; spaces with nothing to shift leave it."""


class LikelihoodSpace(Space):
    """Latents of a variational autoencoder with a light KL term, standardised; rows are drawn from likelihoods.

    Diffusion takes the place of the prior: it learns the distribution of the latents over all training rows, blur
    included, which is where the decoder has learned to decode.
    """

    def __init__(self, encoder: TableEncoder, config: ScoEHRConfig, bins: int) -> None:
        super().__init__()
        self.table = CodedTable(encoder, bins=bins, linked=config.linked)
        self.width = min(config.latent_dim, self.table.latents)
        self.beta, self.masked = config.latent_beta, config.input_mask
        self.into = _layers([self.table.inputs, *config.hidden, 2 * self.width])
        self.out = _layers([self.width, *reversed(config.hidden), self.table.width])
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", torch.zeros(self.width))
        self.register_buffer("spread", torch.ones(self.width))

    def _bias(self) -> Tensor:
        last = self.out[-1]
        assert isinstance(last, nn.Linear)
        return last.bias

    def _posterior(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents."""
        mean, log_var = self.into(inputs).chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VARIANCES)

    def learn(self, rows: Encoded, training: Training) -> tuple[TrainLog, Vectors]:
        """See `Space.learn`."""
        with torch.no_grad():
            self._bias().copy_(self.table.start_bias(rows))
        self.to(training.device)
        data = self.table.tensors(rows, training.device)

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            batch = data.take(at)
            mean, log_var = self._posterior(self._hidden(self.table.seen(batch), noise))
            z = mean + torch.randn(mean.shape, generator=noise, device=mean.device) * (0.5 * log_var).exp()
            kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(dim=1)
            return self.table.loss(self.out(z), batch) + self.beta * kl

        log = training.run(self, loss, self.table.free_scales())
        means, blurs = [], []
        with torch.no_grad():
            for part in torch.arange(rows.n, device=training.device).split(CHUNK):
                mean, log_var = self._posterior(self.table.seen(data.take(part)))
                means.append(mean)
                blurs.append((0.5 * log_var).exp())
            mean, blur = torch.cat(means), torch.cat(blurs)
            self.centre.copy_(mean.mean(dim=0))
            self.spread.copy_((mean.var(dim=0, correction=0) + (blur**2).mean(dim=0)).sqrt().clamp_min(1e-6))
            mean, blur = (mean - self.centre) / self.spread, blur / self.spread

        def vectors(at: Tensor, noise: torch.Generator) -> Tensor:
            return mean[at] + blur[at] * torch.randn(len(at), self.width, generator=noise, device=mean.device)

        return log, vectors

    def _hidden(self, inputs: Tensor, noise: torch.Generator) -> Tensor:
        """Inputs with some put to 0 while training."""
        if not (self.training and self.masked):
            return inputs
        return inputs * (torch.rand(inputs.shape, generator=noise, device=inputs.device) >= self.masked)

    def _outputs(self, vectors: Tensor) -> Tensor:
        with torch.inference_mode():
            out: Tensor = self.out(vectors * self.spread + self.centre)
            return out

    def rows(self, vectors: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """See `Space.rows`."""
        with torch.inference_mode():
            return self.table.draw(self._outputs(vectors), noise, rng)

    def calibrate(self, draw: Draw, seed: int) -> None:
        """Shift the decoder's bias: states by proportional fitting, codes until their mean prevalence is training's."""
        size = min(CALIBRATION_ROWS, max(1000, CALIBRATION_CELLS // self.table.width))
        vectors = draw(size, torch_stream(seed, "calibrate"))
        with torch.no_grad():
            self._bias().add_(self.table.code_shift(self._outputs(vectors)))
            if self.table.columns is not None:
                self._calibrate_columns(vectors, seed)

    def _calibrate_columns(self, vectors: Tensor, seed: int) -> None:
        """Proportional fitting, in longer steps while a state stays too rare or too common.

        A decoder that is sure of a row's levels moves little with its bias, a linked one moves others along.
        """
        length, before = torch.ones(self.table.width), torch.zeros(self.table.width)
        for k in range(CALIBRATION_ROUNDS):
            drawn = self.rows(vectors, torch_stream(seed, "rows", k), stream(seed, "rows", k))
            step = self.table.correction(drawn)
            on = step * before > 0
            length = torch.where(on, 1.5 * length, 0.5 * length).clamp(0.25, 6.0) if k else length
            self._bias().add_(length * step)
            before = step


class PublishedSpace(Space):
    """One linear layer and tanh in, one linear layer out (spec 5.1); rows are those nearest to what it says.

    Sigmoid outputs for bits (cross-entropy) and numbers from 0 to 1 (squared error), ReLU outputs for counts (squared
    error). Xavier weights, biases of 0.01.
    """

    def __init__(self, encoder: TableEncoder, config: ScoEHRConfig) -> None:
        super().__init__()
        self.vector = RealVector(encoder, numbers="minmax", counts="plain")
        self.width = config.latent_dim
        self.into = nn.Linear(self.vector.width, self.width)
        self.out = nn.Linear(self.width, self.vector.width)
        for layer in (self.into, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0.01)
        self.bits: Tensor
        self.counted: Tensor
        self.register_buffer("bits", torch.as_tensor(self.vector.bits), persistent=False)
        self.register_buffer("counted", torch.as_tensor(self.vector.counted), persistent=False)

    def learn(self, rows: Encoded, training: Training) -> tuple[TrainLog, Vectors]:
        """See `Space.learn`; the latents are not standardised, as published."""
        self.to(training.device)
        data = self.vector.rows(rows, training.device)

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            x = self.vector.take(data, at)
            out = self.out(torch.tanh(self.into(x)))
            cross = functional.binary_cross_entropy_with_logits(out, x.clamp(0, 1), reduction="none")
            said = torch.where(self.counted, functional.relu(out), torch.sigmoid(out))
            return torch.where(self.bits, cross, (said - x) ** 2).sum(dim=1)

        log = training.run(self, loss, [])

        def vectors(at: Tensor, noise: torch.Generator) -> Tensor:
            with torch.no_grad():
                return torch.tanh(self.into(self.vector.take(data, at)))

        return log, vectors

    def rows(self, vectors: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """See `Space.rows`."""
        with torch.inference_mode():
            out = self.out(vectors)
            said = torch.where(self.counted, functional.relu(out), torch.sigmoid(out))
        return self.vector.nearest(said.cpu().numpy().astype(np.float64), rng)


class BareSpace(Space):
    """The rows' own vectors, the published ablation; rows are those nearest to what was drawn."""

    def __init__(self, encoder: TableEncoder) -> None:
        super().__init__()
        self.vector = RealVector(encoder, numbers="minmax", counts="plain")
        self.width = self.vector.width

    def learn(self, rows: Encoded, training: Training) -> tuple[TrainLog, Vectors]:
        """See `Space.learn`: there is nothing to learn."""
        data = self.vector.rows(rows, training.device)
        return TrainLog(), lambda at, noise: self.vector.take(data, at)

    def rows(self, vectors: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """See `Space.rows`."""
        return self.vector.nearest(vectors.cpu().numpy().astype(np.float64), rng)


def space_of(config: ScoEHRConfig, encoder: TableEncoder, bins: int) -> Space:
    """The untrained space that the settings ask for."""
    if config.space == "likelihood":
        return LikelihoodSpace(encoder, config, bins)
    return PublishedSpace(encoder, config) if config.space == "published" else BareSpace(encoder)


def _layers(widths: list[int]) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*modules[:-1])
