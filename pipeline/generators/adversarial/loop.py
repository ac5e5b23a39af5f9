"""The one adversarial training loop: players make their moves in turn, watched, judged, kept and taken up again.

A player is a network, its optimiser and a move, which gives a loss (`Player`, `Move`): critic and generator, and whatever a
game needs besides (a classifier, a second critic, an estimator of information) is one more player, never another loop. The
generator's weights are averaged, looked at on tuning rows, and the best are kept (`fidelity.py`); what goes wrong is told and
mended (`health.py`). What a move computes is in `match.py` and with the generators.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.generators.adversarial.health import GameWatch
from pipeline.generators.averaging import RunningMean
from pipeline.generators.training import MOST_BAD_STEPS, TrainLog, torch_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.generators.adversarial.losses import Judgement
    from pipeline.generators.base import Progress
    from pipeline.generators.checkpoint import Checkpoint

MOST_ROUNDS = 100
LOOKS = 20
SLOWER = 0.25
CATCH_UP = 100
"""Steps alone that a critic gets that was begun anew."""


@dataclass
class Move:
    """What a player minimises this time; a critic also gives its judgement, which is watched.

    Attributes:
        loss: What is minimised.
        judged: Of a critic.
        waits: The player stays as it is this time.
    """

    loss: Tensor
    judged: Judgement | None = None
    waits: bool = False


@dataclass
class Player:
    """One network of a game.

    Attributes:
        name: In the curves of the report.
        network: Its parameters are what this player's moves change; no other player's are.
        move: A move; called with the share of the training that is over.
        rate: Learning rate of Adam.
        betas: Of Adam.
        weight_decay: Of Adam (added to the gradient).
        times: Moves a step.
        decides: Of a critic: is a score above 0 a word for real?
    """

    name: str
    network: nn.Module
    move: Callable[[float], Move]
    rate: float
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0
    times: int = 1
    decides: bool = True


@dataclass
class Streams:
    """The random numbers of a training: `order` chooses rows, on the CPU; `noise` is drawn where the data are."""

    order: torch.Generator
    noise: torch.Generator

    @classmethod
    def of(cls, seed: int, device: torch.device) -> Streams:
        """Those of one seed."""
        return cls(torch_stream(seed, "game-order"), torch_stream(seed, "game-noise", device=device))


@dataclass(frozen=True)
class LoopSettings:
    """How long, and what is watched.

    Attributes:
        steps: moves of the generator in all.
        ema: decay of the running mean of the generator's weights; 0 takes them as they are.
        decay: how learning rates fall over the training: not at all, or along a line to 0.
        patience: steps on end that make a verdict on a critic.
        recover: do something about a verdict, or only tell.
    """

    steps: int
    ema: float = 0.999
    decay: Literal["constant", "linear"] = "constant"
    patience: int = 500
    recover: bool = True


@dataclass(frozen=True)
class Look:
    """What a look at a generator found: how far its rows are off, whether they are all alike, and may they be kept."""

    distance: float
    collapsed: bool = False
    eligible: bool = True


@dataclass
class _State:
    """Everything that is no tensor and decides how a training goes on."""

    step: int = 0
    best: float = float("inf")
    best_step: int = 0
    bad: int = 0
    stopped: bool = False
    finished: bool = False
    factors: dict[str, float] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Training:
    """One game; the last player is the generator, whose network ends with the weights that were chosen.

    Args:
        players: who moves, in this order.
        streams: the random numbers that their moves take.
        settings: see `LoopSettings`.
        look: what is found of a generator with averaged weights; None chooses the last weights.
        settle: makes averaged weights fit to draw with (statistics of normalised layers).
        facts: what else decides the bytes, such as a hash of the rows.
    """

    def __init__(
        self,
        players: list[Player],
        streams: Streams,
        settings: LoopSettings,
        *,
        look: Callable[[nn.Module], Look] | None = None,
        settle: Callable[[nn.Module], None] | None = None,
        facts: tuple[str, ...] = (),
    ) -> None:
        self.players, self.streams, self.settings = players, streams, settings
        self.look, self.settle, self.facts = look, settle, facts
        self.generator = players[-1].network
        self.first = {p.name: _copied(p.network) for p in players}
        self.average = RunningMean(self.generator, settings.ema) if settings.ema else None
        self.shown = deepcopy(self.generator).eval()
        self.best = _copied(self.generator)
        self.watch = GameWatch(settings.patience)
        self.at = _State(factors={p.name: 1.0 for p in players})
        self.steppers = {p.name: _adam(p) for p in players}
        self._sums: dict[str, list[Tensor]] = {}
        self.every = max(1, settings.steps // MOST_ROUNDS)

    def run(self, progress: Progress | None = None, checkpoint: Checkpoint | None = None) -> TrainLog:
        """Train to the end, from the state in `checkpoint` if there is one.

        Raises:
            TrainingError: losses were not finite before anything was learned.
        """
        if checkpoint is not None:
            self._resume(checkpoint)
        saved, at = monotonic(), self.at
        for player in self.players:
            player.network.train()
        while at.step < self.settings.steps and not at.stopped:
            self._round()
            if progress is not None:
                progress(min(len(at.losses), MOST_ROUNDS), MOST_ROUNDS, at.losses[-1])
            if checkpoint is not None and monotonic() - saved >= checkpoint.seconds:
                self._save(checkpoint)
                saved = monotonic()
        if not at.finished:
            self._choose()
            if checkpoint is not None:
                self._save(checkpoint)
        return self.finish()

    def turn(self) -> None:
        """One step: every player makes its moves."""
        for player in self.players:
            for _ in range(player.times):
                if not self.at.stopped:
                    self._watched(player, self._move(player))
        if self.average is not None and not self.at.stopped:
            self.average.update()
        self.at.step += 1

    def finish(self) -> TrainLog:
        """Put the chosen weights into the generator, where turns were given one by one too."""
        if not self.at.finished:
            self._choose()
        self.generator.load_state_dict(self.best)
        self.generator.eval()
        return TrainLog(self.at.losses, self.at.best_step, self.at.warnings)

    def _choose(self) -> None:
        """The last averaged weights, if no look chose any."""
        if not np.isfinite(self.at.best):
            self._show()
            self.best, self.at.best_step = _copied(self.shown), self.at.step
        self.at.finished = True

    # ---- steps

    def _round(self) -> None:
        """Steps until the next entry of the curves."""
        at, began = self.at, self.at.step
        while at.step < min(began + self.every, self.settings.steps) and not at.stopped:
            self.turn()
        entry = {"step": float(at.step)} | {k: float(torch.stack(v).mean()) for k, v in self._sums.items()}
        self._sums = {}
        at.losses.append(entry)
        rounds = -(-self.settings.steps // self.every)
        if self.look is not None and (len(at.losses) % max(1, rounds // LOOKS) == 0 or at.step == self.settings.steps):
            entry["distance"] = self._looked()

    def _watched(self, player: Player, made: Move) -> None:
        """What is to be said of a move."""
        if not bool(torch.isfinite(made.loss)):
            self._not_finite()
        elif made.judged is not None:
            verdict = self.watch.see(made.judged, decides=player.decides)
            if verdict:
                self._answer(verdict, player)

    def _move(self, player: Player) -> Move:
        """One move: its loss, its gradient to its own parameters, its step; none if the loss is not finite."""
        done = self.at.step / self.settings.steps
        for other in self.players:
            other.network.requires_grad_(other is player)
        made = player.move(done)
        if made.waits or not bool(torch.isfinite(made.loss)):
            return made
        stepper = self.steppers[player.name]
        pace = 1 - done if self.settings.decay == "linear" else 1.0
        stepper.param_groups[0]["lr"] = player.rate * self.at.factors[player.name] * pace
        stepper.zero_grad(set_to_none=True)
        made.loss.backward()
        stepper.step()
        self._sums.setdefault(player.name, []).append(made.loss.detach())
        return made

    def _not_finite(self) -> None:
        self.at.bad += 1
        for name in self.at.factors:
            self.at.factors[name] /= 2
        if self.at.bad <= MOST_BAD_STEPS:
            return
        if not np.isfinite(self.at.best):
            raise TrainingError(
                f"A loss was not finite in {self.at.bad} steps, although learning rates were halved each time.",
                todo="Lower `learning_rate` and `critic_rate`, or look for columns with extreme numbers.",
            )
        self.at.bad = 0
        self._answer(self.watch.say("not finite"), None)

    def _answer(self, verdict: str, player: Player | None) -> None:
        """Say what was found, and do something about it."""
        remedy = self.watch.remedy(verdict) if self.settings.recover else ""
        # Without recovery the same would be said again and again.
        if remedy or self.watch.verdicts[verdict] == 1:
            self.at.warnings.append(self.watch.words(verdict, remedy, self.at.step))
        if remedy == "slower" and player is not None:
            self.at.factors[player.name] *= SLOWER
        elif remedy == "restart" and player is not None:
            player.network.load_state_dict(self.first[player.name])
            self.steppers[player.name] = _adam(player)
            for _ in range(CATCH_UP):
                self._move(player)
        elif remedy == "back":
            self._back()
        elif remedy == "stop" or (verdict == "not finite" and not remedy):
            self.at.stopped = True

    def _back(self) -> None:
        """The best generator so far, and everyone else begun anew, at half the rate."""
        for player in self.players[:-1]:
            player.network.load_state_dict(self.first[player.name])
        self.generator.load_state_dict(self.best if np.isfinite(self.at.best) else self.first[self.players[-1].name])
        self.steppers = {p.name: _adam(p) for p in self.players}
        if self.average is not None:
            self.average = RunningMean(self.generator, self.settings.ema)
        for name in self.at.factors:
            self.at.factors[name] /= 2

    # ---- which weights

    def _show(self) -> None:
        """Put the averaged weights into the network that is looked at."""
        self.shown.load_state_dict(self.generator.state_dict())
        if self.average is not None:
            shown = list(self.shown.parameters())
            own = list(self.generator.parameters())
            means = dict(zip(map(id, self.average.weights), self.average.means, strict=True))
            with torch.no_grad():
                for target, source in zip(shown, own, strict=True):
                    if id(source) in means:
                        target.copy_(means[id(source)])
        if self.settle is not None:
            self.settle(self.shown)
        self.shown.eval()

    def _looked(self) -> float:
        """Look at the generator, keep its weights if none were better; gives the distance."""
        assert self.look is not None
        self._show()
        found, at = self.look(self.shown), self.at
        if found.collapsed or not np.isfinite(found.distance):
            self._answer(self.watch.say("collapsed" if np.isfinite(found.distance) else "not finite"), None)
        elif found.eligible and found.distance < at.best:
            at.best, at.best_step = found.distance, at.step
            self.best = _copied(self.shown)
        return found.distance

    # ---- the state

    def _save(self, checkpoint: Checkpoint) -> None:
        tensors = {f"{p.name}/{k}": v for p in self.players for k, v in p.network.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        for name, stepper in self.steppers.items():
            for number, moments in stepper.state_dict()["state"].items():
                tensors |= {f"steps-{name}/{number}/{k}": torch.as_tensor(v) for k, v in moments.items()}
        tensors |= {} if self.average is None else self.average.state()
        # Layers draw their dropout from the global generator of their device.
        tensors |= {"random/order": self.streams.order.get_state(), "random/noise": self.streams.noise.get_state()}
        tensors["random/global"] = torch.random.get_rng_state()
        if self.streams.noise.device.type == "cuda":
            tensors["random/device"] = torch.cuda.get_rng_state(self.streams.noise.device)
        averaged = 0 if self.average is None else self.average.steps
        state = {"at": vars(self.at), "watch": self.watch.state(), "averaged": averaged, "work": self._work()}
        checkpoint.save(tensors, state)

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Take over the state of the same training, if it was saved."""
        found = checkpoint.load()
        if found is None or found[1]["work"] != self._work():
            return
        tensors, state = found
        for player in self.players:
            player.network.load_state_dict(_below(tensors, f"{player.name}/"))
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(tensors, f"steps-{player.name}/").items():
                number, _, moment = name.partition("/")
                moments.setdefault(int(number), {})[moment] = tensor
            stepper = self.steppers[player.name]
            stepper.load_state_dict({**stepper.state_dict(), "state": moments})
        device = next(self.generator.parameters()).device
        self.best = {k: v.to(device) for k, v in _below(tensors, "best/").items()}
        self.streams.order.set_state(tensors["random/order"])
        self.streams.noise.set_state(tensors["random/noise"])
        torch.random.set_rng_state(tensors["random/global"])
        if "random/device" in tensors:
            torch.cuda.set_rng_state(tensors["random/device"], self.streams.noise.device)
        if self.average is not None:
            self.average.restore(tensors, state["averaged"])
        self.at, self.watch = _State(**state["at"]), GameWatch.restore(state["watch"])

    def _work(self) -> list[str]:
        """What else decides the bytes."""
        digest = blake2b("|".join(self.facts).encode(), digest_size=16).hexdigest()
        return [digest, self.streams.noise.device.type, str(torch.__version__)]


def _adam(player: Player) -> torch.optim.Optimizer:
    # Fused: one kernel for all parameters, half the time of a step's update on the CPU too.
    parameters = list(player.network.parameters())
    for p in parameters:
        p.requires_grad_(True)
    return torch.optim.Adam(
        parameters, lr=player.rate, betas=player.betas, weight_decay=player.weight_decay, fused=True
    )


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
