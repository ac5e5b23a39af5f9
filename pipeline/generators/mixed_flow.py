"""Flow matching on mixed rows with endpoint likelihoods (Eijkelboom et al. 2024, "Variational flow matching"; Guzmán-Cordero
et al. 2025, "Exponential family variational flow matching for tabular data generation").

A network that sees a row mixed with noise says how likely each piece of a number, level and code is: that is the velocity
which carries noise to rows, and in the end the distribution that they are drawn from. The network and its losses are in
`denoising/flow.py`, what a row is as a vector in `denoising/row_vector.py`, how conditions are kept in
`denoising/known_columns.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.conditions import Fixed
from pipeline.generators.denoising.flow import Flow, FlowShape
from pipeline.generators.denoising.known_columns import KnownColumns
from pipeline.generators.denoising.many_looks import ManyLooksConfig
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularGenerator
from pipeline.generators.training import TrainLog, TrainSettings, choose_device, repeatable, train, tuning_rows
from pipeline.privacy.dpsgd import PrivateSettings, train_private

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.mixed import TableTensors
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.training import Loss
    from pipeline.privacy.run import PrivateRun

CHUNK_CELLS = 4_000_000
"""Outputs that are held at once while sampling: rows are drawn in chunks of at most 8,192."""
CHUNK = 8_192
FEWEST_LOOKS, FEWEST_BATCH = 600 * 512, 128
"""Looks at rows that a training has at least, each under noise of its own, and rows of a step: a few hundred rows teach nothing
in fewer."""
MOST_STEPS = 20_000
TUNE_DRAWS = 6
"""Times that each tuning row is looked at, with other noise and another time: one look is too noisy to stop by."""
ENOUGH_LOOKS = 6_000
"""Looks that are enough: many tuning rows are looked at fewer times."""
SHORT = 3_000
CALIBRATION_ROUNDS = 2
CALIBRATION_ROWS = 4_096


class MixedFlowConfig(ManyLooksConfig):
    """Settings of `mixed_flow`; defaults chosen by the loss on one part of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "numeric_head": "gaussian",
            "own_word": False,
            "waves": 0,
            "width": 512,
            "blocks": 4,
            "film": "full",
            "steps": 20_000,
            "batch_size": 1024,
            "learning_rate": 1e-3,
            "last_time": 0.999,
            "patience": 0,
            "dropout": 0.0,
        },
        "quick": {
            "steps": 200,
            "learning_rate": 5e-3,
            "sampling_steps": 10,
            "private_epochs": 5.0,
            "private_draws": 4,
            "private_learning_rate": 5e-3,
        },
    }
    numeric_head: Literal["binned", "gaussian"] = Field(
        default="binned",
        description="Endpoint likelihood of numbers: a categorical over pieces of the empirical distribution, or a Gaussian on"
        " normal scores, read off where the flow ends (spec 6.5).",
    )
    numeric_bins: int = Field(default=64, ge=2, le=512, description="About how many pieces a binned column has.")
    waves: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Cosines that tilt a binned column's distribution, beside a line and a parabola of its normal score; 0"
        " gives each piece a logit of its own, which takes far more rows to learn.",
    )
    own_word: bool = Field(
        default=True,
        description="Add what a column's own noisy coordinates say by Bayes' rule, so that the network only learns how"
        " columns depend on each other.",
    )
    width: int | None = Field(
        default=None, ge=4, le=8192, description="Width of the network. None: 64, or 256 from 100 coordinates on."
    )
    blocks: int = Field(default=2, ge=0, le=32, description="Residual blocks of the network.")
    film: Literal["full", "additive"] = Field(
        default="additive", description="How the network is told the time: scale and shift in each block, or one sum."
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Training steps. None: as many as `epochs` passes take, but at least 307,200 looks at rows and at most"
        " 20,000 steps.",
    )
    epochs: int = Field(
        default=60, ge=1, le=100_000, description="Passes over the training rows where `steps` is None."
    )
    batch_size: int = Field(
        default=512, ge=1, description="Rows a step; at most an eighth of the training rows, but at least 128."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate of AdamW; falls to 0 along a line.")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of a vector's coordinates hidden from the network while training."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    patience: int = Field(
        default=25,
        ge=0,
        description="Rounds without gain on the tuning rows before training stops; 0 trains to the end.",
    )
    sampler: Literal["euler", "heun"] = Field(
        default="euler", description="Steps along the flow: one look at the velocity each, or two."
    )
    sampling_steps: int = Field(default=25, ge=1, le=10_000, description="Steps from noise to rows.")
    last_time: float = Field(
        default=0.9,
        gt=0,
        lt=1,
        description="Time at which rows are drawn from the endpoint likelihood; training looks at times up to it.",
    )
    repeats: int = Field(
        default=3, ge=1, le=20, description="Times each step is gone where columns are fixed (re-noised in between)."
    )
    private_width: int = Field(default=32, ge=4, le=4096, description="`width` under differential privacy.")
    private_blocks: int = Field(default=1, ge=0, le=32, description="`blocks` under differential privacy.")
    private_bins: int = Field(default=32, ge=2, le=512, description="`numeric_bins` under differential privacy.")

    def shape(self, *, private: bool = False) -> FlowShape:
        """Likelihoods and sizes of the network; under differential privacy nothing is dropped (spec 8.4)."""
        return FlowShape(
            numeric=self.numeric_head,
            bins=self.private_bins if private else self.numeric_bins,
            waves=self.waves,
            own_word=self.own_word,
            width=self.private_width if private else self.width,
            blocks=self.private_blocks if private else self.blocks,
            film=self.film,
            dropout=None if private else self.dropout,
        )

    def training(self, rows: int, learned: int) -> TrainSettings:
        """How the network is trained on so many rows, `learned` of which are not kept for tuning."""
        batch = min(self.batch_size, max(FEWEST_BATCH, rows // 8))
        wanted = min(MOST_STEPS, max(FEWEST_LOOKS, self.epochs * learned) // batch)
        steps = self.steps if self.steps is not None else wanted
        return TrainSettings(
            steps=steps,
            batch_size=batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule="linear",
            ema=0.99 if steps < SHORT else 0.999,
            patience=self.patience,
            plateau=0,
        )


class MixedFlow(TabularGenerator):
    """Flow matching on mixed rows; conditions by inpainting, native on any columns."""

    name = "mixed_flow"
    title = "Flow matching, mixed endpoint likelihoods"
    Config = MixedFlowConfig
    config: MixedFlowConfig
    code_version = "2"
    uses_gpu = True
    kinds = ("torch",)
    private = True
    resumes = True
    _private = False
    """Was this model trained under differential privacy? Its network is another one then."""
    _flow: Flow

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
        looks = max(1, min(TUNE_DRAWS, ENOUGH_LOOKS // max(1, int(tune.sum()))))
        with repeatable(seed):
            self._private = False
            flow = Flow(encoder, self.config.shape())
            with torch.no_grad():
                flow.logits.bias.copy_(flow.rows.start_bias(rows))
            flow.to(place)
            log = train(
                flow,
                self._loss(flow, flow.rows.tensors(rows, place), place),
                fit_rows=np.flatnonzero(~tune),
                tune_rows=np.repeat(np.flatnonzero(tune), looks),
                settings=self.config.training(rows.n, int((~tune).sum())),
                seed=seed,
                device=place,
                fast_parameters=flow.rows.free_scales(),
                progress=progress,
                checkpoint=self._checkpoint,
            )
            flow.to("cpu")
        self._flow = flow
        self._calibrate(encoder, seed)
        return Learned(
            parameters=sum(p.numel() for p in flow.parameters()),
            losses=log.losses,
            warnings=list(log.warnings),
            facts={"best_epoch": float(log.best_epoch)},
        )

    def _loss(self, flow: Flow, data: TableTensors, place: torch.device) -> Loss:
        """The negative log-likelihood of rows given their mixtures with noise, at times spread evenly over the batch."""

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            batch = data.take(at)
            width = flow.rows.width
            spread = torch.rand(len(batch), generator=noise, device=place)
            # One time in each of as many strata as there are rows: less noise than times drawn alone.
            strata = torch.randperm(len(batch), generator=noise, device=place) + spread
            time = (self.config.last_time * strata / len(batch)).unsqueeze(1)
            return flow.loss(batch, time, torch.randn(len(batch), width, generator=noise, device=place))

        return loss

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
        """A smaller network by noisy steps that starts from the private encoder's margins and mends these too.

        They come from a tenth of the budget, the network from nine: margins are not brought back to them afterwards.
        """
        place = choose_device(device)
        self._private = True
        with repeatable(seed):
            flow = Flow(encoder, self.config.shape(private=True))
            with torch.no_grad():
                flow.logits.bias.copy_(flow.rows.known_bias())
            # The scales of Gaussian numbers stay at 1 (spec 6.5), as numbers are read off where the flow ends.
            for scale in flow.rows.free_scales():
                scale.requires_grad_(False)
            flow.to(place)
            log = TrainLog()
            if flow.logits.width:  # a table of constants has nothing to learn
                log = train_private(
                    flow,
                    self._private_loss(flow, flow.rows.tensors(rows, place), place),
                    rows=rows.n,
                    settings=self.config.private_training(run.subjects),
                    run=run,
                    init_seed=seed,
                    device=place,
                    subject=np.unique(cohort.subject, return_inverse=True)[1],
                    progress=progress,
                )
            flow.to("cpu")
        self._flow = flow
        return Learned(parameters=sum(p.numel() for p in flow.parameters()), losses=log.losses, warnings=log.warnings)

    def _private_loss(self, flow: Flow, data: TableTensors, place: torch.device) -> Loss:
        """The mean negative log-likelihood of each row over several looks, none of which hangs on other rows."""
        looks, width = self.config.private_draws, flow.rows.width

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            # Strata are a row's own: those of a batch would change for everybody with each subject who comes in.
            spread = torch.rand(len(at), looks, generator=noise, device=place)
            strata = torch.arange(looks, device=place) + spread
            time = (self.config.last_time * strata / looks).unsqueeze(2)
            return flow.mean_loss(
                data.take(at), time, torch.randn(len(at), looks, width, generator=noise, device=place)
            )

        return loss

    def _calibrate(self, encoder: TableEncoder, seed: int) -> None:
        """Shift the outputs' bias until columns are drawn as often as the encoder knows them.

        Steps of a flow end a little beside where rows are, which shifts margins by some hundredths; as in `vae`.
        """
        if self.config.numeric_head != "binned":
            return
        for k in range(CALIBRATION_ROUNDS):
            drawn = self._draw(encoder, CALIBRATION_ROWS, stream(seed, "calibrate", k), Fixed())
            table = self._flow.rows.table
            with torch.no_grad():
                self._flow.logits.bias[: table.width] += table.correction(drawn)

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rows = self._flow.rows
        chunk = max(256, min(CHUNK, CHUNK_CELLS // max(1, rows.head_width)))
        known = KnownColumns.of(encoder, rows, n, fixed, rng)
        # One thread, so that the bytes do not depend on how many cores there are.
        with repeatable(0), torch.inference_mode():
            starts = range(0, n, chunk)
            parts = [self._chunk(known.part(slice(at, min(n, at + chunk))), noise, rng) for at in starts]
        return Encoded.concatenate(parts)

    def _chunk(self, known: KnownColumns, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Rows from noise along the flow; fixed columns are put back at every step, and the step gone anew."""
        config, flow = self.config, self._flow
        x = torch.randn(known.n, flow.rows.width, generator=noise)
        known.begin(x)
        for time, after in pairwise(np.linspace(0, config.last_time, config.sampling_steps + 1).tolist()):
            for left in reversed(range(config.repeats if known else 1)):
                known.put(x, time, 1 - time)
                velocity = flow.velocity(x, time)
                y = x + (after - time) * velocity
                if config.sampler == "heun":
                    known.put(y, after, 1 - after)
                    y = x + (after - time) / 2 * (velocity + flow.velocity(y, after))
                if left:
                    # Back from the later time to this one: scaled down, and the noise that is then missing added.
                    back = time / after
                    missing = (1 - time) ** 2 - (back * (1 - after)) ** 2
                    x = back * y + missing**0.5 * torch.randn(y.shape, generator=noise)
                else:
                    x = y
        known.put(x, config.last_time, 1 - config.last_time)
        outputs, seen = flow.look(x, torch.full((known.n, 1), config.last_time))
        drawn = flow.rows.draw(outputs, noise, rng, seen, known.rows)
        return drawn if config.numeric_head == "binned" else flow.rows.read_numbers(x, drawn, known.rows)

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        return {k: v.numpy() for k, v in self._flow.state_dict().items()}, {"private": self._private}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._private = bool(extra["private"])
        with repeatable(0):
            self._flow = Flow(encoder, self.config.shape(private=self._private))
        self._flow.load_state_dict({k: torch.as_tensor(np.array(v)) for k, v in tensors.items()})
        self._flow.eval()
