"""What policy and discriminator are told of rows: the condition columns, for training rows and for rows to be drawn.

The states of condition columns and how often they come together are in `variational/condition_vector.py`. A level that
is told is taken over into the row; a number is told as one of about eight pieces, and drawn by the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.encoding.mixed import piece_of
from pipeline.generators.conditions import Fixed
from pipeline.generators.reinforcement.policy import FREE, Told
from pipeline.generators.variational.condition_vector import UNTOLD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.generators.reinforcement.space import ActionSpace
    from pipeline.generators.variational.condition_vector import ConditionVector


class ConditionsTold:
    """The condition columns in an action space.

    Args:
        space: the layout of actions.
        vector: condition columns, their states and how often they come together.
    """

    def __init__(self, space: ActionSpace, vector: ConditionVector) -> None:
        self.space, self.vector = space, vector

    def told(
        self,
        states: NDArray[np.int64],
        device: torch.device | str,
        fixed: Fixed | None = None,
        rng: np.random.Generator | None = None,
    ) -> Told:
        """What the policy is told for (n, conditions) states, -1 where untold; numbers in `fixed` come out as asked.

        `rng` places numbers inside their interval; only needed with `fixed`.
        """
        n = len(states)
        forced = np.full((n, self.space.columns), FREE, dtype=np.int64)
        inside = np.full((n, len(self.space.numeric)), np.nan, dtype=np.float32)
        for i, name in enumerate(self.vector.columns):
            if name not in self.space.names:
                continue
            place = self.space.names.index(name)
            if name in self.space.encoder.levels:
                forced[:, place] = np.where(states[:, i] == UNTOLD, FREE, states[:, i])
            elif fixed is not None and name in fixed.values:
                assert rng is not None
                edges = self.space.edges[name]
                uniform = self.space.encoder.numbers[name].scaler.to_uniform(fixed.values[name], rng)
                piece = np.maximum(piece_of(uniform, edges), 0)
                forced[:, place] = np.where(np.isnan(uniform), self.space.sizes[place] - 1, piece)
                inside[:, place] = np.where(
                    np.isnan(uniform), 0, (uniform - edges[piece]) / (edges[piece + 1] - edges[piece])
                )
        return Told(
            torch.as_tensor(self.vector.vector(states), device=device),
            torch.as_tensor(forced, device=device),
            torch.as_tensor(inside, device=device),
        )

    def some(
        self,
        states: NDArray[np.int64],
        rows: Tensor,
        dropout: float,
        generator: torch.Generator,
        device: torch.device | str,
    ) -> Told:
        """What is told of some rows while training, each condition hidden from a share `dropout` of them.

        Args:
            states: (n, conditions) states of the training rows.
            rows: which of them.
            dropout: share of the rows from which each condition is hidden.
            generator: chooses.
            device: where the policy is.
        """
        chosen = states[rows.cpu().numpy()]
        hidden = torch.rand(chosen.shape, generator=generator, device=generator.device).cpu().numpy() < dropout
        return self.told(np.where(hidden, UNTOLD, chosen), device)
