"""One update of the policy: proximal policy optimisation on drawn rows, and its ablations (spec 7.1 and 7.3).

An episode is one step: the state is noise, the action a whole row, the return its reward. Advantages are rewards minus
the value of the state, brought to mean 0 and variance 1 in the batch. The objective that is minimised is
-mean min(rho A, clip(rho, 1 - e, 1 + e) A) + 0.5 (V - r)^2 - c H (Schulman et al. 2017, equation 9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.generators.reinforcement.critic import Discriminator, judged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.generators.reinforcement.heads import RowDistribution
    from pipeline.generators.reinforcement.policy import Policy, Told
    from pipeline.generators.reinforcement.settings import RLSynConfig
    from pipeline.generators.reinforcement.space import Action

BLOCK = 32
"""Columns whose likelihood ratio is clipped together where a row has very many (spec 7.3)."""
LARGEST_GRADIENT = 1.0
LARGEST_LOG_RATIO = 20.0


@dataclass
class Episode:
    """Rows drawn by a policy, one step each.

    Attributes:
        noise: (n, noise) states.
        told: What the policy was told; None without conditions.
        action: The rows.
        view: (n, width) the rows as a discriminator sees them.
        vector: (n, conditions) what the discriminator is told beside them.
    """

    noise: Tensor
    told: Told | None
    action: Action
    view: Tensor
    vector: Tensor


def update_policy(
    policy: Policy,
    critic: Discriminator,
    episode: Episode,
    optimiser: torch.optim.Optimizer,
    config: RLSynConfig,
    entropy_weight: float,
) -> Mapping[str, float]:
    """Improve the policy on one batch of its own rows; gives what is logged of it."""
    if config.objective == "gan":
        return _through_the_critic(policy, critic, episode, optimiser)
    with torch.no_grad():
        reward = judged(config.reward, critic(torch.cat([episode.view, episode.vector], dim=1)))
        hidden = policy.hidden(episode.noise, episode.told)
        before = policy.heads.of(policy.outputs(hidden, episode.view))
        old = before.log_prob(episode.action)
        own = policy.chosen(episode.told, old)
        old = old * own
        value = policy.value(hidden)[:, 0] if config.value_head else torch.zeros_like(reward)
        advantage = reward - value
        scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
    by_block = config.clipped_by_block(policy.heads.columns)
    facts: dict[str, float] = {
        "reward": float(reward.mean()),
        "reward_spread": float(reward.std()),
        "advantage": float(advantage.abs().mean()),
    }
    for epoch in range(config.ppo_epochs if config.objective == "ppo" else 1):
        hidden = policy.hidden(episode.noise, episode.told)
        now = policy.heads.of(policy.outputs(hidden, episode.view))
        each = now.log_prob(episode.action) * own
        with torch.no_grad():
            facts["kl"] = float(_summed(now.divergence_from(before) * own, by_block).mean()) if epoch else 0.0
        if epoch and config.kl_stop and facts["kl"] > config.kl_stop:
            break
        if config.objective == "ppo":
            gain, facts["clip_share"] = _clipped(_summed(each - old, by_block), scaled, config.clip_ratio)
        else:
            gain = (each.sum(dim=1) * scaled).mean()
        loss, facts["entropy"] = _regularised(now, each, own, gain, config, entropy_weight)
        if config.value_head:
            error = (policy.value(hidden)[:, 0] - reward) ** 2
            facts["value_error"] = float(error.mean().detach())
            loss = loss + 0.5 * error.mean()
        facts["ppo_epochs"] = float(epoch + 1)
        if not _step(policy, loss, optimiser):
            facts["skipped"] = facts.get("skipped", 0.0) + 1
    return facts


def _summed(each: Tensor, by_block: bool) -> Tensor:
    """(n, blocks) sums over the columns of each block; one block of all columns unless they are clipped by blocks."""
    if not by_block:
        return each.sum(dim=1, keepdim=True)
    return torch.stack([part.sum(dim=1) for part in each.split(BLOCK, dim=1)], dim=1)


def _clipped(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, float]:
    """The clipped surrogate, and the share of ratios that are beyond the clip."""
    ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    a = advantage.unsqueeze(1)
    gain = torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a).mean()
    return gain, float(((ratio - 1).abs() > clip).float().mean())


def _regularised(
    now: RowDistribution,
    each: Tensor,
    own: Tensor,
    gain: Tensor,
    config: RLSynConfig,
    entropy_weight: float,
) -> tuple[Tensor, float]:
    """The loss with its entropy bonus, and the mean entropy of a column in closed form."""
    known = now.entropy() * own
    if config.entropy == "sampled":
        # As published: minus the log-likelihood of what was drawn, whose expected gradient is 0 at first (spec 7.2).
        bonus = -each.sum(dim=1).mean()
    else:
        bonus = known.mean()
    return -gain - entropy_weight * bonus, float(known.mean().detach())


def _through_the_critic(
    policy: Policy, critic: Discriminator, episode: Episode, optimiser: torch.optim.Optimizer
) -> Mapping[str, float]:
    """The GAN ablation: the gradient of the logit of drawn rows, through the rows."""
    hidden = policy.hidden(episode.noise, episode.told)
    outputs = policy.outputs(hidden, episode.view)
    rows = policy.heads.followed(episode.view, outputs, episode.action)
    logit = critic(torch.cat([rows, episode.vector], dim=1))
    skipped = not _step(policy, torch.nn.functional.softplus(-logit).mean(), optimiser)
    with torch.no_grad():
        entropy = policy.heads.of(outputs).entropy().mean()
    facts = {"reward": float(logit.mean().detach()), "entropy": float(entropy)}
    return {**facts, "skipped": 1.0} if skipped else facts


def _step(policy: Policy, loss: Tensor, optimiser: torch.optim.Optimizer) -> bool:
    """A step of the optimiser; False if the loss or its gradient was not finite and the step was left out."""
    if not torch.isfinite(loss):
        return False
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), LARGEST_GRADIENT)
    if torch.isfinite(norm):
        optimiser.step()
    return bool(torch.isfinite(norm))
