"""What may leave a body when it fails: a sentence without patient data, detached from the error that caused it.

Dagster stores an exception with its text, its cause and its context in the event log for ever, and the texts of
DuckDB, pandas and pydantic quote cell values. So every body of an asset, check or sensor stands under `guarded`; a
test walks the graph and looks for it.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import dagster as dg

from pipeline.errors import CohortLoomError, StoreError
from pipeline.generators.memory import out_of_memory
from pipeline.workflow.compute import MEMORY_VARIABLE
from pipeline.workflow.record import words_of

GUARDED = "__cohortloom_guarded__"
F = TypeVar("F", bound=Callable[..., Any])


def guarded(body: F) -> F:
    """Let a body fail only with `dagster.Failure` and words that are safe to store."""
    if inspect.isgeneratorfunction(body):

        @functools.wraps(body)
        def guard(*args: Any, **kwargs: Any) -> Iterator[Any]:
            failure = None
            try:
                yield from body(*args, **kwargs)
            except Exception as error:
                failure = _failure(error)
            if failure is not None:
                raise failure
    else:

        @functools.wraps(body)
        def guard(*args: Any, **kwargs: Any) -> Any:
            try:
                return body(*args, **kwargs)
            except Exception as error:
                failure = _failure(error)
            raise failure  # outside of the except block: no cause and no context go with it

    setattr(guard, GUARDED, True)
    return guard  # type: ignore[return-value]


def _failure(error: Exception) -> dg.Failure:
    """The failure that is stored; only what a second attempt may mend is retried."""
    if isinstance(error, dg.Failure):
        return dg.Failure(description=error.description, metadata=error.metadata, allow_retries=error.allow_retries)
    if isinstance(error, CohortLoomError):
        return dg.Failure(description=str(error), allow_retries=isinstance(error, StoreError))
    if out_of_memory(error):
        bound = os.environ.get(MEMORY_VARIABLE)
        todo = f" A run may take {bound} here ({MEMORY_VARIABLE})." if bound else ""
        return dg.Failure(description=f"Out of memory: {words_of(error)}.{todo}", allow_retries=False)
    return dg.Failure(description=f"Unexpected {words_of(error)}.", allow_retries=isinstance(error, OSError))
