"""Rules that the training rows keep without exception and not by chance, as suggestions for a cohort's file.

Each says how many people it rests on and never a patient's value; nothing rests on fewer than 11 people, and nothing
that independent columns would keep as well is suggested. Whoever takes one over decides that it is a rule of the
world, not of these rows. Sums and products are in `suggest_formulas.py`.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.features.constraint_spec import ConstraintSpec, Derivation, Sum, plain_rules, rules_from
from pipeline.features.infer import RARE_ROWS
from pipeline.generators.constraints.kinds import would_break
from pipeline.generators.constraints.rules import columns_of, expression_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column

FEWEST = 50
"""People of whom both cells are known before an order or a dependence is believed."""
INFORMATIVE = 0.01
"""Share of rows that would break an order were its columns independent: below it the order says nothing."""
BY_CHANCE = 1e-6
"""Chance with which rows drawn at random would keep a rule: above it nothing is suggested."""
MOST_CODES = 200


@dataclass(frozen=True)
class Suggestion:
    """A rule and what it rests on.

    Attributes:
        rule: The rule.
        people: Subjects whose rows could have broken it.
        why: In words, with shares and counts but no values.
    """

    rule: ConstraintSpec
    people: int
    why: str


def suggestions(train: Cohort) -> list[Suggestion]:
    """The rules that training rows keep, by kind; see this module."""
    from pipeline.generators.constraints.suggest_formulas import formulas

    found = formulas(train)
    rules = [s.rule for s in found if isinstance(s.rule, Derivation | Sum)]
    computed = {rule.target for rule in rules}
    within = [{rule.target, *expression_of(rule, train.schema).columns} for rule in rules]
    # That a part is at most the whole follows from the sum.
    ordered = [s for s in orders(train) if not any(set(columns_of(s.rule, train.schema)) <= names for names in within)]
    every = [*ordered, *found, *dependences(train, computed), *families(train), *sex_specific(train)]
    once: dict[str, Suggestion] = {}
    for one in every:
        once.setdefault(str(one.rule), one)
    return list(once.values())


def as_yaml(found: Sequence[Suggestion]) -> str:
    """Suggestions as the section `constraints:` of a cohort's file, each with a comment."""
    import json

    lines = ["constraints:"] if found else []
    for one in found:
        (plain,) = plain_rules([one.rule])
        lines += [f"  # {one.people:,} people; {one.why}", f"  - {json.dumps(plain, ensure_ascii=False)}"]
    return "\n".join(lines) + ("\n" if lines else "")


# ---- orders


def orders(train: Cohort) -> list[Suggestion]:
    """Chains of numbers of one unit, and of dates, of which none is ever above the next."""
    people = _people(train)
    pairs: dict[tuple[str, str], tuple[int, float]] = {}
    columns = [c for c in train.schema.modelled() if c.numeric]
    values = {c.name: train.values(c.name) for c in columns}
    for low in columns:
        for high in columns:
            if low.name == high.name or (low.kind == "datetime") != (high.kind == "datetime") or low.unit != high.unit:
                continue
            a, b = values[low.name], values[high.name]
            known = ~np.isnan(a) & ~np.isnan(b)
            carriers = len(np.unique(people[known]))
            if carriers < FEWEST or (a[known] > b[known]).any() or (a[known] == b[known]).all():
                continue
            chance = would_break(a[known], b[known])
            apart = len(np.unique(people[known & (a != b)]))
            if chance >= INFORMATIVE and apart >= RARE_ROWS:
                pairs[low.name, high.name] = (carriers, chance)
    return [_chain(chain, pairs) for chain in _chains(set(pairs))]


def _chain(chain: list[str], pairs: dict[tuple[str, str], tuple[int, float]]) -> Suggestion:
    links = [pairs[pair] for pair in itertools.pairwise(chain)]
    written = {"left": chain[0], "op": "<=", "right": chain[1]} if len(chain) == 2 else {"order": chain}
    return Suggestion(
        rules_from([written])[0],
        min(people for people, _ in links),
        f"broken by none; by {min(chance for _, chance in links):.0%} of rows or more were the columns independent",
    )


