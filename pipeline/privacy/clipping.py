"""Clipped and noised gradients through Opacus: how one step of DP-SGD is made, and which networks it is right for.

`GhostStep` finds the norm of every row's gradient without the gradient itself and clips by weighting the loss (ghost
clipping, Li et al. 2022; Opacus' fast gradient clipping); `HookStep` stores every row's gradient. Both give the same
sum. `prepare` compares what Opacus says of single rows with autograd before anything is trained. Batches, steps and
budgets are in `dpsgd.py`.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pipeline.encoding.free_parameter import FreeParameter
from pipeline.errors import UnsupportedError
from pipeline.privacy.accounting import quiet_opacus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.generators.training import Loss

Mode = Literal["ghost", "hooks"]
PROBED_ROWS = 4
GHOST_ROWS = 4_096
HOOK_ROWS = 256
_TOLERANCE = 1e-3
_TINY = 1e-12
_LIGHT_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm, nn.Embedding, FreeParameter)
"""Layers of which ghost clipping keeps at most vectors a row."""


@dataclass
class Noise:
    """What is added to a step's sum of clipped gradients.

    Attributes:
        clip: Largest norm of a row's gradient.
        multiplier: Standard deviation of the noise over `clip`.
        expected_batch: What the noised sum is divided by.
        generator: Secret random numbers on the device of the weights.
    """

    clip: float
    multiplier: float
    expected_batch: float
    generator: torch.Generator


class GhostStep:
    """Steps by ghost clipping."""

    mode: Mode = "ghost"

    def __init__(self, network: nn.Module, optimiser: torch.optim.Optimizer, noise: Noise) -> None:
        classes = _opacus()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.wrapped = _wrapped(
            classes.ghost_module, network, loss_reduction="sum", max_grad_norm=noise.clip, use_ghost_clipping=True
        )
        self.optimiser = classes.ghost_optimiser(
            optimiser,
            noise_multiplier=noise.multiplier,
            max_grad_norm=noise.clip,
            expected_batch_size=noise.expected_batch,
            generator=noise.generator,
        )
        self.clip = noise.clip
        self.rows = GHOST_ROWS if all(isinstance(m, _LIGHT_LAYERS) for m in _owners(network)) else HOOK_ROWS
        self._light = _reach_all_layers(network)

    def norms(self, loss: Loss, rows: Tensor, random: torch.Generator, done: float) -> tuple[Tensor, Tensor]:
        """(batch,) losses, their graph kept, and (batch,) norms of their gradients."""
        for p in self.parameters:
            p._norm_sample = None  # type: ignore[attr-defined]  # Opacus keeps it there
        losses = loss(rows, random, done)
        torch.autograd.backward(losses.sum(), inputs=self._light, retain_graph=True)
        found = [p._norm_sample for p in self.parameters]  # type: ignore[attr-defined]
        if any(n is None or n.shape != losses.shape for n in found):
            raise NotImplementedError("no norm of a row's gradient")
        return losses, torch.stack(found).norm(2, dim=0)

    def add(self, loss: Loss, rows: Tensor, random: torch.Generator, done: float, *, last: bool) -> None:
        """Add the clipped gradients of some rows; with the last ones of a batch, add noise and make the step.

        A row whose loss or gradient is not finite adds nothing: what becomes of it hangs on that row alone.
        """
        while len(rows):
            losses, norms = self.norms(loss, rows, random, done)
            sound = torch.isfinite(losses.detach()) & torch.isfinite(norms)
            if bool(sound.all()):
                weight = (self.clip / (norms + 1e-6)).clamp(max=1.0)
                self.wrapped.disable_hooks()
                clipped = torch.autograd.grad((weight * losses).sum(), self.parameters)
                self.wrapped.enable_hooks()
                break
            rows = rows[sound]
        else:
            clipped = tuple(torch.zeros_like(p) for p in self.parameters)
        for p, gradient in zip(self.parameters, clipped, strict=True):
            p.grad = gradient
        _step(self.optimiser, last=last)


class HookStep:
    """Steps by gradients of single rows."""

    mode: Mode = "hooks"

    def __init__(self, network: nn.Module, optimiser: torch.optim.Optimizer, noise: Noise) -> None:
        classes = _opacus()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.wrapped = _wrapped(classes.hook_module, network, loss_reduction="sum")
        self.optimiser = classes.hook_optimiser(
            optimiser,
            noise_multiplier=noise.multiplier,
            max_grad_norm=noise.clip,
            expected_batch_size=noise.expected_batch,
            generator=noise.generator,
        )
        self.rows = HOOK_ROWS

    def norms(self, loss: Loss, rows: Tensor, random: torch.Generator, done: float) -> tuple[Tensor, Tensor]:
        """(batch,) losses and (batch,) norms of their gradients, which lie in `grad_sample`."""
        for p in self.parameters:
            p.grad_sample = None  # type: ignore[attr-defined]  # Opacus keeps it there
        losses = loss(rows, random, done)
        losses.sum().backward()
        found = [p.grad_sample for p in self.parameters]  # type: ignore[attr-defined]
        if any(g is None or isinstance(g, list) or len(g) != len(losses) for g in found):
            raise NotImplementedError("no gradient of a row")
        return losses.detach(), torch.stack([g.flatten(1).norm(2, dim=1) for g in found]).norm(2, dim=0)

    def add(self, loss: Loss, rows: Tensor, random: torch.Generator, done: float, *, last: bool) -> None:
        """See `GhostStep.add`."""
        while len(rows):
            losses, norms = self.norms(loss, rows, random, done)
            sound = torch.isfinite(losses) & torch.isfinite(norms)
            if bool(sound.all()):
                break
            rows = rows[sound]
        if not len(rows):
            for p in self.parameters:
                p.grad_sample = torch.zeros((0, *p.shape), device=p.device, dtype=p.dtype)  # type: ignore[attr-defined]
        _step(self.optimiser, last=last)


Step = GhostStep | HookStep
STEPS: dict[Mode, type[GhostStep] | type[HookStep]] = {"ghost": GhostStep, "hooks": HookStep}


def prepare(network: nn.Module, loss: Loss, rows: Tensor, modes: tuple[Mode, ...]) -> Mode:
    """The first of `modes` that gives every row's own gradient, told on a few rows; freezes what the loss does not use.

    Compared with autograd, row by row: a parameter that passes by the hooks, a layer that is called twice, and a loss
    that mixes rows (a mean over the batch, BatchNorm) all show, and would all make the promise void.

    Raises:
        UnsupportedError: none of them does.
    """
    rows = rows[:PROBED_ROWS]
    random = torch.Generator(device=rows.device)
    for p in network.parameters():
        p.requires_grad_(p.requires_grad and p.numel() > 0)
    losses = loss(rows, random.manual_seed(0), 0.5)
    if losses.shape != rows.shape:
        raise UnsupportedError("The loss is not one number a row, so rows cannot be clipped one by one.")
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    squares = torch.zeros(len(rows), device=rows.device)
    used: set[str] = set()
    for i in range(len(rows)):
        found = torch.autograd.grad(losses[i], [p for _, p in named], retain_graph=True, allow_unused=True)
        for (name, _), gradient in zip(named, found, strict=True):
            if gradient is not None:
                used.add(name)
                squares[i] += gradient.detach().square().sum()
    for name, p in named:
        p.requires_grad_(name in used)
    del losses
    reasons: list[str] = []
    for mode in modes:
        reason = _unlike(network, loss, rows, random, squares.sqrt(), mode)
        if not reason:
            return mode
        reasons.append(f"{mode}: {reason}")
    raise UnsupportedError(
        f"This network cannot be trained by DP-SGD ({'; '.join(reasons)}).",
        todo="Every parameter must lie in a layer that is called once a batch, and a row's loss may depend on no other row.",
    )


def _unlike(network: nn.Module, loss: Loss, rows: Tensor, random: torch.Generator, truth: Tensor, mode: Mode) -> str:
    """Why the norms of a mode are not those of autograd; empty if they are."""
    trained = [p for p in network.parameters() if p.requires_grad]
    noise = Noise(1.0, 0.0, float(len(rows)), random)
    try:
        step = STEPS[mode](network, torch.optim.SGD(trained, lr=0.0), noise)
    except NotImplementedError:
        return "a layer keeps statistics of the batch"
    try:
        _, norms = step.norms(loss, rows, random.manual_seed(0), 0.5)
    except (NotImplementedError, RuntimeError, IndexError, ValueError, AttributeError):
        return "a parameter is used outside the forward pass of its layer, or a layer twice"
    finally:
        step.wrapped.to_standard_module()
        for p in trained:
            p.grad = None
    sound = torch.isfinite(truth) & torch.isfinite(norms)
    gap = (norms - truth).abs()[sound]
    limit = _TOLERANCE * truth[sound] + _TOLERANCE * float(truth[sound].mean() if sound.any() else 0.0) + _TINY
    return "" if bool((gap <= limit).all()) else "the gradient of a row is not that of its own loss"


@contextmanager
def quiet_hooks() -> Iterator[None]:
    """No warning that the first layer's hook works from its output alone: its input is data and needs no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
        yield


