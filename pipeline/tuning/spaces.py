"""What may be searched of a generator's settings: ranges and choices by the name of the setting.

A generator declares its own space as `search_space` on its `Config` (a ClassVar, so that those of other packages can);
the spaces of the built-in ones stand here. What is minimised over a space is in `objective.py`, how it is searched in
`study.py`. Imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pipeline.generators.base import Generator


@dataclass(frozen=True)
class Integer:
    """A whole number between two bounds, both included.

    Attributes:
        low: Smallest.
        high: Largest.
        log: Search its logarithm: as many trials between 2 and 4 as between 16 and 32.
        reweights: It changes what the generator's own loss means, so that losses of two values cannot be compared.
        unset: About the value that the generator takes by itself where the setting is None.
    """

    low: int
    high: int
    log: bool = False
    reweights: bool = False
    unset: int | None = None

    def holds(self, value: Any) -> bool:
        """Is the value one that may be tried?"""
        if value is None:
            return self.unset is not None
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def to_json(self) -> dict[str, Any]:
        """As it is recorded with a study."""
        return {"integer": [self.low, self.high], "log": self.log}


@dataclass(frozen=True)
class Number:
    """A real number between two bounds; the attributes are those of `Integer`."""

    low: float
    high: float
    log: bool = False
    reweights: bool = False
    unset: float | None = None

    def holds(self, value: Any) -> bool:
        """Is the value one that may be tried?"""
        if value is None:
            return self.unset is not None
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def to_json(self) -> dict[str, Any]:
        """As it is recorded with a study."""
        return {"number": [self.low, self.high], "log": self.log}


@dataclass(frozen=True)
class Choice:
    """One of several values, each anything that JSON can say (`hidden: [256, 128]`)."""

    options: tuple[Any, ...]
    reweights: bool = False

    @property
    def labels(self) -> list[str]:
        """The options as texts: a study keeps nothing else."""
        return [json.dumps(option) for option in self.options]

    def holds(self, value: Any) -> bool:
        """Is the value one that may be tried?"""
        return json.dumps(value) in self.labels

    def value(self, label: str) -> Any:
        """The option of a label."""
        return json.loads(label)

    def to_json(self) -> dict[str, Any]:
        """As it is recorded with a study."""
        return {"choice": self.labels}


Setting = Integer | Number | Choice
Space = Mapping[str, Setting]
_LAYERS = tuple(
    [width // 2**k for k in range(depth)]
    for depth in (1, 2, 3)
    for width in (64, 128, 256, 512)
    if width >= 2**depth * 16
)
"""Widths of the hidden layers of an encoder, each layer half as wide as the one before: 64 to 512 wide, one to three deep."""
_VAE: Space = {
    "latent_dim": Integer(2, 32, log=True),
    "hidden": Choice(_LAYERS),
    "activation": Choice(("relu", "leaky_relu", "elu", "silu")),
    "learning_rate": Number(1e-4, 1e-2, log=True),
    "beta": Number(0.05, 2.0, log=True, reweights=True, unset=0.5),
    "batch_size": Choice((128, 256, 512, 1024, 1536)),
    "dropout": Number(0.0, 0.3),
    "weight_decay": Number(1e-6, 1e-3, log=True),
}
"""Likelihood_diffusion_rl 2.3, after Kondapally's section on tuning."""
SPACES: dict[str, Space] = {
    "vae": _VAE,
    "cvae": _VAE,
    "tvae": {
        **_VAE,
        "latent_dim": Integer(8, 256, log=True),
        "hidden": Choice((*_LAYERS, [128, 128], [256, 256])),
        "batch_size": Choice((125, 250, 500, 1000)),
    },
    "cart": {
        "leaf": Integer(15, 60, log=True),
        "trees": Integer(1, 10),
        "share": Number(0.5, 1.0),
        "smoothing": Choice(("window", "leaf")),
        "order": Choice(("association", "table")),
        "numeric_target": Choice(("scores", "numbers")),
        "most_predictors": Integer(8, 120, log=True),
    },
    "gaussian_copula": {
        "shrinkage": Number(0.001, 0.5, log=True),
        "pair_shrinkage": Choice((True, False)),
        "nominal_order": Choice(("ca", "frequency")),
        "calibration_steps": Integer(0, 8),
    },
    "mixed_flow": {
        "width": Choice((64, 128, 256, 512, None)),
        "blocks": Integer(0, 6),
        "epochs": Integer(20, 200, log=True),
        "batch_size": Choice((128, 256, 512, 1024)),
        "learning_rate": Number(2e-4, 1e-2, log=True),
        "dropout": Number(0.0, 0.4),
        "waves": Integer(1, 12),
        "numeric_bins": Choice((32, 64, 128), reweights=True),
        "last_time": Choice((0.7, 0.8, 0.9, 0.95, 0.99), reweights=True),
    },
    "tabddpm": {
        "hidden": Choice(tuple([width] * depth for depth in (2, 3, 4, 6) for width in (128, 256, 512, 1024))),
        "steps": Integer(2_000, 30_000, log=True),
        "batch_size": Choice((256, 512, 1024, 4096)),
        "learning_rate": Number(1e-5, 3e-3, log=True),
        "dropout": Number(0.0, 0.3),
        "diffusion_steps": Choice((100, 1000), reweights=True),
        "number_target": Choice(("velocity", "noise"), reweights=True),
    },
    "tabdiff_lite": {
        "width": Integer(64, 1024, log=True),
        "blocks": Integer(1, 6),
        "film": Choice(("additive", "full")),
        "steps": Integer(1_000, 20_000, log=True),
        "batch_size": Choice((256, 512, 1024, 4096)),
        "learning_rate": Number(1e-4, 5e-3, log=True),
        "given_rows": Number(0.0, 0.6),
        "fade_numbers": Choice((True, False), reweights=True),
    },
    "ehrdiff": {
        "width": Integer(64, 1024, log=True),
        "blocks": Integer(1, 6),
        "steps": Integer(2_000, 20_000, log=True),
        "batch_size": Choice((256, 512, 1024)),
        "learning_rate": Number(1e-4, 5e-3, log=True),
        "ema": Number(0.99, 0.9995),
        "noise_mean": Choice((-2.0, -1.2, -0.6, 0.0), reweights=True),
        "noise_spread": Choice((0.8, 1.2, 1.6), reweights=True),
    },
    "scoehr": {
        "latent_dim": Choice((8, 16, 32, 64, 144, 256), reweights=True),
        "hidden": Choice(_LAYERS),
        "latent_beta": Number(0.02, 1.0, log=True, reweights=True),
        "input_mask": Number(0.0, 0.3),
        "width": Integer(64, 1024, log=True),
        "blocks": Integer(1, 6),
        "steps": Integer(1_000, 20_000, log=True),
        "batch_size": Choice((128, 256, 512, 1024)),
        "learning_rate": Number(1e-4, 5e-3, log=True),
    },
    "rlsyn": {
        "noise": Integer(8, 256, log=True),
        "hidden": Choice(([64], [128], [128, 128], [256, 256], [512, 512])),
        "critic_hidden": Choice(([128, 128], [256, 256], [512, 512])),
        "batch_size": Choice((256, 512, 1024, 2048, 4096)),
        "ppo_epochs": Integer(1, 5),
        "critic_steps": Integer(1, 5),
        "learning_rate": Number(3e-5, 3e-3, log=True),
        "critic_rate": Number(1e-4, 1e-2, log=True),
        "clip_ratio": Number(0.05, 0.3),
        "entropy_weight": Number(1e-5, 1e-2, log=True),
    },
    "argn": {
        "width": Integer(32, 512, log=True),
        "hidden": Integer(16, 128, log=True),
        "dropout": Number(0.0, 0.6),
        "home_share": Number(0.0, 1.0),
        "order": Choice(("table", "association", "random")),
        "batch_size": Choice((64, 128, 256, 512)),
        "learning_rate": Number(2e-4, 1e-2, log=True),
        "weight_decay": Number(1e-6, 1e-3, log=True),
        "pieces": Choice((16, 32, 64, 100), reweights=True),
        "seconds": Choice((1, 4, 8, 16), reweights=True),
    },
    "arf": {
        "trees": Integer(10, 100, log=True),
        "leaf": Integer(20, 80, log=True),
        "features": Number(0.0, 1.0),
        "rounds": Integer(1, 15),
        "pseudo_rows": Number(0.0, 10.0),
        "pieces": Integer(32, 256, log=True),
    },
}
"""Standard name of a generator to the settings that `cohortloom tune` searches.

What is minimised says nothing of privacy, so no setting that protects people is searched below its default: not the
leaves of `cart` and `arf`, and nowhere the rows that a level, an atom or an extreme needs.
"""


