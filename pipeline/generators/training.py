"""The loop that trains the neural generators: batches, early stopping, guards, and randomness by purpose.

Data stay on the device as tensors and batches are index permutations (spec 0.4: a DataLoader's collating costs more
than these small nets). Everything random comes from one `torch.Generator` a purpose, derived from the seed; the
caller's global random state is left as it was. What the loss is, is the model's business.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.errors import ConfigError, TrainingError
from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress

    Loss = Callable[[Tensor, torch.Generator, float], Tensor]
    """(rows, random numbers, share of the training done) to (rows,) losses."""

MOST_BAD_STEPS = 5
TUNE_SHARE = 0.1


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: passes over the training rows, at most.
        batch_size: rows a step.
        learning_rate: of AdamW at the start.
        weight_decay: of AdamW.
        clip: largest norm of a step's gradient.
        patience: epochs without improvement on the tuning rows after which training stops; 0 trains all epochs.
        plateau: epochs without improvement after which the learning rate is halved; 0 never.
        cosine: lower the learning rate to 0 along a half cosine over all epochs.
        least_gain: relative improvement that counts as one.
        settled: share of the training after which the loss is no longer annealed; early stopping looks from then on.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    clip: float = 1.0
    patience: int = 10
    plateau: int = 5
    cosine: bool = False
    least_gain: float = 1e-4
    settled: float = 0.0


@dataclass
class TrainLog:
    """What happened: losses by epoch ({"step", "train", "tune"}), the best epoch, sentences for people."""

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
    many times slower with more, and the bytes do not depend on how many cores there are.
    """
    threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(derive_seed(int(seed), "init"))
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


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

    Raises:
        TrainingError: the loss was not finite more than five times (the learning rate is halved each time).
    """
    log = TrainLog()
    fast = {id(p) for p in fast_parameters or []}
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in fast], "lr": settings.learning_rate},
        {"params": [p for p in network.parameters() if id(p) in fast], "lr": 5 * settings.learning_rate},
    ]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=settings.weight_decay)
    start_rates = [g["lr"] for g in optimiser.param_groups]
    order, noise = torch_stream(seed, "batch"), torch_stream(seed, "noise", device=device)
    rows = torch.as_tensor(np.asarray(fit_rows), dtype=torch.long)
    tune = torch.as_tensor(np.asarray(tune_rows), dtype=torch.long, device=device)
    best, best_state, stale, bad, factor = np.inf, copy.deepcopy(network.state_dict()), 0, 0, 1.0
    steps = max(1, -(-len(rows) // settings.batch_size))
    for epoch in range(settings.epochs):
        network.train()
        shuffled = rows[torch.randperm(len(rows), generator=order)].to(device)
        total = 0.0
        for step, batch in enumerate(shuffled.split(settings.batch_size)):
            done = (epoch * steps + step) / (settings.epochs * steps)
            cosine = 0.5 * (1 + np.cos(np.pi * done)) if settings.cosine else 1.0
            for group, rate in zip(optimiser.param_groups, start_rates, strict=True):
                group["lr"] = rate * factor * cosine
            value = loss(batch, noise, done).mean()
            if torch.isfinite(value):
                optimiser.zero_grad(set_to_none=True)
                value.backward()
                norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
                if torch.isfinite(norm):
                    optimiser.step()
                    total += float(value.detach()) * len(batch)
                    continue
            bad += 1
            factor /= 2
            if bad > MOST_BAD_STEPS:
                raise TrainingError(
                    f"The loss was not finite in {bad} steps, although the learning rate was halved each time.",
                    todo="Lower `learning_rate`, or look for columns with extreme numbers.",
                )
        entry = {"step": float((epoch + 1) * steps), "train": total / max(1, len(rows))}
        if len(tune):
            entry["tune"] = _evaluate(network, loss, tune, seed, device)
            if epoch + 1 <= settings.settled * settings.epochs:
                # The annealed loss is not the one that tuning rows are judged by: no epoch counts yet.
                stale = 0
            elif entry["tune"] < best - settings.least_gain * abs(best if np.isfinite(best) else 1.0):
                best, stale, log.best_epoch = entry["tune"], 0, epoch + 1
                best_state = copy.deepcopy(network.state_dict())
            else:
                stale += 1
                if settings.plateau and stale % settings.plateau == 0:
                    factor /= 2
        log.losses.append(entry)
        if progress is not None:
            progress(epoch + 1, settings.epochs, entry)
        if len(tune) and settings.patience and stale >= settings.patience:
            break
    if len(tune) and np.isfinite(best):
        network.load_state_dict(best_state)
    else:
        log.best_epoch = len(log.losses)
    if bad:
        log.warnings.append(f"The loss was not finite in {bad} steps; the learning rate was halved each time.")
    network.eval()
    return log


def _evaluate(network: nn.Module, loss: Loss, rows: Tensor, seed: int, device: torch.device) -> float:
    """Mean loss over the tuning rows, with the same noise every time and everything annealed as at the end."""
    network.eval()
    noise = torch_stream(seed, "tune", device=device)
    with torch.inference_mode():
        total = sum(float(loss(part, noise, 1.0).sum()) for part in rows.split(8192))
    return total / len(rows)
