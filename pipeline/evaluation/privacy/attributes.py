"""Attribute inference: does the synthetic cohort tell more about training people than about anybody else?

An attacker who knows some attributes of a target learns from the synthetic rows to guess the others. What he guesses
right of people outside training is science (`priv.aia.level`: reported, not gated); what he guesses better of training
people is leakage (`priv.aia.excess`: gated). Attackers and scores are in `attackers.py`, what is known and what is
secret in `secrets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import CHUNK, subject_weights, weighted_sums
from pipeline.evaluation.privacy.attackers import (
    BOOSTING,
    EFFORT,
    FULL,
    boosted_guesses,
    nearest_guesses,
    questions,
    score,
    truth,
)
from pipeline.evaluation.privacy.secrets import KNOWN_CODES, known_to_attacker, secrets_of
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.privacy.attackers import Question
    from pipeline.evaluation.privacy.secrets import Knowledge, Secret
    from pipeline.evaluation.results import MetricResult

FEWEST_PEOPLE, NEEDED = 50, 1_000
TOO_RARE = "no secret occurs often enough on both sides to be scored"
SWEEP = (0, 256)
"""Other numbers of known codes, shown beside the default in the costlier profiles."""
CLOSEST = 0.1
SOURCE = (
    "Yan et al. 2022 (attribute inference), with people outside training as control; excess = score(T) - score(H), "
    "scores 2 AUC - 1 or correlation"
)
EXCESS = MetricSpec(
    id="priv.aia.excess",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Attributes inferred better for training people",
    caption="How much better an attacker guesses the secrets of people in training than of people outside it, mean "
    "over secrets (rare ones weigh less), for the most successful of the attackers (interval widened for the choice). The unit is a difference "
    "of scores on which 0 is guessing and 1 always right (2 AUC - 1 for levels and codes, correlation for numbers). "
    "Lower is better; the null is 0.",
    source=SOURCE,
    cost="B",
)
LEVEL = MetricSpec(
    id="priv.aia.level",
    family="privacy",
    direction=0,
    range=(-1.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Attributes that can be inferred of anybody",
    caption="How well an attacker with the synthetic rows guesses the secrets of people who were never in training, "
    "mean over secrets, the best attacker of each. 0 is guessing without knowing the target, 1 is always right. This is "
    "what the data teaches about people in general: neither good nor bad, and not leakage.",
    source=SOURCE,
    cost="B",
)


@dataclass(frozen=True)
class Attack:
    """What attackers reach, attacker by attacker and secret by secret.

    Attributes:
        attackers: Their names.
        secrets: Names of the secrets that could be scored.
        weights: (secrets,) their weights in means, sum 1: numbers 1, levels and codes of share p 4 p (1 - p), since the
            score of a rare one is uncertain in just that measure and would drown the others.
        train: (attackers, secrets) scores on training people.
        holdout: (attackers, secrets) scores on people outside training.
        errors: (attackers, secrets) standard errors of the difference.
        level_errors: (attackers, secrets) standard errors of the scores on people outside training.
        members: (attackers, training targets) influence of each on the mean difference over secrets.
        others: (attackers, holdout targets) the same; it lowers the difference.
        mean_errors: (attackers,) standard errors of the mean difference over secrets.
        people: Distinct subjects among training and among holdout targets.
    """

    attackers: list[str]
    secrets: list[str]
    weights: NDArray[np.float64]
    train: NDArray[np.float64]
    holdout: NDArray[np.float64]
    errors: NDArray[np.float64]
    level_errors: NDArray[np.float64]
    members: NDArray[np.float64]
    others: NDArray[np.float64]
    mean_errors: NDArray[np.float64]
    people: tuple[int, int]

    @property
    def excess(self) -> NDArray[np.float64]:
        """(attackers, secrets) score on training people minus score on others, cut to [-1, 1]."""
        return np.clip(self.train - self.holdout, -1.0, 1.0)

    @property
    def means(self) -> NDArray[np.float64]:
        """(attackers,) weighted mean difference over secrets."""
        return self.excess @ self.weights


@metric(EXCESS, floor="ref_train")
def excess(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over secrets of the best attacker, every attacker, the worst secret, the closest targets, each secret."""
    found, reason = _attack(ctx)
    if found is None:
        n = min(len(np.unique(_clusters(ctx, name))) for name in ("T", "H"))
        if reason == TOO_RARE and n < NEEDED:
            return [EXCESS.underpowered(n, NEEDED, "people inside or outside training", null=0.0)]
        return [EXCESS.result(None, null=0.0, note=reason)]
    attack, closest = found
    n = min(attack.people)
    if n < FEWEST_PEOPLE:
        return [EXCESS.underpowered(n, NEEDED, "people inside or outside training", null=0.0)]
    means, errors, best = attack.means, attack.mean_errors, int(np.argmax(attack.means))
    wide = _bonferroni(len(means))
    rows = [
        EXCESS.result(
            float(means[best]), se=float(errors[best]), interval=_ends(means[best], wide * errors[best]), n=n, null=0.0,
            note=f"attacker: {attack.attackers[best]}; {len(attack.secrets)} secrets",
            draws=_draws(ctx, attack, best, float(means[best])),
        ),
        _worst(attack, n),
        _closest(closest),
    ]  # fmt: skip
    rows += [
        EXCESS.result(float(m), se=float(e), n=n, null=0.0, key1="attacker", key2=name)
        for name, m, e in zip(attack.attackers, means, errors, strict=True)
    ]
    rows += _sweep(ctx, attack)
    for z, name in enumerate(attack.secrets):
        top = int(np.argmax(attack.excess[:, z]))
        each, error = float(attack.excess[top, z]), float(attack.errors[top, z])
        rows.append(
            EXCESS.result(
                each, se=error, interval=_ends(each, wide * error), n=n, null=0.0, scope="column", key1=name,
                note=f"attacker: {attack.attackers[top]}",
            )
        )  # fmt: skip
    return rows


