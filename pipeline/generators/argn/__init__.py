"""Any-order autoregressive network over pieces (after TabularARGN): see `generator.py`."""
