"""One generator in a process of its own: `by_us.py NAME SEED ROWS DRAWN OUT.npz SETTINGS.json` (ROWS 0: all).

Prints seconds and memory as one JSON line, as the processes of `benchmarks/support.py` do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from supporting.alone import told

from coded.rows import BLOCK, split_codes


def main(name: str, seed: int, rows: int, drawn: int, out: str, settings: str) -> None:
    """Fit on the training rows, draw into `out`."""
    from scipy.sparse import save_npz

    from pipeline.generators.registry import generator_class
    from pipeline.workflow.compute import Compute

    Compute(threads=1).bind()
    train = split_codes(rows or None).train
    model = generator_class(name)(json.loads(settings))
    told(
        lambda: model.fit(train, seed=seed, device="auto"),
        lambda: save_npz(out, model.sample(drawn or train.n_rows, seed=seed).blocks[BLOCK]),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6])
