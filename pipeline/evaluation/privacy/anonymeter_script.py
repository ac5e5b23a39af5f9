"""Run by the python of anonymeter's own environment: `python anonymeter_script.py FOLDER`.

Reads FOLDER/request.json and the Parquet files train, holdout and synthetic, runs anonymeter's attacks, and writes
FOLDER/result.json. It imports nothing of CohortLoom, whose dependencies that environment does not have. Numbers, never
rows, go into the result; of an error only its type, since its text may show a record.
"""

from __future__ import annotations

import json
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def outcome(evaluator: Any, **how: Any) -> dict[str, Any]:
    """Risk with its interval, and the success rates of the attack, of guessing and on the control rows."""
    risk, found = evaluator.risk(confidence_level=0.95, **how), evaluator.results(confidence_level=0.95, **how)
    return {
        "risk": [float(risk.value), float(risk.ci[0]), float(risk.ci[1])],
        "attack": float(found.attack_rate.value),
        "naive": float(found.baseline_rate.value),
        "control": float(found.control_rate.value),
    }


def tried(make: Any) -> dict[str, Any]:
    """What an attack gives, or the type of its error."""
    try:
        return make()
    except Exception as error:
        return {"error": type(error).__name__}


def main(folder: Path) -> None:
    """All attacks that the request asks for."""
    np, pd = import_module("numpy"), import_module("pandas")
    attacks = import_module("anonymeter.evaluators")
    request = json.loads((folder / "request.json").read_text())
    # Only singling-out takes a seed; the two others draw from the global generators.
    random.seed(request["seed"])
    np.random.seed(request["seed"])
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("train", "holdout", "synthetic")}
    parts = {"ori": frames["train"], "syn": frames["synthetic"], "control": frames["holdout"]}
    n = request["attacks"]

    def single(mode: str) -> dict[str, Any]:
        evaluator = attacks.SinglingOutEvaluator(
            **parts, n_attacks=n, n_cols=3, max_attempts=100 * n, seed=request["seed"]
        )
        return outcome(evaluator.evaluate(mode=mode))

    def link(neighbours: int) -> dict[str, Any]:
        evaluator = attacks.LinkabilityEvaluator(
            **parts, n_attacks=n, aux_cols=tuple(request["link"]), n_neighbors=neighbours
        )
        return outcome(evaluator.evaluate(n_jobs=1), n_neighbors=neighbours)

    def infer(secret: dict[str, Any]) -> dict[str, Any]:
        # Without regression=True a number counts as guessed only where it is exactly equal.
        evaluator = attacks.InferenceEvaluator(
            **parts, n_attacks=n, aux_cols=request["known"], secret=secret["name"], regression=secret["number"]
        )
        return outcome(evaluator.evaluate(n_jobs=1))

    result: dict[str, Any] = {
        "so_uni": tried(lambda: single("univariate")),
        "so_multi": tried(lambda: single("multivariate")),
        "link": {str(k): tried(lambda k=k: link(k)) for k in (1, 5)} if all(request["link"]) else {},
        "inf": {s["name"]: tried(lambda s=s: infer(s)) for s in request["secrets"]} if request["known"] else {},
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
