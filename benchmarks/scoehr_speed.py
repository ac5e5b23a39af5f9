"""Drawing from ScoEHR, default against published: `python benchmarks/scoehr_speed.py [--rows 10000] [--few 200] [--steps 10]`.

What drawing takes does not depend on what was learned, so both train for a moment only, on DE-SynPUF code counts. The
default draws `--rows` rows. Of the published preset `--few` rows are drawn with `--steps` of its 1,000 evaluations, which
all cost the same, and the rest is multiplied out: the line says by how much. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from coded.rows import split_codes

PUBLISHED_STEPS = 1000
MOMENT: dict[str, Any] = {"epochs": 1, "autoencoder_epochs": 1}


def main() -> None:
    """Print both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    default = seconds({**MOMENT}, 2000, given.rows)
    print(f"default: {given.rows:,} rows in {default:.1f} CPU seconds")
    few = seconds({"preset": "paper", **MOMENT, "sampling_steps": given.steps}, 100, given.few)
    factor = given.rows / given.few * PUBLISHED_STEPS / given.steps
    print(
        f"paper: {given.few:,} rows with {given.steps} of {PUBLISHED_STEPS:,} evaluations in {few:.1f} CPU seconds;"
        f" {given.rows:,} rows with all of them: {factor:,.0f} times that, {few * factor / 3600:.1f} hours"
    )
    print(f"ratio: {few * factor / default:,.0f}")


def seconds(settings: dict[str, Any], learned: int, drawn: int) -> float:
    """CPU seconds of drawing so many rows."""
    import torch

    from pipeline.generators.scoehr import ScoEHR

    torch.set_num_threads(1)
    model = ScoEHR(settings)
    model.fit(split_codes(learned).train, seed=0, device="cpu")
    # The health checks of `fit` have drawn already: nothing is compiled or loaded from here on.
    start = time.process_time()
    model.sample(drawn, seed=0)
    return time.process_time() - start


if __name__ == "__main__":
    main()
