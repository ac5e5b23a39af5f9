"""Studies: they find the better setting, go on after a kill as if there had been none, and stop what goes badly."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import ConfigError
from pipeline.tuning.objective import Score
from pipeline.tuning.proposals import GridProposals, SpaceProposals
from pipeline.tuning.spaces import Choice, Integer, Number, including
from pipeline.tuning.study import Measured, TrialError, best_of, open_study

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.tuning.study import Trial

SPACE = {
    "rate": Number(1e-3, 1.0, log=True),
    "width": Integer(1, 32, log=True),
    "layers": Choice(([8], [8, 8])),
}
START = {"rate": 0.5, "width": 1, "layers": [8]}


def proposals(sampler: Any = "tpe", seed: int = 0, **changes: Any) -> SpaceProposals:
    return SpaceProposals(**{"space": SPACE, "start": START, "sampler": sampler, "seed": seed, **changes})


def bowl(settings: Mapping[str, Any], report: Callable[..., None]) -> Measured:
    """Least (0) at rate 0.03, width 8, two layers."""
    far = abs(math.log(settings["rate"] / 0.03)) / 7 + abs(math.log2(settings["width"]) - 3) / 5
    return Measured(Score(far, 0.0 if len(settings["layers"]) == 2 else 0.3), {"far": far})


def search(folder: Path, trials: int, evaluate: Any = bowl, **how: Any) -> list[Trial]:
    with open_study(folder, "study", proposals(**how)) as study:
        return study.run(evaluate, trials=trials)


def told(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.settings, t.value) for t in trials]


@pytest.mark.parametrize(("sampler", "number"), [("tpe", 40), ("gp", 16)])
def test_the_better_setting_is_found(tmp_path: Path, sampler: str, number: int) -> None:
    trials = search(tmp_path, number, sampler=sampler)
    best = best_of(trials)
    assert best is not None
    assert trials[0].settings == START
    assert trials[0].value is not None
    assert trials[0].value > 0.9
    at_random = best_of(trials[:10])
    assert at_random is not None
    assert best.value is not None
    assert at_random.value is not None
    assert best.value < min(0.25, at_random.value)
    assert best.settings["layers"] == [8, 8]


def test_more_trials_later_are_those_of_one_long_study_of_that_seed(tmp_path: Path) -> None:
    short = search(tmp_path / "a", 11)
    longer = search(tmp_path / "a", 14)
    assert told(longer[:11]) == told(short)
    assert told(longer) == told(search(tmp_path / "b", 14))
    assert told(short[:3]) != told(search(tmp_path / "c", 3, seed=1))


def test_a_killed_study_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The process is killed in the middle of a trial; the trial is begun again and all others stand."""
    here = Path(__file__).resolve()
    code = (
        f"import sys, os, signal; sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[2])!r}]\n"
        "from pathlib import Path; import test_tuning_study as t\n"
        "seen = []\n"
        "def evaluate(settings, report):\n"
        "    seen.append(settings)\n"
        "    if len(seen) == 13: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return t.bowl(settings, report)\n"
        f"t.search(Path({str(tmp_path / 'killed')!r}), 16, evaluate)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    with open_study(tmp_path / "killed", "study", proposals()) as study:
        assert len(study.trials()) == 12
    resumed = search(tmp_path / "killed", 16)
    assert told(resumed) == told(search(tmp_path / "whole", 16))


def test_a_failing_setting_is_a_trial_and_not_the_end(tmp_path: Path) -> None:
    def evaluate(settings: Mapping[str, Any], report: Callable[..., None]) -> Measured:
        if settings["width"] > 8:
            raise TrialError("The loss was not finite.")
        return bowl(settings, report)

    trials = search(tmp_path, 12, evaluate)
    failed = [t for t in trials if t.state == "failed"]
    assert failed
    assert len(trials) == 12
    assert all((t.value, t.reason) == (None, "The loss was not finite.") for t in failed)
    assert told(search(tmp_path, 12)) == told(trials), "failed trials are kept, not tried again"


def test_trainings_worse_than_the_median_are_stopped_early(tmp_path: Path) -> None:
    steps: list[int] = []

    def evaluate(settings: Mapping[str, Any], report: Callable[..., None]) -> Measured:
        for epoch in range(1, 11):
            report(epoch, 10, {"tune": bowl(settings, report).score.value + 1 / epoch})
            steps.append(epoch)
        return bowl(settings, report)

    trials = search(tmp_path, 20, evaluate)
    pruned = [t for t in trials if t.state == "pruned"]
    assert 0 < len(pruned) < 12
    assert all(t.value is None for t in pruned)
    assert all(t.state == "complete" for t in trials[:5])
    assert len(steps) < 10 * len(trials)
    best = best_of(trials)
    assert best is not None
    worst = max(t.value for t in trials if t.value is not None)
    assert worst > min(bowl(t.settings, print).score.value for t in pruned) >= best.value


def test_losses_that_mean_something_else_are_not_compared(tmp_path: Path) -> None:
    """The loss grows with the weight and says nothing: without comparing like with like, large weights would be stopped."""
    space = {"weight": Number(0.01, 100.0, log=True, reweights=True), "width": Integer(1, 32)}

    def evaluate(settings: Mapping[str, Any], report: Callable[..., None]) -> Measured:
        for epoch in range(1, 5):
            report(epoch, 4, {"tune": settings["weight"]})
        return Measured(Score(settings["width"] / 32, 0.0))

    def pruned(folder: Path, space: dict[str, Any]) -> int:
        asked = proposals(space=space, start={"weight": 1.0, "width": 16})
        with open_study(folder, "study", asked) as study:
            return sum(t.state == "pruned" for t in study.run(evaluate, trials=16))

    assert pruned(tmp_path / "alike", space) == 0
    assert pruned(tmp_path / "all", {**space, "weight": Number(0.01, 100.0, log=True)}) > 0


def test_equal_settings_are_not_trained_twice(tmp_path: Path) -> None:
    calls: list[Mapping[str, Any]] = []

    def evaluate(settings: Mapping[str, Any], report: Callable[..., None]) -> Measured:
        calls.append(settings)
        return Measured(Score(settings["width"], 0.0))

    asked = proposals(space={"width": Integer(1, 3)}, start={"width": 2})
    with open_study(tmp_path, "study", asked) as study:
        trials = study.run(evaluate, trials=12)
    assert len(trials) == 12
    assert len(calls) == len({t.settings["width"] for t in trials}) <= 3
    assert all(t.value == t.settings["width"] for t in trials)


def test_a_grid_is_tried_in_order_and_resumed(tmp_path: Path) -> None:
    points = {f"p{k}": {"rate": 0.01 * k, "width": 8, "layers": [8]} for k in range(1, 6)}
    with open_study(tmp_path, "grid", GridProposals(points)) as study:
        assert [t.name for t in study.run(bowl, trials=2)] == ["p1", "p2"]
    with open_study(tmp_path, "grid", GridProposals(points)) as study:
        trials = study.run(bowl, trials=100)
    assert [t.name for t in trials] == list(points)
    best = best_of(trials)
    assert best is not None
    assert best.name == "p3"


def test_importance_names_what_matters(tmp_path: Path) -> None:
    def evaluate(settings: Mapping[str, Any], report: Callable[..., None]) -> Measured:
        return Measured(Score(abs(math.log(settings["rate"] / 0.03)), 0.0))

    with open_study(tmp_path, "study", proposals()) as study:
        study.run(evaluate, trials=9)
        assert study.importance() == {}
        study.run(evaluate, trials=20)
        found = study.importance()
    assert next(iter(found)) == "rate"
    assert found["rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)


def test_no_time_begins_no_trial_and_two_processes_share_no_study(tmp_path: Path) -> None:
    with open_study(tmp_path, "study", proposals()) as study:
        assert study.run(bowl, trials=5, seconds=0) == []
        with pytest.raises(ConfigError, match="Another process"), open_study(tmp_path, "study", proposals()):
            pass
    assert (tmp_path / "study.db").is_file()


def test_a_space_is_widened_to_the_settings_as_they_are() -> None:
    start = {"rate": 2.0, "width": 64, "layers": [4]}
    wide = including(SPACE, start)
    assert all(setting.holds(start[name]) and setting.holds(START[name]) for name, setting in wide.items())
    assert including(SPACE, START) == SPACE
    assert including(SPACE, {**START, "rate": 0.0}) == SPACE, "a logarithm cannot reach 0"


def test_a_setting_that_is_left_to_the_generator_is_first_left_to_it(tmp_path: Path) -> None:
    space = {"width": Integer(1, 32, unset=8), "rate": Number(0.1, 1.0)}
    with open_study(tmp_path, "study", proposals(space=space, start={"width": None, "rate": 0.5})) as study:
        trials = study.run(lambda settings, _: Measured(Score(settings["rate"], 0.0)), trials=3)
    assert trials[0].settings == {"width": None, "rate": 0.5}
    assert all(1 <= t.settings["width"] <= 32 for t in trials[1:])


def test_a_start_outside_of_the_space_is_no_trial(tmp_path: Path) -> None:
    asked = proposals(start={**START, "rate": 0.0})
    assert not asked.starts_as_is
    with open_study(tmp_path, "study", asked) as study:
        (first,) = study.run(bowl, trials=1)
    assert first.settings["rate"] >= 1e-3
