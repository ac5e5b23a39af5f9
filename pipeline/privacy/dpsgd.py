"""Training by differentially private stochastic gradient descent, through Opacus (Abadi et al. 2016; Yousefpour et al. 2021).

A batch is a Poisson sample of the subjects, each subject's gradient is clipped, Gaussian noise is added to the sum, and
the number of steps is fixed beforehand: no early stopping, no tuning rows, no loss curve, since all of these look at the
data. Noise and batches come from the run's secret. The loop without privacy is in `pipeline/generators/training.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from pipeline.errors import ConfigError, TrainingError, UnsupportedError
from pipeline.generators.averaging import RunningMean
from pipeline.generators.training import TrainLog, repeatable
from pipeline.privacy.accounting import dpsgd_epsilon, dpsgd_noise
from pipeline.privacy.clipping import PROBED_ROWS, STEPS, Noise, prepare, quiet_hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.generators.base import Progress
    from pipeline.generators.training import Loss
    from pipeline.privacy.run import PrivateRun
    from pipeline.privacy.spec import TrainingPrivacy

FEWEST_SUBJECTS = 500
"""Below this DP-SGD is refused: the division by a batch size that follows from n can break the promise, and the noise
leaves nothing to learn (spec 8.2)."""


@dataclass(frozen=True)
class PrivateSettings:
    """How to train (spec 3.3 and 8.4).

    Attributes:
        steps: noisy steps; None takes `epochs`.
        epochs: steps as passes over the subjects, where `steps` is not given.
        expected_batch: subjects a step on average, at most all of them.
        clip: largest norm of a subject's gradient; of the loss of that subject, not of a mean over a batch.
        learning_rate: of Adam.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment, lower than usual since noise dominates it.
        ema: decay of the running mean of the weights, which is what the network ends with; 0 takes the last weights.
        fast: factor on the learning rate of `fast_parameters`.
        mode: "ghost" clips without gradients of single rows, "hooks" stores them, "auto" takes ghost where it works.
        physical_rows: rows that are on the device at once; None: 256 with hooks, 4,096 with ghost clipping.
    """

    steps: int | None = None
    epochs: float = 100.0
    expected_batch: int = 512
    clip: float = 1.0
    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.99
    ema: float = 0.99
    fast: float = 5.0
    mode: Literal["auto", "ghost", "hooks"] = "auto"
    physical_rows: int | None = None

    def __post_init__(self) -> None:
        if not (self.clip > 0 and self.expected_batch >= 1 and self.learning_rate > 0 and 0 <= self.ema < 1):
            raise ConfigError("Private training needs a clip, batch and learning rate above 0 and an ema below 1.")

    def sample_rate(self, subjects: int) -> float:
        """Chance of a subject to be in a step's batch."""
        return min(1.0, self.expected_batch / subjects)

    def all_steps(self, subjects: int) -> int:
        """Number of noisy steps; it depends on the number of subjects alone."""
        if self.steps is not None:
            return max(1, self.steps)
        return max(1, math.ceil(self.epochs / self.sample_rate(subjects)))


def planned_epsilon(settings: PrivateSettings, privacy: TrainingPrivacy, subjects: int) -> float:
    """The epsilon of a whole training for which a noise multiplier was asked, encoding included.

    DP-SGD gets 1 - `preprocessing_share` of epsilon and delta, so that the rest follows.

    Raises:
        ConfigError: no noise multiplier was asked for, or delta is too weak.
    """
    if privacy.noise_multiplier is None:
        raise ConfigError("No noise multiplier was asked for.")
    learning = 1 - privacy.preprocessing_share
    cost = dpsgd_epsilon(
        noise_multiplier=privacy.noise_multiplier,
        sample_rate=settings.sample_rate(subjects),
        steps=settings.all_steps(subjects),
        delta=privacy.resolved_delta(subjects) * learning,
        accountant=privacy.accountant,
    )
    return cost.epsilon / learning


