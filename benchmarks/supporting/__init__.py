"""Parts of `benchmarks/support.py`: the rows, one training in a process of its own, the peers' scripts, the figures."""
