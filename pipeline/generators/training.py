"""The loop that trains the neural generators: batches, early stopping, guards, and randomness by purpose.

Data stay on the device as tensors and batches are index permutations (spec 0.4: a DataLoader's collating costs more
than these small nets). Everything random comes from one `torch.Generator` a purpose, derived from the seed; the
caller's global random state is left as it was. A training that was killed goes on from its checkpoint
(`checkpoint.py`). How long and how fast is in `train_settings.py`; what the loss is, is the model's business.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import ConfigError, TrainingError
from pipeline.generators.averaging import RunningMean
from pipeline.generators.flat_weights import FlatAdamW, FlatWeights
from pipeline.generators.precision import factors_in_bfloat16, wide_layers_in_bfloat16
from pipeline.generators.seeds import derive_seed
from pipeline.generators.train_settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.checkpoint import Checkpoint

    Loss = Callable[[Tensor, torch.Generator, float], Tensor]
    """(rows, random numbers, share of the training done) to (rows,) losses."""

MOST_BAD_STEPS = 5
TUNE_SHARE = 0.1


@dataclass
class TrainLog:
    """What happened: losses by epoch (or round, `TrainSettings.steps`) ({"step", "train", "tune"}), the best epoch, sentences for people."""

    losses: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    warnings: list[str] = field(default_factory=list)


def choose_device(device: str) -> torch.device:
    """The torch device for 'auto' (a GPU if there is one), 'cpu', 'cuda' or 'cuda:<n>'.

    Raises:
        ConfigError: the name is none of these, or there is no such GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ConfigError(f"There is no device '{device}'.", todo="Known: auto, cpu, cuda, cuda:0, cuda:1, ...")
    if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"Device '{device}' was asked for, but torch sees {torch.cuda.device_count()} GPUs.",
            todo="Use device 'auto' or 'cpu', or install torch with CUDA.",
        )
    return torch.device(device)


