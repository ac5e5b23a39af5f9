"""Sequential trees (CART as in synthpop): `generator.py` ties the parts together, each part has a file of its own."""
