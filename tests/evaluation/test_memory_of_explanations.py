"""A library that keeps tracebacks must not keep an evaluation: memory was held from the first explanation to the end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, weakref
from pipeline.evaluation.fairness.explanations import _tree_explainer

class Rows:
    pass

def explained():
    rows = Rows()
    _tree_explainer()
    return weakref.ref(rows)

kept = explained()
gc.collect()
print("freed" if kept() is None else "kept")
"""


def test_the_first_import_of_shap_keeps_nothing_that_is_on_the_stack() -> None:
    # In a process of its own: the first import is what counts.
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "freed"
