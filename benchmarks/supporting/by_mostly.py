"""TabularARGN of mostlyai-engine in its own environment: `by_mostly.py SEED TRAIN.parquet OUT.parquet`.

Called as a black box by `benchmarks/support.py`; prints one JSON line with seconds of the fit and the draw.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from alone import told


def main(seed: int, train: str, out: str) -> None:
    """Fit on the rows of `train`, draw as many into `out`."""
    warnings.simplefilter("ignore")
    import pandas as pd
    from mostlyai.engine import TabularARGN

    rows = pd.read_parquet(train)
    model = TabularARGN(verbose=0, random_state=seed, device="cpu")

    def draw() -> None:
        model.sample(n_samples=len(rows)).to_parquet(out)

    told(lambda: model.fit(rows), draw)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
