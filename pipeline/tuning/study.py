"""A study: trials of settings, each kept in SQLite as it ends, so that a killed search goes on where it was.

Optuna proposes (`proposals.py`) and remembers; what a trial does is the caller's. Given the same proposals and the same
scores, the same trials come, whether the study ran through, was killed in between or was asked for more later. Two
processes cannot work on one study.
"""

from __future__ import annotations

import fcntl
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

from pipeline.errors import ConfigError, StoreError
from pipeline.tuning.proposals import AS_IS, POINT, STARTUP_TRIALS

if TYPE_CHECKING:
    from pathlib import Path

    import optuna

    from pipeline.generators.base import Progress
    from pipeline.tuning.objective import Score
    from pipeline.tuning.proposals import Proposals

State = Literal["complete", "pruned", "failed"]
REASON = "reason"
"""Attribute of a trial that failed by itself; one without was left by a killed process and does not count."""
STEPS = 20
"""Times a training's loss is reported to the pruner; the step is the share of the training that is done."""


class PrunedError(Exception):
    """Raised out of a training's progress where the pruner stops it."""


class TrialError(Exception):
    """The generator failed with these settings, in words without patient data; the study goes on."""


@dataclass(frozen=True)
class Measured:
    """What a trial gives: its score, and further numbers that are reported with it."""

    score: Score
    facts: Mapping[str, float] = field(default_factory=dict)


Evaluate = Callable[[Mapping[str, Any], "Progress"], Measured]
"""(settings, progress of the training) to what came of them; raises `TrialError`, and lets `PrunedError` through."""


@dataclass(frozen=True)
class Trial:
    """One trial that has ended.

    Attributes:
        number: From 0, in the order in which they were tried.
        state: "complete"; "pruned": stopped early, since its loss was worse than the median; "failed".
        settings: What was tried.
        value: What is minimised; None unless complete.
        jsd: Part of it that is about columns.
        association: Part of it that is about pairs of columns.
        facts: Further numbers (latent units in use, ratio of spreads).
        reason: Why it failed.
        name: Of a point of a grid; else empty.
    """

    number: int
    state: State
    settings: dict[str, Any]
    value: float | None = None
    jsd: float | None = None
    association: float | None = None
    facts: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    name: str = ""


