"""Rows drawn again until they keep every rule, for any generator: what works where nothing better does.

Rows that keep the rules stay as they were drawn. How rules are kept without drawing again is in `reexpress.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UnsupportedError
from pipeline.features.constraint_spec import Combinations
from pipeline.features.visits import stacked_events, take_events
from pipeline.generators.constraints.checking import check_rules
from pipeline.generators.constraints.rules import rule_text, violations
from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.generators.base import Conditions, Generator

ROUNDS = 50
"""Rows drawn for each row that is wanted, at most (spec 0.4)."""
SMALLEST_DRAW = 256

Broken = dict[str, "NDArray[np.bool_]"]
"""What is wrong with rows: the rule (or what else) to (n,) True where a row breaks it."""


@dataclass
class Redrawn:
    """Rows that are all right, and what it took.

    Attributes:
        cohort: (n rows) the rows.
        first: How many rows of the first draw broke each rule.
        violating: How many of them broke any.
        drawn: Rows drawn beyond the first draw.
    """

    cohort: Cohort
    first: dict[str, int]
    violating: int
    drawn: int


def sample_constrained(
    generator: Generator,
    n: int,
    seed: int,
    constraints: Sequence[ConstraintSpec] = (),
    *,
    conditions: Conditions | None = None,
) -> tuple[Cohort, dict[str, int]]:
    """Draw `n` rows that keep every rule.

    The first draw is the generator's own `sample(n, seed=seed)`; rows that break a rule are replaced by rows of
    further draws with derived seeds, so rows that keep the rules are the same with and without them.

    Returns:
        The rows, and counts: "violating_rows" of the first draw, "redrawn_rows" over all rounds, what the generator
        itself counts ("rare_levels_redrawn", and what it redrew for rules that it was trained with), and
        "<rule>" with the first draw's violations of each rule.

    Raises:
        ConfigError: a rule names a column that does not exist, or compares what has no order.
        UnsupportedError: after 50 rows drawn for each some rows still break a rule; says which, and how often.
    """
    counts = {"rare_levels_redrawn": 0}
    rules = [_as_trained(rule, generator) for rule in constraints]

    def draw(rows: NDArray[np.int64], with_seed: int) -> tuple[Cohort, Broken]:
        drawn = generator.sample(len(rows), seed=with_seed, conditions=_rows_of(conditions, rows))
        for name, count in getattr(generator, "sample_counts", {}).items():
            counts[name] = counts.get(name, 0) + int(count)
        check_rules(drawn.schema, rules)
        return drawn, {rule_text(rule): violations(drawn, rule) for rule in rules}

    by_row = conditions is not None and not isinstance(conditions, Mapping)
    found = redraw(draw, n, seed, purpose="redraw", by_row=by_row)
    return found.cohort, {
        "violating_rows": found.violating,
        "redrawn_rows": found.drawn,
        **counts,
        **{rule_text(rule): 0 for rule in constraints},
        **found.first,
    }


def redraw(
    draw: Callable[[NDArray[np.int64], int], tuple[Cohort, Broken]], n: int, seed: int, *, purpose: str, by_row: bool
) -> Redrawn:
    """Draw rows, and replace those that are wrong until none is.

    Args:
        draw: Draws rows for the given places with a seed, and says what is wrong with them.
        n: Rows wanted.
        seed: Of the first draw; those of further draws are derived from it.
        purpose: Part of those seeds: who redraws inside a draw that is redrawn itself must not draw the same rows.
        by_row: Are places different from each other? Then a row is only replaced by one that was drawn for its
            place; else any row that is all right takes the next open place.

    Raises:
        UnsupportedError: the cap is reached; names what is wrong most often and its rate.
    """
    first, wrong = draw(np.arange(n), seed)
    counts = {name: int(mask.sum()) for name, mask in wrong.items()}
    open_rows = np.flatnonzero(_any(wrong, n))
    found = Redrawn(first, counts, len(open_rows), 0)
    tried, of_rule = n, dict(counts)
    most = ROUNDS * max(n, SMALLEST_DRAW)
    attempt = 0
    while len(open_rows) and found.drawn < most and (not by_row or attempt < ROUNDS):
        # Rows that share their conditions can stand for each other: a handful of open ones is drawn in bulk.
        size = len(open_rows) if by_row else max(len(open_rows), SMALLEST_DRAW)
        places = open_rows if by_row else np.resize(open_rows, size)
        fresh, wrong = draw(places, derive_seed(seed, purpose, attempt))
        good = np.flatnonzero(~_any(wrong, size))
        tried, attempt, found.drawn = tried + size, attempt + 1, found.drawn + size
        for name, mask in wrong.items():
            of_rule[name] = of_rule.get(name, 0) + int(mask.sum())
        good = good[: len(open_rows)]
        filled = open_rows[good] if by_row else open_rows[: len(good)]
        if len(good):
            found.cohort = replace_rows(found.cohort, filled, fresh.take(good))
        open_rows = np.setdiff1d(open_rows, filled)
    if len(open_rows):
        worst = max(of_rule, key=lambda name: of_rule[name])
        raise UnsupportedError(
            f"{len(open_rows)} of {n} rows still break a rule after up to {ROUNDS} draws each. '{worst}' was broken by "
            f"{of_rule[worst] / tried:.1%} of the {tried:,} rows drawn.",
            todo="The generator hardly ever draws such rows: mend the rule, or leave the columns out. Where it learned with "
            "differential privacy, declare the columns' bounds and levels: noise may have hidden them.",
        )
    return found


def _as_trained(rule: ConstraintSpec, generator: Generator) -> ConstraintSpec:
    """The rule with the combinations that the generator's training rows had, if it asks for them."""
    if not isinstance(rule, Combinations) or rule.allowed is not None:
        return rule
    known = [r for r in getattr(generator, "known_rules", []) if rule_text(r) == rule_text(rule)]
    return known[0] if known else rule


def _rows_of(conditions: Conditions | None, rows: NDArray[np.integer]) -> Conditions | None:
    """Conditions of some of the rows; a mapping holds for every row."""
    return conditions if conditions is None or isinstance(conditions, Mapping) else conditions.iloc[rows]


def replace_rows(cohort: Cohort, rows: NDArray[np.integer], fresh: Cohort) -> Cohort:
    """The cohort with its i-th of `rows` replaced by the i-th row of `fresh`; ids stay numbered from 1."""
    import pyarrow as pa
    from scipy.sparse import vstack

    order = np.arange(cohort.n_rows)
    order[rows] = cohort.n_rows + np.arange(len(rows))
    both = pa.concat_tables([cohort.table, fresh.table]).combine_chunks().take(pa.array(order))
    for i, column in enumerate(cohort.schema.columns):
        if column.kind == "identifier":
            both = both.set_column(i, cohort.table.schema.field(i), cohort.table.column(i))
    blocks = {k: vstack([m, fresh.blocks[k]], format="csr")[order] for k, m in cohort.blocks.items()}
    events = cohort.events
    if events is not None and fresh.events is not None:
        sizes = [cohort.n_rows, fresh.n_rows]
        events = take_events(stacked_events([events, fresh.events], sizes), order, sum(sizes))
    return replace(cohort, table=both, blocks=blocks, events=events)


def _any(wrong: Broken, n: int) -> NDArray[np.bool_]:
    broken = np.zeros(n, dtype=bool)
    for mask in wrong.values():
        broken |= mask
    return broken
