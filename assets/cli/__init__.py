"""The command line `cohortloom`: one app, its commands in `operate.py` (needs Dagster) and `tables.py` (does not).

Commands print what they do, end with where to look next, and exit non-zero with one clear sentence on failure.
"""

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

import typer

from assets.cli import (
    backfill,
    constraints,
    delivery,
    erase,
    evaluate,
    export_meds,
    external,
    graph,
    house,
    ledger,
    listing,
    operate,
    release,
    shadow,
    status,
    sweep,
    tables,
    tune,
    view,
)
from pipeline.errors import CohortLoomError
from pipeline.workflow.compute import Compute

app = typer.Typer(
    name="cohortloom",
    help="Synthetic health data, orchestrated: deliveries in, judged synthetic cohorts out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
operate.register(app)
listing.register(app)
delivery.register(app)
backfill.register(app)
constraints.register(app)
erase.register(app)
evaluate.register(app)
export_meds.register(app)
external.register(app)
graph.register(app)
house.register(app)
ledger.register(app)
release.register(app)
shadow.register(app)
status.register(app)
sweep.register(app)
tables.register(app)
tune.register(app)
view.register(app)


def main() -> NoReturn:
    """Entry point: run the app; every error becomes one sentence without patient data."""
    warnings.showwarning = _warn
    try:
        Compute.from_environment().bind()
        app()
    except CohortLoomError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("Stopped. Nothing half-done was published; run the same command again to go on.", code=130)
    except Exception as error:
        if os.environ.get("COHORTLOOM_DEBUG"):
            raise
        # The text of an unexpected error may quote a patient's values, so only its class and place are shown.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        _fail(
            f"Unexpected {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}. "
            "Set COHORTLOOM_DEBUG=1 for the traceback (it may show patient data)."
        )
    sys.exit(0)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the source line that raised it."""
    typer.secho(f"warning: {message}", fg=typer.colors.YELLOW, err=True)


def _fail(sentence: str, *, code: int = 1) -> NoReturn:
    typer.secho(f"error: {sentence}", fg=typer.colors.RED, err=True)
    sys.exit(code)
