"""Generators and critics that are convolutions over a row laid out as a square image, as CTAB-GAN has them.

A row's coordinates fill a square from the upper left, line by line, the rest is 0; layers are those of DCGAN (Radford et al.
2016, section 3): strides instead of pooling, the side doubled or halved by each. Coordinates that stand beside or above each
other are seen together, whatever the columns are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.adversarial.networks import Critic, GeneratorNet

ImageNorm = Literal["batch", "layer", "none"]
SMALLEST = 4
SLOPE = 0.2


def side_of(width: int) -> int:
    """Side of the smallest square of 4, 8, 16, ... that holds so many coordinates."""
    side = SMALLEST
    while side * side < width:
        side *= 2
    return side


class ImageHead(nn.Linear):
    """Each output is its pixel, scaled and shifted by itself: what a generator's margins are set by."""

    def __init__(self, outputs: int) -> None:
        super().__init__(1, outputs)
        with torch.no_grad():
            self.weight.fill_(1.0)
            self.bias.zero_()

    def forward(self, image: Tensor) -> Tensor:
        """(batch, outputs) for (batch, at least as many pixels)."""
        return image[:, : self.out_features] * self.weight[:, 0] + self.bias


class ImageGenerator(GeneratorNet):
    """Noise and what is told to an image, by transposed convolutions; its first pixels are the outputs.

    Args:
        inputs: width of noise and condition vector.
        channels: of the last hidden layer; twice as many in each layer before.
        outputs: width of the outputs.
    """

    def __init__(self, inputs: int, channels: int, outputs: int) -> None:
        super().__init__(inputs, (), outputs)
        doublings = side_of(outputs).bit_length() - SMALLEST.bit_length()
        widths = [channels * 2**i for i in reversed(range(doublings))]
        layers: list[nn.Module] = []
        before = inputs
        for i, width in enumerate([*widths, 1]):
            first = i == 0
            layers.append(nn.ConvTranspose2d(before, width, SMALLEST, 1 if first else 2, 0 if first else 1))
            if i < len(widths):
                layers += [nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.image = nn.Sequential(*layers)
        self.head = ImageHead(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, outputs) for (batch, inputs)."""
        out: Tensor = self.head(self.image(inputs[:, :, None, None]).flatten(1))
        return out


class ImageCritic(Critic):
    """Strided convolutions with leaky ReLUs; a pack of rows is an image of several channels.

    Args:
        width: see `Critic`.
        channels: of the first layer; twice as many in each layer after.
        pac: see `Critic`.
        norm: of all layers but the first: over the batch, over all of an image, or none.
    """

    def __init__(self, width: int, channels: int, *, pac: int = 1, norm: ImageNorm = "batch") -> None:
        super().__init__(width, pac)
        self.side = side_of(width)
        layers: list[nn.Module] = []
        before, side = pac, self.side
        while side > SMALLEST or not layers:
            after = channels if not layers else 2 * before
            # A row that fits the smallest image has one layer, which keeps its side.
            smaller = side > SMALLEST
            layers.append(nn.Conv2d(before, after, 4 if smaller else 3, 2 if smaller else 1, 1))
            if len(layers) > 1 and norm != "none":
                layers.append(nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(1, after))
            layers.append(nn.LeakyReLU(SLOPE))
            before, side = after, side // 2 if smaller else side
        self.image = nn.Sequential(*layers)
        self.last = nn.Linear(before * side * side, 1)

    def features(self, rows: Tensor) -> Tensor:
        """See `features.py: WithFeatures.features`."""
        return self._features(self.packs(rows))

    def judged(self, features: Tensor) -> Tensor:
        """See `features.py: WithFeatures.judged`."""
        out: Tensor = self.last(features)[..., 0]
        return out

    def score(self, packs: Tensor) -> Tensor:
        """See `Critic.score`."""
        return self.judged(self._features(packs))

    def _features(self, packs: Tensor) -> Tensor:
        rows = packs.reshape(len(packs), self.pac, self.width)
        image = functional.pad(rows, (0, self.side**2 - self.width)).reshape(-1, self.pac, self.side, self.side)
        return self.image(image).flatten(1)
