"""What can be asked of a training, and what is refused in words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.privacy.spec import PrivacyPolicy, PrivacySpec, TrainingPrivacy


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"epsilon": 0}, "epsilon must be a finite number above 0"),
        ({"epsilon": -1}, "epsilon must be a finite number above 0"),
        ({"epsilon": float("inf")}, "epsilon must be a finite number above 0"),
        ({"epsilon": float("nan")}, "epsilon must be a finite number above 0"),
        ({"noise_multiplier": 0}, "noise_multiplier must be"),
        ({"epsilon": 1, "delta": 1}, "delta must lie between 0 and 1"),
        ({"epsilon": 1, "delta": 0}, "delta must lie between 0 and 1"),
        ({"epsilon": 1, "delta": -1e-6}, "delta must lie between 0 and 1"),
        ({}, "exactly one of them"),
        ({"epsilon": 1, "noise_multiplier": 1}, "exactly one of them"),
        ({"epsilon": 1, "preprocessing_share": 1}, "preprocessing_share"),
        ({"epsilon": 1, "rows_per_subject": 0}, "rows_per_subject"),
    ],
)
def test_what_promises_nothing_is_refused(asked: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainingPrivacy.model_validate(asked)


def test_delta_follows_from_the_number_of_subjects() -> None:
    assert TrainingPrivacy(epsilon=1).resolve(1_000) == PrivacySpec(epsilon=1, delta=1e-5)
    assert TrainingPrivacy(epsilon=1).resolve(100_000).delta == pytest.approx(1e-6)
    assert TrainingPrivacy(epsilon=1, delta=1e-7).resolve(50).delta == 1e-7


def test_a_delta_that_lets_one_record_out_is_refused() -> None:
    for delta in (1e-3, 1 / 8873, 0.5):
        with pytest.raises(ConfigError, match=r"not below 1 / n"):
            TrainingPrivacy(epsilon=1, delta=delta).resolve(8873)
    assert TrainingPrivacy(epsilon=1, delta=1e-3, allow_weak_delta=True).resolve(8873).delta == 1e-3
    assert TrainingPrivacy(epsilon=1, delta=1.1e-4).resolve(8873).delta == 1.1e-4


def test_a_noise_multiplier_has_no_epsilon_by_itself() -> None:
    with pytest.raises(ConfigError, match="depends on the steps"):
        TrainingPrivacy(noise_multiplier=1.0).resolve(1000)


def test_a_cohort_asks_in_full_or_in_short() -> None:
    policy = PrivacyPolicy.model_validate({"trainings": {"vae": {"epsilon": 3}, "mst": {"epsilon": 1, "delta": 1e-6}}})
    assert policy.trainings["vae"] == TrainingPrivacy(epsilon=3)
    assert TrainingPrivacy.of(PrivacySpec(epsilon=1, delta=1e-6)) == policy.trainings["mst"]
