"""What differential privacy costs a training step: `OMP_NUM_THREADS=1 python benchmarks/dpsgd.py [--batch 256]`.

CPU milliseconds of a step without privacy (`training.py`'s: AdamW, clipped by norm), by ghost clipping and by gradients of
single rows, on a 120-256-256-60 network with LayerNorm and free scales. Ghost clipping is what is used wherever the
network allows. No data is read.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.encoding.free_parameter import FreeParameter
from pipeline.privacy.clipping import HOOK_ROWS, STEPS, Noise, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS, WIDTH, OUTPUTS = 120, 256, 60
WARM, TIMED = 5, 40


class Network(nn.Module):
    """A body of two hidden layers and a free scale for each output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(INPUTS, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, OUTPUTS),
        )  # fmt: skip
        self.scale = FreeParameter(torch.zeros(OUTPUTS))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log scales of the outputs."""
        return self.body(inputs), self.scale(inputs)


def main() -> None:
    """Print milliseconds a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 512], help="rows a step")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for batch in parser.parse_args().batch:
        torch.manual_seed(0)
        network, inputs, rows = Network(), torch.randn(batch, INPUTS), torch.arange(batch)
        target, random = inputs[:, :OUTPUTS] * 0.5, torch.Generator()

        def loss(
            part: Tensor,
            noise: torch.Generator,
            done: float,
            of: Network = network,
            x: Tensor = inputs,
            y: Tensor = target,
        ) -> Tensor:
            centre, log_scale = of(x[part])
            return (0.5 * ((y[part] - centre) / log_scale.exp()) ** 2 + log_scale).mean(dim=1)

        optimiser = torch.optim.AdamW(network.parameters())

        def plain(
            value: Callable[..., Tensor] = loss, of: Network = network, by: torch.optim.AdamW = optimiser
        ) -> None:
            by.zero_grad(set_to_none=True)
            value(rows, random, 0.0).mean().backward()  # noqa: B023 (called at once)
            torch.nn.utils.clip_grad_norm_(of.parameters(), 1.0)
            by.step()

        base = milliseconds(plain)
        print(f"batch {batch}: without privacy {base:.1f} ms")
        for mode in ("ghost", "hooks"):
            prepare(network, loss, rows, (mode,))  # type: ignore[arg-type]
            noise = Noise(1.0, 1.0, float(batch), random)
            step = STEPS[mode](network, torch.optim.Adam(network.parameters()), noise)  # type: ignore[index]
            parts = rows.split(step.rows if mode == "ghost" else HOOK_ROWS)

            def private(
                one: object = step, pieces: tuple[Tensor, ...] = parts, value: Callable[..., Tensor] = loss
            ) -> None:
                for i, part in enumerate(pieces):
                    one.add(value, part, random, 0.0, last=i == len(pieces) - 1)  # type: ignore[attr-defined]  # noqa: B023

            took = milliseconds(private)
            step.wrapped.to_standard_module()
            print(f"batch {batch}: {mode} {took:.1f} ms, {took / base:.1f} times")


def milliseconds(work: Callable[[], None]) -> float:
    """CPU time of one call, after a few to warm up."""
    for _ in range(WARM):
        work()
    began = time.process_time()
    for _ in range(TIMED):
        work()
    return (time.process_time() - began) / TIMED * 1e3


if __name__ == "__main__":
    main()
