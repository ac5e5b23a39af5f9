"""A synthesizer of SDV in its own environment: `by_sdv.py NAME SEED TRAIN.parquet OUT.parquet [EPOCHS [ROWS]]`.

EPOCHS 0 are its default; ROWS are drawn, else as many as it learned from.

Called as a black box by `benchmarks/support.py`; prints one JSON line with seconds of the fit and the draw.
"""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from alone import told

if TYPE_CHECKING:
    import pandas as pd


def main(name: str, seed: int, train: str, out: str, epochs: int, drawn_rows: int) -> None:
    """Fit on the rows of `train`, draw `drawn_rows` into `out` (0: as many)."""
    warnings.simplefilter("ignore")
    import numpy as np
    import pandas as pd
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the peer draws from the global state)
    torch.manual_seed(seed)
    kinds: dict[str, Any] = {
        "gaussian_copula": GaussianCopulaSynthesizer,
        "tvae": TVAESynthesizer,
        "ctgan": CTGANSynthesizer,
    }
    rows = pd.read_parquet(train)
    metadata = Metadata.detect_from_dataframes({"rows": rows})
    options: dict[str, Any] = {} if name == "gaussian_copula" else {"enable_gpu": False}
    if epochs and name != "gaussian_copula":
        options["epochs"] = epochs
    model = kinds[name](metadata, **options)

    def draw() -> None:
        drawn: dict[str, pd.DataFrame] = model.sample(drawn_rows or len(rows))
        drawn["rows"].to_parquet(out)

    told(lambda: model.fit({"rows": rows}), draw)


if __name__ == "__main__":
    more = [*map(int, sys.argv[5:]), 0, 0]
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], *more[:2])
