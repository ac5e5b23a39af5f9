"""A study that anyone can rerun, from a YAML file: named settings, and grids of them. Which ones ship is in `cohorts/studies/`."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.generators.base import GeneratorConfig

MOST_POINTS = 1_000


class Grid(BaseModel):
    """All combinations of some values, over a base."""

    model_config = ConfigDict(extra="forbid")
    base: dict[str, Any] = Field(default_factory=dict, description="Settings that all points share.")
    over: dict[str, list[Any]] = Field(min_length=1, description="Setting to the values that are combined.")


class GridStudy(BaseModel):
    """A study whose trials are written down."""

    model_config = ConfigDict(extra="forbid")
    title: str = Field(description="One line for people.")
    source: str = Field(default="", description="Where the points come from.")
    generator: str = Field(description="Standard name of the generator.")
    points: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Named settings.")
    grids: list[Grid] = Field(default_factory=list, description="Combinations; each point is named by its values.")

    def all_points(self) -> dict[str, dict[str, Any]]:
        """Name to settings, the named ones first.

        Raises:
            ConfigError: there is none, there are more than 1,000, or two have one name.
        """
        found = {name: dict(settings) for name, settings in self.points.items()}
        for grid in self.grids:
            for values in itertools.product(*grid.over.values()):
                varied = dict(zip(grid.over, values, strict=True))
                settings = {**grid.base, **varied}
                name = ", ".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items())
                if name in found:
                    raise ConfigError(f"The point '{name}' stands twice in '{self.title}'.")
                found[name] = settings
        if not 0 < len(found) <= MOST_POINTS:
            raise ConfigError(f"'{self.title}' has {len(found)} points; 1 to {MOST_POINTS} can be tried.")
        return found

    def check(self, config: type[GeneratorConfig]) -> None:
        """Raise `ConfigError` with the name of the first point that the generator does not take."""
        for name, settings in self.all_points().items():
            try:
                config.build(settings)
            except ConfigError as error:
                raise ConfigError(error.what, where=f"point '{name}' of '{self.title}'", todo=error.todo) from error


def read_grid(path: Path) -> GridStudy:
    """The study in a YAML file.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is no such study.
    """
    if not path.is_file():
        raise NotFoundError("There is no such study.", where=path.name, todo="Give the path of a YAML file.")
    try:
        return GridStudy(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ConfigError("This is no study in YAML.", where=path.name, todo="See docs/tuning.md.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.", where=path.name) from error
