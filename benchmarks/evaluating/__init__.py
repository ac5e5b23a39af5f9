"""What `benchmarks/evaluation.py` measures: made-up cohorts, a watched evaluation, and the same figures by peers."""
