"""Sequences of visits: how they are encoded, the autoregressive network over them, and how they are drawn.

The generator that learns them beside a table's columns is `halo_small.py`; what visits are is in `features/visits.py`.
"""
