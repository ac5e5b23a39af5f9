"""A running mean of a network's weights over the steps of its training (exponential moving average).

Diffusion and flow models are drawn from with it: the last steps' noise is averaged out. When it is updated and used is
said in `training.py` and, for private trainings, `pipeline/privacy/dpsgd.py`: what is made of noised weights costs no privacy.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


class RunningMean:
    """mean <- d mean + (1 - d) weights after each step, with d = min(decay, (1 + k) / (10 + k)) after k steps.

    The smaller d of the first steps forgets the untrained weights (the warm-up that TensorFlow's moving average has).

    Args:
        network: whose trainable parameters are averaged.
        decay: d of later steps, below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.weights = [p for p in network.parameters() if p.requires_grad]
        self.means = [p.detach().clone() for p in self.weights]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take one more step's weights in; one kernel for all of them."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.means, [p.detach() for p in self.weights], 1 - decay)
        self.steps += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network has the mean as its weights."""
        own = [p.detach().clone() for p in self.weights]
        self.put()
        try:
            yield
        finally:
            self._put(own)

    def put(self) -> None:
        """Put the mean in place of the network's weights."""
        self._put(self.means)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_([p.detach() for p in self.weights], values)

    def state(self) -> dict[str, Tensor]:
        """The mean, as tensors of a checkpoint."""
        return {f"average/{i}": mean for i, mean in enumerate(self.means)}

    def restore(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take back what `state` gave after so many steps."""
        self.steps = steps
        torch._foreach_copy_(self.means, [tensors[f"average/{i}"].to(m.device) for i, m in enumerate(self.means)])
