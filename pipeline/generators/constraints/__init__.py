"""Rules between columns that every synthetic row keeps, for any generator.

Kept exactly by learning other columns where that is possible (`reexpress.py`, `constrained.py`), else by drawing again
(`redraw.py`). How a rule is written is in `features/constraint_spec.py`; rules are mined in `suggest.py`.
"""

from pipeline.generators.constraints.checking import check_rules
from pipeline.generators.constraints.redraw import sample_constrained
from pipeline.generators.constraints.rules import rule_text, violations

__all__ = ["check_rules", "rule_text", "sample_constrained", "violations"]
