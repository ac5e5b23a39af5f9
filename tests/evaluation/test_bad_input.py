"""Every metric on tables and plans that are odd, broken or too small: a number that holds, or a reason in words.

What the metrics say of sound tables is in the other modules; the odd tables and plans are in `bad_tables.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from bad_tables import BLOCKS, CODES, FULL, REAL, SHAPES, SYNTHETIC, alone, analysis, first, in_parts, with_a_rare_ward
from toy_people import coded, edited, people

from pipeline.evaluation.aggregates import aggregates
from pipeline.evaluation.context import PROFILES, EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, pooled
from pipeline.evaluation.registry import find_metric, metric_ids
from pipeline.evaluation.results import MetricResult
from pipeline.features.cohort import Cohort
from pipeline.features.evaluation_spec import Condition, RuleSpec, TaskSpec

STATISTICS = {"mean_real", "mean_synthetic", "above_chance", "pearson", "spearman", "slope", "share learnt"}
"""Statistics beside a headline whose range is not the metric's."""


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(
        with_a_rare_ward(people(300, 1)), with_a_rare_ward(people(240, 2)), people(140, 3), people(140, 4)
    )  # fmt: skip


@pytest.fixture(scope="module")
def sides(parts: Parts) -> RealSides:
    return RealSides(parts, FULL)


@pytest.fixture(scope="module")
def made() -> Cohort:
    return people(260, 55, prefix="made")


@pytest.fixture(scope="module")
def block_sides() -> dict[str, RealSides]:
    """Real rows with a block of codes, with columns and without, present or counted."""
    given = [coded(n, seed, CODES) for seed, n in enumerate((300, 240, 140, 140), start=1)]
    rule = RuleSpec(name="pair", when=[Condition(block="diagnoses", codes=["C00*"])],
                    never=[Condition(block="diagnoses", codes=["C01*"])])  # fmt: skip
    whole = EvaluationPlan(tasks=(TaskSpec(name="ill", label="ill", positive=True),), protected=("ill",),
                           analyses=(analysis("ill", "logistic", "ill", "age"),), rules=(rule,), profile="quick")  # fmt: skip
    return {
        name: RealSides(Parts(*map(shape, given)), EvaluationPlan(rules=(rule,), profile="quick") if shape is alone else whole)
        for name, shape in SHAPES.items()
    }  # fmt: skip


def own_values(*cohorts: Cohort) -> set[str]:
    """Numbers of the cells that nothing else is by chance: two digits and four decimals."""
    columns = [x for c in cohorts for x in c.table.columns if x.type == pa.float64()]
    told = {f"{v:.4f}" for x in columns for v in x.to_pylist() if v is not None and 10 <= v < 1e6}
    return {t for t in told if not t.endswith("0")}


def rare_names(train: Cohort) -> list[str]:
    """Levels and codes that fewer than 11 training rows carry, as patterns."""
    found = []
    if "ward" in train.table.column_names:
        ward = train.table.column("ward").to_pylist()
        found += [rf"ward(?:/| = ){level}\b" for level in "abcd" if 0 < ward.count(level) < 11]
    for matrix in train.blocks.values():
        carried = np.asarray((matrix != 0).sum(axis=0)).ravel()
        found += [rf"\bC{i:03d}\b" for i in np.flatnonzero(carried < 11)]
    return found


