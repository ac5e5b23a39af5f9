"""What an attacker knows of a target and what he is after: shared by all metrics of disclosure.

Known are the columns that the plan names (else quasi-identifiers and protected columns) and the commonest codes of each
block; secret is what the plan names, else everything else. Nothing here depends on synthetic rows: choices are made
on the training part alone. The attacks themselves are in `attackers.py`, `homogeneity.py` and `identity.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.distances import Points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.schema import Column

KNOWN_CODES = 16
"""Of each block the attacker knows whether the target has these commonest codes."""
SMALL = 11
"""Levels and codes of fewer training rows are neither attacked nor named."""
LOWEST, HIGHEST = 0.01, 0.50
"""A code is attacked if the share of training rows that carry it lies between these."""
MOST_SECRETS: dict[str, int] = {"quick": 12, "standard": 40, "full": 200}
MOST_LEVELS = 6
"""Levels of a column that are guessed, the commonest ones: each against all others."""


@dataclass(frozen=True)
class Secret:
    """A column, or one code of a block, whose value the attacker is after.

    Attributes:
        name: The column's name, or "block/code".
        column: The column; None for a code.
        block: Name of the block; "" for a column.
        code: Place of the code in the block's vocabulary; -1 for a column.
    """

    name: str
    column: Column | None
    block: str = ""
    code: int = -1


@dataclass(frozen=True)
class Knowledge:
    """What an attacker knows of a target: columns, and for each block whether some of its codes are present."""

    columns: tuple[Column, ...]
    codes: dict[str, NDArray[np.int64]]

    @property
    def size(self) -> int:
        """Number of attributes known."""
        return len(self.columns) + sum(len(c) for c in self.codes.values())

    def points(self, side: Side, rows: NDArray[np.int64]) -> Points:
        """The known attributes of these rows, ready for distances: a code counts as much as a column."""
        dense, start, parts = side.points.dense, 0, []
        for column in side.encoder.columns:
            wide = 2 if column.numeric or _scaled(column) else len(column.levels or []) + 2
            if column in self.columns:
                parts.append(dense[rows, start : start + wide])
            start += wide
        parts += [
            np.asarray(side.presence[b][rows][:, codes].toarray(), dtype=np.float32) for b, codes in self.codes.items()
        ]
        stacked = np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0), dtype=np.float32)
        return Points(np.ascontiguousarray(stacked), self.size)

    def features(self, side: Side, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The known attributes for boosting, NaN where missing, and which of them are names of levels."""
        parts: list[NDArray[np.float64]] = []
        nominal: list[bool] = []
        for column in self.columns:
            if column.discrete:
                code = side.codes[column.name][rows]
                levels = len(column.levels or [])
                parts.append(np.where(code == -1, np.nan, np.where(code < 0, levels, code))[:, None].astype(np.float64))
                nominal.append(column.kind == "categorical" and levels < 255)
            else:
                parts.append(side.values[column.name][rows][:, None])
                nominal.append(False)
        for block, codes in self.codes.items():
            parts.append(np.asarray(side.presence[block][rows][:, codes].toarray(), dtype=np.float64))
            nominal += [False] * len(codes)
        stacked = np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))
        return stacked, np.array(nominal, dtype=bool)

    def groups(self, side: Side, *, codes: bool = False) -> NDArray[np.uint64]:
        """(n,) number of the combination of known values that each row carries; numbers in T's bins.

        Args:
            side: Whose rows.
            codes: Whether the known codes are part of the combination; they are in any case where no column is known.
        """
        total = np.zeros(len(side), dtype=np.uint64)
        for column in self.columns:
            total += hashed(side.bins(column)[0], column.name)
        if codes or not self.columns:
            for block, known in self.codes.items():
                salt = np.random.default_rng(seed_of(block)).integers(1, 2**63, len(known), dtype=np.uint64)
                chosen = side.presence[block][:, known]
                row = np.repeat(np.arange(chosen.shape[0]), np.diff(chosen.indptr))
                np.add.at(total, row, salt[chosen.indices])
        return total


