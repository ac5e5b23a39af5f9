"""EHRDiff (Yuan et al. 2023): diffusion on the rows' own numbers, in the design of Karras et al. 2022 (spec 6.2).

The network predicts clean rows from noisy ones; Heun's method draws them. Preset 'paper' works on numbers from 0 to 1 and
rounds; the default standardises every column and draws bits, levels and counts with the probabilities that the
denoised rows are. Vectors are in `denoising/real_vector.py`, noise in `denoising/noise.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.denoising.margins import Margins
from pipeline.generators.denoising.network import ResMLP
from pipeline.generators.denoising.noise import EDMSchedule
from pipeline.generators.denoising.real_vector import RealVector
from pipeline.generators.denoising.samplers import heun
from pipeline.generators.denoising.unet import sines
from pipeline.generators.rejection import draw_matching
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator
from pipeline.generators.train_settings import TrainSettings
from pipeline.generators.training import choose_device, repeatable, torch_stream, train, tuning_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed

CHUNK = 8192
CALIBRATION_ROWS = 4096


@dataclass(frozen=True)
class WarmUp(TrainSettings):
    """A learning rate that rises along a line over a share of the training, then falls along a half cosine.

    Attributes:
        rise: share of the training.
    """

    rise: float = 0.0

    def rate_factor(self, done: float) -> float:
        """See `TrainSettings.rate_factor`."""
        if done < self.rise:
            return max(done / self.rise, 1e-3)
        return 0.5 * (1 + math.cos(math.pi * (done - self.rise) / max(1e-9, 1 - self.rise)))


class EHRDiffConfig(TabularConfig):
    """Settings of EHRDiff."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "vector": "published",
            "backbone": "published",
            "learning_rate": 3e-4,
            "warmup": 20_000,
            "batch_size": 1024,
            "epochs": 5000,
            "steps": None,
            "ema": 0.999,
            "patience": 0,
        },
        "quick": {"steps": 600, "width": 128, "blocks": 2},
    }
    vector: Literal["standardised", "published"] = Field(
        default="standardised",
        description="'standardised': normal scores of numbers, log counts, every column with mean 0 and variance 1;"
        " bits, levels and counts are drawn and their margins brought to those of training. 'published': everything from"
        " 0 to 1 (counts as they are), rounded, which loses rare codes.",
    )
    backbone: Literal["resmlp", "published"] = Field(
        default="resmlp", description="Residual layers, or the published layers of unequal width."
    )
    width: int = Field(default=256, ge=8, le=4096, description="Units a layer of the 'resmlp'.")
    blocks: int = Field(default=3, ge=1, le=32, description="Residual blocks of the 'resmlp'.")
    hidden: tuple[int, ...] = Field(
        default=(1024, 384, 384, 384, 1024), min_length=1, description="Widths of the published network (MIMIC)."
    )
    time_width: int = Field(default=384, ge=4, description="Width of the published network's noise embedding.")
    epochs: int = Field(default=1000, ge=1, le=100_000, description="Passes over the training rows, at most.")
    steps: int | None = Field(default=6000, ge=1, description="Steps, at most; None for `epochs` alone.")
    batch_size: int = Field(
        default=512, ge=1, description="Rows a step; at most an eighth of the training rows, >= 32."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Largest learning rate of AdamW.")
    warmup: int = Field(default=100, ge=0, description="Steps over which the learning rate rises; then half a cosine.")
    ema: float = Field(default=0.995, ge=0, lt=1, description="Decay of the running mean of the weights.")
    patience: int = Field(
        default=0,
        ge=0,
        description="Rounds without gain on the tuning rows before training stops; 0 trains to the end.",
    )
    noise_mean: float = Field(default=-1.2, description="Mean of the log of the noise levels in training.")
    noise_spread: float = Field(default=1.2, gt=0, description="Standard deviation of the log of the noise levels.")
    sampling_steps: int = Field(
        default=32, ge=1, le=10_000, description="Steps of Heun's method, two evaluations each."
    )
    smallest_noise: float = Field(default=0.02, gt=0, description="Last noise level.")
    largest_noise: float = Field(default=80.0, gt=0, description="First noise level.")

    def training(self, rows: int) -> TrainSettings:
        """How to train on so many rows."""
        batch = self.batch_size
        if self.vector == "standardised":
            batch = max(min(32, batch), min(batch, rows // 8))
        steps = self.epochs * max(1, -(-rows // batch))
        steps = min(steps, self.steps) if self.steps is not None else steps
        return WarmUp(
            steps=steps,
            batch_size=batch,
            learning_rate=self.learning_rate,
            weight_decay=0.01 if self.backbone == "published" else 0.0,
            patience=self.patience,
            plateau=0,
            ema=self.ema,
            rise=min(0.5, self.warmup / steps),
        )


class Layers(nn.Module):
    """The published network: before every layer the noise level's embedding is added (spec 6.2).

    Args:
        width: of the vectors.
        hidden: widths of the layers.
        told: width of the embedding.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], told: int) -> None:
        super().__init__()
        self.told = told
        self.first = nn.Linear(width, hidden[0])
        self.times = nn.ModuleList(nn.Linear(told, size) for size in hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([*hidden, width]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(batch, width) for (batch, width) vectors and (batch,) noise levels as they are shown."""
        embedded = sines(time, self.told)
        hidden: Tensor = self.first(x)
        for time_layer, layer in zip(self.times, self.layers, strict=True):
            hidden = layer(torch.relu(hidden + time_layer(embedded)))
        return hidden


class Denoiser(nn.Module):
    """The network inside Karras's preconditioning.

    Args:
        width: of the vectors.
        config: backbone and noise levels.
    """

    def __init__(self, width: int, config: EHRDiffConfig) -> None:
        super().__init__()
        self.width, self.steps = width, config.sampling_steps
        self.noise_levels = {
            "smallest": config.smallest_noise,
            "largest": config.largest_noise,
            "mean_log": config.noise_mean,
            "spread_log": config.noise_spread,
        }
        self.data: Tensor
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("data", torch.ones(()))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.backbone: Layers | ResMLP = (
            Layers(width, config.hidden, config.time_width)
            if config.backbone == "published"
            else ResMLP(width, width, config.width, config.blocks)
        )

    @property
    def schedule(self) -> EDMSchedule:
        """The noise levels, for data of the spread that was found."""
        return EDMSchedule(data=float(self.data), **self.noise_levels)

    def _said(self, x: Tensor, s: Tensor, schedule: EDMSchedule) -> Tensor:
        out: Tensor = self.backbone(schedule.into(s)[:, None] * x, schedule.shown(s))
        return out

    def loss(self, rows: Tensor, noise: torch.Generator) -> Tensor:
        """(batch,) weighted squared errors of the denoised rows, mean over columns."""
        schedule = self.schedule
        clean = (rows - self.centre) / self.spread
        s = schedule.drawn(len(rows), noise, rows.device)
        x = clean + s[:, None] * torch.randn(clean.shape, generator=noise, device=rows.device)
        # weight c_out^2 = 1: the same as the weighted error of c_skip x + c_out F, without dividing by small numbers.
        target = (clean - schedule.skip(s)[:, None] * x) / schedule.out(s)[:, None]
        return ((self._said(x, s, schedule) - target) ** 2).mean(dim=1)

    def draw(self, n: int, noise: torch.Generator) -> NDArray[np.float64]:
        """(n, width) vectors, on the scale of rows."""
        schedule = self.schedule

        def clean(x: Tensor, level: float) -> Tensor:
            s = torch.full((len(x),), level, device=x.device)
            return schedule.skip(s)[:, None] * x + schedule.out(s)[:, None] * self._said(x, s, schedule)

        with torch.inference_mode():
            x = heun(clean, schedule, torch.randn(n, self.width, generator=noise, device=noise.device), self.steps)
            return (x * self.spread + self.centre).cpu().numpy().astype(np.float64)


class EHRDiff(TabularGenerator):
    """Diffusion on rows as numbers; conditions by rejection."""

    name = "ehrdiff"
    title = "EHRDiff: diffusion on rows as plain numbers"
    Config = EHRDiffConfig
    config: EHRDiffConfig
    uses_gpu = True
    kinds = ("torch",)
    resumes = True
    not_private = "Its authors found that noise on its gradients leaves little of a wide table; mixed_flow does."

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
        published = self.config.vector == "published"
        tune = np.zeros(rows.n, dtype=bool) if published else tuning_rows(cohort)
        with repeatable(seed):
            vector, model = self._parts(encoder)
            data = vector.rows(rows, place)
            mean, spread = vector.moments(data)
            if published:
                # One spread for all columns: hard-coded in the publication, told from the rows here (spec 6.2).
                model.data.fill_(max(1e-3, float(np.sqrt((mean**2 + np.where(spread == 1, 0, spread**2)).mean()))))
            else:
                model.centre.copy_(torch.as_tensor(mean))
                model.spread.copy_(torch.as_tensor(spread))
            model.to(place)
            log = train(
                model,
                lambda at, noise, done: model.loss(vector.take(data, at), noise),
                fit_rows=np.flatnonzero(~tune),
                tune_rows=np.flatnonzero(tune),
                settings=self.config.training(int((~tune).sum())),
                seed=seed,
                device=place,
                progress=progress,
                checkpoint=self._checkpoint,
            )
            self._vector, self._model = vector, model.to("cpu")
            self._margins = Margins.none(vector)
            if not published:
                means = {k: rows.blocks[k][:, at].mean(axis=0) for k, at in vector.common.items()}
                drawn = model.draw(CALIBRATION_ROWS, torch_stream(seed, "calibrate"))
                self._margins = Margins.fit(vector, drawn, means)
        remark = "Published decoding: rounding loses rare codes and levels. For comparison, not for use."
        return Learned(
            parameters=sum(p.numel() for p in model.parameters()),
            losses=log.losses,
            warnings=[*log.warnings, *([remark] if published else [])],
            facts={"best_epoch": float(log.best_epoch)},
        )

    def _parts(self, encoder: TableEncoder) -> tuple[RealVector, Denoiser]:
        """The vector of rows, and the untrained network."""
        published = self.config.vector == "published"
        vector = RealVector(
            encoder, numbers="minmax" if published else "score", counts="plain" if published else "log1p"
        )
        return vector, Denoiser(vector.width, self.config)

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        if fixed:
            return draw_matching(lambda m: self._rows(m, rng), encoder, n, fixed)
        return self._rows(n, rng)

    def _rows(self, n: int, rng: np.random.Generator) -> Encoded:
        """`n` encoded rows without conditions, a chunk at a time."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        parts = []
        for start in range(0, n, CHUNK):
            values = self._model.draw(min(CHUNK, n - start), noise)
            if self.config.vector == "published":
                parts.append(self._vector.nearest(values, rng))
            else:
                parts.append(self._vector.drawn(self._margins.apply(self._vector, values), rng))
        return Encoded.concatenate(parts)

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"net/{k}": v.detach().numpy() for k, v in self._model.state_dict().items()}
        return {**tensors, "shift": self._margins.shift, "knots": self._margins.knots}, {}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        with repeatable(0):
            self._vector, self._model = self._parts(encoder)
        weights = {k.removeprefix("net/"): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("net/")}
        self._model.load_state_dict(weights)
        self._model.eval()
        self._margins = Margins(np.asarray(tensors["shift"]), np.asarray(tensors["knots"]))
