"""The published epsilons of the NHS report, accounted again: `python benchmarks/accounting.py [--delta 1e-5]`.

Its Tables 4 to 6 give epsilon at delta 1e-3 by the moments accountant for a DP-VAE on SUPPORT (8,873 rows, 60 epochs of
Poisson batches of expected size 32: sample rate 1 / 278, 16,680 steps). The noise multiplier behind each follows from
that; what it costs by a tight accountant, and at a delta below 1 / n, is printed beside it. No data is read.
"""

from __future__ import annotations

import argparse

from pipeline.privacy.accounting import LEAST_PRV_NOISE, reaccount

ROWS = 8_873
BATCHES = 278
EPOCHS = 60
PUBLISHED_DELTA = 1e-3
REPORTED = (0.9994, 2.0179, 5.1455, 9.9502, 21.3812)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delta", type=float, default=1e-5, help="delta to account at, below 1 / 8873 (default 1e-5)")
    delta = parser.parse_args().delta
    print(
        f"| reported (RDP, {PUBLISHED_DELTA:g}) | noise | PRV at {PUBLISHED_DELTA:g} | RDP at {delta:g} | PRV at {delta:g} |"
    )
    print("| --- | --- | --- | --- | --- |")
    rows = reaccount(
        REPORTED, sample_rate=1 / BATCHES, steps=EPOCHS * BATCHES, published_delta=PUBLISHED_DELTA, delta=delta
    )
    for row in rows:
        mark = "" if row.noise_multiplier >= LEAST_PRV_NOISE else " (noise too small for PRV)"
        prv, prv_at = (f"{value:.2f}{mark}" if value is not None else "none" for value in (row.prv, row.prv_at))
        print(f"| {row.reported} | {row.noise_multiplier:.2f} | {prv} | {row.rdp_at:.2f} | {prv_at} |")
    print(f"\n1 / n = {1 / ROWS:.3g}: the published delta is {PUBLISHED_DELTA * ROWS:.0f} times that.")


if __name__ == "__main__":
    main()
