"""A synthesizer of SDV in its own environment: `by_sdv.py NAME SEED TRAIN.parquet OUT.parquet [EPOCHS]`.

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


def main(name: str, seed: int, train: str, out: str, epochs: int | None) -> None:
    """Fit on the rows of `train`, draw as many into `out`."""
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
    if epochs is not None and name != "gaussian_copula":
        options["epochs"] = epochs
    model = kinds[name](metadata, **options)

    def draw() -> None:
        drawn: dict[str, pd.DataFrame] = model.sample(len(rows))
        drawn["rows"].to_parquet(out)

    told(lambda: model.fit({"rows": rows}), draw)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]) if len(sys.argv) > 5 else None)
