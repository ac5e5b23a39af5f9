"""What `benchmarks/codes.py` and `benchmarks/scoehr_ablations.py` share: rows, figures, published figures, processes."""