def _chains(pairs: set[tuple[str, str]]) -> list[list[str]]:
    """Pairs that follow from no others, joined to chains; each pair in one chain."""
    links = {(a, b) for a, b in pairs if not any((a, m) in pairs and (m, b) in pairs for m in {x for _, x in pairs})}
    left, chains = sorted(links), []
    while left:
        chain = list(left.pop(0))
        while (step := next((pair for pair in left if pair[0] == chain[-1]), None)) is not None:
            left.remove(step)
            chain.append(step[1])
        while (step := next((pair for pair in left if pair[1] == chain[0]), None)) is not None:
            left.remove(step)
            chain.insert(0, step[0])
        chains.append(chain)
    return chains


# ---- combinations


def dependences(train: Cohort, computed: set[str]) -> list[Suggestion]:
    """Discrete columns whose level says that of another: fixed combinations, and yes that comes with yes only."""
    people = _people(train)
    columns = [c for c in train.schema.modelled() if c.discrete and c.name not in computed]
    found: list[Suggestion] = []
    for finer in columns:
        for coarser in columns:
            if finer.name == coarser.name:
                continue
            both = (train.codes(finer.name) >= 0) & (train.codes(coarser.name) >= 0)
            a, b = train.codes(finer.name)[both], train.codes(coarser.name)[both]
            carriers = len(np.unique(people[both]))
            if carriers < FEWEST:
                continue
            if finer.kind == coarser.kind == "binary":
                found += _implied(finer, coarser, a, b, people[both])
            elif (chance := _by_chance(a, b, people[both])) is not None:
                mirrored = any(s.rule == rules_from([{"combinations": [coarser.name, finer.name]}])[0] for s in found)
                if chance < BY_CHANCE and not mirrored:
                    rule = rules_from([{"combinations": [finer.name, coarser.name]}])[0]
                    found.append(Suggestion(rule, carriers, f"'{finer.name}' says '{coarser.name}' in every row"))
    return found


def _implied(
    finer: Column, coarser: Column, a: NDArray[np.int64], b: NDArray[np.int64], people: NDArray[np.int64]
) -> list[Suggestion]:
    """A yes of `finer` that only those have who have a yes of `coarser`."""
    yes, base = a == len(finer.levels or []) - 1, b == len(coarser.levels or []) - 1
    carriers = len(np.unique(people[yes]))
    if carriers < RARE_ROWS or not base[yes].all() or base.mean() ** carriers > BY_CHANCE:
        return []
    if any(isinstance(level, str) for column in (finer, coarser) for level in column.levels or []):
        # Text has no order in which a yes is the larger: the rule names the level.
        (rule,) = rules_from([{"codes": {"column": finer.name, "only": {coarser.name: (coarser.levels or [])[-1]}}}])
        words = (
            f"all with the last level of {finer.name} have the last one of {coarser.name}, as {base.mean():.0%} of all"
        )
        return [Suggestion(rule, carriers, words)]
    rule = rules_from([{"left": finer.name, "op": "<=", "right": coarser.name}])[0]
    return [
        Suggestion(rule, carriers, f"everybody with {finer.name} has {coarser.name}, as {base.mean():.0%} of all have")
    ]


def _by_chance(a: NDArray[np.int64], b: NDArray[np.int64], people: NDArray[np.int64]) -> float | None:
    """The chance of levels `a` saying levels `b` if they were independent; None where they do not, or too few do."""
    share = np.bincount(b) / len(b)
    logarithm, firm = 0.0, set()
    for level in np.unique(a):
        mine = a == level
        if len(np.unique(b[mine])) > 1:
            return None
        carriers = len(np.unique(people[mine]))
        if carriers >= RARE_ROWS:
            firm.add(int(b[mine][0]))
            logarithm += (carriers - 1) * float(np.log(share[b[mine][0]]))
    return float(np.exp(logarithm)) if len(firm) > 1 else None


