"""Small tables and networks for the tests of private trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from pipeline.encoding.free_parameter import FreeParameter
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, Resolution, TableSchema
from pipeline.privacy.run import PrivateRun
from pipeline.privacy.spec import TrainingPrivacy

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = b"a secret key of thirty-two bytes"
CPU = torch.device("cpu")
PLAIN = TableSchema(columns=[Column(name="x", kind="continuous", dtype="float64", bounds=(-9, 9))])


def plain_cohort(n: int = 600) -> Cohort:
    """`n` subjects with one number each."""
    return assemble(PLAIN, {"x": np.random.default_rng(3).normal(size=n)})


def ward_cohort(n: int = 200, seed: int = 0) -> Cohort:
    """Numbers, one with missing cells, levels, a flag and counts of codes, all declared."""
    rng = np.random.default_rng(seed)
    ill = rng.standard_normal(n)
    level = np.round(6 + 2 * ill + rng.standard_normal(n), 1).clip(-4, 20)
    level[rng.random(n) < 0.2] = np.nan
    tenth = Resolution(kind="decimals", digits=1)
    schema = TableSchema(
        columns=[
            Column(name="age", kind="count", dtype="int64", bounds=(18, 99)),
            Column(name="level", kind="continuous", dtype="float64", bounds=(-4, 20), nullable=True, resolution=tenth),
            Column(name="ward", kind="categorical", dtype="string", levels=["a", "b", "c"]),
            Column(name="died", kind="binary", dtype="bool", levels=[False, True], role="label"),
        ],
        blocks=[CodeBlock(name="dx", kind="count", vocabulary=[f"c{i}" for i in range(5)])],
    )
    columns = {
        "age": np.clip(np.rint(60 + 12 * ill), 18, 99),
        "level": level,
        "ward": np.clip(np.rint(ill + 1), 0, 2).astype(int),
        "died": (ill + rng.standard_normal(n) > 1).astype(int),
    }
    return assemble(schema, columns, blocks={"dx": csr_matrix(rng.poisson(0.5, (n, 5)).astype(float))})


def begin(
    n: int = 600,
    *,
    epsilon: float = 3.0,
    key: bytes | None = KEY,
    seed: int = 0,
    cohort: Cohort | None = None,
    **asked: object,
) -> PrivateRun:
    """A run over a plain cohort, or over the one given."""
    privacy = TrainingPrivacy.model_validate({"epsilon": epsilon, **asked})
    return PrivateRun.begin(privacy, plain_cohort(n) if cohort is None else cohort, seed=seed, key=key)


class Mixed(nn.Module):
    """Linear, LayerNorm, Embedding and a free parameter: what the generators' networks are made of."""

    def __init__(self, inputs: int = 5, levels: int = 4, width: int = 7) -> None:
        super().__init__()
        self.level = nn.Embedding(levels, 3)
        self.first = nn.Linear(inputs + 3, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 2)
        self.scale = FreeParameter(torch.tensor([0.2, -0.3]))

    def forward(self, numbers: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.norm(self.first(torch.cat([numbers, self.level(levels)], dim=1))))
        return self.last(hidden), self.scale(numbers)


def mixed_problem(n: int = 600, seed: int = 0) -> tuple[Mixed, Callable[[Tensor, torch.Generator, float], Tensor]]:
    """A network and the losses of its rows, Gaussian with a free scale."""
    torch.manual_seed(seed)
    network, random = Mixed(), torch.Generator().manual_seed(seed)
    numbers = torch.randn(n, 5, generator=random)
    levels = torch.randint(0, 4, (n,), generator=random)
    target = torch.stack([numbers[:, 0] * 2, levels.float()], dim=1)

    def loss(rows: Tensor, noise: torch.Generator, done: float) -> Tensor:
        centre, log_scale = network(numbers[rows], levels[rows])
        return (0.5 * ((target[rows] - centre) / log_scale.exp()) ** 2 + log_scale).sum(dim=1)

    return network, loss


def true_gradients(network: nn.Module, loss: Callable[..., Tensor], rows: Tensor) -> Tensor:
    """(rows, parameters) gradient of each row's own loss, by autograd, one row at a time."""
    random = torch.Generator()
    found = []
    for row in rows:
        value = loss(row[None], random, 0.0)[0]
        gradients = torch.autograd.grad(value, list(network.parameters()))
        found.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(found)
