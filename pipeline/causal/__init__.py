"""Causal graphs over a table's columns: checked, cut for a notion of fairness, and learned within tiers. Pure Python and numpy."""