# ---- flags of which at most one is yes


def families(train: Cohort) -> list[Suggestion]:
    """Binary columns that exclude each other far beyond chance; exactly one of them where every row has one."""
    columns = [c for c in train.schema.modelled() if c.kind == "binary" and len(c.levels or []) == 2]
    yes = {c.name: train.codes(c.name) == 1 for c in columns}
    people = _people(train)
    names = [n for n in yes if len(np.unique(people[yes[n]])) >= RARE_ROWS]
    apart = {
        (a, b)
        for a in names
        for b in names
        if a != b and not (yes[a] & yes[b]).any() and yes[a].mean() * yes[b].mean() * len(people) > -np.log(BY_CHANCE)
    }
    found, used = [], set()
    for name in names:
        if name in used:
            continue
        family = [name]
        for other in names:
            if other not in used and all((member, other) in apart for member in family):
                family.append(other)
        if len(family) < 3:
            continue
        used |= set(family)
        every = np.sum([yes[n] for n in family], axis=0) == 1
        rule = rules_from([{"one_hot" if every.all() else "exclusive": family}])[0]
        carriers = len(np.unique(people[np.any([yes[n] for n in family], axis=0)]))
        found.append(Suggestion(rule, carriers, "no two of them are ever yes together"))
    return found


# ---- codes of one sex


def sex_specific(train: Cohort) -> list[Suggestion]:
    """Codes, and yes of binary columns, that one sex alone has: none of many carriers is of the other."""
    from scipy.stats import binom

    found: list[Suggestion] = []
    people = _people(train)
    for column in train.schema.modelled():
        if not column.discrete or not {"sex", "gender"} & set(re.split(r"[^a-z]+", column.name.lower())):
            continue
        codes = train.codes(column.name)
        for place, level in enumerate(column.levels or []):
            mine, known = codes == place, codes >= 0
            base = float(mine.sum() / max(1, known.sum()))

            def only(
                carriers: NDArray[np.bool_],
                mine: NDArray[np.bool_] = mine,
                known: NDArray[np.bool_] = known,
                base: float = base,
            ) -> int:
                """People who have it and are of this sex; 0 where another has it, or it may be chance."""
                if (carriers & known & ~mine).any():
                    return 0
                count = len(np.unique(people[carriers & mine]))
                return count if count >= FEWEST and binom.sf(count - 1, count, base) < BY_CHANCE else 0

            for block in train.schema.blocks:
                matrix = train.blocks[block.name].tocsc()
                carried = {
                    code: count
                    for j, code in enumerate(block.vocabulary)
                    if (count := only(np.asarray((matrix[:, j] != 0).todense()).ravel()))
                }
                if carried:
                    chosen = sorted(carried, key=lambda code: -carried[code])[:MOST_CODES]
                    written = {"block": block.name, "codes": sorted(chosen), "only": {column.name: level}}
                    why = f"none of the carriers of these {len(chosen)} codes has another {column.name}"
                    found.append(Suggestion(rules_from([{"codes": written}])[0], min(carried.values()), why))
            for other in train.schema.modelled():
                if other.kind == "binary" and other.name != column.name and len(other.levels or []) == 2:
                    count = only(train.codes(other.name) == 1)
                    if count:
                        written = {"column": other.name, "only": {column.name: level}}
                        why = f"nobody with another {column.name} has it"
                        found.append(Suggestion(rules_from([{"codes": written}])[0], count, why))
    return found


def _people(train: Cohort) -> NDArray[np.int64]:
    """(n,) a number for each row's subject."""
    return np.unique(train.subject, return_inverse=True)[1].astype(np.int64)
