"""Fairness: are groups of people represented, predicted and protected alike?

`METRICS` names the metrics of this family; their modules are imported only when they are computed.
"""

METRICS: dict[str, str] = {}