def torch_stream(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one purpose of one seed."""
    return torch.Generator(device=device).manual_seed(derive_seed(int(seed), *purpose))


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Deterministic kernels and seeded layer initialisation inside; the global state is restored afterwards.

    On the CPU one thread computes: these nets are too small to gain from more, two runs side by side on two cores are
    many times slower with more, and the bytes do not depend on how many cores there are. On a GPU products of matrices
    use TF32 (spec 0.4).
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    before = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(derive_seed(int(seed), "init"))
        # Not by `use_deterministic_algorithms`, which does the same and loads torch's compiler: a second of the first fit.
        torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
        # Nothing here reads memory that it did not write: filling it first only takes time.
        memory.fill_uninitialized_memory = False
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else precision)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            torch.set_deterministic_debug_mode(before)
            memory.fill_uninitialized_memory = filling


def tuning_rows(cohort: Cohort) -> NDArray[np.bool_]:
    """(n,) True for the rows that early stopping looks at: the cohort's own, else a tenth by hash of the subject.

    All rows of a subject lie on one side, so that a second stay of a patient cannot pass for an unseen one.
    """
    if cohort.tune is not None and 0 < cohort.tune.sum() < cohort.n_rows:
        return np.asarray(cohort.tune, dtype=bool)
    names, inverse = np.unique(cohort.subject, return_inverse=True)
    share = np.array([int.from_bytes(blake2b(str(s).encode(), digest_size=7).digest(), "big") / 2**56 for s in names])
    chosen = share < max(TUNE_SHARE, float(np.sort(share)[0]) + 1e-15)
    return chosen[inverse] if not chosen.all() else np.zeros(cohort.n_rows, dtype=bool)


def train(
    network: nn.Module,
    loss: Loss,
    *,
    fit_rows: NDArray[np.integer],
    tune_rows: NDArray[np.integer],
    settings: TrainSettings,
    seed: int,
    device: torch.device,
    fast_parameters: list[Tensor] | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainLog:
    """Minimise the mean of `loss` over the rows; `network` ends with its best weights, in eval mode.

    Args:
        network: the module whose parameters are trained.
        loss: losses of a batch; it holds the data.
        fit_rows: (n,) rows to learn from.
        tune_rows: (m,) rows that early stopping looks at; with none, all epochs are trained.
        settings: see `TrainSettings`.
        seed: seeds batches and noise.
        device: where the data of `loss` lie.
        fast_parameters: parameters with five times the learning rate (free scales, spec 2.3).
        progress: called after every epoch.
        checkpoint: where the state is kept; a training that finds its own state there goes on from it and ends with
            the bytes of one that was never interrupted. Whoever gave it removes it.

    Raises:
        TrainingError: the loss was not finite in more than five steps (the learning rate is halved each time) before
            anything was learned; later the last good weights are kept, with a warning.
    """
    fast = {id(p) for p in fast_parameters or []}
    learned = [p for p in network.parameters() if p.requires_grad and p.numel()]
    groups = [[p for p in learned if id(p) in fast], [p for p in learned if id(p) not in fast]]
    weights = FlatWeights([g for g in groups if g])
    rates = [factor * settings.learning_rate for factor, g in zip((5, 1), groups, strict=True) if g]
    loop = _Loop(
        network=network,
        loss=loss,
        rows=torch.as_tensor(np.asarray(fit_rows), dtype=torch.long),
        tune=torch.as_tensor(np.asarray(tune_rows), dtype=torch.long, device=device),
        settings=settings,
        weights=weights,
        optimiser=FlatAdamW(weights, rates, settings.weight_decay),
        seed=seed,
        device=device,
        best_weights=_copied(network),
    )
    try:
        rounded = factors_in_bfloat16() if settings.bfloat16_products else nullcontext()
        with wide_layers_in_bfloat16(network) if device.type == "cuda" else rounded:
            return loop.run(progress, checkpoint)
    finally:
        weights.release()


class _DivergedError(Exception):
    """The loss was not finite too often."""


@dataclass
class _Loop:
    """One training: what it works on, and how far it is."""

    network: nn.Module
    loss: Loss
    rows: Tensor
    tune: Tensor
    settings: TrainSettings
    weights: FlatWeights
    optimiser: FlatAdamW
    seed: int
    device: torch.device
    best_weights: dict[str, Tensor]
    best: float = float("inf")
    best_epoch: int = 0
    stale: int = 0
    bad: int = 0
    factor: float = 1.0
    losses: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False

    def __post_init__(self) -> None:
        self.order = torch_stream(self.seed, "batch")
        self.noise = torch_stream(self.seed, "noise", device=self.device)
        self.steps = self.settings.round_steps(len(self.rows))
        self.total = self.settings.total_steps(len(self.rows))
        self.rounds = self.settings.rounds(len(self.rows))
        self.average = RunningMean(self.network, self.settings.ema) if self.settings.ema else None

    def run(self, progress: Progress | None, checkpoint: Checkpoint | None) -> TrainLog:
        """Train to the end, from the state in `checkpoint` if there is one."""
        if checkpoint is not None:
            self._resume(checkpoint)
        saved = monotonic()
        while not self.finished and len(self.losses) < self.rounds:
            try:
                entry = self._epoch(len(self.losses))
            except _DivergedError:
                break
            self._judge(entry)
            if progress is not None:
                progress(len(self.losses), self.rounds, entry)
            if len(self.tune) and self.settings.patience and self.stale >= self.settings.patience:
                break
            if checkpoint is not None and monotonic() - saved >= checkpoint.seconds:
                self._save(checkpoint)
                saved = monotonic()
        if not self.finished:
            self.network.load_state_dict(self.best_weights)
            self.finished = True
            if checkpoint is not None:
                self._save(checkpoint)
        self.network.eval()
        return TrainLog(self.losses, self.best_epoch, self._warnings())

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Every row once, or as often as a round of the budget says; gives what is logged."""
        self.network.train()
        total, learned = 0.0, 0
        steps = min(self.steps, self.total - epoch * self.steps)
        for step, batch in enumerate(islice(self._batches(steps), steps)):
            done = (epoch * self.steps + step) / self.total
            value = self._step(batch, done)
            if value is not None:
                total, learned = total + value * len(batch), learned + len(batch)
        entry = {"step": float(epoch * self.steps + steps)}
        if learned:
            entry["train"] = total / learned
        if len(self.tune) and np.isfinite(tuned := self._evaluate()):
            entry["tune"] = tuned
        return entry

    def _batches(self, steps: int) -> Iterator[Tensor]:
        """The rows of so many steps."""
        epoch = self.settings.epoch_steps(len(self.rows))
        if not self.settings.poisson:
            for _ in range(0, steps, epoch):
                shuffled = self.rows[torch.randperm(len(self.rows), generator=self.order)]
                yield from shuffled.to(self.device).split(self.settings.batch_size)
            return
        drawn = (torch.rand(len(self.rows), generator=self.order) * epoch < 1 for _ in range(steps))
        yield from (self.rows[chosen].to(self.device) for chosen in drawn if bool(chosen.any()))

    def _step(self, batch: Tensor, done: float) -> float | None:
        """One step; gives the loss, or None if it or its gradient was not finite and the step was skipped."""
        value = self.loss(batch, self.noise, done).mean()
        if torch.isfinite(value):
            self.weights.clear()
            value.backward()
            norm = self.weights.clip(self.settings.clip)
            if torch.isfinite(norm):
                self.optimiser.step(self.factor * self.settings.rate_factor(done))
                if self.average is not None:
                    self.average.update()
                return float(value.detach())
        self.bad += 1
        self.factor /= 2
        if self.bad > MOST_BAD_STEPS:
            if not self.best_epoch:
                raise TrainingError(
                    f"The loss was not finite in {self.bad} steps, although the learning rate was halved each time.",
                    todo="Lower `learning_rate`, or look for columns with extreme numbers.",
                )
            raise _DivergedError
        return None

    def _judge(self, entry: dict[str, float]) -> None:
        """Keep the weights if they are the best so far, and lower the learning rate where they no longer improve."""
        self.losses.append(entry)
        epoch, best = len(self.losses), self.best
        # While the loss is annealed it is not the one that tuning rows are judged by: no epoch counts yet.
        judged = len(self.tune) > 0 and epoch > self.settings.settled * self.rounds
        gain = self.settings.least_gain * abs(best if np.isfinite(best) else 1.0)
        better = judged and entry.get("tune", np.inf) < best - gain
        if better:
            self.best = entry["tune"]
        if "train" in entry and (better or not np.isfinite(self.best)):
            # Until an epoch has been judged, the last one is the best.
            with self._averaged():
                self.best_weights, self.best_epoch = _copied(self.network), epoch
        if better or not judged:
            self.stale = 0
            return
        self.stale += 1
        if self.settings.plateau and self.stale % self.settings.plateau == 0:
            self.factor /= 2

    def _evaluate(self) -> float:
        """Mean loss over the tuning rows, with the same noise every time and everything annealed as at the end."""
        self.network.eval()
        noise = torch_stream(self.seed, "tune", device=self.device)
        with self._averaged(), torch.inference_mode():
            total = sum(float(self.loss(part, noise, 1.0).sum()) for part in self.tune.split(8192))
        return total / len(self.tune)

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the network has the weights that it is judged by."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _warnings(self) -> list[str]:
        if self.bad > MOST_BAD_STEPS:
            return [
                f"The training was ended after epoch {len(self.losses)}: the loss was not finite in {self.bad} steps, "
                f"although the learning rate was halved each time. The weights are those of epoch {self.best_epoch}."
            ]
        if self.bad:
            return [f"The loss was not finite in {self.bad} steps; the learning rate was halved each time."]
        return []

    # ---- the state

    def _save(self, checkpoint: Checkpoint) -> None:
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best_weights.items()}
        tensors |= self.optimiser.state()
        # Layers draw their dropout from the global generator of their device.
        tensors |= {"random/order": self.order.get_state(), "random/noise": self.noise.get_state()}
        tensors["random/global"] = torch.random.get_rng_state()
        if self.device.type == "cuda":
            tensors["random/device"] = torch.cuda.get_rng_state(self.device)
        tensors |= {} if self.average is None else self.average.state()
        averaged = 0 if self.average is None else self.average.steps
        checkpoint.save(tensors, {"progress": self._progress(), "averaged": averaged, "work": self._work()})

    def _progress(self) -> dict[str, Any]:
        names = ("best", "best_epoch", "stale", "bad", "factor", "losses", "finished")
        return {name: getattr(self, name) for name in names}

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Take over the state of the same training, if it was saved."""
        found = checkpoint.load()
        if found is None or found[1]["work"] != self._work():
            return
        tensors, state = found
        self.network.load_state_dict(_below(tensors, "network/"))
        self.best_weights = {k: v.to(self.device) for k, v in _below(tensors, "best/").items()}
        self.optimiser.restore(tensors)
        self.order.set_state(tensors["random/order"])
        self.noise.set_state(tensors["random/noise"])
        torch.random.set_rng_state(tensors["random/global"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/device"], self.device)
        if self.average is not None:
            self.average.restore(tensors, state["averaged"])
        for name, value in state["progress"].items():
            setattr(self, name, value)

    def _work(self) -> list[str]:
        """What else decides the bytes: the rows, where and by what they are worked on."""
        digest = blake2b(digest_size=16)
        for rows in (self.rows, self.tune):
            digest.update(rows.cpu().numpy().tobytes())
            digest.update(b"|")
        return [digest.hexdigest(), self.device.type, str(torch.__version__), "flat weights"]


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
