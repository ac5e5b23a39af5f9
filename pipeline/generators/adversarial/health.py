"""Is a game still going well? Critics that have won or lost, losses of zero, numbers that are not finite, collapsed generators.

Watched step by step and look by look; what is done about it is the loop's business (`loop.py`). Who has won or lost, and the
words for it, are those of `reinforcement/verdicts.py`; what is added is what only games have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from pipeline.generators.reinforcement.verdicts import WORDS, DiscriminatorWatch

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.generators.adversarial.losses import Judgement

Remedy = Literal["slower", "restart", "back", "stop"]
ZERO = 1e-3
"""A loss that small says nothing any more."""
UNDECIDED = 0.75
"""Stands for the share of rows told right, where a game's scores have no zero."""
REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "won": ("slower", "restart", "stop"),
    "zero loss": ("restart", "restart", "stop"),
    "lost": ("restart", "restart", "stop"),
    "not finite": ("back", "back", "stop"),
    "collapsed": ("back", "back", "stop"),
}
SENTENCES = {f: f"the critic {words}" for f, words in WORDS.items()} | {
    "zero loss": "the critic's loss was zero",
    "not finite": "a loss was not finite",
    "collapsed": "the generator's rows were all alike",
}
DONE = {
    "slower": "it now learns at a quarter of the rate",
    "restart": "it was begun anew and caught up alone first",
    "back": "both went back to the best weights so far, at half the rate",
    "stop": "the training was stopped, with the best weights so far",
    "": "nothing was done, as the settings ask",
}
NARROW = 0.2
"""Median spread of the coordinates, drawn over real, below which a generator has collapsed."""
ALIKE = 0.1
"""Share of different rows, drawn over real, below which it has."""
PLAIN = 0.02
"""Coordinates that vary less than this among real rows say nothing of a collapse."""


@dataclass
class GameWatch:
    """Counts what goes wrong on end, and how often each verdict was given.

    Attributes:
        patience: Steps on end that make a verdict.
        zeros: Steps on end with a loss of zero.
        critic: Steps on end won and lost.
        verdicts: How often each verdict was given.
    """

    patience: int
    zeros: int = 0
    critic: DiscriminatorWatch = field(default_factory=lambda: DiscriminatorWatch(0))
    verdicts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.critic.patience = self.patience

    def see(self, judged: Judgement, *, decides: bool) -> str:
        """Look at a critic's step; gives a verdict or ""."""
        scores = torch.cat([judged.real, judged.drawn])
        right = torch.tensor(UNDECIDED)
        if decides:
            right = ((judged.real > 0).float().mean() + (judged.drawn < 0).float().mean()) / 2
        # One look at the device for all three.
        share, spread, loss = torch.stack([right.to(scores), scores.std(), judged.loss.detach()]).tolist()
        self.zeros = self.zeros + 1 if abs(loss) < ZERO else 0
        found = self.critic.see(share, spread)
        if not found and self.zeros >= self.patience:
            found = "zero loss"
        return self.say(found) if found else ""

    def say(self, verdict: str) -> str:
        """Count a verdict."""
        self.zeros = 0
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        return verdict

    def remedy(self, verdict: str) -> Remedy:
        """What is to be done about it, by how often it was given."""
        remedies = REMEDIES[verdict]
        return remedies[min(self.verdicts[verdict], len(remedies)) - 1]

    def words(self, verdict: str, remedy: str, step: int) -> str:
        """The sentence for people; `remedy` is "" where the settings only ask for a report."""
        long = f" for {self.patience} steps on end" if verdict in ("won", "lost", "zero loss") else ""
        return f"Step {step}: {SENTENCES[verdict]}{long}; {DONE[remedy]}."

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> GameWatch:
        """Back from what `state` gave."""
        return cls(state["patience"], state["zeros"], DiscriminatorWatch(**state["critic"]), dict(state["verdicts"]))


def collapsed(real: Tensor, drawn: Tensor) -> bool:
    """Are (n, width) drawn rows all alike, held against (m, width) real ones?"""
    spread = real.std(dim=0)
    told = spread > PLAIN
    if not bool(told.any()):
        return False
    narrow = (drawn.std(dim=0)[told] / spread[told]).median() < NARROW
    n = min(len(real), len(drawn))
    different = _different(drawn[:n]) < ALIKE * _different(real[:n])
    return bool(narrow) or different


def _different(rows: Tensor) -> float:
    """Share of different rows, seen through one random direction."""
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows.device)
    return len(torch.unique((1e3 * (rows @ direction)).round())) / len(rows)