def complaints(row: MetricResult, secrets: set[str], rare: re.Pattern[str] | None) -> list[str]:
    """Everything that is wrong with a row."""
    wrong = []
    low, high = (-np.inf, np.inf) if {row.key1, row.key2} & STATISTICS else find_metric(row.metric).spec.range
    numbers = {
        "value": row.value,
        "ci_lo": row.ci_lo,
        "ci_hi": row.ci_hi,
        "se": row.se,
        "null": row.null_value,
        "score": row.score,
    }
    wrong += [f"{name} is {x}" for name, x in numbers.items() if x is not None and not np.isfinite(x)]
    if row.value is None:
        if len(row.note) < 8 or row.note == "not estimable":
            wrong.append("no reason")
        if row.ci_lo is not None or row.se is not None or row.draws is not None:
            wrong.append("an interval of nothing")
    else:
        ends = (row.value if row.ci_lo is None else row.ci_lo, row.value, row.value if row.ci_hi is None else row.ci_hi)
        if not low - 1e-9 <= ends[0] <= ends[1] + 1e-9 or not ends[1] <= ends[2] + 1e-9 <= high + 2e-9:
            wrong.append(f"{ends} out of order or of {low, high}")
    if (row.ci_lo is None) != (row.ci_hi is None):
        wrong.append("half an interval")
    if row.draws is not None and not np.isfinite(row.draws).all():
        wrong.append("draws that are no number")
    if (row.n_needed is not None) != row.note.startswith("underpowered"):
        wrong.append(f"{row.n_needed} needed, but it says")
    if row.n_needed is not None and (row.n is None or row.n >= row.n_needed):
        wrong.append(f"{row.n} are there, but {row.n_needed} needed")
    said = " ".join((row.note, row.key1, row.key2))
    if len(row.note) > 260 or not said.isprintable() or re.search(r"\bnan\b|\binf\b|Error\b|Traceback", row.note):
        wrong.append("not words for people")
    if re.search(r"(person|coded|made)-\d|elsewhere|SECRET", said) or (rare and rare.search(said)):
        wrong.append("tells a name")
    if secrets & set(re.findall(r"\d+\.\d{4}\b", said)):
        wrong.append("tells a value")
    return [f"{row.metric} [{row.key1}|{row.key2}] {what}: {row.note!r}" for what in wrong]


def judged(sides: RealSides, cohort: Cohort, ids: list[str] | None = None) -> list[MetricResult]:
    """All rows of all metrics; fails with a list of everything that is wrong, one metric's crash hiding no other's."""
    ctx = EvaluationContext(sides, synthetic_side(sides, cohort), with_plots=True)
    secrets = own_values(*vars(sides.parts).values(), cohort)
    names = rare_names(sides.parts.train)
    rare = re.compile("|".join(names)) if names else None
    costs = PROFILES["quick"].costs
    rows: list[MetricResult] = []
    wrong: list[str] = []
    for name in ids or [m for m in metric_ids() if find_metric(m).spec.cost in costs]:
        try:
            found = compute(ctx, [name])
        except Exception as error:
            wrong.append(f"{name} raises {type(error).__name__}: {error}")
            continue
        keys = [(r.scope, r.key1, r.key2) for r in found]
        if not found or len(set(keys)) < len(keys):
            wrong.append(f"{name} gives {len(keys)} rows under {len(set(keys))} keys")
        rows += found
    both = pooled([*rows, *(replace(row, replicate=1) for row in rows)])
    wrong += [c for row in (*rows, *both) for c in complaints(row, secrets, rare)]
    json.dumps([ctx.plots, ctx.internal, aggregates(ctx)], allow_nan=False)
    assert not wrong, "\n".join(wrong)
    return both


@pytest.mark.parametrize("name", SYNTHETIC)
def test_bad_synthetic_rows_give_numbers_or_reasons(sides: RealSides, made: Cohort, name: str) -> None:
    judged(sides, SYNTHETIC[name](made))


@pytest.mark.parametrize("name", REAL)
def test_bad_real_rows_and_odd_plans_give_numbers_or_reasons(parts: Parts, made: Cohort, name: str) -> None:
    change, plan = REAL[name]
    judged(RealSides(change(parts), plan), made)