def known_to_attacker(sides: RealSides, codes: int = KNOWN_CODES) -> Knowledge:
    """What the attacker knows, with the `codes` commonest codes of each block that are not among the secrets."""

    def make() -> Knowledge:
        encoder, plan = sides.encoder, sides.plan
        names = plan.known_columns(encoder.schema)
        secret = {(s.block, s.code) for s in secrets_of(sides)}
        chosen = {}
        for block in encoder.blocks:
            order = _by_count(sides, block.name)
            wanted = len(order) if block.name in plan.known else codes
            free = [i for i in order if (block.name, int(i)) not in secret][:wanted]
            if free:
                chosen[block.name] = np.sort(np.array(free, dtype=np.int64))
        return Knowledge(tuple(c for c in encoder.columns if c.name in names), chosen)

    return sides.once(f"disclosure/known/{codes}", make)


def secrets_of(sides: RealSides) -> list[Secret]:
    """What is attacked, at most as many as the profile allows.

    Columns and, where the plan names none or names their block, codes that 1 to 50 % (and at least 11) of the training
    rows carry and that are not among the 16 commonest. Where there are more than the cap, columns are taken in the
    order of the hash of their name, labels first (so that the choice neither moves when a column is added nor can be
    made to suit a result), codes in the order of their prevalence (a rare one is known of too few targets to be
    scored). Codes fill at least half of the cap where there are enough of them.
    """

    def make() -> list[Secret]:
        plan, encoder = sides.plan, sides.encoder
        known = plan.known_columns(encoder.schema)
        names = [n for n in plan.secret_columns(encoder.schema) if n not in known]
        columns = sorted((c for c in encoder.columns if c.name in names), key=lambda c: _order(c.name, c.role))
        codes = [s for b in encoder.blocks if _attacked(sides, b.name) for s in _codes(sides, b.name)]
        codes.sort(key=lambda s: (-_counts(sides, s.block)[s.code], s.name))
        most = MOST_SECRETS.get(sides.profile.name, 200)
        room = max(most - len(codes), most // 2)
        found = [Secret(c.name, c) for c in columns[:room]]
        return found + codes[: most - len(found)]

    return sides.once("disclosure/secrets", make)


def hashed(values: NDArray[np.integer], name: str) -> NDArray[np.uint64]:
    """(n,) numbers of values, spread over 64 bits and salted by a name: sums of them stand for combinations."""
    x = values.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed_of(name))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def seed_of(name: str) -> int:
    """A 64-bit number of a name, the same everywhere."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "little")


def _attacked(sides: RealSides, block: str) -> bool:
    return block not in sides.plan.known and (not sides.plan.secrets or block in sides.plan.secrets)


def _order(name: str, role: str) -> tuple[bool, bytes]:
    return role != "label", sha256(name.encode()).digest()


def _by_count(sides: RealSides, block: str) -> NDArray[np.int64]:
    """Places of a block's codes, the commonest in T first; codes that no training row carries left out."""
    counts = _counts(sides, block)
    order = np.argsort(-counts, kind="stable")
    return order[counts[order] > 0]


def _counts(sides: RealSides, block: str) -> NDArray[np.float64]:
    def make() -> NDArray[np.float64]:
        return np.asarray(sides.train.presence[block].sum(axis=0), dtype=np.float64).ravel()

    return sides.once(f"disclosure/counts/{block}", make)


def _codes(sides: RealSides, block: str) -> list[Secret]:
    counts, n = _counts(sides, block), len(sides.train)
    vocabulary = next(b.vocabulary for b in sides.encoder.blocks if b.name == block)
    common = set(_by_count(sides, block)[:KNOWN_CODES].tolist())
    shares = counts / n
    return [
        Secret(f"{block}/{vocabulary[i]}", None, block, int(i))
        for i in np.flatnonzero((shares >= LOWEST) & (shares <= HIGHEST) & (counts >= SMALL))
        if int(i) not in common
    ]


def _scaled(column: Column) -> bool:
    """Whether distances take the column's levels as equally spaced numbers (see `Side.points`)."""
    return column.kind == "ordinal" and len(column.levels or []) > 1