def _step(optimiser: Any, *, last: bool) -> None:
    """Opacus' step: accumulate, or accumulate, add noise and descend."""
    optimiser.signal_skip_step(do_skip=not last)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _owners(network: nn.Module) -> list[nn.Module]:
    """The layers that own a trainable parameter."""
    return [m for m in network.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]


def _reach_all_layers(network: nn.Module) -> list[nn.Parameter]:
    """Of each layer its smallest parameter: a backward pass to these passes all layers, without their large gradients."""
    return [
        min((p for p in m.parameters(recurse=False) if p.requires_grad), key=lambda p: p.numel())
        for m in _owners(network)
    ]


def _wrapped(kind: Any, network: nn.Module, **settings: Any) -> Any:
    with quiet_opacus():
        return kind(network, **settings)


@dataclass(frozen=True)
class _Classes:
    """What is used of Opacus."""

    ghost_module: Any
    ghost_optimiser: Any
    hook_module: Any
    hook_optimiser: Any


def _opacus() -> _Classes:
    """Opacus' classes, once it knows `FreeParameter`: the gradient of a row's copy is what comes back to it."""
    with quiet_opacus():
        from opacus.grad_sample import (
            GradSampleModule,
            GradSampleModuleFastGradientClipping,
            register_grad_sampler,
            register_norm_sampler,
        )
        from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping

        register_grad_sampler(FreeParameter)(_free_gradients)
        register_norm_sampler(FreeParameter)(_free_norms)
        return _Classes(
            GradSampleModuleFastGradientClipping, DPOptimizerFastGradientClipping, GradSampleModule, DPOptimizer
        )


def _free_gradients(layer: FreeParameter, _: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    return {layer.value: backprops}


def _free_norms(layer: FreeParameter, _: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    return {layer.value: backprops.norm(2, dim=1)}
