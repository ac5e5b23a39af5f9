"""One of our generators in a process of its own: `by_us.py NAME SEED OUT.parquet SETTINGS.json`.

The counterpart of `by_sdv.py` and `by_mostly.py`: the same rows, the same JSON line.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from supporting.alone import told
from supporting.rows import plain, split_support


def main(name: str, seed: int, out: str, settings: str) -> None:
    """Fit on the training rows, draw as many into `out`."""
    # SDV's package loads what its trainings need when it is imported, before the clock starts; ours when it is needed.
    for needed in ("sklearn.mixture", "sklearn.tree"):
        import_module(needed)

    from pipeline.generators.registry import generator_class
    from pipeline.workflow.compute import Compute

    Compute().bind()
    train = split_support().train
    model = generator_class(name)(json.loads(settings))
    told(
        lambda: model.fit(train, seed=seed, device="cpu"),
        lambda: plain(model.sample(train.n_rows, seed=seed)).to_parquet(out),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
