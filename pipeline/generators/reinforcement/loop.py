"""Training by reward: discriminator steps and policy updates in turn, watched, judged, kept and taken up again.

An iteration draws fresh rows from the policy, lets the discriminator learn on most of them and on some of earlier
(`critic.py`), and improves the policy on the rest (`update.py`). What is drawn from in the end is a running mean of the
policy's weights, at the time at which its rows were told from the tuning rows worst (`two_sample.py`). When the
discriminator wins or loses completely (`verdicts.py`), it is slowed, begun anew, or the training stops, in words.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.generators.reinforcement.critic import Discriminator, Replay, discriminator_loss
from pipeline.generators.reinforcement.space import Action
from pipeline.generators.reinforcement.two_sample import FEWEST, MOST_ROWS, features, told_apart
from pipeline.generators.reinforcement.update import Episode, update_policy
from pipeline.generators.reinforcement.verdicts import DiscriminatorWatch, said
from pipeline.generators.training import torch_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.generators.base import Progress
    from pipeline.generators.checkpoint import Checkpoint
    from pipeline.generators.reinforcement.policy import Policy, Told
    from pipeline.generators.reinforcement.settings import RLSynConfig

    TellSome = Callable[[Tensor, torch.Generator], Told | None]

POINTS = 100
"""Points of the curves in a report, at most."""
REPLAY_ROWS = 8_192
SLOWER = 0.25
REFRESHER = 100
"""Steps on earlier rows that a discriminator begun anew gets before the policy listens to it."""
SLOWEST = 0.1
"""Learning rates end at this share of where they began."""


@dataclass
class Progression:
    """How far a training is; everything that is no tensor and decides how it goes on."""

    iteration: int = 0
    critic_factor: float = 1.0
    critic_steps: int = 0
    best: float = float("inf")
    best_iteration: int = 0
    warm_score: float = float("nan")
    stopped: bool = False
    restarts: int = 0
    skipped: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, list[float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class PolicyTraining:
    """One training by reward.

    Args:
        policy: the policy, warm or not; ends with the weights that were chosen.
        rows: the training rows, on the device.
        tell: what is told of given training rows; always None without conditions.
        config: the settings.
        fit_rows: rows to learn from.
        tune_rows: rows that choose the weights.
        seed: of everything random.
        device: where policy and rows are.
    """

    def __init__(
        self,
        policy: Policy,
        rows: Action,
        tell: TellSome,
        config: RLSynConfig,
        *,
        fit_rows: NDArray[np.integer],
        tune_rows: NDArray[np.integer],
        seed: int,
        device: torch.device,
    ) -> None:
        self.policy, self.rows, self.tell, self.config = policy, rows, tell, config
        self.space, self.seed, self.device = policy.space, seed, device
        self.fit = torch.as_tensor(np.asarray(fit_rows), dtype=torch.long)
        self.tune = torch.as_tensor(np.asarray(tune_rows), dtype=torch.long)
        self.gamma = config.penalty(len(self.fit))
        self.iterations = config.updates(len(self.fit))
        self.average = deepcopy(policy)
        self.best = deepcopy(policy)
        self.order = torch_stream(seed, "rl-batch")
        self.noise = torch_stream(seed, "rl-noise", device=device)
        # Fused: half the time of a step, on the CPU too.
        self.policy_steps = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=True)
        self._new_critic()
        self.replay = Replay(REPLAY_ROWS)
        self.watch = DiscriminatorWatch(config.verdict_steps)
        self.at = Progression(critic_steps=config.critic_steps)

    def run(self, progress: Progress | None = None, checkpoint: Checkpoint | None = None) -> Progression:
        """Train to the end, from the state in `checkpoint` if there is one."""
        if checkpoint is None or not self._resume(checkpoint):
            self._look(warm=True)
            for _ in range(self.config.critic_warmup):
                if not self.at.stopped:
                    self._critic_step(self._episode(self.config.batch_size))
        saved = monotonic()
        while self.at.iteration < self.iterations and not self.at.stopped:
            self._iterate()
            if progress is not None and self.at.losses:
                progress(self.at.iteration, self.iterations, self.at.losses[-1])
            if checkpoint is not None and monotonic() - saved >= checkpoint.seconds:
                self._save(checkpoint)
                saved = monotonic()
        self._finish()
        return self.at

    # ---- an iteration

    def _iterate(self) -> None:
        config, at = self.config, self.at
        done = at.iteration / self.iterations
        pace = SLOWEST + (1 - SLOWEST) * 0.5 * (1 + np.cos(np.pi * done)) if config.decay == "cosine" else 1.0
        for optimiser, rate in (
            (self.policy_steps, config.learning_rate),
            (self.critic_steps, config.critic_rate * at.critic_factor),
        ):
            optimiser.param_groups[0]["lr"] = rate * pace
        size = config.batch_size
        # One draw for all steps: the policy does not change between them.
        drawn = self._episode(size * (at.critic_steps + 1))
        for k in range(at.critic_steps):
            self._critic_step(_part(drawn, slice(k * size, (k + 1) * size)))
            if at.stopped:
                return
        last = _part(drawn, slice(at.critic_steps * size, None))
        if config.replay:
            self.replay.add(last.action, last.vector, self.order)
        weight = config.entropy_weight + done * (config.entropy_weight_end - config.entropy_weight)
        facts = update_policy(self.policy, self.critic, last, self.policy_steps, config, weight)
        self._averaged()
        at.iteration += 1
        self._note(facts)
        if at.iteration % config.evaluate_every == 0 or at.iteration == self.iterations:
            self._look()
        every = max(1, self.iterations // POINTS)
        if at.iteration % every == 0 or at.iteration == self.iterations:
            at.losses.append({"step": float(at.iteration), **{k: float(np.mean(v)) for k, v in at.sums.items()}})
            at.sums = {}

    def _episode(self, n: int) -> Episode:
        """`n` rows of the policy, told what real rows are."""
        noise = self.policy.noise(n, self.noise, self.device)
        told = self.tell(self.fit[torch.randint(len(self.fit), (n,), generator=self.order)], self.order)
        action = self.policy.act(noise, told, self.noise)
        vector = noise.new_zeros(n, 0) if told is None else told.vector
        return Episode(noise, told, action, self.space.view(action), vector)

    def _critic_step(self, drawn: Episode) -> None:
        """One step of the discriminator on real and drawn rows."""
        config, n = self.config, len(drawn.noise)
        fake = torch.cat([drawn.view, drawn.vector], dim=1)
        if config.replay and len(self.replay):
            old = int(config.replay * n)
            rows, vectors = self.replay.some(old, self.order)
            earlier = torch.cat([self.space.view(rows), vectors], dim=1)
            fake = torch.cat([fake[: n - old], earlier])
        loss, on_real, on_fake = discriminator_loss(
            self.critic,
            self._blurred(self._real(n)),
            self._blurred(fake),
            gamma=self.gamma,
            real_target=config.real_target,
        )
        self.critic_steps.zero_grad(set_to_none=True)
        fine = bool(torch.isfinite(loss))
        if fine:
            loss.backward()
            self.critic_steps.step()
        # Drawn rows of now alone say who is winning.
        now = on_fake[: n - int(config.replay * n)] if config.replay else on_fake
        right = float((on_real > 0).float().mean() + (now < 0).float().mean()) / 2 if fine else float("nan")
        chances = torch.sigmoid(on_real).mean(), torch.sigmoid(now).mean()
        names = {"critic_loss": loss, "judged_real": chances[0], "judged_drawn": chances[1]}
        self._note({k: float(v.detach()) for k, v in names.items()} if fine else {})
        verdict = self.watch.see(right, float(torch.cat([on_real, now]).std()))
        if verdict:
            self._answer(verdict)

    def _real(self, n: int) -> Tensor:
        """(n, inputs) real rows, and what would have been told of them."""
        at = self.fit[torch.randint(len(self.fit), (n,), generator=self.order)]
        told = self.tell(at, self.order)
        view = self.space.view(self.rows.take(at.to(self.device)))
        return view if told is None else torch.cat([view, told.vector], dim=1)

    def _blurred(self, inputs: Tensor) -> Tensor:
        """The inputs with a little noise on their numbers, less and less of it."""
        scale = self.config.instance_noise * (1 - self.at.iteration / self.iterations)
        wide = len(self.space.numeric)
        if scale <= 0 or not wide:
            return inputs
        noise = torch.randn(len(inputs), wide, generator=self.noise, device=self.device)
        return torch.cat([inputs[:, :wide] + scale * noise, inputs[:, wide:]], dim=1)

    def _averaged(self) -> None:
        """Move the running mean of the weights; quickly at first."""
        keep = min(self.config.ema, (1 + self.at.iteration) / (10 + self.at.iteration))
        with torch.no_grad():
            mean: list[Tensor] = list(self.average.parameters())
            now: list[Tensor] = list(self.policy.parameters())
            torch._foreach_lerp_(mean, now, 1 - keep)

    def _note(self, facts: Mapping[str, float]) -> None:
        self.at.skipped += int(facts.get("skipped", 0))
        for name, value in facts.items():
            if name != "skipped":
                self.at.sums.setdefault(name, []).append(value)

    # ---- verdicts

    def _answer(self, verdict: str) -> None:
        """Say what was found, and do something about it."""
        remedy = self.watch.remedy(verdict) if self.config.recovery == "recover" else ""
        # Without recovery the same would be said again and again.
        if remedy or (self.watch.verdicts or {}).get(verdict) == 1:
            self.at.warnings.append(said(verdict, remedy, self.at.iteration, self.config.verdict_steps))
        if remedy == "slower":
            self.at.critic_factor *= SLOWER
            self.at.critic_steps = 1
        elif remedy == "restart":
            self.at.restarts += 1
            self._new_critic()
            self._refresh()
        elif remedy == "stop":
            self.at.stopped = True

    def _new_critic(self) -> None:
        inputs = self.space.width + self.policy.shape.conditions
        restarts = self.at.restarts if hasattr(self, "at") else 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_stream(self.seed, "critic", restarts).initial_seed())
            self.critic = Discriminator(inputs, self.config.critic_hidden).to(self.device)
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), lr=self.config.critic_rate, fused=True)

    def _refresh(self) -> None:
        """Show a new discriminator rows from earlier and real ones."""
        if not len(self.replay):
            return
        config = self.config
        for _ in range(REFRESHER):
            rows, vectors = self.replay.some(config.batch_size, self.order)
            fake = torch.cat([self.space.view(rows), vectors], dim=1)
            real = self._real(config.batch_size)
            loss, _, _ = discriminator_loss(self.critic, real, fake, gamma=self.gamma, real_target=config.real_target)
            self.critic_steps.zero_grad(set_to_none=True)
            loss.backward()
            self.critic_steps.step()

    # ---- which weights

    def _look(self, *, warm: bool = False) -> None:
        """Hold drawn rows against the tuning rows, and keep the weights if none were better."""
        if self.config.select == "last" or len(self.tune) < FEWEST:
            return
        late = self.at.iteration * 2 >= self.iterations
        if not (late or warm):
            return
        score = self._score()
        if warm:
            self.at.warm_score = score
        self._note({"told_apart": score})
        # A discriminator that is fooled beyond chance is none: AUCs below one half are no better than one half.
        if max(score, 0.5) < self.at.best and not (warm and self.config.warm == "none"):
            self.at.best, self.at.best_iteration = max(score, 0.5), self.at.iteration
            self.best.load_state_dict(self.average.state_dict())

    def _score(self) -> float:
        """AUC of boosted trees on tuning rows and drawn ones, with the same noise every time."""
        noise = torch_stream(self.seed, "rl-look", device=self.device)
        order = torch_stream(self.seed, "rl-look-rows")
        known = self.fit[torch.randperm(len(self.fit), generator=order)[:MOST_ROWS]]
        n = max(2 * len(known), 4 * FEWEST)
        told = self.tell(self.fit[torch.randint(len(self.fit), (n,), generator=order)], order)
        drawn = self.average.act(self.average.noise(n, noise, self.device), told, noise)
        parts = (self.rows.take(known.to(self.device)), drawn, self.rows.take(self.tune.to(self.device)))
        return told_apart(*(features(self.space, part) for part in parts))

    def _finish(self) -> None:
        """Leave the chosen weights in the policy."""
        at = self.at
        chosen = np.isfinite(at.best)
        self.policy.load_state_dict((self.best if chosen else self.average).state_dict())
        self.policy.eval()
        if chosen and not at.best_iteration:
            at.warnings.append(
                f"Training by reward did not improve on its warm start (rows told from unseen ones with AUC {at.best:.3f}): "
                "the rows are those of the warm start."
            )
        if at.skipped:
            at.warnings.append(f"The policy's loss was not finite in {at.skipped} steps, which were left out.")

    # ---- the state

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"policy": self.policy, "average": self.average, "best": self.best, "critic": self.critic}

    def _save(self, checkpoint: Checkpoint) -> None:
        tensors = {f"{name}/{k}": v for name, m in self._modules().items() for k, v in m.state_dict().items()}
        for name, optimiser in (("policy", self.policy_steps), ("critic", self.critic_steps)):
            for number, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"steps-{name}/{number}/{k}": torch.as_tensor(v) for k, v in moments.items()}
        if self.replay.rows is not None and self.replay.vectors is not None:
            rows = self.replay.rows
            tensors |= {"replay/states": rows.states, "replay/bits": rows.bits, "replay/numbers": rows.numbers}
            tensors["replay/vectors"] = self.replay.vectors
        tensors |= {"random/order": self.order.get_state(), "random/noise": self.noise.get_state()}
        state = {"progression": vars(self.at), "watch": self.watch.state(), "work": self._work()}
        checkpoint.save(tensors, state)

    def _resume(self, checkpoint: Checkpoint) -> bool:
        """Take over the state of the same training; False if there is none."""
        found = checkpoint.load()
        if found is None or found[1]["work"] != self._work():
            return False
        tensors, state = found
        self.at = Progression(**state["progression"])
        self.watch = DiscriminatorWatch(**state["watch"])
        self._new_critic()
        for name, module in self._modules().items():
            module.load_state_dict(_below(tensors, f"{name}/"))
        for name, optimiser in (("policy", self.policy_steps), ("critic", self.critic_steps)):
            moments: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _below(tensors, f"steps-{name}/").items():
                number, _, moment = key.partition("/")
                moments.setdefault(int(number), {})[moment] = tensor
            optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        if "replay/states" in tensors:
            parts = [tensors[f"replay/{k}"].to(self.device) for k in ("states", "bits", "numbers")]
            self.replay.rows, self.replay.vectors = Action(*parts), tensors["replay/vectors"].to(self.device)
        self.order.set_state(tensors["random/order"])
        self.noise.set_state(tensors["random/noise"])
        return True

    def _work(self) -> list[str]:
        """What else decides the bytes: the rows, where and by what they are worked on."""
        digest = blake2b(digest_size=16)
        for rows in (self.fit, self.tune):
            digest.update(rows.numpy().tobytes() + b"|")
        return [digest.hexdigest(), self.device.type, str(torch.__version__)]

    def facts(self) -> dict[str, Any]:
        """What the report says beside the curves."""
        at = self.at
        facts = {"iterations": float(at.iteration), "chosen_iteration": float(at.best_iteration or at.iteration)}
        if np.isfinite(at.best):
            facts["chosen_iteration"] = float(at.best_iteration)
            facts |= {"told_apart": at.best, "told_apart_warm": at.warm_score}
        found = self.watch.verdicts or {}
        return {**facts, **{f"critic_{k.replace(' ', '_')}": float(v) for k, v in found.items()}}


def _part(episode: Episode, rows: slice) -> Episode:
    """Some rows of an episode."""
    at = torch.arange(len(episode.noise), device=episode.noise.device)[rows]
    told = None if episode.told is None else episode.told.take(at)
    return Episode(episode.noise[rows], told, episode.action.take(at), episode.view[rows], episode.vector[rows])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
