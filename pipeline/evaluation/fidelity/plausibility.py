"""Clinical plausibility: how many synthetic rows break a rule that real rows keep to?

The rules are those of the cohort's file and those mined from the training rows (`rules.py`, `mined_rules.py`). Real
rows break rules too, so that what counts is the excess over the holdout. The headline is about rows (share of rows
that break any rule): an average over checks would be thinned out by every rule that cannot well be broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.fidelity.mined_rules import mine
from pipeline.evaluation.fidelity.rules import Rows, curated
from pipeline.evaluation.intervals import Z95, newcombe, wilson
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.fidelity.rules import Judged, Rule
    from pipeline.evaluation.results import MetricResult

SMALL = 11
EXAMPLES = 3
SHOWN = 20
CKV = MetricSpec(
    id="ehr.ckv",
    family="fidelity",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Rows that break a clinical rule, beyond real ones",
    caption="Share of synthetic rows that break at least one clinical rule (of those in which one can be broken), minus "
    "the same share of the holdout. Lower is better; the null is 0, what real rows do.",
    source="clinical knowledge violation, Yan 2022, with curated and mined rules and the real rate subtracted",
)


@dataclass(frozen=True)
class Share:
    """A share of rows by subject.

    Attributes:
        broken: Rows that break.
        can: Rows that could.
        worth: How many independent rows `can` is worth, given that several may be one subject's.
    """

    broken: int
    can: int
    worth: float

    @property
    def rate(self) -> float:
        """Broken over can; NaN if none can."""
        return self.broken / self.can if self.can else float("nan")

    @property
    def hidden(self) -> bool:
        """True of a count of real rows that must not be shown."""
        return 0 < self.broken < SMALL or 0 < self.can < SMALL


@dataclass(frozen=True)
class Outcome:
    """All rules on one side.

    Attributes:
        rules: Of each rule.
        rows: Of rows: any rule broken, of those in which any can be.
        checks: Of single checks: all rules' counts added up.
    """

    rules: list[Share]
    rows: Share
    checks: Share


@metric(CKV, floor="ref_marginal")
def ckv(ctx: EvaluationContext) -> list[MetricResult]:
    """Excess over the holdout of rows (headline), of single checks, of the worst rule, and of each rule."""
    rules, unread = _rules(ctx.sides)
    lacking = [CKV.not_applicable(note, scope="column", key1=name, null=0.0) for name, note in unread.items()]
    if not rules:
        return [CKV.not_applicable("no clinical rule is declared or could be mined"), *lacking]
    real = ctx.sides.once("ckv/holdout", lambda: _holdout(ctx.sides, rules))
    rows = Rows(ctx.synthetic)
    judged = [rule.judge(rows) for rule in rules]
    made = outcome(judged, ctx.synthetic)
    each = [_one(rule.name, a, b) for rule, a, b in zip(rules, made.rules, real.rules, strict=True)]
    excess = [(row[0].value, rule.name) for rule, row in zip(rules, each, strict=True) if row[0].value is not None]
    worst = max(excess, default=None)
    if ctx.with_plots:
        ctx.plots["plausibility"] = _plot(rules, made, real)
        ctx.internal["violations"] = _examples(ctx.synthetic, rules, judged, made)
    found = [_excess(made.rows, real.rows, key1="", what="row")]
    found.append(_excess(made.checks, real.checks, key1="checks", what="check"))
    if worst is not None:
        mined = any(rule.name == worst[1] and rule.origin == "mined" for rule in rules)
        named = worst[1] + (" (mined from the training rows, not declared)" if mined else "")
        found.append(CKV.result(worst[0], n=len(rules), key1="worst", note=named))
    return [*found, *(row for group in each for row in group), *lacking]


def outcome(judged: Sequence[Judged], side: Side) -> Outcome:
    """The counts of all rules on a side."""
    n = len(side)
    any_can, any_broken = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    can_times, broken_times = np.zeros(n), np.zeros(n)
    for rule in judged:
        any_can |= rule.can
        any_broken |= rule.broken
        can_times += rule.can
        broken_times += rule.broken
    return Outcome(
        [share(r.broken, r.can, side.clusters) for r in judged],
        share(any_broken, any_can, side.clusters),
        share(broken_times, can_times, side.clusters),
    )


def share(broken: NDArray[Any], can: NDArray[Any], clusters: NDArray[np.int64]) -> Share:
    """Counts with the number of independent rows that they are worth: rate (1 - rate) over the variance by subject.

    Where nothing (or everything) is broken no variance can be seen: each subject then counts once.
    """
    hit, chance = float(broken.sum()), float(can.sum())
    if not chance:
        return Share(0, 0, 0.0)
    rate = hit / chance
    subjects = np.bincount(clusters, weights=can)
    most = float((subjects > 0).sum())
    if 0 < rate < 1:
        residual = np.bincount(clusters, weights=broken - rate * can)
        variance = float((residual**2).sum()) / chance**2
        most = min(rate * (1 - rate) / variance, chance) if variance > 0 else most
    return Share(int(hit), int(chance), most)


def _rules(sides: RealSides) -> tuple[list[Rule], dict[str, str]]:
    """The rules that can be asked, curated first, and why others cannot."""

    def make() -> tuple[list[Rule], dict[str, str]]:
        found: list[Rule] = []
        unread: dict[str, str] = {}
        for spec in sides.plan.rules:
            try:
                found.append(curated(spec, sides.encoder))
            except ConfigError as error:
                unread[spec.name] = error.what
        return [*found, *mine(sides.train)], unread

    return sides.once("ckv/rules", make)


def _holdout(sides: RealSides, rules: Sequence[Rule]) -> Outcome:
    rows = Rows(sides.holdout)
    return outcome([rule.judge(rows) for rule in rules], sides.holdout)


def _excess(made: Share, real: Share, *, key1: str, what: str) -> MetricResult:
    if not made.can or not real.can:
        whose = "synthetic" if not made.can else "holdout"
        return CKV.result(None, null=0.0, key1=key1, note=f"there is no {whose} row in which a rule can be broken")
    low, high = newcombe(made.rate, made.worth, real.rate, real.worth)
    return CKV.result(
        made.rate - real.rate,
        interval=(max(low, -1.0), min(high, 1.0)),
        se=(high - low) / (2 * Z95),
        n=made.can,
        null=0.0,
        key1=key1,
        note=f"{made.broken:,} of {made.can:,} synthetic {what}s",
    )


def _one(name: str, made: Share, real: Share) -> list[MetricResult]:
    """Excess, synthetic rate and real rate of a rule; what would tell a small count of real rows is left out."""
    excess = _excess(made, real, key1=name, what="row")
    hidden = real.hidden or not real.can
    why = f"fewer than {SMALL} real rows" if real.can else "no holdout row in which it can be broken"
    low, high = wilson(made.rate, made.worth) if made.can else (0.0, 0.0)
    synthetic = (
        CKV.result(made.rate, interval=(low, high), se=(high - low) / (2 * Z95), n=made.can, scope="column", key1=name, key2="synthetic")
        if made.can
        else CKV.result(None, scope="column", key1=name, key2="synthetic", note="no row in which it can be broken")
    )  # fmt: skip
    return [
        CKV.result(None, null=0.0, scope="column", key1=name, note=why)
        if hidden
        else CKV.result(
            excess.value,
            interval=None if excess.ci_lo is None or excess.ci_hi is None else (excess.ci_lo, excess.ci_hi),
            se=excess.se, n=excess.n, null=0.0, scope="column", key1=name, note=excess.note,
        ),
        synthetic,
        CKV.result(None if hidden else real.rate, n=None if hidden else real.can, scope="column", key1=name,
                   key2="real", note=why if hidden else ""),
    ]  # fmt: skip


def _plot(rules: Sequence[Rule], made: Outcome, real: Outcome) -> dict[str, Any]:
    """The SHOWN rules that synthetic rows break most often; the real rate is None where the count is small."""
    found = []
    for rule, a, b in zip(rules, made.rules, real.rules, strict=True):
        if not a.can:
            continue
        low, high = wilson(a.rate, a.worth)
        found.append(
            {
                "name": rule.name,
                "origin": rule.origin,
                "synthetic": round(a.rate, 6),
                "lo": round(low, 6),
                "hi": round(high, 6),
                "rows": a.can,
                "broken": a.broken,
                "real": None if b.hidden or not b.can else round(b.rate, 6),
                "real_small": b.hidden,
            }
        )
    found.sort(key=lambda r: (-r["synthetic"], r["name"]))  # type: ignore[operator]
    return {
        "rules": found[:SHOWN],
        "left_out": max(len(found) - SHOWN, 0),
        "curated": sum(r.origin == "curated" for r in rules),
        "mined": sum(r.origin == "mined" for r in rules),
        "rows_broken": made.rows.broken,
        "rows": made.rows.can,
    }


def _examples(side: Side, rules: Sequence[Rule], judged: Sequence[Judged], made: Outcome) -> list[dict[str, Any]]:
    """For the rules broken most often, the cells of a few synthetic rows that the rule looks at."""
    order = sorted(range(len(rules)), key=lambda i: (-made.rules[i].broken, rules[i].name))
    found = []
    for i in order[:SHOWN]:
        if not made.rules[i].broken:
            break
        shown = np.flatnonzero(judged[i].broken)[:EXAMPLES]
        found += [{"rule": rules[i].name, "cells": _cells(side, rules[i], int(row))} for row in shown]
    return found


def _cells(side: Side, rule: Rule, row: int) -> str:
    """What a synthetic row has in the columns and codes that a rule looks at."""
    columns = {c.name: c for c in side.encoder.columns}
    parts = []
    for name in rule.columns:
        if name in side.values:
            value = side.values[name][row]
            parts.append(f"{name} missing" if np.isnan(value) else f"{name} {value:.4g}")
        else:
            code, levels = int(side.codes[name][row]), columns[name].levels or []
            parts.append(f"{name} {levels[code] if code >= 0 else ('missing' if code == -1 else 'no level')}")
    vocabularies = {b.name: b.vocabulary for b in side.encoder.blocks}
    carried = {block: set(side.presence[block][row].indices.tolist()) for block in {b for b, _ in rule.codes}}
    parts += [f"{block} {vocabularies[block][j]}" for block, j in rule.codes if j in carried[block]][:5]
    return ", ".join(parts)
