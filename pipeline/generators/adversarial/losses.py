"""What critics and generators minimise: one small object a game, all of them on scores of packs of rows.

`critic` gives the loss of a step and the scores of real and drawn rows, `generator` the loss of drawn rows' scores. Whether a
score of 0 lies between real and drawn is said too (`decides`): only then can it be told who is winning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    import torch

    from pipeline.generators.adversarial.networks import Critic

LossKind = Literal["wasserstein", "logistic", "boundary"]
TINY = 1e-12


@dataclass(frozen=True)
class Judgement:
    """A step of a critic: its loss, and the scores of real and of drawn rows."""

    loss: Tensor
    real: Tensor
    drawn: Tensor


class Game(Protocol):
    """A pair of losses.

    Attributes:
        decides: Is a score above 0 a word for real?
    """

    @property
    def decides(self) -> bool:
        """Does the sign of a score say real or drawn?"""

    def critic(self, critic: Critic, real: Tensor, drawn: Tensor, generator: torch.Generator) -> Judgement:
        """The critic's loss for (n, width) real and drawn rows, what is told of them included."""

    def generator(self, scores: Tensor) -> Tensor:
        """The generator's loss for the scores of rows that it drew."""


@dataclass(frozen=True)
class Wasserstein:
    """E D(drawn) - E D(real) + weight * E (|grad D| - 1)^2 between them (Gulrajani et al. 2017, equation 3)."""

    weight: float = 10.0
    decides: ClassVar[bool] = False

    def critic(self, critic: Critic, real: Tensor, drawn: Tensor, generator: torch.Generator) -> Judgement:
        """See `Game.critic`."""
        on_real, on_drawn, gradient = critic.apart(real, drawn, generator)
        norm = (gradient.square().sum(dim=1) + TINY).sqrt()
        loss = on_drawn.mean() - on_real.mean() + self.weight * (norm - 1).square().mean()
        return Judgement(loss, on_real.detach(), on_drawn.detach())

    def generator(self, scores: Tensor) -> Tensor:
        """-E D(drawn)."""
        return -scores.mean()


@dataclass(frozen=True)
class Logistic:
    """-E log D(real) - E log(1 - D(drawn)), the generator's -E log D(drawn) (Goodfellow et al. 2014, section 3).

    Attributes:
        weight: gamma of the R1 penalty, gamma / 2 E |grad D|^2 on real rows (Mescheder et al. 2018, equation 9); 0 for
            none.
    """

    weight: float = 0.0
    decides: ClassVar[bool] = True

    def critic(self, critic: Critic, real: Tensor, drawn: Tensor, generator: torch.Generator) -> Judgement:
        """See `Game.critic`."""
        if self.weight:
            on_real, gradient = critic.with_gradient(real)
            on_drawn = critic(drawn)
            penalty = self.weight / 2 * gradient.square().sum(dim=1).mean()
        else:
            on_real, on_drawn = critic(real), critic(drawn)
            penalty = on_real.new_zeros(())
        loss = functional.softplus(-on_real).mean() + functional.softplus(on_drawn).mean() + penalty
        return Judgement(loss, on_real.detach(), on_drawn.detach())

    def generator(self, scores: Tensor) -> Tensor:
        """-E log D(drawn)."""
        return functional.softplus(-scores).mean()


@dataclass(frozen=True)
class Boundary(Logistic):
    """The generator puts its rows where the critic is undecided (boundary-seeking; Hjelm et al. 2018, as medBGAN has it)."""

    def generator(self, scores: Tensor) -> Tensor:
        """E (log D - log(1 - D))^2 / 2, which is half the squared logit."""
        return 0.5 * scores.square().mean()


def game(kind: LossKind, weight: float) -> Game:
    """The losses of that name with the given weight of their penalty."""
    kinds: dict[str, type[Wasserstein] | type[Logistic]] = {
        "wasserstein": Wasserstein,
        "logistic": Logistic,
        "boundary": Boundary,
    }
    return kinds[kind](weight)