@pytest.mark.parametrize(
    ("shape", "name"),
    [("columns and codes", name) for name in BLOCKS]
    + [(shape, name) for shape in ("codes alone", "counts") for name in ("sound", "empty", "two rows")],
)
def test_bad_codes_give_numbers_or_reasons(block_sides: dict[str, RealSides], shape: str, name: str) -> None:
    judged(block_sides[shape], BLOCKS[name](SHAPES[shape](coded(260, 55, CODES))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sound", "nonsense in every cell", "thirty rows", "one row", "a label of one class"])
def test_costly_metrics_give_numbers_or_reasons(sides: RealSides, made: Cohort, name: str) -> None:
    """All that only the profiles beyond quick compute."""
    costly = [m for m in metric_ids() if find_metric(m).spec.cost not in PROFILES["quick"].costs]
    judged(sides, SYNTHETIC.get(name, lambda c: c)(made), costly)


def statuses(rows: list[MetricResult], prefixes: tuple[str, ...]) -> set[str]:
    return {r.status for r in rows if r.metric.startswith(prefixes)}


def test_what_nobody_asked_for_does_not_apply(parts: Parts, made: Cohort) -> None:
    """A gate must skip it: no task, no group, no analysis, no code block."""
    rows = judged(RealSides(parts, EvaluationPlan(profile="quick")), made)
    asked = (
        "util.tstr_auroc",
        "util.ratio",
        "util.calibration_slope",
        "util.brier",
        "util.sra",
        "util.inference.",
        "util.km",
    )
    for prefix in (*asked, "fair.", "ehr.prev", "ehr.code", "ehr.abundance"):
        assert statuses(rows, (prefix,)) <= {"not_applicable"}, prefix


def test_too_few_rows_are_underpowered_with_the_number_needed(parts: Parts, made: Cohort) -> None:
    tiny = RealSides(replace(parts, holdout=first(parts.holdout, 5)), FULL)
    rows = judged(tiny, made)
    small = ("util.tstr_auroc", "util.ratio", "util.calibration_slope", "fair.gap.auroc", "fair.worst_group")
    for prefix in (*small, "fid.joint.detect_auc", "fid.joint.frechet", "priv.mia.tpr_at_1pct_fpr", "fair.ldss"):
        assert statuses(rows, (prefix,)) == {"underpowered"}, prefix


def test_a_broken_synthetic_table_is_no_matter_of_rows(sides: RealSides, made: Cohort) -> None:
    """More people would not help a generator that gives everybody the same label."""
    for name in ("a label without a value", "a label of one class", "constant"):
        rows = judged(sides, SYNTHETIC[name](made))
        assert next(r for r in rows if r.metric == "util.ratio" and not r.key2).value == 0, name


def test_a_reason_is_pooled_as_what_is_wrong_first(sides: RealSides) -> None:
    spec = find_metric("fid.joint.detect_auc").spec
    few, more, broken = (
        spec.underpowered(5, 40, "rows"),
        spec.underpowered(9, 80, "rows"),
        spec.result(None, note="empty"),
    )
    assert pooled([few, more])[0].n_needed == 80
    assert pooled([few, broken])[0].status == "not_estimable"
    assert pooled([few, broken])[0].note == "empty"


def renamed(cohort: Cohort) -> Cohort:
    """The wards by other names."""
    columns = [
        c.model_copy(update={"levels": [f"{x}x" for x in c.levels or []]}) if c.name == "ward" else c
        for c in cohort.schema.columns
    ]
    cells = [None if v is None else f"{v}x" for v in cohort.table.column("ward").to_pylist()]
    told = edited(cohort, lambda n, x: pa.array(cells, pa.string()) if n == "ward" else x)
    return replace(told, schema=cohort.schema.model_copy(update={"columns": columns}))


def turned(cohort: Cohort) -> Cohort:
    """Rows in another order, columns the other way round."""
    mixed = cohort.take(np.random.default_rng(cohort.n_rows).permutation(cohort.n_rows))
    schema = mixed.schema.model_copy(update={"columns": mixed.schema.columns[::-1]})
    return replace(mixed, table=mixed.table.select(schema.names), schema=schema)


def test_order_and_names_do_not_matter(parts: Parts, sides: RealSides, made: Cohort) -> None:
    plain = judged(sides, made)
    assert judged(RealSides(in_parts(turned)(parts), FULL), turned(made)) == plain
    named = judged(RealSides(in_parts(renamed)(parts), FULL), renamed(made))

    def back(row: MetricResult) -> MetricResult:
        return replace(row, **{k: re.sub(r"\b([a-d])x\b", r"\1", getattr(row, k)) for k in ("key1", "key2", "note")})

    assert [back(row) for row in named] == plain