def train_private(
    network: nn.Module,
    loss: Loss,
    *,
    rows: int,
    settings: PrivateSettings,
    run: PrivateRun,
    init_seed: int,
    device: torch.device,
    subject: NDArray[np.integer] | None = None,
    fast_parameters: list[Tensor] | None = None,
    after: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> TrainLog:
    """Minimise `loss` under the run's budget; `network` ends in eval mode with the running mean of its weights.

    Args:
        network: every trainable parameter must lie in a layer that is called once a batch with the batch first
            (`FreeParameter` for what is not an ordinary layer); no BatchNorm.
        loss: losses of a batch, one a row, each of its own row alone.
        rows: number of rows; as many as subjects unless `subject` is given.
        settings: see `PrivateSettings`.
        run: what may be spent; all that is left of it is.
        init_seed: seeds what little is public randomness inside; no noise and no batch.
        device: where the data of `loss` lie.
        subject: (rows,) subject of each row, at most `run.rows_per_subject` rows each; None: a row is a subject.
        fast_parameters: parameters with a higher learning rate (free scales).
        after: called after each step with how many there were; what it makes of the noised network is post-processing, so it
            must see no row, and it leaves the network's weights as they are.
        progress: called after every hundredth of the steps with no figure, since there is none to show.

    Raises:
        UnsupportedError: too few subjects, or a network whose per-sample gradients cannot be had.
        ConfigError: no noise is enough, or `subject` and the run do not fit.
        TrainingError: the weights are no longer finite.
    """
    sampler = _Poisson(rows, subject, run)
    subjects = sampler.subjects
    if subjects < FEWEST_SUBJECTS:
        raise UnsupportedError(
            f"DP-SGD needs at least {FEWEST_SUBJECTS} subjects; there are {subjects}. With fewer its noise leaves nothing to "
            "learn, and its division by the batch size can give people away.",
            todo="Use a generator that measures marginals under privacy, such as mst or independent.",
        )
    rate, steps = settings.sample_rate(subjects), settings.all_steps(subjects)
    noise, cost = _noise(run, rate, steps)
    with repeatable(init_seed), quiet_hooks():
        # With TF32 a norm is right to a thousandth only, and a clipped gradient could be that much longer than the clip.
        torch.set_float32_matmul_precision("highest")
        network.train()
        probe = torch.arange(min(rows, PROBED_ROWS), device=device)
        mode = prepare(network, loss, probe, ("ghost", "hooks") if settings.mode == "auto" else (settings.mode,))
        optimiser = _adam(network, settings, fast_parameters or [])
        added = Noise(
            settings.clip, noise * run.rows_per_subject, rate * subjects, run.torch("dp-sgd noise", device=device)
        )
        step = STEPS[mode](network, optimiser, added)
        size = settings.physical_rows or step.rows
        average = RunningMean(network, settings.ema)
        random = run.torch("dp-sgd loss", device=device)
        try:
            for k in range(steps):
                parts = sampler.batch(rate).to(device).split(size)
                for i, part in enumerate(parts):
                    step.add(loss, part, random, k / steps, last=i == len(parts) - 1)
                average.update()
                if after is not None:
                    step.wrapped.disable_hooks()
                    after(k + 1)
                    step.wrapped.enable_hooks()
                if progress is not None and ((k + 1) % max(1, steps // 100) == 0 or k + 1 == steps):
                    progress(k + 1, steps, {})
        finally:
            step.wrapped.to_standard_module()
        average.put()
        network.eval()
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise TrainingError(
            "The weights are no longer finite.", todo="Lower `learning_rate`, or ask for a larger epsilon."
        )
    run.enter_dpsgd(
        f"{steps} steps of DP-SGD",
        clip=settings.clip * run.rows_per_subject,
        noise_multiplier=noise,
        epsilon=cost.epsilon,
        delta=run.own_delta,
        details={
            "sample_rate": rate,
            "expected_batch": rate * subjects,
            "steps": steps,
            "accountant": cost.accountant,
            "prv": cost.prv,
            "rdp": cost.rdp,
            "clipping": mode,
        },
    )
    return TrainLog()


class _Poisson:
    """Batches into which every subject comes with the same chance, by itself."""

    def __init__(self, rows: int, subject: NDArray[np.integer] | None, run: PrivateRun) -> None:
        if subject is None:
            if run.rows_per_subject > 1:
                raise ConfigError("Where a subject may have several rows, DP-SGD must be told whose each row is.")
            self.order, self.first = np.arange(rows), np.arange(rows + 1)
        else:
            _, counts = np.unique(subject, return_counts=True)
            if len(subject) != rows or counts.max(initial=0) > run.rows_per_subject:
                raise ConfigError("A subject has more rows than the privacy of this training allows.")
            self.order, self.first = np.argsort(subject, kind="stable"), np.r_[0, np.cumsum(counts)]
        self.subjects = len(self.first) - 1
        self._rng = run.rng("dp-sgd batches")

    def batch(self, rate: float) -> Tensor:
        """Rows of a Poisson sample of the subjects; may be empty."""
        # As many as a Poisson sample has, then which ones: the same distribution as a coin for each subject.
        size = int(self._rng.binomial(self.subjects, rate))
        chosen = np.sort(self._rng.choice(self.subjects, size, replace=False, shuffle=False))
        start, count = self.first[chosen], self.first[chosen + 1] - self.first[chosen]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return torch.from_numpy(self.order[np.repeat(start, count) + within])


def _adam(network: nn.Module, settings: PrivateSettings, fast_parameters: list[Tensor]) -> torch.optim.Optimizer:
    fast = {id(p) for p in fast_parameters}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in fast], "lr": settings.learning_rate},
        {"params": [p for p in trained if id(p) in fast], "lr": settings.fast * settings.learning_rate},
    ]
    return torch.optim.Adam([g for g in groups if g["params"]], betas=(settings.beta1, settings.beta2))


def _noise(run: PrivateRun, rate: float, steps: int) -> tuple[float, Any]:
    """Noise multiplier for what is left of the run, and what it costs."""
    if run.noise_multiplier is None:
        return dpsgd_noise(
            epsilon=run.own_epsilon,
            delta=run.own_delta,
            sample_rate=rate,
            steps=steps,
            accountant=run.privacy.accountant,
        )
    cost = dpsgd_epsilon(
        noise_multiplier=run.noise_multiplier,
        sample_rate=rate,
        steps=steps,
        delta=run.own_delta,
        accountant=run.privacy.accountant,
    )
    if cost.epsilon > run.own_epsilon * (1 + 1e-6):
        raise ConfigError(
            f"Noise multiplier {run.noise_multiplier:g} over {steps} steps costs epsilon {cost.epsilon:.4g}, more than the "
            f"{run.own_epsilon:.4g} that was announced."
        )
    return run.noise_multiplier, cost
