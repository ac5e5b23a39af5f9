"""The rules of the release gate, one module a group. What a verdict is and how it follows from them is in `gate.py`."""
