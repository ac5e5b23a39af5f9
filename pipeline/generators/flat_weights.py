"""A network's weights side by side in one tensor, and their gradients in another.

Small networks have many small tensors, and a step that clears, clips and updates them one by one spends more on calls
than on numbers. While weights are flat each of these is one kernel; the layers see views of the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class FlatWeights:
    """Groups of weights, each in one tensor until `release`.

    Args:
        groups: weights of one learning rate each, at least one a group; all of a group have one device and dtype.

    Attributes:
        flat: a parameter a group, with its gradient: what an optimiser is given.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        self._groups = [list(group) for group in groups]
        self.flat = [nn.Parameter(torch.cat([w.detach().flatten() for w in group])) for group in self._groups]
        for whole, group in zip(self.flat, self._groups, strict=True):
            gradient = torch.zeros_like(whole)
            whole.grad = gradient
            sizes = [w.numel() for w in group]
            parts = zip(whole.detach().split(sizes), gradient.split(sizes), strict=True)
            for weight, (values, slope) in zip(group, parts, strict=True):
                weight.data, weight.grad = values.view_as(weight), slope.view_as(weight)

    def clear(self) -> None:
        """Set all gradients to zero."""
        for whole in self.flat:
            assert whole.grad is not None
            whole.grad.zero_()

    def clip(self, most: float) -> Tensor:
        """Shorten the gradients to norm `most` where it is larger; gives the norm before, which may be infinite."""
        slopes = [w.grad for group in self._groups for w in group if w.grad is not None]
        norm = torch.nn.utils.get_total_norm(slopes)
        factor = torch.clamp(most / (norm + 1e-6), max=1.0)
        for whole in self.flat:
            assert whole.grad is not None
            whole.grad.mul_(factor)
        return norm

    def release(self) -> None:
        """Give each layer tensors of its own again, without gradients."""
        for weight in (w for group in self._groups for w in group):
            weight.data, weight.grad = weight.detach().clone(), None


class FlatAdamW:
    """AdamW on flat weights (Loshchilov and Hutter 2019; decay rates .9 and .999), one kernel a group.

    It calls torch's functional form: an object of `torch.optim` loads torch's compiler, a second of a process's first fit.

    Args:
        weights: what is learned.
        rates: learning rate of each group.
        decay: weight decay.
    """

    def __init__(self, weights: FlatWeights, rates: Sequence[float], decay: float) -> None:
        self._weights, self._rates, self._decay = weights, list(rates), decay
        self._moments = [
            {"first": torch.zeros_like(w.detach()), "second": torch.zeros_like(w.detach()), "step": w.new_zeros(())}
            for w in weights.flat
        ]

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move the weights along their gradients, at `factor` times the learning rates."""
        for whole, rate, moments in zip(self._weights.flat, self._rates, self._moments, strict=True):
            assert whole.grad is not None
            adamw(
                [whole],
                [whole.grad],
                [moments["first"]],
                [moments["second"]],
                [],
                [moments["step"]],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate * factor,
                weight_decay=self._decay,
                eps=1e-8,
                maximize=False,
            )

    def state(self) -> dict[str, Tensor]:
        """The moments, as tensors of a checkpoint."""
        return {f"optimiser/{i}/{name}": part for i, parts in enumerate(self._moments) for name, part in parts.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, part in self.state().items():
            part.copy_(tensors[name])