@metric(LEVEL, floor="ref_marginal")
def level(ctx: EvaluationContext) -> list[MetricResult]:
    """Scores on people outside training; beside it what an attacker reaches who has real rows of strangers instead."""
    found, reason = _attack(ctx)
    if found is None:
        return [LEVEL.result(None, null=0.0, note=reason)]
    attack = found[0]
    n = attack.people[1]
    best = np.argmax(attack.holdout, axis=0)
    values = attack.holdout[best, np.arange(len(best))]
    errors = attack.level_errors[best, np.arange(len(best))]
    rows = [
        # Scores of one cohort move together: the mean of the errors bounds the error of the mean.
        LEVEL.result(
            float(values.mean()),
            se=float(errors.mean()),
            n=n,
            null=0.0,
            note=f"{len(attack.secrets)} secrets; not gated",
        )
    ]
    strangers = _strangers(ctx.sides)
    if strangers is not None:
        rows.append(LEVEL.result(strangers[0], se=strangers[1], n=n, null=0.0, key1="attacker with real strangers"))
    rows += [
        LEVEL.result(
            float(v), se=float(e), n=n, null=0.0, scope="column", key1=name, note=f"attacker: {attack.attackers[b]}"
        )
        for name, v, e, b in zip(attack.secrets, values, errors, best, strict=True)
    ]
    return rows


def _attack(ctx: EvaluationContext) -> tuple[tuple[Attack, Attack] | None, str]:
    """All targets and the closest ones; None and the reason where nothing can be attacked."""

    def make() -> tuple[tuple[Attack, Attack] | None, str]:
        sides = ctx.sides
        knowledge = known_to_attacker(sides)
        if not knowledge.size:
            return None, "the attacker knows nothing of a target: no column is known and no code is common"
        if not secrets_of(sides):
            return None, "there is no secret: the attacker knows every column"
        found = run(sides, knowledge, ctx.synthetic, ctx.rows("S", "reference"), boosting=True)
        return (found, "") if found[0].secrets else (None, TOO_RARE)

    return ctx.once("disclosure/attack", make)


