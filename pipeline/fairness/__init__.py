"""Synthetic rows drawn under a notion of fairness, on top of any generator; what it means is measured elsewhere."""