Told = Callable[[Trial, int, "Trial | None"], None]
"""(a trial that has just ended, how many are wanted, the best so far)."""


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial of least value, the earliest of several; None if none was completed."""
    complete = [t for t in trials if t.value is not None]
    return min(complete, key=lambda t: (t.value, t.number), default=None)


class Study:
    """An open study; made by `open_study`."""

    def __init__(self, study: optuna.Study, proposals: Proposals) -> None:
        self._study = study
        self._proposals = proposals

    def trials(self) -> list[Trial]:
        """The trials that have ended, without those of a killed process."""
        return [self._read(number, frozen) for number, frozen in enumerate(self._ended())]

    def run(
        self, evaluate: Evaluate, *, trials: int, seconds: float | None = None, told: Told | None = None
    ) -> list[Trial]:
        """Try settings until the study has that many trials, or no time is left to begin another.

        Args:
            evaluate: Does one trial.
            trials: How many there shall be, with those that are there already.
            seconds: After so many no trial is begun.
            told: Called after each trial.

        Returns:
            All trials of the study.
        """
        began = time.monotonic()
        wanted = trials if self._proposals.most is None else min(trials, self._proposals.most)
        while len(done := self._ended()) < wanted and (seconds is None or time.monotonic() - began < seconds):
            self._try(evaluate, len(done))
            if told is not None:
                so_far = self.trials()
                told(so_far[-1], wanted, best_of(so_far))
        return self.trials()

    def importance(self) -> dict[str, float]:
        """Share of the value's variance that each setting explains (functional ANOVA, Hutter et al. 2014).

        Empty with fewer than ten complete trials, where all are alike, and of a grid.
        """
        import optuna

        complete = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        searched = {name for t in complete for name, d in t.distributions.items() if not d.single()}
        if len(complete) < STARTUP_TRIALS or len({t.value for t in complete}) < 2 or self._proposals.most is not None:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(
            self._study, evaluator=evaluator, params=sorted(searched), normalize=True
        )
        return {name: float(share) for name, share in sorted(found.items(), key=lambda x: (-x[1], x[0]))}

    # ---- inside

    def _ended(self) -> list[optuna.trial.FrozenTrial]:
        """Finished trials in order, but those that a killed process left."""
        found = self._study.get_trials(deepcopy=False)
        return [t for t in found if t.state.name in ("COMPLETE", "PRUNED") or REASON in t.user_attrs]

    def _try(self, evaluate: Evaluate, index: int) -> None:
        import optuna

        trial = self._proposals.ask(self._study, index)
        settings = self._proposals.settings(trial)
        trial.set_user_attr("settings", settings)
        twin = next((t for t in self._ended() if t.user_attrs["settings"] == settings), None)
        if twin is not None:  # the same settings and seed give the same rows
            for name in {*twin.user_attrs} - {AS_IS}:
                trial.set_user_attr(name, twin.user_attrs[name])
            self._study.tell(trial, twin.value if twin.state.name == "COMPLETE" else None, state=twin.state)
            return
        try:
            measured = evaluate(settings, _reporter(trial))
        except PrunedError:
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        except TrialError as error:
            trial.set_user_attr(REASON, str(error))
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        score = measured.score
        if not math.isfinite(score.value):
            trial.set_user_attr(REASON, "The rows have no finite score.")
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        trial.set_user_attr("jsd", score.jsd)
        trial.set_user_attr("association", score.association)
        trial.set_user_attr("facts", {k: float(v) for k, v in measured.facts.items() if math.isfinite(v)})
        self._study.tell(trial, score.value)

    def _read(self, number: int, frozen: optuna.trial.FrozenTrial) -> Trial:
        kept = frozen.user_attrs
        state: State = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(frozen.state.name, "failed")  # type: ignore[assignment]
        return Trial(
            number=number,
            state=state,
            settings=dict(kept["settings"]),
            value=frozen.value if state == "complete" else None,
            jsd=kept.get("jsd"),
            association=kept.get("association"),
            facts=dict(kept.get("facts", {})),
            reason=kept.get(REASON, ""),
            name=str(frozen.params[POINT]) if self._proposals.most is not None else "",
        )


def _reporter(trial: optuna.Trial) -> Progress:
    """Progress of a training that tells the pruner its loss on rows that it does not learn from, and may stop it."""
    last = 0

    def report(done: int, total: int, numbers: Mapping[str, float]) -> None:
        nonlocal last
        step = STEPS * done // max(total, 1)
        loss = numbers.get("tune")
        if loss is None or step <= last:
            return
        last = step
        trial.report(float(loss), step)
        if trial.should_prune():
            raise PrunedError

    return report


@contextmanager
def open_study(folder: Path, identity: str, proposals: Proposals) -> Iterator[Study]:
    """The study of an identity in a folder, made if it is not there: `<identity>.db`.

    Args:
        folder: Made if need be, for the owner only.
        identity: Of everything that decides what comes of a trial; letters and digits.
        proposals: What it tries.

    Raises:
        ConfigError: another process works on it, or the extra `hpo` is not installed.
        StoreError: the file is damaged, or cannot be written.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("Tuning needs Optuna.", todo="Install the extra: pip install -e '.[hpo]'.") from error
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print every trial on stderr
    where = f"{folder.name}/{identity}.db"
    with ExitStack() as opened:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened.enter_context(_alone(folder / f"{identity}.lock"))
        except OSError as error:
            raise _broken(error, where) from error
        storage = None
        try:
            storage = _storage(folder / f"{identity}.db")
            study = optuna.create_study(
                storage=storage, study_name=identity, load_if_exists=True, pruner=proposals.pruner()
            )
            running = (optuna.trial.TrialState.RUNNING,)
            for frozen in study.get_trials(deepcopy=False, states=running):  # a killed process left them
                study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
            yield Study(study, proposals)
        except (sqlite3.Error, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise _broken(error, where) from error
        finally:
            if storage is not None:
                storage.engine.dispose()


def _storage(path: Path) -> optuna.storages.RDBStorage:
    """SQLite with a write-ahead log: a trial is some thirty small commits, and each would wait for the disk."""
    import optuna

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect})


def _broken(error: Exception, where: str) -> StoreError:
    return StoreError(
        f"The study cannot be read or written ({type(error).__name__}).",
        where=where,
        todo="If the file is damaged, remove it; the study then begins anew.",
    )


@contextmanager
def _alone(path: Path) -> Iterator[IO[str]]:
    """Hold the lock file as long as the block runs; a killed process lets go of it."""
    with path.open("a") as file:
        path.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "Another process works on this study.", todo="Wait for it, or stop it: what it has tried is kept."
            ) from None
        yield file
