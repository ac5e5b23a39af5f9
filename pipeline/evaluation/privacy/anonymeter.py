"""Singling out, linkability and inference (Giomi et al. 2023), by anonymeter itself in an environment of its own.

The attacks are the subject of a patent application (US-20230401336-A1), so there is no implementation of ours: where
`COHORTLOOM_ANONYMETER_PYTHON` names the python of an environment made from benchmarks/peers/anonymeter.txt, and the
profile is "full", that python runs `anonymeter_script.py` on temporary files that nobody else can read. Otherwise the
metrics are not estimable. They are never gated.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.privacy.secrets import known_to_attacker, secrets_of
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

PYTHON = "COHORTLOOM_ANONYMETER_PYTHON"
ATTACKS = 2_000
MOST_ROWS = 20_000
MOST_SECRETS = 8
SECONDS = 4 * 3600
NOT_CONFIGURED = (
    f"anonymeter's environment is not configured: set {PYTHON} to the python of an environment made from "
    "benchmarks/peers/anonymeter.txt"
)


def _spec(name: str, title: str, what: str) -> MetricSpec:
    return MetricSpec(
        id=f"priv.giomi.{name}",
        family="privacy",
        direction=-1,
        range=(0.0, 1.0),
        needs=frozenset({"T", "H", "S"}),
        version="1",
        title=title,
        caption=f"{what} Success on training people beyond the success on people outside training, by anonymeter "
        "(opt-in, in an environment of its own, never gated). Lower is better; the null is 0. A single figure of an attack "
        "that does no better than guessing is no evidence of safety.",
        source="Giomi et al. 2023 (PoPETs), anonymeter",
        cost="D",
    )


SO_UNI = _spec("so_uni", "Singling out by one attribute", "Finds a value that exactly one training person has.")
SO_MULTI = _spec("so_multi", "Singling out by three attributes", "Finds a combination that one training person has.")
LINK = _spec("link", "Linkability", "Tells that two sets of attributes belong to the same person.")
INF = _spec("inf", "Inference (anonymeter)", "Reads a secret off the nearest synthetic row; the worst secret.")


@metric(SO_UNI, floor="ref_train")
def so_uni(ctx: EvaluationContext) -> list[MetricResult]:
    """Singling out, univariate."""
    found, reason = _run(ctx)
    return [_row(SO_UNI, found.get("so_uni", {}), reason, ctx)]


@metric(SO_MULTI, floor="ref_train")
def so_multi(ctx: EvaluationContext) -> list[MetricResult]:
    """Singling out, conjunctions of three columns."""
    found, reason = _run(ctx)
    return [_row(SO_MULTI, found.get("so_multi", {}), reason, ctx)]


@metric(LINK, floor="ref_train")
def link(ctx: EvaluationContext) -> list[MetricResult]:
    """Linkability of two halves of the columns through one neighbour (headline) and five."""
    found, reason = _run(ctx)
    by_k = found.get("link", {})
    rows = [_row(LINK, by_k.get("1", {}), reason or "two sets of columns are needed", ctx)]
    return [*rows, *([_row(LINK, by_k["5"], reason, ctx, key1="5 neighbours")] if "5" in by_k else [])]


@metric(INF, floor="ref_train")
def inf(ctx: EvaluationContext) -> list[MetricResult]:
    """The secret of the greatest risk, and every secret."""
    found, reason = _run(ctx)
    secrets = found.get("inf", {})
    good = {name: given for name, given in secrets.items() if "risk" in given}
    if not good:
        return [_row(INF, {}, reason or "no secret could be attacked", ctx)]
    worst = max(good, key=lambda name: good[name]["risk"][0])
    head = _row(INF, good[worst], reason, ctx, said=f"worst of {len(good)} secrets: {worst}; ")
    return [head, *(_row(INF, given, reason, ctx, column=name) for name, given in secrets.items())]


def _row(
    spec: MetricSpec, given: dict[str, Any], reason: str, ctx: EvaluationContext, *, key1: str = "", column: str = "",
    said: str = "",
) -> MetricResult:  # fmt: skip
    where: dict[str, Any] = {"scope": "column" if column else "table", "key1": column or key1, "null": 0.0}
    if "risk" not in given:
        why = f"anonymeter gave up ({given['error']})" if "error" in given else reason
        return spec.result(None, note=why, **where)
    value, low, high = given["risk"]
    note = f"{said}success {given['attack']:.1%} on training people, {given['control']:.1%} on others"
    if given["attack"] <= given["naive"]:
        note += f"; no better than guessing ({given['naive']:.1%}), so this attack says nothing"
    return spec.result(value, interval=(low, high), n=_attacks(ctx), note=note, **where)


def _attacks(ctx: EvaluationContext) -> int:
    return min(ATTACKS, len(ctx.sides.train), len(ctx.sides.holdout))


def _run(ctx: EvaluationContext) -> tuple[dict[str, Any], str]:
    """What the script wrote, or nothing and the reason."""
    return ctx.once("disclosure/anonymeter", lambda: _started(ctx))


def _started(ctx: EvaluationContext) -> tuple[dict[str, Any], str]:
    import pyarrow.parquet as pq

    python = os.environ.get(PYTHON, "")
    if not python:
        return {}, NOT_CONFIGURED
    if not Path(python).is_file():
        return {}, f"{PYTHON} names no file"
    names = [c.name for c in ctx.sides.encoder.columns]
    secrets = [s for s in secrets_of(ctx.sides) if s.column is not None][:MOST_SECRETS]
    request = {
        "seed": ctx.plan.seed % 2**32,
        "attacks": _attacks(ctx),
        "known": [c.name for c in known_to_attacker(ctx.sides).columns],
        "link": [names[::2], names[1::2]],
        "secrets": [{"name": s.name, "number": s.column is not None and s.column.numeric} for s in secrets],
    }
    # A folder of `TemporaryDirectory` is 0700, and gone afterwards whatever happens.
    with TemporaryDirectory(prefix="cohortloom-anonymeter-") as place:
        folder = Path(place)
        (folder / "request.json").write_text(json.dumps(request))
        for name, part in (("train", "T"), ("holdout", "H"), ("synthetic", "S")):
            side: Side = ctx.synthetic if part == "S" else ctx.sides.side("T" if part == "T" else "H")
            # Singling out gets easier in a smaller table, so T and H must be equally large to be compared.
            most = MOST_ROWS if part == "S" else min(MOST_ROWS, len(ctx.sides.train), len(ctx.sides.holdout))
            rows = ctx.sides.sample(len(side), most, "anonymeter", part)
            pq.write_table(_frame(side, rows), folder / f"{name}.parquet")
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS")}
        script = Path(__file__).with_name("anonymeter_script.py")
        try:
            ended = subprocess.run(
                [python, "-I", str(script), str(folder)], env=kept, cwd=folder, timeout=SECONDS, check=False,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {}, f"anonymeter did not end within {SECONDS // 3600} hours"
        except OSError:
            return {}, f"{PYTHON} cannot be run"
        written = folder / "result.json"
        if ended.returncode != 0 or not written.is_file():
            return {}, f"anonymeter's environment failed (exit status {ended.returncode})"
        return json.loads(written.read_text()), ""


def _frame(side: Side, rows: NDArray[np.int64]) -> Any:
    """The columns as an Arrow table: levels as numbered texts, not by name. Code blocks are left out.

    Missing numbers are set to the training mean, since anonymeter has no distance for them.
    """
    import pyarrow as pa

    found: dict[str, Any] = {}
    for column in side.encoder.columns:
        if column.discrete:
            found[column.name] = pa.array([f"level {code}" for code in side.codes[column.name][rows]], type=pa.string())
        else:
            value = side.values[column.name][rows]
            found[column.name] = pa.array(np.where(np.isnan(value), side.encoder.numeric[column.name].mean, value))
    return pa.table(found)
