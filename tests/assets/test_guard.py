"""What leaves a failing body: our own sentence, or class and place; never the text of another error."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.guard import guarded
from pipeline.errors import InputError, StoreError

CANARY = "Zyxwvut Canaryname"


def failure_of(error: Exception) -> dg.Failure:
    @guarded
    def body() -> None:
        try:
            raise ValueError(f"could not convert {CANARY}")
        except ValueError as cause:
            raise error from cause

    with pytest.raises(dg.Failure) as caught:
        body()
    return caught.value


def test_our_own_sentence_is_told() -> None:
    failure = failure_of(InputError("3 rows have no subject.", where="cohort tiny", todo="Look."))
    assert failure.description == "cohort tiny: 3 rows have no subject. Look."
    assert failure.allow_retries is False


@pytest.mark.parametrize("error", [KeyError(CANARY), RuntimeError(CANARY), UnicodeError(CANARY)])
def test_of_other_errors_only_class_and_place_are_told(error: Exception) -> None:
    failure = failure_of(error)
    assert failure.description.startswith(f"Unexpected {type(error).__name__} at ")
    assert CANARY not in failure.description
    assert failure.allow_retries is False


def test_cause_and_context_stay_behind() -> None:
    failure = failure_of(RuntimeError(CANARY))
    assert failure.__cause__ is None
    assert failure.__context__ is None


@pytest.mark.parametrize("error", [StoreError("disk full"), OSError(5, "Input/output error"), TimeoutError("late")])
def test_what_a_second_attempt_may_mend_is_retried(error: Exception) -> None:
    assert failure_of(error).allow_retries is True


def test_memory_is_named() -> None:
    assert failure_of(MemoryError()).description.startswith("Out of memory: MemoryError at ")


def test_generators_are_guarded_after_what_they_gave() -> None:
    @guarded
    def body():
        yield 1
        raise RuntimeError(CANARY)

    stream = body()
    assert next(stream) == 1
    with pytest.raises(dg.Failure) as caught:
        next(stream)
    assert CANARY not in str(caught.value)


def test_nothing_of_the_cause_reaches_the_event_log() -> None:
    """Through Dagster itself: the stored failure, its chain and its stack."""

    @dg.asset
    @guarded
    def leaky() -> None:
        try:
            raise ValueError(f"could not convert {CANARY}")
        except ValueError as cause:
            raise InputError("1 row is broken.") from cause

    result = dg.materialize([leaky], raise_on_error=False)
    assert not result.success
    told = "".join(str(event) + str(event.event_specific_data) for event in result.all_events)
    assert "1 row is broken." in told
    assert CANARY not in told