def run(
    sides: RealSides, knowledge: Knowledge, side: Side, rows: NDArray[np.int64], *, boosting: bool
) -> tuple[Attack, Attack]:
    """All attackers learn from these rows of a side and guess about the targets of T and H.

    Args:
        sides: The real sides.
        knowledge: What is known of a target.
        side: What is learnt from.
        rows: Which of its rows.
        boosting: Whether gradient boosting is among the attackers.

    Returns:
        What they reach on all targets, and what the nearest row alone gives away of the tenth of the targets that
        lie nearest to one.
    """
    secrets = secrets_of(sides)
    asked = sides.once("disclosure/questions", lambda: questions(sides, secrets))
    targets = [(sides.side(name), _targets(sides, name)) for name in ("T", "H")]
    real = sides.once("disclosure/truth", lambda: [truth(s, r, secrets, asked) for s, r in targets])
    people = [s.clusters[r] for s, r in targets]
    answers = truth(side, rows, secrets, asked)
    guesses, far = nearest_guesses(knowledge, side, rows, answers, targets, sides.plan.device)
    if boosting:
        effort = EFFORT.get(sides.profile.name, FULL)
        few = sides.sample(len(rows), effort.rows, "disclosure", "boosting")
        guesses[BOOSTING] = boosted_guesses(knowledge, side, rows[few], answers[few], targets, effort, sides.seed)
    cut = len(targets[0][1])
    split = {name: [g[:cut], g[cut:]] for name, g in guesses.items()}
    near = far <= np.quantile(far, CLOSEST)
    chosen = [near[:cut], near[cut:]]
    first = {"nn1": [g[c] for g, c in zip(split["nn1"], chosen, strict=True)]}
    return (
        _scored(secrets, asked, split, real, people),
        _scored(
            secrets, asked, first, [r[c] for r, c in zip(real, chosen, strict=True)],
            [p[c] for p, c in zip(people, chosen, strict=True)],
        ),
    )  # fmt: skip


def _scored(
    secrets: list[Secret], asked: list[Question], guesses: dict[str, list[NDArray[np.float32]]],
    real: list[NDArray[np.float32]], people: list[NDArray[np.int64]],
) -> Attack:  # fmt: skip
    """Scores on T's targets and on H's, of which lists hold one each: questions are averaged within secrets."""
    used: list[str] = []
    weights: list[float] = []
    values: list[NDArray[np.float64]] = []
    errors: list[NDArray[np.float64]] = []
    total = [np.zeros((len(guesses), len(r))) for r in real]
    for place, secret in enumerate(secrets):
        of = [q for q, question in enumerate(asked) if question.secret == place]
        of = [q for q in of if all(np.isfinite(score(np.zeros(len(r)), r[:, q]).value) for r in real)]
        if not of:
            continue
        used.append(secret.name)
        weights.append(float(np.mean([asked[q].weight for q in of])))
        values.append(np.zeros((2, len(guesses))))
        errors.append(np.zeros((2, len(guesses))))
        for a, sides in enumerate(guesses.values()):
            for s, guess in enumerate(sides):
                found = [score(guess[:, q], real[s][:, q]) for q in of]
                influence = np.mean([f.influence for f in found], axis=0)
                values[-1][s, a] = np.mean([f.value for f in found])
                errors[-1][s, a] = _error(influence, people[s])
                total[s][a] += weights[-1] * influence
    shape = (len(used), 2, len(guesses))
    train, holdout = np.reshape(values, shape).transpose(1, 2, 0)
    spread = np.reshape(errors, shape).transpose(1, 2, 0)
    whole = sum(weights) or 1.0
    members, others = (t / whole for t in total)
    return Attack(
        list(guesses), used, np.array(weights) / whole, train, holdout, np.hypot(*spread), spread[1], members, others,
        np.array([np.hypot(_error(t, people[0]), _error(h, people[1])) for t, h in zip(members, others, strict=True)]),
        (len(np.unique(people[0])), len(np.unique(people[1]))),
    )  # fmt: skip


def _worst(attack: Attack, n: int) -> MetricResult:
    """The secret and attacker of the greatest difference, with an interval that holds for all of them at once."""
    top, z = np.unravel_index(int(np.argmax(attack.excess)), attack.excess.shape)
    value, error = float(attack.excess[top, z]), float(attack.errors[top, z])
    return EXCESS.result(
        value, se=error, interval=_ends(value, _bonferroni(attack.excess.size) * error), n=n, null=0.0, key1="worst",
        note=f"{attack.secrets[z]}, attacker: {attack.attackers[top]}; simultaneous interval, not gated",
    )  # fmt: skip


def _closest(attack: Attack) -> MetricResult:
    """Where a copy would be seen best: targets whose known attributes a synthetic row has, or nearly."""
    if not attack.secrets:
        return EXCESS.result(None, null=0.0, key1="closest tenth", note="too few of the closest targets")
    return EXCESS.result(
        float(attack.means[0]), se=float(attack.mean_errors[0]), n=min(attack.people), null=0.0, key1="closest tenth",
        note="targets whose known attributes lie nearest to a synthetic row; attacker: nn1, not gated",
    )  # fmt: skip


