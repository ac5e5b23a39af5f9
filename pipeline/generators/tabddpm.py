"""TabDDPM (Kotelnikov et al. 2023): Gaussian diffusion of numbers and multinomial diffusion of everything discrete.

One network sees a noisy row and says the noise of its numbers and what its states may have been; rows are drawn by
strided steps back. A discrete label is the condition of the network and is drawn first. What a row is, is in
`denoising/split_rows.py`, the noise in `denoising/multinomial.py`, the way back in `denoising/mixed_reverse.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.denoising.known_states import KnownStates
from pipeline.generators.denoising.mixed_reverse import ancestral_step, ddim_step, draw_back
from pipeline.generators.denoising.multinomial import CosineSchedule, blurred, divergence, posterior
from pipeline.generators.denoising.network import TIME_WAVES, time_features
from pipeline.generators.denoising.split_diffusion import SplitDiffusion, SplitDiffusionConfig, SplitNetwork
from pipeline.generators.denoising.split_rows import SplitRows
from pipeline.generators.denoising.state_groups import StateGroups, one_hot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.training import Loss

EDGE_SHARE = 0.005
MOST_AT_EDGES = 0.05
MOST_LABELS = 64
BETWEEN = 128
"""Width of the published network before its hidden layers, and of its time and label embeddings."""


class TabDDPMConfig(SplitDiffusionConfig):
    """Settings of TabDDPM."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "number_target": "noise",
            "spike_share": 2.0,
            "ranks": False,
            "diffusion_steps": 100,
            "hidden": (256, 1024, 1024, 1024, 1024, 256),
            "steps": 30_000,
            "batch_size": 4096,
            "learning_rate": 2e-3,
            "sampler": "ancestral",
            "sampling_steps": 100,
            "patience": 0,
            "dropout": 0.0,
        },
        "quick": {"steps": 400, "learning_rate": 3e-3, "hidden": (128, 128), "sampling_steps": 20},
    }
    number_target: Literal["noise", "velocity"] = Field(
        default="velocity",
        description="What the network says of a number: the noise e in it, as published, or the velocity"
        " sqrt(a) e - sqrt(1 - a) x_0: what is left of it where a number's own noisy value has said what it can.",
    )
    label_given: bool = Field(
        default=True,
        description="A discrete column with the role 'label' is the condition of the network, as published, and drawn"
        " from its own shares first.",
    )
    diffusion_steps: int = Field(default=1000, ge=1, le=100_000, description="Steps of noise, T.")
    hidden: tuple[int, ...] = Field(
        default=(256, 256), min_length=1, description="Widths of the hidden layers of the network."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of hidden units that is dropped in training.")
    sampler: Literal["ddim", "ancestral"] = Field(
        default="ddim", description="Steps of numbers: deterministic, or ancestral as published."
    )
    sampling_steps: int = Field(default=50, ge=1, le=100_000, description="Steps from noise to rows, at most T.")
    farthest: float = Field(default=5.0, gt=0, description="Clean normal scores are kept within this while sampling.")
    repeats: int = Field(
        default=5, ge=1, le=20, description="Times each step is gone where columns are fixed (re-noised in between)."
    )


class PublishedMLP(nn.Module):
    """Linear, plus embeddings of time and label; hidden layers with ReLU; Linear (spec 6.1).

    The last layer starts at 0: untrained, the outputs are its bias.

    Args:
        inputs: width of the vectors.
        outputs: width of the outputs.
        hidden: widths of the hidden layers.
        labels: levels of the label, 0 for none.
        dropout: share of hidden units dropped while training.
    """

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...], labels: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(max(1, inputs), BETWEEN)
        self.time = nn.Sequential(nn.Linear(2 * TIME_WAVES, BETWEEN), nn.SiLU(), nn.Linear(BETWEEN, BETWEEN))
        self.label = nn.Embedding(labels, BETWEEN) if labels else None
        layers: list[nn.Module] = []
        for before, after in pairwise([BETWEEN, *hidden]):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(hidden[-1], outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        """(batch, outputs) for (batch, inputs) vectors at (batch,) times, with (batch,) labels."""
        told = self.time(time_features(time))
        if self.label is not None and label is not None:
            told = told + nn.functional.silu(self.label(label))
        if not x.shape[1]:
            x = x.new_zeros(len(x), 1)
        out: Tensor = self.last(self.hidden(self.first(x) + told))
        return out


class Diffusion(SplitNetwork):
    """What is trained: the network, and what its outputs mean.

    Args:
        split: rows as scores and states.
        config: sizes and targets.
    """

    def __init__(self, split: SplitRows, config: TabDDPMConfig) -> None:
        super().__init__()
        self.numbers, self.config = len(split.numbers), config
        self.groups = StateGroups(split.sizes)
        self.width = self.numbers + self.groups.width
        labels = split.encoder.levels[split.without].states if split.without else 0
        self.network = PublishedMLP(self.width, max(1, self.width), config.hidden, labels, config.dropout)
        self.schedule = CosineSchedule.of(config.diffusion_steps)

    def start(self, split: SplitRows) -> None:
        """Untrained, states are drawn with their shares and numbers from their own distribution."""
        with torch.no_grad():
            self.network.last.bias[self.numbers : self.width] = self.groups.start_bias(split.shares())

    def look(self, x: Tensor, states: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """What is said of (batch, numbers) scores and, a group, (states, batch, columns) probabilities of clean states."""
        shown = torch.cat([x, self.groups.shown(states)], dim=1)
        outputs = self.network(shown, 1000 / self.config.diffusion_steps * t, label)
        said, logits = outputs[:, : self.numbers], outputs[:, self.numbers : self.width]
        return said, self.groups.chances(logits)

    def losses(self, scores: Tensor, states: Tensor, label: Tensor | None, noise: torch.Generator) -> Tensor:
        """(batch,) squared errors of the numbers, their mean, plus the variational bound of the states, its mean."""
        n, steps = len(states), self.schedule.steps
        # One time in each of as many strata as there are rows: uniform times, with less noise.
        place = torch.randperm(n, generator=noise, device=states.device)
        place = place + torch.rand(n, generator=noise, device=states.device)
        t = 1 + (place * (steps / n)).long().clamp_max(steps - 1)
        kept, before = self.schedule.at(t)[:, None], self.schedule.at(t - 1)[:, None]
        e = torch.randn(scores.shape, generator=noise, device=states.device)
        x = kept.sqrt() * scores + (1 - kept).sqrt() * e
        parts = self.groups.split(states)
        own = [blurred(p, g.sizes, kept, noise) for p, g in zip(parts, self.groups.groups(), strict=True)]
        said, chances = self.look(x, self.groups.join(own, states), t, label)
        wanted = e if self.config.number_target == "noise" else kept.sqrt() * e - (1 - kept).sqrt() * scores
        total = ((said - wanted) ** 2).mean(dim=1) if self.numbers else scores.new_zeros(n)
        for group, clean, noisy, told in zip(self.groups.groups(), parts, own, chances, strict=True):
            true = posterior(one_hot(clean, group.states), noisy, group.valid, kept / before, before)
            # T times the mean over times is the bound's sum; what is left of x_0 at T does not depend on the network.
            bound = steps * divergence(true, posterior(told, noisy, group.valid, kept / before, before))
            total = total + bound / self.groups.columns
        return total

    def denoised(self, x: Tensor, states: Tensor, time: int, label: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """E[x_0 | x_t] of the scores, within bounds, and probabilities of clean states."""
        t = torch.full((len(states),), time, device=states.device)
        said, chances = self.look(x, states, t, label)
        kept = float(self.schedule.kept[time])
        if self.config.number_target == "noise":
            clean = (x - (1 - kept) ** 0.5 * said) / kept**0.5
        else:
            clean = kept**0.5 * x - (1 - kept) ** 0.5 * said
        return clean.clamp(-self.config.farthest, self.config.farthest), chances


class TabDDPM(SplitDiffusion[Diffusion]):
    """Gaussian and multinomial diffusion; the label native, other conditions by inpainting."""

    name = "tabddpm"
    title = "TabDDPM: Gaussian and multinomial diffusion"
    Config = TabDDPMConfig
    config: TabDDPMConfig

    def _network(self) -> Diffusion:
        return Diffusion(self._split, self.config)

    def _rows_of(self, encoder: TableEncoder) -> SplitRows:
        """Rows as scores and states, the label outside."""
        labels = [
            c.name
            for c in encoder.schema.modelled()
            if c.role == "label" and c.name in encoder.levels and 1 < encoder.levels[c.name].states <= MOST_LABELS
        ]
        given = labels[0] if labels and self.config.label_given else None
        return SplitRows(encoder, spike_share=self.config.spike_share, without=given)

    def _loss(self, model: Diffusion, rows: Encoded, place: torch.device) -> Loss:
        split = self._split
        data = split.tensors(rows, place)
        label = torch.as_tensor(rows.states[split.without], device=place) if split.without else None

        def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
            scores, states = split.batch(data, at, noise)
            return model.losses(scores, states, None if label is None else label[at], noise)

        return loss

    def _complete(self, encoder: TableEncoder, known: KnownStates, rng: np.random.Generator) -> None:
        """A label that is not fixed is drawn with its shares."""
        given = self._split.without
        if given is not None and given not in known.rows.states:
            shares = encoder.levels[given].frequency
            known.rows.states[given] = rng.choice(len(shares), size=known.n, p=shares / shares.sum())

    def _looked(
        self, scores: NDArray[np.float64], regular: NDArray[np.bool_]
    ) -> tuple[dict[str, float], list[str]]:  # fmt: skip
        """Do numbers pile up at the ends of their columns? An under-trained network throws them there (spec 6.1)."""
        outer = np.abs(self._ranks.uniforms(scores) - 0.5) > 0.5 - EDGE_SHARE
        share = np.where(regular, outer, False).sum(axis=0) / np.maximum(1, regular.sum(axis=0))
        facts = {"mass_at_edges": float(share.max())}
        off = int((share > MOST_AT_EDGES).sum())
        if not off:
            return facts, []
        return facts, [
            f"Numbers pile up at the ends: in {off} of {len(share)} columns more than {MOST_AT_EDGES:.0%} of the drawn numbers"
            f" lie in the outermost {2 * EDGE_SHARE:.0%} (furthest {share.max():.0%}). The network is under-trained: ask for more `steps`."
        ]

    def _chunk(self, known: KnownStates, noise: torch.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        model, config = self._model, self.config
        label = torch.as_tensor(known.rows.states[self._split.without]) if self._split.without else None
        published = config.sampler == "ancestral" and config.sampling_steps >= model.schedule.steps
        times = [*range(model.schedule.steps, -1, -1)] if published else model.schedule.strided(config.sampling_steps)
        x, states = draw_back(
            lambda x, states, t: model.denoised(x, states, t, label),
            model.schedule,
            model.groups,
            times,
            known,
            noise,
            numbers=model.numbers,
            number_step=ancestral_step if config.sampler == "ancestral" else ddim_step,
            repeats=config.repeats,
        )
        return x.numpy(), states.numpy()
