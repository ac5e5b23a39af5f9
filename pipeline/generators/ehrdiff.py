"""EHRDiff (Yuan et al. 2023): diffusion on the rows' own numbers, in the design of Karras et al. 2022 (spec 6.2).

The network predicts clean rows from noisy ones; Heun's method draws them. Preset 'paper' works on numbers from 0 to 1 and
rounds; the default standardises every column and draws bits, levels and counts with the probabilities that the
denoised rows are. The network is in `denoising/preconditioned.py`, vectors in `denoising/real_vector.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import UnsupportedError
from pipeline.generators.denoising.many_looks import ManyLooksConfig
from pipeline.generators.denoising.margins import Margins
from pipeline.generators.denoising.preconditioned import Denoiser, DenoiserShape
from pipeline.generators.denoising.real_vector import RealVector
from pipeline.generators.rejection import draw_matching
from pipeline.generators.tabular import Learned, TabularGenerator
from pipeline.generators.train_settings import TrainSettings
from pipeline.generators.training import choose_device, repeatable, torch_stream, train, tuning_rows
from pipeline.privacy.dpsgd import PrivateSettings, train_private

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.denoising.real_vector import RealRows
    from pipeline.generators.training import Loss
    from pipeline.privacy.run import PrivateRun

CHUNK = 8192
CALIBRATION_ROWS = 4096
"""Looks that go through the network together while gradients are clipped."""


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


class EHRDiffConfig(ManyLooksConfig):
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
        "quick": {"steps": 600, "width": 128, "blocks": 2, "private_epochs": 5.0, "private_draws": 4},
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
    private_width: int = Field(default=128, ge=8, le=4096, description="`width` under differential privacy.")
    private_blocks: int = Field(default=1, ge=1, le=32, description="`blocks` under differential privacy.")

    def shape(self, *, private: bool = False) -> DenoiserShape:
        """Backbone and noise levels."""
        return DenoiserShape(
            width=self.private_width if private else self.width,
            blocks=self.private_blocks if private else self.blocks,
            hidden=self.hidden if self.backbone == "published" else (),
            time_width=self.time_width,
            sampling_steps=self.sampling_steps,
            noise_levels={
                "smallest": self.smallest_noise,
                "largest": self.largest_noise,
                "mean_log": self.noise_mean,
                "spread_log": self.noise_spread,
            },
        )

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


class EHRDiff(TabularGenerator):
    """Diffusion on rows as numbers; conditions by rejection."""

    name = "ehrdiff"
    title = "EHRDiff: diffusion on rows as plain numbers"
    Config = EHRDiffConfig
    config: EHRDiffConfig
    uses_gpu = True
    kinds = ("torch",)
    private = True
    resumes = True
    _private = False
    """Was this model trained under differential privacy? Its network is another one then."""

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
        self._private = False
        with repeatable(seed):
            vector, model = self._parts(encoder)
            data = vector.rows(rows, place)
            self._scale(model, *vector.moments(data))
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
        """A smaller network by noisy steps; what columns are standardised by, and margins, follow from the encoder."""
        if self.config.vector == "published":
            raise UnsupportedError(
                f"The published decoding of '{self.name}' is not trained under differential privacy.",
                todo="Use the default.",
            )
        place = choose_device(device)
        self._private = True
        with repeatable(seed):
            vector, model = self._parts(encoder)
            self._scale(model, *vector.known_moments())
            model.to(place)
            log = train_private(
                model,
                self._private_loss(model, vector, vector.rows(rows, place), place),
                rows=rows.n,
                settings=self.config.private_training(run.subjects),
                run=run,
                init_seed=seed,
                device=place,
                subject=np.unique(cohort.subject, return_inverse=True)[1],
                progress=progress,
            )
            self._vector, self._model = vector, model.to("cpu")
            drawn = model.draw(CALIBRATION_ROWS, torch_stream(seed, "calibrate"))
            self._margins = Margins.fit(vector, drawn, vector.known_means())
        return Learned(parameters=sum(p.numel() for p in model.parameters()), losses=log.losses, warnings=log.warnings)

    def _private_loss(self, model: Denoiser, vector: RealVector, data: RealRows, place: torch.device) -> Loss:
        """The weighted squared error of each row, a sum over columns and a mean over several looks."""
        looks, width = self.config.private_draws, vector.width

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            levels = model.schedule.spread_out(len(at), looks, noise, place)
            added = torch.randn(len(at), looks, width, generator=noise, device=place)
            # A sum, since gradients are to be longer than the clip whether there are ten columns or a thousand.
            return width * model.errors(vector.take(data, at).unsqueeze(1), levels, added).mean(dim=1)

        return loss

    def _scale(self, model: Denoiser, mean: NDArray[np.float64], spread: NDArray[np.float64]) -> None:
        """Tell the network (width,) means and standard deviations of its columns."""
        if self.config.vector == "published":
            # One spread for all columns: hard-coded in the publication, told from the rows here (spec 6.2).
            model.data.fill_(max(1e-3, float(np.sqrt((mean**2 + np.where(spread == 1, 0, spread**2)).mean()))))
        else:
            model.centre.copy_(torch.as_tensor(mean))
            model.spread.copy_(torch.as_tensor(spread))

    def _parts(self, encoder: TableEncoder) -> tuple[RealVector, Denoiser]:
        """The vector of rows, and the untrained network."""
        published = self.config.vector == "published"
        vector = RealVector(
            encoder, numbers="minmax" if published else "score", counts="plain" if published else "log1p"
        )
        return vector, Denoiser(vector.width, self.config.shape(private=self._private))

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
        return {**tensors, "shift": self._margins.shift, "knots": self._margins.knots}, {"private": self._private}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._private = bool(extra["private"])
        with repeatable(0):
            self._vector, self._model = self._parts(encoder)
        weights = {k.removeprefix("net/"): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("net/")}
        self._model.load_state_dict(weights)
        self._model.eval()
        self._margins = Margins(np.asarray(tensors["shift"]), np.asarray(tensors["knots"]))