def _sweep(ctx: EvaluationContext, usual: Attack) -> list[MetricResult]:
    """The mean difference of the nearest-row attackers for other numbers of known codes; not in the quick profile.

    Args:
        ctx: The synthetic cohort.
        usual: What is reached with the usual number of codes.
    """
    sides = ctx.sides
    if sides.profile.name == "quick" or not sides.encoder.blocks:
        return []
    rows = []
    for codes in sorted({KNOWN_CODES, *SWEEP}):
        knowledge = known_to_attacker(sides, codes)
        if not knowledge.size:
            rows.append(EXCESS.result(None, null=0.0, key1="codes known", key2=str(codes), note="nothing is known"))
            continue
        if codes == KNOWN_CODES:
            attack = usual
        else:
            attack = run(sides, knowledge, ctx.synthetic, ctx.rows("S", "reference"), boosting=False)[0]
        nearest = [a for a, name in enumerate(attack.attackers) if name != BOOSTING]
        best = max(nearest, key=lambda a: attack.means[a])
        value, error = float(attack.means[best]), float(attack.mean_errors[best])
        rows.append(
            EXCESS.result(
                value, se=error, interval=_ends(value, _bonferroni(len(nearest)) * error),
                n=min(attack.people), null=0.0, key1="codes known", key2=str(codes),
                note=f"attacker: {attack.attackers[best]}",
            )
        )  # fmt: skip
    return rows


def _strangers(sides: RealSides) -> tuple[float, float] | None:
    """What an attacker reaches on H who learns from the real rows R1; None without them."""

    def make() -> tuple[float, float] | None:
        n = len(sides.reference1)
        if n < FEWEST_PEOPLE:
            return None
        rows = sides.sample(n, sides.profile.neighbour_rows, "rows", "R1", "reference")
        attack = run(sides, known_to_attacker(sides), sides.reference1, rows, boosting=True)[0]
        best = np.argmax(attack.holdout, axis=0)
        picked = best, np.arange(len(best))
        return float(attack.holdout[picked] @ attack.weights), float(attack.level_errors[picked] @ attack.weights)

    return sides.once("disclosure/strangers", make)


def _targets(sides: RealSides, name: str) -> NDArray[np.int64]:
    """Rows of T or H that are guessed about: twice as many of T, since sides are scored apart and H is the smaller."""
    size = min(len(sides.holdout), sides.profile.rows)
    side = sides.train if name == "T" else sides.holdout
    return sides.sample(len(side), size if name == "H" else 2 * size, "rows", name, "disclosure")


def _clusters(ctx: EvaluationContext, name: str) -> NDArray[np.int64]:
    side = ctx.sides.train if name == "T" else ctx.sides.holdout
    return side.clusters[_targets(ctx.sides, name)]


def _error(influence: NDArray[np.float64], clusters: NDArray[np.int64]) -> float:
    """Standard error of what has these influences: subjects are drawn, not rows."""
    return float(np.sqrt((np.bincount(clusters, weights=influence) ** 2).sum()))


def _draws(ctx: EvaluationContext, attack: Attack, best: int, value: float) -> NDArray[np.float64]:
    """(draws,) of the mean difference, linearised; the weights of people are the same for every generator."""
    sides = ctx.sides
    # Drawn anew for each cohort, the same each time, some at a time: kept they would be the largest array of all.
    rng, people = sides.rng("bootstrap", "disclosure", "T"), _clusters(ctx, "T")
    moved = [
        weighted_sums(subject_weights(people, min(CHUNK, sides.profile.draws - lo), rng), attack.members[best])
        for lo in range(0, sides.profile.draws, CHUNK)
    ]
    others = np.zeros(len(sides.holdout))
    others[_targets(sides, "H")] = attack.others[best]
    return value + np.concatenate(moved) - weighted_sums(sides.holdout_weights, others)


def _ends(value: float, half: float) -> tuple[float, float]:
    return max(-1.0, float(value) - half), min(1.0, float(value) + half)


def _bonferroni(many: int) -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - 0.025 / max(many, 1)))