def including(space: Space, start: Mapping[str, Any]) -> dict[str, Setting]:
    """The space made as wide as the settings as they are, so that these can be tried too.

    A logarithm cannot reach 0: such a setting stays as it is.
    """
    return {name: _including(setting, start.get(name)) for name, setting in space.items()}


def _including(setting: Setting, value: Any) -> Setting:
    if setting.holds(value):
        return setting
    if isinstance(setting, Choice):
        return replace(setting, options=(*setting.options, value))
    number = isinstance(value, int if isinstance(setting, Integer) else int | float) and not isinstance(value, bool)
    if not number or (setting.log and value <= 0):
        return setting
    return replace(setting, low=min(setting.low, value), high=max(setting.high, value))


def search_space(
    kind: type[Generator], *, pinned: Collection[str] = (), only: Sequence[str] = ()
) -> dict[str, Setting]:
    """What is searched of a generator's settings.

    Args:
        kind: The generator's class; its `Config.search_space` goes before `SPACES`.
        pinned: Settings that are fixed already and left out.
        only: If given, no others than these.

    Raises:
        ConfigError: `only` names a setting that is not searched or is pinned, or the space names one that is none.
    """
    declared: Space = getattr(kind.Config, "search_space", None) or SPACES.get(kind.name, {})
    for name in declared:
        if name not in kind.Config.model_fields:
            raise ConfigError(
                f"The search space of '{kind.name}' names '{name}', which is no setting of it.",
                todo=nearest(name, list(kind.Config.model_fields)),
            )
    for name in only:
        if name not in declared:
            raise ConfigError(f"'{name}' of '{kind.name}' is not searched.", todo=nearest(name, list(declared)))
        if name in pinned:
            raise ConfigError(
                f"'{name}' is to be searched, and the cohort's file sets it.", todo="Take it out of `generators:`."
            )
    return {name: setting for name, setting in declared.items() if name not in pinned and (not only or name in only)}
