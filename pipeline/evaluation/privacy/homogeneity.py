"""Attributes that can be read off uniform groups: no model, only counting (targeted correct attribution probability).

Synthetic rows that agree in all that an attacker knows of a target form a group. Where at least 95 % of a group share a
secret value the attacker is sure of it. How many training people he is then right about, beyond people outside
training, is `priv.tcap`. Attacks by learning are in `attributes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.privacy.secrets import known_to_attacker, secrets_of
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.privacy.secrets import Secret
    from pipeline.evaluation.results import MetricResult

UNIFORM = 0.95
"""Share of a group of synthetic rows that must agree before the attacker is sure."""
FEWEST_PEOPLE, NEEDED = 50, 500
TCAP = MetricSpec(
    id="priv.tcap",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Secrets read off uniform groups",
    caption="Synthetic rows that agree in all that an attacker knows form a group; where 95 % of a group share a secret "
    "value he is sure of it. Share of training people about whom he is sure and right, minus the same share of people "
    "outside training, mean over secrets. Lower is better; the null is 0.",
    source="TCAP (Taub and Elliot 2019) as a difference to people outside training; numbers in T's bins",
    cost="A",
)


@dataclass(frozen=True)
class Groups:
    """The groups of synthetic rows, and where real rows fall.

    Attributes:
        synthetic: (synthetic rows,) number of each row's group.
        real: For T and H, (rows,) number of the group that agrees with each row; -1 where none does.
        count: How many groups there are.
    """

    synthetic: NDArray[np.int64]
    real: tuple[NDArray[np.int64], NDArray[np.int64]]
    count: int


@metric(TCAP, floor="ref_train")
def tcap(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over secrets, the worst secret, the share of people who fall into a group at all, and each secret."""
    sides, secrets = ctx.sides, secrets_of(ctx.sides)
    knowledge = known_to_attacker(sides)
    if not knowledge.size or not secrets:
        what = "the attacker knows nothing of a target" if not knowledge.size else "there is no secret"
        return [TCAP.result(None, null=0.0, note=what)]
    people = [len(np.unique(s.clusters)) for s in (sides.train, sides.holdout)]
    if min(people) < FEWEST_PEOPLE:
        return [TCAP.underpowered(min(people), NEEDED, "people inside or outside training", null=0.0)]
    keys = sides.once("disclosure/keys", lambda: [knowledge.groups(s) for s in (sides.train, sides.holdout)])
    groups = _groups(knowledge.groups(ctx.synthetic), keys[0], keys[1])
    n = min(people)
    total = [np.zeros(len(sides.train)), np.zeros(len(sides.holdout))]
    found: list[tuple[str, float, float]] = []
    for secret in secrets:
        sure = _sure(groups, *_values(ctx.synthetic, secret), presence=secret.column is None)
        hits = [
            (place >= 0) & (sure[place] == _values(side, secret)[0])
            for place, side in zip(groups.real, (sides.train, sides.holdout), strict=True)
        ]
        for so_far, hit in zip(total, hits, strict=True):
            so_far += hit
        value, error = _difference(hits[0], hits[1], ctx)
        found.append((secret.name, value, error))
    many = len(secrets)
    value, error = _difference(total[0] / many, total[1] / many, ctx)
    share, apart = _difference(groups.real[0] >= 0, groups.real[1] >= 0, ctx)
    name, most, spread = max(found, key=lambda f: f[1])
    wide = _bonferroni(many) * spread
    rows = [
        TCAP.result(value, se=error, n=n, null=0.0, note=f"{many} secrets"),
        TCAP.result(
            most, se=spread, interval=(max(-1.0, most - wide), min(1.0, most + wide)), n=n, null=0.0, key1="worst",
            note=f"{name}; simultaneous interval, not gated",
        ),
        TCAP.result(
            share, se=apart, n=n, null=0.0, key1="in a group",
            note="training people with whom some synthetic row agrees in all that is known, minus others",
        ),
    ]  # fmt: skip
    return rows + [TCAP.result(v, se=e, n=n, null=0.0, scope="column", key1=name) for name, v, e in found]


def _groups(synthetic: NDArray[np.uint64], train: NDArray[np.uint64], holdout: NDArray[np.uint64]) -> Groups:
    keys, place = np.unique(synthetic, return_inverse=True)
    return Groups(place, (_found_in(keys, train), _found_in(keys, holdout)), len(keys))


def _found_in(keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) place of each value among sorted keys, -1 where it is none of them."""
    place = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[place] == values, place, -1)


def _sure(groups: Groups, values: NDArray[np.int64], count: int, *, presence: bool) -> NDArray[np.int64]:
    """(groups + 1,) the value that at least 95 % of a group carry, -9 where there is none; the last is for "no group".

    Args:
        groups: The groups.
        values: (synthetic rows,) numbers of secret values.
        count: How many values there are.
        presence: Of a code only its presence is a disclosure: groups that are sure of its absence say nothing.
    """
    table = np.bincount(groups.synthetic * count + values, minlength=groups.count * count).reshape(groups.count, count)
    best = table.argmax(axis=1)
    sure = table[np.arange(groups.count), best] >= UNIFORM * table.sum(axis=1)
    if presence:
        sure &= best == 1
    return np.append(np.where(sure, best, -9), -9)


def _values(side: Side, secret: Secret) -> tuple[NDArray[np.int64], int]:
    """(rows,) number of the secret value of each row (numbers in T's bins) and how many values there are."""
    if secret.column is not None:
        return side.bins(secret.column)
    return side.presence[secret.block][:, [secret.code]].toarray().ravel().astype(np.int64), 2


def _difference(
    members: NDArray[np.floating] | NDArray[np.bool_], others: NDArray[np.floating] | NDArray[np.bool_],
    ctx: EvaluationContext,
) -> tuple[float, float]:  # fmt: skip
    """Mean over T minus mean over H, and its standard error over subjects."""
    parts = []
    for values, side in ((members, ctx.sides.train), (others, ctx.sides.holdout)):
        mean = float(values.mean())
        sums = np.bincount(side.clusters, weights=values - mean)
        parts.append((mean, float((sums**2).sum()) / len(values) ** 2))
    return parts[0][0] - parts[1][0], float(np.sqrt(parts[0][1] + parts[1][1]))


def _bonferroni(many: int) -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - 0.025 / max(many, 1)))
