"""What generators have in common that noise the scores and the states of a row apart (`split_rows.py`).

How they are trained, drawn from in chunks, corrected by ranks, saved and loaded. What the noise is, what the network says and
how a row is found from noise is their own: `tabddpm.py`, `tabdiff_lite.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from pipeline.generators.conditions import Fixed
from pipeline.generators.denoising.known_states import KnownStates
from pipeline.generators.denoising.split_rows import ScoreRanks, SplitRows
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator
from pipeline.generators.training import TrainSettings, choose_device, repeatable, train, tuning_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.training import Loss

CHUNK_CELLS = 4_000_000
"""Logits that are held at once while sampling: rows are drawn in chunks of at most 8,192."""
CHUNK = 8_192
PILOT_ROWS = 4_096
"""Rows that are drawn once after training, to see where numbers go."""
TUNE_LOOKS = 6
ENOUGH_LOOKS = 6_000
SHORT = 3_000


class SplitDiffusionConfig(TabularConfig):
    """Settings that they share."""

    spike_share: float = Field(
        default=0.1,
        gt=0,
        description="Share of a number's rows from which one exact value is a state of its own (spec 0.1); 2 for never.",
    )
    ranks: bool = Field(
        default=True,
        description="Bring each number's drawn margin to that of training by its ranks among drawn numbers.",
    )
    steps: int = Field(default=3_000, ge=1, le=10_000_000, description="Training steps, at most.")
    batch_size: int = Field(default=256, ge=1, description="Rows a step; fewer where there are fewer rows.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of AdamW; falls to 0 along a line.")
    ema: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights, at most .99 below 3,000 steps.",
    )
    patience: int = Field(
        default=25,
        ge=0,
        description="Rounds (hundredths of the steps) without gain on the tuning rows before training stops; 0 trains to"
        " the end.",
    )

    def training(self, rows: int) -> TrainSettings:
        """How the network is trained on so many rows."""
        return TrainSettings(
            steps=self.steps,
            batch_size=min(self.batch_size, max(32, rows)),
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            schedule="linear",
            ema=min(self.ema, 0.99) if self.steps < SHORT else self.ema,
            patience=self.patience,
            plateau=0,
        )


class SplitNetwork(nn.Module):
    """What is trained.

    Attributes:
        numbers: how many columns have a score.
        width: of a row: scores, and one place for each state of each column.
    """

    numbers: int
    width: int

    @abstractmethod
    def start(self, split: SplitRows) -> None:
        """Set the weights so that the untrained network draws states with their shares."""


Network = TypeVar("Network", bound=SplitNetwork)


class SplitDiffusion(TabularGenerator, Generic[Network]):
    """Base of generators that noise scores and states; conditions on any columns are met while rows are drawn."""

    Config = SplitDiffusionConfig
    config: SplitDiffusionConfig
    uses_gpu = True
    kinds = ("torch",)
    resumes = True
    not_private = "Its training under differential privacy has not been tried out; argn and vae have one."

    # ---- what is a generator's own

    def _rows_of(self, encoder: TableEncoder) -> SplitRows:
        """Rows as scores and states."""
        return SplitRows(encoder, spike_share=self.config.spike_share)

    @abstractmethod
    def _network(self) -> Network:
        """The untrained network for `self._split`."""

    @abstractmethod
    def _loss(self, model: Network, rows: Encoded, place: torch.device) -> Loss:
        """(batch,) losses of training rows."""

    def _complete(self, encoder: TableEncoder, known: KnownStates, rng: np.random.Generator) -> None:
        """Add to what is known of the rows what is drawn before them; nothing by default."""

    @abstractmethod
    def _chunk(self, known: KnownStates, noise: torch.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, numbers) scores and (n, columns) states from noise."""

    def _looked(
        self, scores: NDArray[np.float64], regular: NDArray[np.bool_]
    ) -> tuple[dict[str, float], list[str]]:  # fmt: skip
        """Facts and warnings of (rows, numbers) drawn scores, those that are `regular`; nothing by default."""
        return {}, []

    # ---- what they share

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
        self._split = self._rows_of(encoder)
        self._split.learn(rows)
        tune = tuning_rows(cohort)
        looks = max(1, min(TUNE_LOOKS, ENOUGH_LOOKS // max(1, int(tune.sum()))))
        with repeatable(seed):
            model = self._network()
            model.start(self._split)
            model.to(place)
            self._model, self._ranks = model, ScoreRanks(np.zeros((0, 0)))
            if not model.width:
                model.to("cpu").eval()
                return Learned(warnings=["No column has more than one value: there is nothing to learn."])
            log = train(
                model,
                self._loss(model, rows, place),
                fit_rows=np.flatnonzero(~tune),
                tune_rows=np.repeat(np.flatnonzero(tune), looks),
                settings=self.config.training(int((~tune).sum())),
                seed=seed,
                device=place,
                progress=progress,
                checkpoint=self._checkpoint,
            )
            model.to("cpu")
        facts, warnings = self._look_at_numbers(encoder, seed)
        return Learned(
            parameters=sum(p.numel() for p in model.parameters()),
            losses=log.losses,
            warnings=[*log.warnings, *warnings],
            facts={"best_epoch": float(log.best_epoch), **facts},
        )

    def _look_at_numbers(self, encoder: TableEncoder, seed: int) -> tuple[dict[str, float], list[str]]:
        """Where drawn numbers go: ranks to correct them by, and what there is to say of them."""
        if not self._model.numbers:
            return {}, []
        scores, states, _ = self._parts(encoder, PILOT_ROWS, stream(seed, "pilot"), Fixed())
        regular = self._split.regular(states)
        told = self._looked(scores, regular)
        if self.config.ranks:
            self._ranks = ScoreRanks.fit(scores, regular)
        return told

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        scores, states, known = self._parts(encoder, n, rng, fixed)
        return self._split.encoded(self._ranks.uniforms(scores), states, rng, known)

    def _parts(
        self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], Encoded]:
        """(n, numbers) scores and (n, columns) states from noise, and what was known of the rows."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        known = KnownStates.of(self._split, n, fixed, rng)
        self._complete(encoder, known, rng)
        chunk = max(256, min(CHUNK, CHUNK_CELLS // max(1, self._model.width)))
        # One thread, so that the bytes do not depend on how many cores there are.
        with repeatable(0), torch.inference_mode():
            parts = [self._chunk(known.part(slice(at, min(n, at + chunk))), noise) for at in range(0, n, chunk)]
        scores = np.concatenate([x for x, _ in parts]).astype(np.float64)
        return scores, np.concatenate([states for _, states in parts]), known.rows

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {**{f"net/{k}": v.numpy() for k, v in self._model.state_dict().items()}, "knots": self._ranks.knots}, {}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._split = self._rows_of(encoder)
        with repeatable(0):
            self._model = self._network()
        weights = {k.removeprefix("net/"): torch.as_tensor(np.array(v)) for k, v in tensors.items() if "/" in k}
        self._model.load_state_dict(weights)
        self._model.eval()
        self._ranks = ScoreRanks(np.asarray(tensors["knots"]))
