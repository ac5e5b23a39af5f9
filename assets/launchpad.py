"""The launchpad form of a generator: a typed Dagster config made from its card, every field optional.

What is left empty is as the cohort's file says. What is filled in is used for this run only and recorded with the
model (`info["overrides"]`): an override is allowed, but never silent.
"""

from enum import Enum
from typing import Any, Optional

import dagster as dg
from pydantic import Field, create_model

from pipeline.workflow.cards import Card, Setting

_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list[int]": list[int],
    "list[float]": list[float],
    "list[bool]": list[bool],
    "list[str]": list[str],
    "any": dict[str, Any],
}


def launchpad_config(card: Card) -> type[dg.Config]:
    """The config class of `model/<generator>`: one optional field for each of its settings, and `preset`."""
    preset = Setting("preset", "choice", "Named settings to start from; empty: as the cohort says.", card.presets)
    fields = {
        s.name: (Optional[_python_type(card.name, s)], Field(default=None, description=s.description))  # noqa: UP045
        for s in (preset, *card.settings)
    }
    title = "".join(part.capitalize() for part in card.name.split("_"))
    return create_model(  # type: ignore[call-overload]
        f"{title}Launchpad",
        __base__=dg.Config,
        __doc__=f"Settings of `{card.name}` for this run only; what is left empty is as the cohort's file says.",
        **fields,
    )


def overrides_of(config: dg.Config) -> dict[str, Any]:
    """What was filled in, as plain settings."""
    filled = {name: getattr(config, name) for name in type(config).model_fields}
    return {k: v.value if isinstance(v, Enum) else v for k, v in filled.items() if v is not None}


def _python_type(generator: str, setting: Setting) -> Any:
    if setting.type == "choice":
        return Enum(f"{generator}_{setting.name}", {choice: choice for choice in setting.choices})
    return _TYPES[setting.type]
