"""The far end of a training that was sent to a cluster: trains, and tells Dagster over Pipes how it ended.

Started by `remote_training.py` as `python -m assets.train_process`. It needs `dagster_pipes`, a module without
dependencies, and no Dagster. It ends with 0 whenever it could tell how the training ended; any other end means that
the process or its machine was lost.
"""

from dataclasses import asdict
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes

from pipeline.errors import CohortLoomError, StoreError
from pipeline.generators.memory import out_of_memory
from pipeline.workflow.compute import Compute
from pipeline.workflow.record import words_of
from pipeline.workflow.train_cell import train_cell


def main() -> None:
    """Train what the extras of the Pipes session name; every error becomes words without patient data."""
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message(_train(pipes))


def _train(pipes: PipesContext) -> dict[str, Any]:
    """`{"trained": ...}`, or `{"error": words, "retry": may a second attempt mend it?}`."""
    asked = pipes.extras
    try:
        Compute.from_environment().bind_memory()  # this process is one training and nothing else
        trained = train_cell(
            asked["cohort"],
            asked["month"],
            asked["generator"],
            overrides=asked["overrides"],
            run_id=asked["run_id"],
        )
    except CohortLoomError as error:
        return {"error": str(error), "retry": isinstance(error, StoreError)}
    except Exception as error:
        words = "Out of memory" if out_of_memory(error) else "Unexpected"
        return {"error": f"{words}: {words_of(error)}.", "retry": isinstance(error, OSError)}
    return {"trained": asdict(trained)}


if __name__ == "__main__":
    main()
