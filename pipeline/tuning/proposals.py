"""Which settings a study tries next: drawn from a search space by Optuna, or read off a grid one by one.

Each trial is proposed from the trials before it and a seed of its own, and from nothing that only a running process
knows: so a study that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.generators.seeds import derive_seed
from pipeline.tuning.spaces import Choice, Integer, Setting

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "gp"]
STARTUP_TRIALS = 10
"""Trials at random before a sampler begins to learn (spec 2.3)."""
COMPARABLE_TRIALS = 5
"""Trials that a loss is compared with before one may be stopped early."""
WARMUP_STEPS = 5
ALIKE = 1.5
"""Ratio up to which two values of a setting that reweights the loss count as the same."""
POINT = "point"
AS_IS = "as_is"
"""Attribute of the trial that is the settings as they are."""


class Proposals(ABC):
    """What a study tries, trial by trial."""

    most: int | None = None
    """How many different ones there are; None: as many as are asked for."""

    @abstractmethod
    def ask(self, study: optuna.Study, index: int) -> optuna.Trial:
        """The trial that comes after `index` others."""

    @abstractmethod
    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """The settings of the generator that the parameters of a trial stand for."""

    @abstractmethod
    def pruner(self) -> BasePruner:
        """Decides which trainings are stopped early."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What the trials depend on, beside those before them: part of a study's identity."""


@dataclass(frozen=True)
class SpaceProposals(Proposals):
    """Settings drawn from a space; the first trial is the settings as they are, so that the best is never worse.

    Attributes:
        space: What is searched.
        start: Settings as they are now. Where one of them lies outside of the space, no trial is made of them.
        sampler: "tpe": tree-structured Parzen estimator, multivariate; "gp": Gaussian process, for few settings that
            are mostly numbers.
        seed: Of the draws.
    """

    space: Mapping[str, Setting]
    start: Mapping[str, Any]
    sampler: Sampler
    seed: int

    @property
    def starts_as_is(self) -> bool:
        """Is the first trial the settings as they are?"""
        return all(name in self.start and setting.holds(self.start[name]) for name, setting in self.space.items())

    def ask(self, study: optuna.Study, index: int) -> optuna.Trial:
        """The sampler's next trial; it is made anew from the trials so far and the seed of this one."""
        import optuna

        study.sampler = self._sampler(derive_seed(self.seed, "trial", index) % 2**32)
        waiting = optuna.trial.TrialState.WAITING
        if index == 0 and self.starts_as_is and not study.get_trials(deepcopy=False, states=(waiting,)):
            parameters = {name: _stored(setting, self.start[name]) for name, setting in self.space.items()}
            study.enqueue_trial(parameters, user_attrs={AS_IS: True})
        return study.ask(fixed_distributions={name: _distribution(s) for name, s in self.space.items()})

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of the settings, choices as they are meant; those as they are exactly so, also where they are None."""
        if AS_IS in trial.user_attrs:
            return {name: self.start[name] for name in self.space}
        given = trial.params
        return {n: s.value(given[n]) if isinstance(s, Choice) else given[n] for n, s in self.space.items()}

    def pruner(self) -> BasePruner:
        """The median of trials whose losses mean the same."""
        return comparable_median([name for name, setting in self.space.items() if setting.reweights])

    def to_json(self) -> dict[str, Any]:
        """Sampler, seed, space and start."""
        space = {name: setting.to_json() for name, setting in self.space.items()}
        start = {name: self.start.get(name) for name in self.space}
        return {"sampler": self.sampler, "seed": self.seed, "space": space, "start": start}

    def _sampler(self, seed: int) -> BaseSampler:
        import warnings

        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.sampler == "gp":
                return optuna.samplers.GPSampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
            return optuna.samplers.TPESampler(multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=seed)


@dataclass(frozen=True)
class GridProposals(Proposals):
    """Named settings, tried one after the other, none stopped early.

    Attributes:
        points: Name to settings.
    """

    points: Mapping[str, Mapping[str, Any]]

    @property
    def most(self) -> int:  # type: ignore[override]
        """As many as there are points."""
        return len(self.points)

    def ask(self, study: optuna.Study, index: int) -> optuna.Trial:
        """The trial of point number `index`."""
        import optuna

        names = list(self.points)
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        waiting = optuna.trial.TrialState.WAITING
        if not study.get_trials(deepcopy=False, states=(waiting,)):
            study.enqueue_trial({POINT: names[index]})
        return study.ask(fixed_distributions={POINT: optuna.distributions.CategoricalDistribution(names)})

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """The settings of the point."""
        return dict(self.points[trial.params[POINT]])

    def pruner(self) -> BasePruner:
        """None is stopped: each point of a grid is wanted."""
        import optuna

        return optuna.pruners.NopPruner()

    def to_json(self) -> dict[str, Any]:
        """The points."""
        return {"sampler": "grid", "points": {name: dict(settings) for name, settings in self.points.items()}}


def comparable_median(reweighting: Sequence[str]) -> BasePruner:
    """Optuna's `MedianPruner`, asked about the trials whose loss means the same as that of the one in question.

    A loss is only comparable where the settings that reweight it (the beta of a VAE) are: with a larger beta every
    training looks worse than the median, however well it goes.

    Args:
        reweighting: Names of those settings.
    """
    import optuna

    median = optuna.pruners.MedianPruner(n_startup_trials=COMPARABLE_TRIALS, n_warmup_steps=WARMUP_STEPS)

    class ComparableMedianPruner(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return median.prune(_Alike(study, trial, reweighting), trial)  # type: ignore[arg-type]

    return ComparableMedianPruner()


@dataclass(frozen=True)
class _Alike:
    """A study as far as a pruner asks it, with no other trials than those that are like the given one."""

    study: optuna.Study
    trial: optuna.trial.FrozenTrial
    by: Sequence[str]

    @property
    def direction(self) -> Any:
        return self.study.direction

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[optuna.trial.FrozenTrial]:
        mine = self.trial.params
        found = self.study.get_trials(deepcopy=deepcopy, states=states)
        return [t for t in found if all(_alike(t.params[name], mine[name]) for name in self.by)]


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str) or min(a, b) <= 0:
        return bool(a == b)
    return bool(max(a, b) <= ALIKE * min(a, b))


def _stored(setting: Setting, value: Any) -> Any:
    import json

    if isinstance(setting, Choice):
        return json.dumps(value)
    return setting.unset if value is None else value


def _distribution(setting: Setting) -> BaseDistribution:
    import optuna

    if isinstance(setting, Choice):
        return optuna.distributions.CategoricalDistribution(setting.labels)
    if isinstance(setting, Integer):
        return optuna.distributions.IntDistribution(setting.low, setting.high, log=setting.log)
    return optuna.distributions.FloatDistribution(setting.low, setting.high, log=setting.log)
