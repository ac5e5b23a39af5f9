"""HealthGAN (Yale et al. 2020, "Generation and evaluation of privacy preserving synthetic health data"): a Wasserstein GAN on
rows in which every column is one number.

Levels are intervals between 0 and 1 (`adversarial/intervals.py`), so that generator and critic are small; what a level is must
be read off a number, which puts a false order on levels. Preset 'paper' is the published model (spec 3.2); the match is that of
`adversarial/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from pipeline.encoding.encoder import Encoded
from pipeline.generators.adversarial.generator import FEWEST_TUNED, AdversarialGenerator
from pipeline.generators.adversarial.intervals import IntervalTable
from pipeline.generators.adversarial.losses import LossKind
from pipeline.generators.adversarial.networks import GeneratorNet
from pipeline.generators.adversarial.settings import AdversarialConfig
from pipeline.generators.rejection import draw_matching
from pipeline.generators.seeds import stream
from pipeline.generators.training import tuning_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.encoding.encoder import TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.match import Match
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.tabular import Learned

PARTS = 5
"""Batches of the critic that together see the rows about once."""
WHOLE = 100
"""Batches are so many rows, or a multiple."""
THIN = 1e-3
MOST_LEVELS = 50
COMPARED = 2_048


class HealthGANConfig(AdversarialConfig):
    """Settings of HealthGAN; what differs from the paper was chosen on a part of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "numbers": "range",
            "least_hidden": 1,
            "drawing": "likeliest",
            "norm": "none",
            "loss": "wasserstein",
            "penalty": 10.0,
            "critic_steps": 5,
            "batch_size": 1_000_000,
            "steps": 100_000,
            "learning_rate": 1e-4,
            "critic_rate": 1e-4,
            "betas": (0.5, 0.9),
            "decay": "constant",
            "ema": 0.0,
            "select": "last",
            "margins": False,
        },
        "quick": {"steps": 400, "least_hidden": 64, "critic_hidden": (64, 64), "noise": 32, "critic_rate": 2e-3},
    }
    numbers: Literal["even", "normal", "range"] = Field(
        default="even",
        description="How a number is shown: its rank, evenly or as a normal score; or the number itself between the column's"
        " ends, and whole numbers that span at most 50 as ordinal intervals, as published.",
    )
    pieces: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Numbers that at least one in so many rows has are states of their own; 0: none.",
    )
    inside: Literal["even", "normal"] = Field(
        default="normal",
        description="Where in the interval of its level a cell is: a normal draw that is cut at three standard deviations, as"
        " published, or evenly.",
    )
    steps: int | None = Field(
        default=2_500, ge=1, le=10_000_000, description="Steps of the generator. None: as many as `epochs` passes take."
    )
    noise: int = Field(default=100, ge=1, le=4096, description="Noise inputs of the generator.")
    multiples: tuple[float, ...] = Field(
        default=(2.0, 1.5), min_length=1, description="Hidden layers of the generator, as multiples of a row's width."
    )
    least_hidden: int = Field(default=128, ge=1, le=4096, description="Units of such a layer, at least.")
    hidden: tuple[int, ...] = Field(
        default=(), description="Hidden layers of the generator as they are; none: as `multiples` says."
    )
    norm: Literal["batch", "layer", "none"] = Field(
        default="batch", description="What the generator's hidden layers are normalised by; published: nothing."
    )
    critic_hidden: tuple[int, ...] = Field(
        default=(64, 128, 256), min_length=1, description="Hidden layers of the critic."
    )
    batch_size: int = Field(
        default=512,
        ge=1,
        description="Rows a step; at most a fifth of the training rows in whole hundreds, or half of them where that is none.",
    )
    loss: LossKind = Field(
        default="logistic",
        description="What is minimised: the Wasserstein distance with a gradient penalty, as published; or the logistic or"
        " boundary-seeking loss with R1.",
    )

    def batch(self, rows: int) -> int:
        """Rows a step of a training on so many: five batches see them about once; never none (spec 3.2)."""
        fifth = rows // (PARTS * WHOLE) * WHOLE
        return max(1, min(self.batch_size, fifth or rows // 2) // self.pac) * self.pac


class HealthGAN(AdversarialGenerator):
    """GAN of columns that are one number each; conditions by rejection."""

    name = "healthgan"
    title = "HealthGAN: Wasserstein GAN on interval-coded columns"
    Config = HealthGANConfig
    config: HealthGANConfig
    _intervals: IntervalTable
    _rows_learned: int
    _played: Match

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
        self._rows_learned = rows.n
        self._intervals = self._table(encoder)
        coded = self._intervals.encode(rows, stream(seed, "intervals"))
        learned = super()._learn(self._intervals.coded, coded, cohort, seed=seed, device=device, progress=progress)
        learned.facts |= self._overfit(coded, cohort)
        del self._played
        thin = self._intervals.thin(THIN, MOST_LEVELS)
        if thin and not self.config.margins:
            learned.warnings.append(
                f"Levels of {', '.join(thin)} are too rare or too many for intervals: some are hardly ever drawn. The default"
                " brings margins back; or group the levels."
            )
        return learned

    def _table(self, encoder: TableEncoder) -> IntervalTable:
        config = self.config
        return IntervalTable(
            encoder, self._rows_learned, normal=config.inside == "normal", whole=config.numbers == "range"
        )

    def _match(self, match: Match) -> Match:
        self._played = match
        return match

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        config = self.config
        hidden = config.hidden or [max(config.least_hidden, round(k * blocks.width)) for k in config.multiples]
        return GeneratorNet(config.noise + conditions, hidden, blocks.head_width, build="plain", norm=config.norm)

    def _overfit(self, coded: Encoded, cohort: Cohort) -> dict[str, float]:
        """How much better the critic likes rows that it learned from than tuning rows: 0.5 if it cannot tell them.

        The published check is the critic's loss on rows held out; the chance that a training row is scored above such a row
        says the same, whatever the scale of the scores.
        """
        blocks, config = self._blocks, self.config
        tune = tuning_rows(cohort) if config.select == "probe" else np.zeros(coded.n, dtype=bool)
        if not blocks.width or tune.sum() < FEWEST_TUNED:
            return {}
        critic = self._played.critic.cpu().eval()
        data = blocks.tensors(coded, "cpu", np.random.default_rng(0))

        def scores(rows: NDArray[np.int64]) -> Tensor:
            some = torch.as_tensor(rows[: min(len(rows), COMPARED) // config.pac * config.pac])
            return critic(blocks.real(data.take(some)))

        with torch.no_grad():
            seen, held = scores(np.flatnonzero(~tune)), scores(np.flatnonzero(tune))
        above = (seen[:, None] > held).double().mean() + (seen[:, None] == held).double().mean() / 2
        return {"critic_prefers_training": float(above)} if len(seen) and len(held) else {}

    # ---- drawing

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        draw = lambda size: self._intervals.decode(self._rows(self._tell(size, rng), noise, rng), rng)  # noqa: E731
        return draw_matching(draw, encoder, n, fixed) if fixed else draw(n)

    # ---- what is saved

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, extra = super()._state()
        return arrays, {**extra, "rows": self._rows_learned}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._rows_learned = int(extra["rows"])
        self._intervals = self._table(encoder)
        super()._restore(self._intervals.coded, tensors, extra)
